"""How long to wait after a crash, and how many crashes in a while are too many."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

_DOUBLINGS_MOST = 62
"""Beyond this the ceiling is ``most_ms`` for any sane first delay; it keeps the shift below cheap."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: a random delay below a ceiling that doubles and is bounded.

    Full jitter (a delay anywhere between zero and the ceiling) spreads actors that crashed for one common reason.

    ``first_ms`` is the ceiling after the first crash, ``most_ms`` the highest ceiling; ``random`` returns floats in
    [0, 1) and is injectable, so that a test can seed it. Raises :class:`ValueError` for a bound that makes no sense.
    """

    first_ms: int = 10
    most_ms: int = 5_000
    random: Callable[[], float] = field(default=random.random, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.first_ms <= self.most_ms:
            raise ValueError(
                f"Backoff needs 0 <= first_ms <= most_ms, not first_ms={self.first_ms}, most_ms={self.most_ms}"
            )

    def ceiling_ms(self, attempt: int) -> int:
        """Return the longest delay (ms) after ``attempt`` crashes in a row, counted from one."""
        if attempt < 1:
            raise ValueError(f"attempts are counted from 1, not {attempt}")
        return min(self.most_ms, self.first_ms << min(attempt - 1, _DOUBLINGS_MOST))

    def delay_ms(self, attempt: int) -> float:
        """Return a random delay (ms) in [0, ceiling) after ``attempt`` crashes in a row, counted from one."""
        return self.random() * self.ceiling_ms(attempt)

    async def sleep(self, attempt: int) -> None:
        """Sleep for :meth:`delay_ms`. A checkpoint even where the delay is zero; cancellation leaves nothing behind."""
        await trio.sleep(self.delay_ms(attempt) / 1000)


class CrashWindow:
    """Counts crashes in a sliding window: Erlang's restart intensity.

    More than ``crashes_most`` crashes within ``window_ms`` are too many. Time is trio's clock, so it is used inside
    :func:`trio.run`. Memory: one float a crash, at most ``crashes_most + 1``.
    """

    __slots__ = ("_crashes_most", "_times", "_window_s")

    def __init__(self, crashes_most: int, window_ms: int) -> None:
        if crashes_most < 0:
            raise ValueError(f"crashes_most must be at least 0, not {crashes_most}")
        if window_ms <= 0:
            raise ValueError(f"window_ms must be above 0, not {window_ms}")
        self._crashes_most = crashes_most
        self._window_s = window_ms / 1000
        self._times: deque[float] = deque(maxlen=crashes_most + 1)

    def __repr__(self) -> str:
        return f"<CrashWindow {len(self._times)} of {self._crashes_most} in {self._window_s:g} s>"

    def record(self) -> bool:
        """Record a crash at this moment; True if there have now been too many."""
        now = trio.current_time()
        self._times.append(now)
        return len(self._times) > self._crashes_most and now - self._times[0] <= self._window_s

    def clear(self) -> None:
        """Forget every crash: a supervisor has dealt with them."""
        self._times.clear()
