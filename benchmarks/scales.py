"""Axes of charts: where a value is drawn, and which ticks are written beside it. Plain arithmetic."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

LOG_FROM: Final = 25.0
"""Values whose greatest is more than so many times their least are drawn on a logarithmic axis."""
TICKS: Final = 5
"""About how many ticks a linear axis has."""


class Scale(msgspec.Struct, frozen=True):
    """How values are drawn along an axis."""

    is_log: bool
    low: float
    """Where the axis begins, as it is drawn."""
    high: float
    ticks: tuple[float, ...]
    """The values that are written beside it."""

    def drawn(self, value: float) -> float:
        """Return where a value is drawn."""
        return math.log10(max(value, 10**self.low)) if self.is_log else value


def scale(values: Iterable[float], *, may_be_log: bool = True) -> Scale:
    """Return a scale that values fit on: from zero, or logarithmic where they lie far apart.

    Args:
        values: What is drawn; what is not above zero is left out of a logarithmic scale's bounds.
        may_be_log: Whether the axis may be logarithmic.
    """
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    most = max(positive, default=1.0)
    least = min(positive, default=1.0)
    if may_be_log and most / least > LOG_FROM:
        return _log_scale(least, most)
    step = _step(most / TICKS)
    ticks = tuple(number * step for number in range(math.ceil(most / step) + 1))
    return Scale(is_log=False, low=0.0, high=max(most * 1.04, ticks[-1] * 1.02), ticks=ticks)


def _log_scale(least: float, most: float) -> Scale:
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    factors: Sequence[int] = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    above = next((tick for tick in ticks if tick >= most), most)
    below = max((tick for tick in ticks if tick <= least), default=least)
    low, high = math.log10(below), math.log10(max(above, most)) + 0.02
    return Scale(is_log=True, low=low, high=high, ticks=tuple(tick for tick in ticks if below <= tick <= above))


def _step(least: float) -> float:
    """Return the round number (1, 2 or 5 and zeros) that is next above a step."""
    decade = 10.0 ** math.floor(math.log10(least))
    return next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= least * (1 - 1e-9))
