"""What a client's call may raise. A refusal is certain: nothing moved by it. Everything else never says that."""

from typing import Final

import msgspec


class Refusal(msgspec.Struct, frozen=True):
    """What a server said instead of taking a request.

    Attributes:
        code: stable; the table is in ``docs/api.md``.
        detail: for people.
        field: what is wrong in the request, where it is a field.
        is_retryable: whether the same request may be taken later, unchanged.
        retry_after_s: when it makes sense to try again, in seconds.
        http_status: of the answer; 0 where it came over a websocket.
    """

    code: str
    detail: str
    field: str | None = None
    is_retryable: bool = False
    retry_after_s: float | None = None
    http_status: int = 0


class ClientError(Exception):
    """What every error of the client is."""


class Refused(ClientError):
    """The server refused, before it took anything: this call moved nothing, and nothing of it will move.

    Attributes:
        refusal: what it said.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.detail} ({refusal.code})")
        self.refusal = refusal

    @property
    def code(self) -> str:
        """Why; stable."""
        return self.refusal.code

    @property
    def detail(self) -> str:
        """Why, for people."""
        return self.refusal.detail

    @property
    def field(self) -> str | None:
        """What is wrong in the request, where it is a field."""
        return self.refusal.field

    @property
    def retryable(self) -> bool:
        """Whether the same request may be taken later, unchanged."""
        return self.refusal.is_retryable

    @property
    def retry_after(self) -> float | None:
        """When it makes sense to try again, in seconds."""
        return self.refusal.retry_after_s


class TransferRefused(Refused):
    """A call that moves money was refused: nothing moved, and the same key may be used again."""


class NotFound(Refused):
    """There is no such thing, or it is another user's."""


class NoAnswer(ClientError):
    """Nothing came back that says what became of the call.

    Attributes:
        key: of a call that moves money: repeat it with this one, and nothing moves twice. None for all others.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class Unreachable(NoAnswer):
    """No connection could be made, or it ended before the answer.

    Raised for a call that moves money it means that nothing was ever sent: else it is :class:`OutcomeUnknown`.

    Attributes:
        was_sent: whether the server may have got the request.
    """

    def __init__(self, message: str, *, key: str | None = None, was_sent: bool = False) -> None:
        super().__init__(message, key=key)
        self.was_sent = was_sent


class ServerFault(NoAnswer):
    """The server, or something before it, met an error of its own."""

    def __init__(self, message: str, *, code: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class NotAnEngine(NoAnswer):
    """Something answered, but not like a transfer engine: is the address right?"""


class OutcomeUnknown(NoAnswer):
    """A call that moves money was sent, and its deadline passed without an answer that says what became of it.

    It may have moved, may move yet, or never will: repeat it with :attr:`key`.
    """


NOT_FOUND_CODES: Final = frozenset({"not_found", "no_such_core", "no_such_path"})


def refused(refusal: Refusal, *, moves_money: bool) -> Refused:
    """Return the exception of a refusal."""
    if refusal.code in NOT_FOUND_CODES:
        return NotFound(refusal)
    return TransferRefused(refusal) if moves_money else Refused(refusal)
