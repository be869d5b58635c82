"""What travels through a websocket: requests, answers and events, as JSON (text frames) or MessagePack (binary ones).

A request names its operation in ``op`` and carries the client's own ``id``, which its answer repeats.
"""

import typing
from collections.abc import Callable
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from transfer_engine.http.bodies import BodyDecoder, given_twice, refuse_outer_duplicates
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.schema.transfers import TransferRecord, TransferState
from transfer_engine.schema.wire import BalanceEntry, ErrorDetails, OptionalUserId, TransferItem

ID_LENGTH_MAX: Final = 64
_INT64: Final = 1 << 63

RequestId = (
    Annotated[str, msgspec.Meta(max_length=ID_LENGTH_MAX)] | Annotated[int, msgspec.Meta(ge=-_INT64, le=_INT64 - 1)]
)
"""The client's own name of a request."""


class _Request(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False, tag_field="op", tag=str.lower
):
    id: RequestId


class TransferCall(TransferItem, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="op", tag="transfer"):
    """Move an amount between two accounts."""

    id: RequestId


class BatchCall(_Request, frozen=True, tag="batch"):
    """Move many amounts; each item has its own answer, so that each is decoded by itself."""

    transfers: list[msgspec.Raw]


class GetCall(_Request, frozen=True, tag="get"):
    """Look at one transfer."""

    req_id: Annotated[str, msgspec.Meta(description="the req_id of a transfer, a UUID")]


class BalancesCall(_Request, frozen=True, tag="balances"):
    """Look at a user's accounts."""

    user_id: OptionalUserId = None


class SubscribeCall(_Request, frozen=True, tag="subscribe"):
    """Be told of a user's transfers and balances; with ``stream`` and ``after``: from there on, if that is possible."""

    user_id: OptionalUserId = None
    stream: Annotated[str | None, msgspec.Meta(description="the name of a stream, or left out")] = None
    after: Annotated[int | None, msgspec.Meta(description="the number of the last event that was seen, an integer")] = (
        None
    )


class UnsubscribeCall(_Request, frozen=True, tag="unsubscribe"):
    """Be told no more of a user, or, where none is named, of nobody."""

    user_id: OptionalUserId = None


class PingCall(_Request, frozen=True, tag="ping"):
    """Ask whether anybody is there."""


class AuthCall(_Request, frozen=True, tag="auth"):
    """Say who asks, or renew it."""

    token: Annotated[str, msgspec.Meta(description="a token, a string")]


Call = TransferCall | BatchCall | GetCall | BalancesCall | SubscribeCall | UnsubscribeCall | PingCall | AuthCall

CALLS: Final[dict[str, type[msgspec.Struct]]] = {
    typing.cast("str", call.__struct_config__.tag): call for call in typing.get_args(Call)
}
"""The operations, by name."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What became of a request: ``data`` where it was done, ``error`` where it was refused.

    ``id`` and ``op`` are null where they could not be read.
    """

    id: str | int | None
    op: str | None
    ok: bool
    data: Any = None
    error: ErrorDetails | None = None


class TransferView(msgspec.Struct, frozen=True, gc=False):
    """A transfer as it stands: amounts in minor units, times in Unix ms, ``error`` null where there is none."""

    req_id: UUID
    state: TransferState
    source: str
    target: str
    user_id: int
    to_user_id: int
    asset_id: int
    amount: int
    created_at: int
    updated_at: int
    error: str | None
    retry_count: int

    @classmethod
    def of(cls, record: TransferRecord) -> "TransferView":
        """Return what a websocket shows of a record."""
        return cls(
            record.req_id,
            record.state,
            record.source,
            record.target,
            record.user_id,
            record.target_user_id,
            record.asset_id,
            record.amount,
            record.created_at,
            record.updated_at,
            record.error or None,
            record.retry_count,
        )


class Subscribed(msgspec.Struct, frozen=True, gc=False):
    """The answer to ``subscribe``: the stream that is told now, and whether it goes on behind ``after``."""

    stream: str
    user_id: int
    resumed: bool


class Authenticated(msgspec.Struct, frozen=True, gc=False):
    """The answer to ``auth``: ``expires_at`` in Unix seconds, null where the token does not expire."""

    user_id: int | None
    expires_at: float | None


class TransferEvent(msgspec.Struct, frozen=True, gc=False, tag_field="op", tag="event"):
    """A transfer of the stream's user has reached a state."""

    stream: str
    seq: int
    req_id: UUID
    transfer: TransferView
    type: str = "transfer"


class BalanceEvent(msgspec.Struct, frozen=True, gc=False, tag_field="op", tag="event"):
    """An account of the stream's user has changed; ``req_id`` is the last transfer that was told to touch it."""

    stream: str
    seq: int
    req_id: UUID
    balance: BalanceEntry
    type: str = "balance"


class Snapshot(msgspec.Struct, frozen=True, gc=False, tag_field="op", tag="snapshot"):
    """What stands at ``seq``: the next event has the number after it."""

    stream: str
    seq: int
    user_id: int
    balances: list[BalanceEntry]
    transfers: list[TransferView]
    """The transfers under way."""


class Lagged(msgspec.Struct, frozen=True, gc=False, tag_field="op", tag="lagged"):
    """The client does not read: it is cut off, and may resume ``stream`` after the event numbered ``after``."""

    stream: str
    after: int


class Notice(msgspec.Struct, frozen=True, gc=False, tag_field="op", tag="closing"):
    """The last message before the connection is closed on purpose."""

    code: int
    reason: str


Outgoing = Answer | TransferEvent | BalanceEvent | Snapshot | Lagged | Notice

_json_encode: Final = msgspec.json.Encoder().encode
_msgpack_encode: Final = msgspec.msgpack.Encoder().encode


def encode_text(message: Outgoing) -> str:
    """Return a message for a text frame."""
    return _json_encode(message).decode()


def encode_binary(message: Outgoing) -> bytes:
    """Return a message for a binary frame."""
    return _msgpack_encode(message)


Encode = Callable[[Outgoing], str | bytes]


class _Name(msgspec.Struct, frozen=True, gc=False):
    """As much of a request as an answer to it needs, whatever else is wrong."""

    id: Any = None
    op: Any = None


class Unreadable(Exception):
    """A message that is no request; what could be read of it, and why it is refused."""

    def __init__(self, call_id: str | int | None, op: str | None, rejected: Rejected) -> None:
        super().__init__(rejected.detail)
        self.call_id = call_id
        self.op = op
        self.rejected = rejected


_DECODE_FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_json_decode: Final = msgspec.json.Decoder(Call).decode
_msgpack_decode: Final = msgspec.msgpack.Decoder(Call).decode
_json_name: Final = msgspec.json.Decoder(_Name).decode
_msgpack_name: Final = msgspec.msgpack.Decoder(_Name).decode
_json_item: Final = msgspec.json.Decoder(TransferItem).decode
_msgpack_array: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_msgpack_text: Final = msgspec.msgpack.Decoder(str).decode
_SHORT_MAP_LAST: Final = 0x8F
_MAP_16: Final = 0xDE
_ARRAY_32: Final = b"\xdd"
_msgpack_item: Final = msgspec.msgpack.Decoder(TransferItem).decode
_explain: Final = {op: BodyDecoder(call) for op, call in CALLS.items()}
_explain_item: Final = BodyDecoder(TransferItem)


def decode(message: str | bytes) -> Call:
    """Return the request that a frame holds.

    Raises:
        Unreadable: it is none.
    """
    try:
        if isinstance(message, str):
            call: Call = _json_decode(message)
            if message.count(":") > _members(call) or "\\" in message:
                refuse_outer_duplicates(message)
        else:
            call = _msgpack_decode(message)
            _refuse_doubled(message, _given(call))
    except (*_DECODE_FAULTS, Rejected) as error:
        raise _unreadable(message, error) from None
    return call


def decode_item(raw: msgspec.Raw, *, is_text: bool) -> TransferItem:
    """Return one item of a batch.

    Raises:
        Rejected: it is none; the field is named.
    """
    if is_text:
        return _explain_item.decode(bytes(raw))
    try:
        item: TransferItem = _msgpack_item(raw)
        _refuse_doubled(bytes(raw), _given(item))
    except _DECODE_FAULTS as error:
        _explain_as_json(_explain_item, bytes(raw))
        raise Rejected(ProblemCode.INVALID_FIELD, str(error)) from None
    return item


def _refuse_doubled(message: bytes, given: int) -> None:
    """Refuse a MessagePack map in which a name stands twice: of two only the last one is in what was decoded.

    Args:
        message: what was decoded: the map's head is whole.
        given: how many of its members have a value.
    """
    kind = message[0]
    if kind <= _SHORT_MAP_LAST:
        count, head_bytes = kind & 0x0F, 1
    else:
        head_bytes = 3 if kind == _MAP_16 else 5
        count = int.from_bytes(message[1:head_bytes])
    if count <= given:
        return
    # Members beyond those that have a value: nil, or names that stand there twice. As an array it keeps them all.
    members = _msgpack_array(_ARRAY_32 + (2 * count).to_bytes(4) + message[head_bytes:])
    seen: set[str] = set()
    for name in map(_msgpack_text, members[::2]):
        if name in seen:
            raise given_twice(name)
        seen.add(name)


def _given(call: Call | TransferItem) -> int:
    """Return how many members of a request, or of an item, have a value, its op among them."""
    if isinstance(call, TransferItem):
        given = 6 if isinstance(call, TransferCall) else 4
        for optional in (call.user_id, call.to_user_id, call.idempotency_key):
            given += optional is not None
        return given
    return 1 + sum(getattr(call, name) is not None for name in call.__struct_fields__)


def _members(call: Call) -> int:
    """Return how many colons a request has that names nothing twice; items of a batch are looked at one by one."""
    colons = 2
    if isinstance(call, TransferCall):
        colons += 4
        for optional in (call.user_id, call.to_user_id):
            colons += optional is not None
        if call.idempotency_key is not None:
            colons += 1 + call.idempotency_key.count(":")
    elif isinstance(call, BatchCall):
        colons += 1 + sum(bytes(item).count(b":") for item in call.transfers)
    elif isinstance(call, GetCall | AuthCall):
        colons += 1
    if isinstance(call.id, str):
        colons += call.id.count(":")
    return colons


def _unreadable(message: str | bytes, error: Exception) -> Unreadable:
    """Say what is wrong with a message, and whose answer that is."""
    try:
        name = _json_name(message) if isinstance(message, str) else _msgpack_name(message)
    except _DECODE_FAULTS:
        kind = "JSON" if isinstance(message, str) else "MessagePack"
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        rejected = Rejected(ProblemCode.MALFORMED_BODY, f"the message is no {kind} object: {reason[:200]}")
        return Unreadable(None, None, rejected)
    call_id = name.id if _is_request_id(name.id) else None
    op = name.op if isinstance(name.op, str) and name.op in CALLS else None
    if isinstance(error, Rejected):
        return Unreadable(call_id, op, error)
    if op is None:
        known = ", ".join(CALLS)
        rejected = Rejected(ProblemCode.UNKNOWN_OP, f"op must be one of {known}", field="op")
    elif call_id is None:
        rejected = Rejected(
            ProblemCode.INVALID_FIELD,
            f"id must be a string of at most {ID_LENGTH_MAX} characters, or an integer of 64 bits",
            field="id",
        )
    else:
        rejected = _explanation(op, message, error)
    return Unreadable(call_id, op, rejected)


def _is_request_id(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= ID_LENGTH_MAX
    return type(value) is int and -_INT64 <= value < _INT64


def _explanation(op: str, message: str | bytes, error: Exception) -> Rejected:
    try:
        if isinstance(message, str):
            _explain[op].decode(message.encode())
        else:
            _explain_as_json(_explain[op], message)
    except Rejected as rejected:
        return rejected
    except (*_DECODE_FAULTS, ValueError):
        pass
    return Rejected(ProblemCode.INVALID_FIELD, str(error)[:200])


def _explain_as_json(decoder: BodyDecoder[Any], message: bytes) -> None:
    """Have a MessagePack message explained by who explains JSON: it names the field and the fix.

    Raises:
        Rejected: what is wrong with it; nothing where JSON has no word for it.
    """
    try:
        as_json = msgspec.json.encode(msgspec.msgpack.decode(message))
    except (*_DECODE_FAULTS, TypeError, ValueError):
        return
    decoder.decode(as_json)
