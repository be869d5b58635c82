"""Keys that two bodies claim at once: who comes second waits until the ledger has said whose the key is.

Only the ledger knows: the first of the two in this engine may itself be a misuse of a key that the second one used
long ago, and would then be told so in a moment.
"""

from collections.abc import Callable

import trio

from transfer_engine.engine.deadlines import Deadlines
from transfer_engine.engine.open_transfers import OpenTransfer
from transfer_engine.engine.outcomes import Overloaded, RefusalCode


class Undecided(Exception):
    """Whether a transfer is admitted can't be said at once: something must be waited for first."""

    async def taken(self, deadline_ms: int) -> tuple[OpenTransfer, bool]:
        """Wait until it is decided, and return what ``admit`` would have; only where asking again is not the way."""
        raise NotImplementedError


class KeyContested(Undecided):
    """The key is under way with another body, and it is not known yet whether that one owns it."""

    def __init__(self, other: OpenTransfer) -> None:
        super().__init__(f"{other!r} may own the key")
        self.other = other


async def admit_in_turn(
    admit: Callable[[], tuple[OpenTransfer, bool]], deadlines: Deadlines, deadline_ms: int | None
) -> tuple[OpenTransfer, bool, int | None]:
    """Call ``admit``, and again after each :class:`KeyContested`, or stand in the line that it says.

    Returns what ``admit`` did, and what is left of the deadline (ms; None: all of the engine's own). Cancellation
    leaves nothing taken.

    Raises:
        Overloaded: at the deadline nobody knew; nothing was taken.
        Refused, or a fault: as ``admit``, and :meth:`transfer_engine.engine.lines.Place.taken`.
    """
    try:
        return *admit(), deadline_ms
    except Undecided as undecided:
        first = undecided
    return await decide(first, admit, deadlines, deadline_ms)


async def decide(
    undecided: Undecided,
    admit: Callable[[], tuple[OpenTransfer, bool]],
    deadlines: Deadlines,
    deadline_ms: int | None,
) -> tuple[OpenTransfer, bool, int | None]:
    """Go on with an admission that raised ``undecided``; see :func:`admit_in_turn`."""
    since = trio.current_time()
    allowed_ms = deadlines.deadline_ms if deadline_ms is None else deadline_ms
    while True:
        left_ms = max(0, allowed_ms - int((trio.current_time() - since) * 1000))
        if not isinstance(undecided, KeyContested):
            taken = await undecided.taken(left_ms)
            return *taken, max(0, allowed_ms - int((trio.current_time() - since) * 1000))
        other = undecided.other
        await deadlines.wait(other, left_ms)
        if other.answer is None and not other.owns_key:
            raise Overloaded(RefusalCode.UNAVAILABLE, "this key is under way with another body: try again in a moment")
        try:
            return *admit(), max(0, allowed_ms - int((trio.current_time() - since) * 1000))
        except Undecided as again:
            undecided = again
