"""The pace of refusals: who is refused for want of room waits for his turn before he is read from again.

To refuse a request costs about half as much as to carry it out up to the ledger. Were all that come refused as soon as
they come, at five times what can be carried out refusing would be all that is done. So the connections that are
refused share a pace: each reserves its turn, is told at once, and is read from when its turn has come; until then what
its client sends stays in the socket, whose bounds are the client's to see. Others are not touched. Turns are given in
the order in which they are asked for, each connection has one at a time, and none is further away than a second.

What lives here: one number. What never does: who is refused, and why.
"""

from typing import Final

import trio

REFUSALS_MOST: Final = 1_000
"""Turns in a second: at 50 to 150 µs of CPU for each, its share of reading and writing included, a tenth of a core."""

WAIT_MOST_S: Final = 1.0
"""No turn is further away: what ``Retry-After`` says, and less than anybody's patience."""


class RefusalPace:
    """Gives out turns, evenly in time.

    Args:
        a_second: so many turns in a second.
    """

    def __init__(self, a_second: int) -> None:
        self._gap_s = 1 / a_second
        self._next = 0.0

    def __repr__(self) -> str:
        return f"<RefusalPace {1 / self._gap_s:.0f} a second, {self.behind_s:.3f} s to the next turn>"

    @property
    def behind_s(self) -> float:
        """How far away the next turn is that somebody asks for (s)."""
        return max(self._next - trio.current_time(), 0.0)

    def reserve(self, count: int) -> float:
        """Reserve a turn for who was refused ``count`` times; return when it has come, by trio's clock."""
        now = trio.current_time()
        self._next = min(max(self._next, now) + count * self._gap_s, now + WAIT_MOST_S)
        return self._next

    async def wait(self, count: int) -> None:
        """Wait for a turn. Cancellation gives it up, and nobody gets it."""
        await trio.sleep_until(self.reserve(count))
