"""A websocket connection as the session sees it, and the codes that it is closed by; each door has its own kind."""

import enum
from collections.abc import Callable, Sequence
from typing import Final, Protocol

Message = str | bytes
"""A text frame's content, or a binary one's."""


class CloseCode(enum.IntEnum):
    """Why a connection is closed: RFC 6455's codes, and our own above 4000."""

    NORMAL = 1000
    GOING_AWAY = 1001
    """The server shuts down: everything that was asked for is answered."""
    PROTOCOL_ERROR = 1002
    BAD_UTF8 = 1007
    FLOOD = 1008
    """Too many messages in a row that are no requests, or too many above what may be unanswered."""
    TOO_LARGE = 1009
    INTERNAL = 1011
    UNAUTHENTICATED = 4001
    """No token in time, or it has expired."""
    LAGGED = 4008
    """The client does not read what it is sent."""


class ConnectionEnded(Exception):
    """Nothing more can be sent or received: the client has closed the connection, or it broke."""


class ClosedByClient(ConnectionEnded):
    """The client has said goodbye, and is owed the same."""


class Connection(Protocol):
    """One client's websocket. One task receives, another one sends; either may be cancelled, which ends both uses."""

    @property
    def last_heard_at(self) -> float:
        """When the client last proved to be there (trio's clock); an answer to :meth:`ping` proves it."""
        ...

    on_control: Callable[[], None]
    """Called when there is something to send that is no message: :meth:`send` is then to be called, if with nothing."""

    async def receive(self) -> Sequence[Message]:
        """Return the messages that have come, at least one. Cancellation loses none but those of a broken connection.

        Raises:
            ClosedByClient: the client leaves: close, with its code.
            ConnectionEnded: the client has left.
            MessageRefused: the client broke the protocol, or a bound: close with that code.
        """
        ...

    async def send(self, messages: Sequence[Message]) -> None:
        """Send messages, in order, together, and what else waits. Cancellation leaves the connection unusable.

        Raises:
            ConnectionEnded: the client has left.
        """
        ...

    def ping(self) -> None:
        """Have the next :meth:`send` ask the client for a sign of life; nobody waits for it."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Close, and wait for the client to do so for a moment; nobody may be receiving. Raises nothing."""
        ...


class MessageRefused(Exception):
    """A client sent what no message may be."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


CODE_OF_FAULT: Final = {1002: CloseCode.PROTOCOL_ERROR, 1007: CloseCode.BAD_UTF8, 1009: CloseCode.TOO_LARGE}
"""The codes by which a parser of frames says what is wrong with them."""

_REASON_BYTES_MOST: Final = 123
"""What a close frame has room for."""


def reason_that_fits(reason: str) -> str:
    """Return as much of a reason as a close frame holds."""
    return reason.encode()[:_REASON_BYTES_MOST].decode(errors="ignore")
