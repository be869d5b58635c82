"""Congestion: how long a transfer that is taken now would wait, and whether that is too long.

What is accepted must be answered before its deadline, or all of it is work for nobody: a bound of the number alone
would let more in than can be carried out in time. So the bound follows the rate. By Little's law a transfer that comes
now waits for as long as those before it take:

    wait = transfers in the shared path / transfers that leave it in a second

The shared path is what everybody's transfers go through: the users' mailboxes (their messages are peeked, so those
that are being handled count) and the rows that are not written yet. A user whose queue waits for a core is not in it:
what stands behind that core holds up nobody else, and must have nobody else refused.

A transfer is refused if it would wait for more than a third of the deadline; the rest is for what the figure does not
know: a rate that has just fallen, pauses, the way of the answer. Much more would be late now and then on a busy
machine, and all that waits costs memory; much less would refuse what backends far away need in flight. Below
``waiting_least`` nothing is refused whatever the rate seems to be, so that an engine that stood still takes enough to
show what it can do; one that has just begun takes some more.

The rate is measured while there is a backlog, else it would be that of the arrivals; without one a step counts only if
more left in it than the rate says, for what was done can be done. It is the mean over about half a deadline, the latest
weighing the most. A backend that hangs makes it fall, and what is let in thereafter makes it
rise again as fast: the bound grows with the rate, and the rate with what was let in, until one of them is the true one.

What lives here: arithmetic on numbers that it is handed, in steps that the deadlines' sweeper makes, some forty in a
deadline. What never does: tasks, awaits, and work for each transfer beyond a comparison.
"""

import math
from collections.abc import Callable
from typing import Final

BACKLOG_LEAST: Final = 256
"""Transfers that wait at both ends of a step that counts: with fewer the parts may have had nothing to do."""

WAIT_MOST: Final = 1 / 3
"""Of the deadline."""

_MEMORY: Final = 0.5
"""Of the deadline: over how long the rate is a mean."""

FIRST_GUESS: Final = 4
"""Of ``waiting_least``: so many may wait until there was a backlog to measure a rate by. An engine that has just begun
is more likely to be fast than to be slow, and a burst that it could carry out is not refused."""

_WEIGHT_OF_OLD: Final = 0.1
"""What was measured before a backlog weighs as much as about two steps of it (all that is remembered: 1): without one
the rate was perhaps that of the arrivals."""


class Congestion:
    """Says how many transfers may wait.

    Args:
        waiting: tells how many transfers are in the mailboxes, and how many rows wait to be written.
        held_up: tells how many of the former wait for a core; may take its time.
        left: tells how many have left the mailboxes, ever.
        clock: seconds, monotonic.
        deadline_ms: within which what is accepted is to be answered.
        waiting_least: so many may wait whatever the rate.
    """

    def __init__(
        self,
        *,
        waiting: Callable[[], tuple[int, int]],
        held_up: Callable[[], int],
        left: Callable[[], int],
        clock: Callable[[], float],
        deadline_ms: int,
        waiting_least: int,
    ) -> None:
        self.waiting_most: int = FIRST_GUESS * waiting_least
        """So many may wait now."""
        self._waiting = waiting
        self._held_up = held_up
        self._left = left
        self._clock = clock
        self._wait_most_s = deadline_ms / 1_000 * WAIT_MOST
        self._memory_s = deadline_ms / 1_000 * _MEMORY
        self._waiting_least = waiting_least
        self._backlog_least = min(BACKLOG_LEAST, max(1, waiting_least // 8))
        self._aside = 0
        self._was_backlog = False
        self._is_measured = False
        self._looked_at = clock()
        self._gone = 0
        self._rate_weighed = 0.0
        self._weights = 0.0

    def __repr__(self) -> str:
        return f"<Congestion {self.waiting} of {self.waiting_most} transfers wait, {self.rate:.0f} a second leave>"

    @property
    def waiting(self) -> int:
        """Transfers that wait in the shared path."""
        in_mailboxes, rows = self._waiting()
        return max(in_mailboxes - self._aside, 0) + rows

    @property
    def rate(self) -> float:
        """Transfers that leave the shared path in a second, as far as it was seen; 0 in the beginning."""
        return max(self._rate_weighed, 0.0) / self._weights if self._weights else 0.0

    @property
    def is_too_much(self) -> bool:
        """Whether a transfer that came now would wait for too long."""
        return self.waiting > self.waiting_most

    def look(self) -> None:
        """Measure what has left since the last look; called now and then, some times in a deadline."""
        now = self._clock()
        self._aside = self._held_up()
        _, rows = self._waiting()
        gone = self._left() - rows
        is_backlog = self.waiting >= self._backlog_least
        seconds = now - self._looked_at
        is_full_rate = is_backlog and self._was_backlog
        if is_backlog and not self._was_backlog and self._weights > _WEIGHT_OF_OLD:
            self._rate_weighed *= _WEIGHT_OF_OLD / self._weights
            self._weights = _WEIGHT_OF_OLD
        if seconds > 0 and (is_full_rate or gone - self._gone > self.rate * seconds):
            keep = math.exp(-seconds / self._memory_s)
            weight = 1 - keep  # however long the step was: it never weighs more than all that is remembered
            self._rate_weighed = self._rate_weighed * keep + weight * (gone - self._gone) / seconds
            self._weights = self._weights * keep + weight
            self._is_measured = self._is_measured or is_full_rate
            least = self._waiting_least if self._is_measured else FIRST_GUESS * self._waiting_least
            self.waiting_most = max(least, int(self.rate * self._wait_most_s))
        self._was_backlog = is_backlog
        self._looked_at = now
        self._gone = gone
