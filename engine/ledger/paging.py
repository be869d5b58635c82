"""All accounts or transfers of a ledger, page by page, in the order of their timestamps: for audits, no hot path."""

from collections.abc import AsyncGenerator

from tigerbeetle import Account, QueryFilter, QueryFilterFlags, Transfer

from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX, Ledger


async def transfer_pages(ledger: Ledger) -> AsyncGenerator[list[Transfer], None]:
    """Yield every transfer of the ledger. Close it (``aclosing``) where it may not be read to its end.

    Raises:
        LedgerUnavailable: the ledger did not answer.
    """
    after = 0
    while page := await ledger.query_transfers(every_one(after)):
        yield page
        after = page[-1].timestamp + 1


async def account_pages(ledger: Ledger) -> AsyncGenerator[list[Account], None]:
    """Yield every account of the ledger; otherwise as :func:`transfer_pages`."""
    after = 0
    while page := await ledger.query_accounts(every_one(after)):
        yield page
        after = page[-1].timestamp + 1


def every_one(
    timestamp_min: int = 0, timestamp_max: int = 0, *, limit: int = BATCH_EVENTS_MAX, is_reversed: bool = False
) -> QueryFilter:
    """Return the filter of whatever there is between two timestamps (ns, 0: no bound), at most ``limit`` of it."""
    return QueryFilter(
        user_data_128=0,
        user_data_64=0,
        user_data_32=0,
        ledger=0,
        code=0,
        timestamp_min=timestamp_min,
        timestamp_max=timestamp_max,
        limit=limit,
        flags=QueryFilterFlags.REVERSED if is_reversed else QueryFilterFlags.NONE,
    )
