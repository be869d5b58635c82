"""What fits TigerBeetle's wire format: batches and numbers that its client would refuse are refused here alike.

These are mistakes of the caller, so they raise; a batch with one of them is not applied at all.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from tigerbeetle import Account, AccountFilter, AccountFlags, QueryFilter, Transfer, TransferFlags

from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX

_IMPORTED_ACCOUNT: Final = int(AccountFlags.IMPORTED)
_IMPORTED_TRANSFER: Final = int(TransferFlags.IMPORTED)

_BITS: Final = {
    "id": 128,
    "debits_pending": 128,
    "debits_posted": 128,
    "credits_pending": 128,
    "credits_posted": 128,
    "debit_account_id": 128,
    "credit_account_id": 128,
    "amount": 128,
    "pending_id": 128,
    "user_data_128": 128,
    "user_data_64": 64,
    "user_data_32": 32,
    "timeout": 32,
    "ledger": 32,
    "code": 16,
    "flags": 16,
    "timestamp": 64,
}

_FILTER_BITS: Final = {
    "account_id": 128,
    "user_data_128": 128,
    "user_data_64": 64,
    "user_data_32": 32,
    "ledger": 32,
    "code": 16,
    "timestamp_min": 64,
    "timestamp_max": 64,
    "limit": 32,
    "flags": 32,
}


def require_transfers_fit(transfers: Sequence[Transfer], places: Iterable[int]) -> None:
    """Raise ``ValueError`` or ``TypeError``, naming the event and the field, unless the transfers at these places fit.

    Those at the others are known to.
    """
    index = 0
    try:
        for index in places:  # the index is named in the error
            one = transfers[index]
            # One test for all fields: any that is too large or negative leaves something behind.
            if (
                (
                    one.id
                    | one.debit_account_id
                    | one.credit_account_id
                    | one.amount
                    | one.pending_id
                    | one.user_data_128
                )
                >> 128
                or (
                    one.user_data_64
                    | one.timestamp
                    | (one.user_data_32 | one.timeout | one.ledger) << 32
                    | one.code << 48
                )
                >> 64
                or type(one.flags) is not TransferFlags
            ):
                require_fields_fit("transfers", index, one)
    except TypeError:
        require_fields_fit("transfers", index, transfers[index])
        raise
    if transfers and int(transfers[0].flags) & _IMPORTED_TRANSFER:
        raise _import_error("transfers")


def require_accounts_fit(accounts: Sequence[Account]) -> None:
    """Raise ``ValueError`` or ``TypeError``, naming the event and the field, unless the batch can be sent."""
    require_batch_fits(len(accounts))
    for index, one in enumerate(accounts):
        require_fields_fit("accounts", index, one)
    if accounts and int(accounts[0].flags) & _IMPORTED_ACCOUNT:
        raise _import_error("accounts")


def require_ids_fit(ids: Sequence[int]) -> None:
    """Raise ``ValueError`` unless the ids can be looked up in one request."""
    require_batch_fits(len(ids))
    for index, one in enumerate(ids):
        _require_number_fits(f"ids[{index}]", one, 128)


def require_batch_fits(count: int) -> None:
    """Raise ``ValueError`` unless so many events fit one request."""
    if count > BATCH_EVENTS_MAX:
        raise ValueError(f"{count} events do not fit one request; send at most {BATCH_EVENTS_MAX}")


def _import_error(batch: str) -> ValueError:
    # TigerBeetle decides by the first event whether a batch imports; later events that differ are refused singly.
    return ValueError(f"{batch}[0].flags: the embedded ledger does not import past events; leave out `imported`")


def require_fields_fit(batch: str, index: int, event: Account | Transfer) -> None:
    """Raise ``ValueError`` or ``TypeError``, naming the event and the field, unless every number fits its field."""
    for field, bits in _BITS.items():
        _require_number_fits(f"{batch}[{index}].{field}", getattr(event, field, 0), bits)


def require_filter_fits(one: AccountFilter | QueryFilter) -> None:
    """Raise ``ValueError`` or ``TypeError``, naming the field, unless every number fits and the reply can hold all."""
    for field, bits in _FILTER_BITS.items():
        _require_number_fits(f"filter.{field}", getattr(one, field, 0), bits)
    require_limit_fits(one.limit)


def require_limit_fits(limit: int) -> None:
    """Raise ``ValueError`` unless so many results fit one reply."""
    if limit > BATCH_EVENTS_MAX:
        raise ValueError(f"limit: {limit} results do not fit one reply; ask for at most {BATCH_EVENTS_MAX}")


def _require_number_fits(name: str, value: object, bits: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; give an integer")
    if value < 0 or value >> bits:
        raise ValueError(f"{name} is {value}; give an unsigned number of at most {bits} bits")
