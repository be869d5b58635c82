"""TigerBeetle's wire format: events packed into one buffer, replies read back. Pure, and the hot part of the client.

Layouts are those of the client package's own ctypes structs: little-endian, 128 bytes an event, 16 bytes a result.
A number that does not fit is the caller's mistake: it raises, naming the event and the field, and nothing is sent.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from tigerbeetle import (
    Account,
    AccountBalance,
    AccountFilter,
    AccountFlags,
    CreateAccountResult,
    CreateAccountStatus,
    CreateTransferResult,
    CreateTransferStatus,
    QueryFilter,
    Transfer,
    TransferFlags,
)

from transfer_engine.engine.ledger.wire import (
    require_batch_fits,
    require_fields_fit,
    require_filter_fits,
    require_ids_fit,
    require_limit_fits,
)

EVENT_BYTES: Final = 128

_TRANSFER: Final = struct.Struct("<16s16s16s16s16s16sQIIIHHQ")
_ACCOUNT: Final = struct.Struct("<16s16s16s16s16s16sQI4xIHHQ")
_BALANCE: Final = struct.Struct("<16s16s16s16sQ56x")
_ACCOUNT_FILTER: Final = struct.Struct("<16s16sQIH58xQQII")
_QUERY_FILTER: Final = struct.Struct("<16sQIIH6xQQII")

_UNFIT: Final = (AttributeError, TypeError, OverflowError, struct.error)
"""What packing raises at a value that is no integer, or too large, or negative."""

_Event = TypeVar("_Event", Account, Transfer)
_Result = TypeVar("_Result", CreateAccountResult, CreateTransferResult)
_Status = TypeVar("_Status", CreateAccountStatus, CreateTransferStatus)


class _Known(dict[int, Any]):
    """The enum member of a number; a number that this client does not know stands for itself."""

    def __missing__(self, number: int) -> int:
        return number


class _Flags(dict[int, Any]):
    """The flags of a number, made once each: an ``IntFlag`` costs half a microsecond."""

    def __init__(self, flags: type[AccountFlags] | type[TransferFlags]) -> None:
        super().__init__()
        self._flags = flags

    def __missing__(self, number: int) -> AccountFlags | TransferFlags:
        # Sixteen bits: at most 65,536 entries, in fact a handful.
        made = self[number] = self._flags(number)
        return made


_ACCOUNT_STATUSES: Final = _Known((int(status), status) for status in CreateAccountStatus)
_TRANSFER_STATUSES: Final = _Known((int(status), status) for status in CreateTransferStatus)
_ACCOUNT_FLAGS: Final = _Flags(AccountFlags)
_TRANSFER_FLAGS: Final = _Flags(TransferFlags)


def pack_transfers(transfers: Sequence[Transfer]) -> bytearray:
    """Return the events as ``create_transfers`` sends them.

    Raises :class:`ValueError` or :class:`TypeError`, naming the event and the field, unless all fit one request.
    """
    require_batch_fits(len(transfers))
    return _pack("transfers", transfers, _pack_transfers)


def pack_accounts(accounts: Sequence[Account]) -> bytearray:
    """Return the events as ``create_accounts`` sends them; raises like :func:`pack_transfers`."""
    require_batch_fits(len(accounts))
    return _pack("accounts", accounts, _pack_accounts)


def pack_ids(ids: Sequence[int]) -> bytearray:
    """Return the ids as a look-up sends them; raises :class:`ValueError` or :class:`TypeError` unless all fit."""
    require_batch_fits(len(ids))
    try:
        return bytearray().join([one.to_bytes(16, "little") for one in ids])
    except (AttributeError, TypeError, OverflowError):
        require_ids_fit(ids)
        raise


def pack_account_filter(account_filter: AccountFilter) -> bytearray:
    """Return the filter as a query sends it; raises :class:`ValueError` or :class:`TypeError`, naming the field."""
    try:
        packed = bytearray(
            _ACCOUNT_FILTER.pack(
                account_filter.account_id.to_bytes(16, "little"),
                account_filter.user_data_128.to_bytes(16, "little"),
                account_filter.user_data_64,
                account_filter.user_data_32,
                account_filter.code,
                account_filter.timestamp_min,
                account_filter.timestamp_max,
                account_filter.limit,
                account_filter.flags,
            )
        )
    except _UNFIT:
        require_filter_fits(account_filter)
        raise
    require_limit_fits(account_filter.limit)
    return packed


def pack_query_filter(query_filter: QueryFilter) -> bytearray:
    """Return the filter as a query sends it; raises :class:`ValueError` or :class:`TypeError`, naming the field."""
    try:
        packed = bytearray(
            _QUERY_FILTER.pack(
                query_filter.user_data_128.to_bytes(16, "little"),
                query_filter.user_data_64,
                query_filter.user_data_32,
                query_filter.ledger,
                query_filter.code,
                query_filter.timestamp_min,
                query_filter.timestamp_max,
                query_filter.limit,
                query_filter.flags,
            )
        )
    except _UNFIT:
        require_filter_fits(query_filter)
        raise
    require_limit_fits(query_filter.limit)
    return packed


def unpack_transfer_results(reply: bytes) -> list[CreateTransferResult]:
    """Return the answers to a batch of transfers, in order; an unknown status stays a number."""
    return _unpack_results(reply, CreateTransferResult, _TRANSFER_STATUSES)


def unpack_account_results(reply: bytes) -> list[CreateAccountResult]:
    """Return the answers to a batch of accounts, in order; an unknown status stays a number."""
    return _unpack_results(reply, CreateAccountResult, _ACCOUNT_STATUSES)


def unpack_transfers(reply: bytes) -> list[Transfer]:
    """Return the transfers that a look-up or a query found."""
    number = int.from_bytes
    return [
        Transfer(
            number(transfer_id, "little"),
            number(debit_account_id, "little"),
            number(credit_account_id, "little"),
            number(amount, "little"),
            number(pending_id, "little"),
            number(user_data_128, "little"),
            user_data_64,
            user_data_32,
            timeout,
            ledger,
            code,
            _TRANSFER_FLAGS[flags],
            timestamp,
        )
        for (
            transfer_id,
            debit_account_id,
            credit_account_id,
            amount,
            pending_id,
            user_data_128,
            user_data_64,
            user_data_32,
            timeout,
            ledger,
            code,
            flags,
            timestamp,
        ) in _TRANSFER.iter_unpack(reply)
    ]


def unpack_accounts(reply: bytes) -> list[Account]:
    """Return the accounts that a look-up or a query found."""
    number = int.from_bytes
    return [
        Account(
            number(account_id, "little"),
            number(debits_pending, "little"),
            number(debits_posted, "little"),
            number(credits_pending, "little"),
            number(credits_posted, "little"),
            number(user_data_128, "little"),
            user_data_64,
            user_data_32,
            ledger,
            code,
            _ACCOUNT_FLAGS[flags],
            timestamp,
        )
        for (
            account_id,
            debits_pending,
            debits_posted,
            credits_pending,
            credits_posted,
            user_data_128,
            user_data_64,
            user_data_32,
            ledger,
            code,
            flags,
            timestamp,
        ) in _ACCOUNT.iter_unpack(reply)
    ]


def unpack_balances(reply: bytes) -> list[AccountBalance]:
    """Return the balances that a query found."""
    number = int.from_bytes
    return [
        AccountBalance(
            number(debits_pending, "little"),
            number(debits_posted, "little"),
            number(credits_pending, "little"),
            number(credits_posted, "little"),
            timestamp,
        )
        for debits_pending, debits_posted, credits_pending, credits_posted, timestamp in _BALANCE.iter_unpack(reply)
    ]


def _pack(batch: str, events: Sequence[_Event], pack: Callable[[Sequence[_Event]], bytearray]) -> bytearray:
    try:
        return pack(events)
    except _UNFIT:
        # Looked for only now: the good batch pays nothing for a good message.
        for index, event in enumerate(events):
            require_fields_fit(batch, index, event)
        raise


def _pack_transfers(transfers: Sequence[Transfer]) -> bytearray:
    packed = bytearray(EVENT_BYTES * len(transfers))
    pack_into = _TRANSFER.pack_into
    offset = 0
    for one in transfers:
        pack_into(
            packed,
            offset,
            one.id.to_bytes(16, "little"),
            one.debit_account_id.to_bytes(16, "little"),
            one.credit_account_id.to_bytes(16, "little"),
            one.amount.to_bytes(16, "little"),
            one.pending_id.to_bytes(16, "little"),
            one.user_data_128.to_bytes(16, "little"),
            one.user_data_64,
            one.user_data_32,
            one.timeout,
            one.ledger,
            one.code,
            one.flags,
            one.timestamp,
        )
        offset += EVENT_BYTES
    return packed


def _pack_accounts(accounts: Sequence[Account]) -> bytearray:
    packed = bytearray(EVENT_BYTES * len(accounts))
    pack_into = _ACCOUNT.pack_into
    offset = 0
    for one in accounts:
        pack_into(
            packed,
            offset,
            one.id.to_bytes(16, "little"),
            one.debits_pending.to_bytes(16, "little"),
            one.debits_posted.to_bytes(16, "little"),
            one.credits_pending.to_bytes(16, "little"),
            one.credits_posted.to_bytes(16, "little"),
            one.user_data_128.to_bytes(16, "little"),
            one.user_data_64,
            one.user_data_32,
            one.ledger,
            one.code,
            one.flags,
            one.timestamp,
        )
        offset += EVENT_BYTES
    return packed


def _unpack_results(reply: bytes, result: Callable[[int, _Status], _Result], statuses: _Known) -> list[_Result]:
    # A result is a timestamp (u64), a status (u32) and four bytes of nothing. Whole columns at once: a loop over
    # single results costs more than all the rest.
    words = memoryview(reply)
    timestamps = words.cast("Q")[::2].tolist()
    numbers = words.cast("I")[2::4].tolist()
    return list(map(result, timestamps, map(statuses.__getitem__, numbers)))
