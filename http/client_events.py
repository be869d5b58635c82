"""What a subscription yields: a snapshot first, then events, numbered without a gap within their stream."""

from typing import Final
from uuid import UUID

import msgspec

from transfer_engine.http.client_results import Balance, Record
from transfer_engine.http.client_wire import WireError


class Snapshot(msgspec.Struct, frozen=True):
    """What stands at ``seq``: what was told before it is superseded. ``transfers`` are those under way.

    Comes first, and again whenever a new stream begins: the engine was started again, or events were lost.
    """

    stream: str
    seq: int
    user_id: int
    balances: list[Balance]
    transfers: list[Record]


class TransferChanged(msgspec.Struct, frozen=True):
    """A transfer of the user has reached a state."""

    stream: str
    seq: int
    req_id: UUID
    transfer: Record


class BalanceChanged(msgspec.Struct, frozen=True):
    """An account of the user has changed; ``req_id`` is the transfer that did it."""

    stream: str
    seq: int
    req_id: UUID | None
    balance: Balance


Event = Snapshot | TransferChanged | BalanceChanged
"""What a subscription yields."""


class Subscribed(msgspec.Struct, frozen=True):
    """The answer to a subscription."""

    stream: str
    user_id: int
    resumed: bool = False


class Heard(msgspec.Struct, frozen=True):
    """As much of a message as says what it is."""

    op: str | None = None
    id: int | str | None = None
    ok: bool = False
    data: msgspec.Raw = msgspec.Raw()
    error: WireError | None = None
    type: str | None = None
    stream: str = ""


_KINDS: Final[dict[tuple[str | None, str | None], type[Event]]] = {
    ("snapshot", None): Snapshot,
    ("event", "transfer"): TransferChanged,
    ("event", "balance"): BalanceChanged,
}

_decode_heard: Final = msgspec.msgpack.Decoder(Heard).decode


def hear(message: bytes | str) -> Heard:
    """Return what a message is; raises :class:`msgspec.DecodeError` where it is none."""
    return _decode_heard(message if isinstance(message, bytes) else b"")


def event_of(heard: Heard, message: bytes) -> Event | None:
    """Return the event that a message is; None where it is another message, or of a kind that is not known."""
    kind = _KINDS.get((heard.op, heard.type))
    return msgspec.msgpack.decode(message, type=kind) if kind is not None else None
