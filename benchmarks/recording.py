"""What a load keeps of its answers: outcomes, latencies as an HdrHistogram, and a line for each second.

Cheap while the load lasts (under 1 µs a call): latencies are counted in a dictionary, by the value that the histogram
would take them for, and become a histogram at the end.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from hdrh.histogram import HdrHistogram

from transfer_engine.benchmarks.result import Percentiles, Second
from transfer_engine.benchmarks.sending import COMMITTED, REFUSED, REPLAYED

LATENCY_MOST_US: Final = 3_600_000_000
"""An hour: longer than any answer takes. What takes longer counts as this."""
SIGNIFICANT_DIGITS: Final = 3
LATE_S: Final = 0.001
"""A call of an open loop that is sent this much behind its moment is late."""
_EXACT_BITS: Final = 11
"""What has so many bits is counted exactly, and of anything above its first so many bits: three significant digits."""
_SUCCESSES: Final = frozenset({COMMITTED, REPLAYED})


class Recording:
    """Keeps what became of the transfers of one load, from :meth:`begin` to :meth:`end`.

    A transfer counts by its moment (when it was due, or sent): outcomes and latencies are of those whose moment is
    since the begin, and wait for the last of them. ``achieved`` and the seconds count by the answer's moment instead.
    Latencies are of what was answered by an outcome, or by none (a fault): a refusal took nothing and is quick, so
    that those of refusals are kept apart.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.seconds: list[Second] = []
        self.sent = 0
        """Transfers whose moment was since the begin; those that were dropped are not among them."""
        self.achieved = 0
        """Transfers answered as committed or replayed between the begin and the end."""
        self.answered = 0
        """Transfers answered by anything between the begin and the end."""
        self.late = 0
        self.dropped = 0
        self.began: float | None = None
        self.ended: float | None = None
        self.last_answer = 0.0
        self._latencies: Counter[int] = Counter()
        self._longest_us = 0
        self._of_second: dict[int, int] = {}
        self._of_warm_up: dict[int, int] = {}
        """Answered in this second, and sent in the warm-up: the second's, and not the load's."""
        self._of_refused: dict[int, int] = {}
        self._refused_longest_us = 0
        self._second_ends = 0.0
        self._second_answered = self._second_achieved = 0
        self._marks: list[tuple[float, list[float]]] = []

    def __repr__(self) -> str:
        return f"<Recording {self.sent} sent, {dict(self.outcomes)}, {self.late} late, {self.dropped} dropped>"

    def begin(self, now: float) -> None:
        """From now on it counts: the warm-up is over."""
        self.began = now
        self._second_ends = now + 1.0

    def end(self, now: float) -> None:
        """Nothing more is sent; what is under way is still recorded."""
        self.turn(now)
        if not self.seconds:  # what was over sooner is told as one
            self._close_second()
        self.ended = now

    def counts(self, moment: float) -> bool:
        """Whether a transfer of this moment counts."""
        return self.began is not None and moment >= self.began

    def record(self, outcomes: Sequence[str], moment: float, now: float) -> None:
        """Keep what became of the transfers of one call, that was due (or sent) at ``moment`` and answered ``now``."""
        if self.began is None:
            return
        latency_us = int((now - moment) * 1e6)
        if now >= self._second_ends:
            self.turn(now)
        self.last_answer = now
        count = len(outcomes)
        achieved, taken = _counts(outcomes) if count > 1 or outcomes[0] is not COMMITTED else (1, 1)
        if self.ended is None:
            self.answered += count
            self.achieved += achieved
            self._second_answered += count
            self._second_achieved += achieved
        if self._marks and achieved:
            self._tell_marks(moment, now)
        if moment >= self.began:
            self.sent += count
            if count == 1:
                self.outcomes[outcomes[0]] += 1
            else:
                self.outcomes.update(outcomes)
            if taken:
                _add(self._of_second, latency_us, taken)
                if latency_us > self._longest_us:  # noqa: PLR1730  spares a call
                    self._longest_us = latency_us
            if taken < count:
                _add(self._of_refused, latency_us, count - taken)
                self._refused_longest_us = max(self._refused_longest_us, latency_us)
        elif taken:
            _add(self._of_warm_up, latency_us, taken)

    def take_over(self, outcomes: Mapping[str, int], latencies_us: Mapping[int, int], *, seconds: float) -> None:
        """Keep what another generator has recorded since the begin: it is over, and had no single seconds."""
        self.outcomes.update(outcomes)
        self._latencies.update(latencies_us)
        self._longest_us = max(latencies_us, default=0)
        self.sent = self.answered = sum(outcomes.values())
        self.achieved = sum(outcomes.get(success, 0) for success in _SUCCESSES)
        self.ended = (self.began or 0.0) + seconds

    def mark(self, now: float) -> Sequence[float]:
        """Remember a fault's moment; what is returned gets the moment of the first success of a later transfer."""
        back: list[float] = []
        self._marks.append((now, back))
        return back

    def turn(self, now: float) -> None:
        """Close the seconds that are over; harmless at any time."""
        if self.began is None or self.ended is not None:
            return
        while now >= self._second_ends:
            self._close_second()
            self._second_ends += 1.0

    def percentiles(self) -> Percentiles:
        """Return the percentiles of all latencies so far."""
        self._merge()
        return percentiles_of(self._histogram(), self._longest_us / 1e3)

    def refusals(self) -> Percentiles | None:
        """Return the percentiles of what was refused; None where nothing was."""
        if not self._of_refused:
            return None
        return percentiles_of(histogram_of(self._of_refused), self._refused_longest_us / 1e3)

    def encoded(self) -> str:
        """Return all latencies in µs, in HdrHistogram's own V2 encoding."""
        self._merge()
        return bytes(self._histogram().encode()).decode()

    def _histogram(self) -> HdrHistogram:
        return histogram_of(self._latencies)

    def _close_second(self) -> None:
        if self.began is None:
            return
        p50_ms, p99_ms, max_ms = _quick_percentiles(Counter(self._of_second) + Counter(self._of_warm_up))
        self.seconds.append(
            Second(
                at_s=round(self._second_ends - 1.0 - self.began, 3),
                answered=self._second_answered,
                committed=self._second_achieved,
                p50_ms=p50_ms,
                p99_ms=p99_ms,
                max_ms=max_ms,
            )
        )
        self._merge()
        self._of_warm_up = {}
        self._second_answered = self._second_achieved = 0

    def _merge(self) -> None:
        self._latencies.update(self._of_second)
        self._of_second = {}

    def _tell_marks(self, moment: float, now: float) -> None:
        for at, back in self._marks:
            if moment >= at:
                back.append(now)
        self._marks = [(at, back) for at, back in self._marks if not back]


def _add(counts: dict[int, int], latency_us: int, transfers: int) -> None:
    """Count a latency by the least value that a histogram can't tell from it."""
    shift = latency_us.bit_length() - _EXACT_BITS
    counted_us = latency_us >> shift << shift if shift > 0 else latency_us
    counts[counted_us] = counts.get(counted_us, 0) + transfers


def _counts(outcomes: Sequence[str]) -> tuple[int, int]:
    """Return how many transfers of a call were successes, and how many were taken at all."""
    refused = sum(outcome.startswith(REFUSED) for outcome in outcomes)
    return sum(outcome in _SUCCESSES for outcome in outcomes), len(outcomes) - refused


def histogram_of(latencies_us: Mapping[int, int]) -> HdrHistogram:
    """Return a histogram of latencies (µs), each with how many took so long."""
    histogram = HdrHistogram(1, LATENCY_MOST_US, SIGNIFICANT_DIGITS)
    for latency_us, count in latencies_us.items():
        histogram.record_value(min(latency_us, LATENCY_MOST_US), count)
    return histogram


def percentiles_of(histogram: HdrHistogram, max_ms: float) -> Percentiles:
    """Return the percentiles of a histogram in µs; all are 0 where it is empty."""
    count = int(histogram.get_total_count())
    if not count:
        return Percentiles(p50_ms=0.0, p90_ms=0.0, p99_ms=0.0, p999_ms=0.0, max_ms=0.0, mean_ms=0.0, count=0)

    found = histogram.get_percentile_to_value_dict([50, 90, 99, 99.9])
    p50_ms, p90_ms, p99_ms, p999_ms = (min(float(value_us) / 1e3, max_ms) for value_us in found.values())
    return Percentiles(
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        p999_ms=p999_ms,
        max_ms=max_ms,
        mean_ms=min(float(histogram.get_mean_value()) / 1e3, max_ms),
        count=count,
    )


def _quick_percentiles(latencies_us: Mapping[int, int]) -> list[float]:
    """Return P50, P99 and maximum (ms) of one second: while the load lasts, so without a histogram."""
    found = []
    ordered = sorted(latencies_us.items())
    count = sum(latencies_us.values())
    for share in (0.5, 0.99, 1.0):
        passed, at_us = 0, 0
        for latency_us, each in ordered:
            passed += each
            at_us = latency_us
            if passed >= share * count:
                break
        found.append(at_us / 1e3)
    return found
