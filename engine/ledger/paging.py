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
    while page := await ledger.query_transfers(_from(after)):
        yield page
        after = page[-1].timestamp + 1


async def account_pages(ledger: Ledger) -> AsyncGenerator[list[Account], None]:
    """Yield every account of the ledger; otherwise as :func:`transfer_pages`."""
    after = 0
    while page := await ledger.query_accounts(_from(after)):
        yield page
        after = page[-1].timestamp + 1


def _from(timestamp_min: int) -> QueryFilter:
    return QueryFilter(
        user_data_128=0,
        user_data_64=0,
        user_data_32=0,
        ledger=0,
        code=0,
        timestamp_min=timestamp_min,
        timestamp_max=0,
        limit=BATCH_EVENTS_MAX,
        flags=QueryFilterFlags.NONE,
    )
