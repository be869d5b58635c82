"""The one interface between loads and targets: a caller takes orders and says what became of each.

A *sender* is a target that is up and funded: it hands out callers, one for each task of a load. A caller is used by one
task at a time, and is one connection, or a place on one (websocket frames are pipelined), or nothing at all (the engine
in process). All orders of one call travel in one request or frame.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import msgspec

COMMITTED: Final = "committed"
PENDING: Final = "pending"
FAILED: Final = "failed"
REPLAYED: Final = "replayed"
"""Answered by an earlier request's outcome, which was *committed*."""
REFUSED: Final = "refused: "
"""What comes before a refusal's code (``refused: insufficient_funds``)."""
FAULT: Final = "fault: "
"""What comes before a fault's name: no answer, a cut connection, a status that is no outcome. It stays unknown."""


class Order(msgspec.Struct, frozen=True, gc=False):
    """One transfer to be asked for."""

    number: int
    user_id: int
    source: str
    target: str
    amount: int
    key: str | None
    """The client's key; None where the engine is to issue an identifier."""


class Caller(Protocol):
    """Whoever asks, one call at a time."""

    async def send(self, orders: Sequence[Order]) -> Sequence[str]:
        """Send orders in one request; return what became of each, in order, by the names above.

        Never raises for what a server or a network does: that is a ``fault``. Cancellation may leave outcomes unknown.
        """
        ...


class Sender(Protocol):
    """A target that is up and funded."""

    @property
    def callers_most(self) -> int | None:
        """How many callers there may be at a time (one for each connection of HTTP); None: as many as one likes."""
        ...

    def caller(self, index: int) -> AbstractAsyncContextManager[Caller]:
        """Open the ``index``-th caller (0 on); leaving it ends what is its alone.

        Raises:
            OSError, RuntimeError: the target can't be reached.
        """
        ...
