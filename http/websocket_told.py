"""What a connection is told of a user it has subscribed to: the engine's events, as the websocket's messages."""

from collections.abc import Callable
from typing import Protocol

from transfer_engine.engine.outcomes import Balance
from transfer_engine.engine.stream_rings import StreamEvent, StreamSnapshot
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.websocket_messages import (
    Answer,
    BalanceEvent,
    Encode,
    Outgoing,
    Snapshot,
    TransferEvent,
    TransferView,
)
from transfer_engine.schema.wire import BalanceEntry


class Asker(Protocol):
    """The connection that requests come from.

    Attributes:
        caller: who asks, or None where he has yet to say it.
    """

    caller: Caller | None

    def require(self, scope: Scope, cost: int = 1) -> Caller:
        """Return who asks, or raise Rejected; ``cost`` is what the request counts."""
        ...

    def count(self) -> None:
        """Count a request that needs no scope, or that is none; raise Rejected where it is too often."""
        ...

    def began(self, count: int = 1) -> None:
        """Count requests that are answered later."""
        ...

    def overloaded(self, count: int = 1) -> None:
        """Count what was refused for want of room: nothing further is read before it has had its turn."""
        ...

    def answer(self, answer: Answer, encode: Encode, count: int = 1) -> None:
        """Answer a request that had begun, counted as so many."""
        ...

    def tell(self, message: Outgoing, encode: Encode) -> bool:
        """Send a message; False where the client lags, and gets none any more."""
        ...

    def start(self, work: Callable[[], object]) -> None:
        """Run work in a task of its own."""
        ...


class Told:
    """One subscription of a connection.

    Attributes:
        encode: in which kind of frames it is told.
        seq: the number that was told last, here or, where it is resumed, before; None before the first message.
    """

    __slots__ = ("_asker", "encode", "seq")

    def __init__(self, asker: Asker, encode: Encode) -> None:
        self._asker = asker
        self.encode = encode
        self.seq: int | None = None

    def take(self, message: StreamEvent | StreamSnapshot) -> None:
        """Pass a message on to the client."""
        if self._asker.tell(_message_of(message), self.encode):
            self.seq = message.seq


def _message_of(message: StreamEvent | StreamSnapshot) -> Outgoing:
    if isinstance(message, StreamSnapshot):
        return Snapshot(
            message.stream,
            message.seq,
            message.user_id,
            [entry_of(balance) for balance in message.balances],
            [TransferView.of(record) for record in message.transfers],
        )
    what = message.what
    if isinstance(what, Balance):
        return BalanceEvent(message.stream, message.seq, message.req_id, entry_of(what))
    return TransferEvent(message.stream, message.seq, message.req_id, TransferView.of(what))


def entry_of(balance: Balance) -> BalanceEntry:
    """Return what a client is told of an account."""
    return BalanceEntry(balance.account, balance.asset_id, balance.available, balance.frozen)
