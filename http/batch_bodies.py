"""A batch's body into its transfers: all at once where all of them are right, or one by one, each with its fault."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from transfer_engine.http.bodies import BodyDecoder, refuse_outer_duplicates
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.schema.wire import TransferItem

TRANSFERS_MOST: Final = 1_000
"""Transfers of one batch."""

Item = TransferItem | Rejected
"""A transfer that is asked for, or what is wrong with it."""


class _Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    transfers: list[TransferItem]


class _RawBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    transfers: Annotated[list[msgspec.Raw], msgspec.Meta(description="a list of transfers")]


_decode_batch: Final = msgspec.json.Decoder(_Batch).decode
_decode_item: Final = msgspec.json.Decoder(TransferItem).decode
_RAW_BATCH: Final = BodyDecoder(_RawBatch, refuses_duplicates=False)
_ITEM: Final = BodyDecoder(TransferItem, "a transfer")

_MEMBERS_LEAST: Final = 4  # of a transfer: from, to, asset_id, amount
_FAULTS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode_batch(body: bytes) -> Sequence[Item]:
    """Return the transfers of a JSON body, in their order, at least one and at most ``TRANSFERS_MOST``.

    Raises:
        Rejected: the body is no list of transfers at all, or has too few or too many of them.
    """
    items: Sequence[Item]
    try:
        items = _decode_batch(body).transfers
        is_clean = _has_no_duplicates(items, body, 1)
    except _FAULTS:
        is_clean = False
    if not is_clean:
        raw = _RAW_BATCH.decode(body).transfers
        _refuse_second_list(body)
        _check_count(len(raw))  # before any of them costs anything
        items = [_item(bytes(transfer)) for transfer in raw]
    _check_count(len(items))
    return items


def decode_lines(body: bytes) -> Sequence[Item]:
    """Return the transfers of an NDJSON body, one a line; blank lines are left out. Raises as :func:`decode_batch`."""
    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    _check_count(len(lines))
    try:
        items = [_decode_item(line) for line in lines]
    except _FAULTS:
        return [_item(line) for line in lines]
    return items if _has_no_duplicates(items, body, 0) else [_item(line) for line in lines]


def _item(transfer: bytes) -> Item:
    try:
        return _ITEM.decode(transfer)
    except Rejected as rejected:
        return rejected


def _has_no_duplicates(items: Sequence[TransferItem], body: bytes, others: int) -> bool:
    """Tell whether it is certain that no name stands twice: every colon in the body is accounted for.

    ``others`` is the number of members around the transfers. With a backslash a colon may be written otherwise.
    """
    colons = others + _MEMBERS_LEAST * len(items)
    for item in items:
        if item.user_id is not None:
            colons += 1
        if item.to_user_id is not None:
            colons += 1
        if item.idempotency_key is not None:
            colons += 1 + item.idempotency_key.count(":")
    return body.count(b":") == colons and b"\\" not in body


def _refuse_second_list(body: bytes) -> None:
    """Refuse a body whose outermost object has a name twice; what is within the transfers is theirs."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Rejected(ProblemCode.MALFORMED_BODY, "the body is not UTF-8: send JSON in UTF-8") from None
    refuse_outer_duplicates(text)


def _check_count(count: int) -> None:
    if not count:
        raise Rejected(ProblemCode.BATCH_EMPTY, "transfers is empty: name at least one", field="transfers")
    if count > TRANSFERS_MOST:
        raise Rejected(
            ProblemCode.BATCH_TOO_LARGE,
            f"transfers has {count} entries: send at most {TRANSFERS_MOST} at a time",
            field="transfers",
        )
