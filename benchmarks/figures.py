"""The figures of a result by the names that thresholds, comparisons and tables share, and how they are written."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from transfer_engine.benchmarks.result import Floor, Growth, IdleWebsockets, Recovery, Result
from transfer_engine.benchmarks.sending import COMMITTED, FAILED, FAULT, PENDING, REFUSED, REPLAYED

Measured = Result | Recovery | Growth | IdleWebsockets
"""What has a name, figures, and books."""

FLOOR_RATIO: Final = "floor_ratio"
"""The least of a result's ratios to the floors; with a floor's name in brackets its ratio to that one alone."""


def counted(result: Result, *beginnings: str) -> int:
    """Return how many transfers had an outcome that begins so."""
    return sum(count for outcome, count in result.outcomes.items() if outcome.startswith(beginnings))


def sent(result: Result) -> int:
    """Return how many transfers were sent: those that have an outcome."""
    return sum(result.outcomes.values())


def floor_ratio(result: Result, floor: Floor) -> float | None:
    """Return how much of a floor's rate a run's transfers amount to; None of another target's floor."""
    target = result.plan.target
    if floor.kind not in {None, target.kind} or floor.door not in {None, target.door}:
        return None
    return result.achieved * floor.things_a_transfer / floor.rate if floor.rate > 0 else None


def _percent(count: int, of: int) -> float:
    return 100 * count / of if of else 0.0


RUN_FIGURES: Final[Mapping[str, Callable[[Result], float | None]]] = {
    "offered": lambda result: result.offered,
    "achieved": lambda result: result.achieved,
    "p50_ms": lambda result: result.latencies.p50_ms,
    "p90_ms": lambda result: result.latencies.p90_ms,
    "p99_ms": lambda result: result.latencies.p99_ms,
    "p999_ms": lambda result: result.latencies.p999_ms,
    "max_ms": lambda result: result.latencies.max_ms,
    "mean_ms": lambda result: result.latencies.mean_ms,
    "cpu_us": lambda result: result.cpu.total_us,
    "servers_us": lambda result: result.cpu.servers_us,
    "load_us": lambda result: result.cpu.load_us,
    "machine_us": lambda result: result.cpu.machine_us,
    "rss_mib": lambda result: result.rss_mib,
    "loop_lag_p50_ms": lambda result: None if result.loop_lag_ms is None else result.loop_lag_ms.p50_ms,
    "loop_lag_p99_ms": lambda result: None if result.loop_lag_ms is None else result.loop_lag_ms.p99_ms,
    "loop_lag_max_ms": lambda result: None if result.loop_lag_ms is None else result.loop_lag_ms.max_ms,
    "writes": lambda result: result.writes_a_transfer,
    "committed": lambda result: counted(result, COMMITTED),
    "replayed": lambda result: counted(result, REPLAYED),
    "pending": lambda result: counted(result, PENDING),
    "failed": lambda result: counted(result, FAILED),
    "refused": lambda result: counted(result, REFUSED),
    "faults": lambda result: counted(result, FAULT),
    "refused_percent": lambda result: _percent(counted(result, REFUSED), sent(result)),
    "fault_percent": lambda result: _percent(counted(result, FAULT), sent(result)),
    "committed_percent": lambda result: _percent(counted(result, COMMITTED, REPLAYED), sent(result)),
    "late": lambda result: result.late,
    "late_percent": lambda result: _percent(result.late, sent(result)),
    "dropped": lambda result: result.dropped,
}
"""Of a run, by name; None where it was not measured."""

RECOVERY_FIGURES: Final[Mapping[str, Callable[[Recovery], float | None]]] = {
    "answering_s": lambda recovery: recovery.answering_s,
    "ready_s": lambda recovery: recovery.ready_s,
    "first_transfer_s": lambda recovery: recovery.first_transfer_s,
    "settled_s": lambda recovery: recovery.settled_s,
    "settled": lambda recovery: recovery.rate,
    "cpu_us": lambda recovery: recovery.cpu_us,
    "servers_us": lambda recovery: recovery.servers_us,
    "rss_mib": lambda recovery: recovery.rss_mib,
    "p99_ms": lambda recovery: recovery.lag_ms.p99_ms,
}
"""Of a recovery, by name; ``p99_ms`` is of the server's answers meanwhile."""

GROWTH_FIGURES: Final[Mapping[str, Callable[[Growth], float | None]]] = {
    "growth_ratio": lambda growth: max((step.ratio for step in growth.steps), default=None),
    "cpu_us": lambda growth: growth.steps[-1].cpu_us if growth.steps else None,
    "rss_mib": lambda growth: growth.steps[-1].rss_mib if growth.steps else None,
}
"""Of a growth, by name: its worst ratio, and what its last step used."""

IDLE_FIGURES: Final[Mapping[str, Callable[[IdleWebsockets], float | None]]] = {
    "each_kib": lambda idle: idle.each_kib,
    "rss_mib": lambda idle: idle.after_mib,
    "idle_percent": lambda idle: 100 * idle.cpu_share,
}
"""Of idle websockets, by name; ``idle_percent`` is of one core."""

NAMES: Final = tuple(dict.fromkeys((*RUN_FIGURES, *RECOVERY_FIGURES, *GROWTH_FIGURES, *IDLE_FIGURES)))
"""Of all figures."""


def figure(measured: Measured, name: str, floors: Iterable[Floor] = ()) -> float | None:
    """Return a figure of what was measured; None where it has none of that name.

    Args:
        measured: Whose.
        name: One of :data:`NAMES`, :data:`FLOOR_RATIO`, or ``floor_ratio[part of a floor's name]``.
        floors: Of the same report.
    """
    if isinstance(measured, Recovery):
        return RECOVERY_FIGURES[name](measured) if name in RECOVERY_FIGURES else None
    if isinstance(measured, Growth):
        return GROWTH_FIGURES[name](measured) if name in GROWTH_FIGURES else None
    if isinstance(measured, IdleWebsockets):
        return IDLE_FIGURES[name](measured) if name in IDLE_FIGURES else None
    if name in RUN_FIGURES:
        return RUN_FIGURES[name](measured)
    return _least_ratio(measured, name, floors) if name.startswith(FLOOR_RATIO) else None


def _least_ratio(result: Result, name: str, floors: Iterable[Floor]) -> float | None:
    wanted = name.removeprefix(FLOOR_RATIO).strip("[]").casefold()
    ratios = [floor_ratio(result, floor) for floor in floors if wanted in floor.name.casefold()]
    known = [ratio for ratio in ratios if ratio is not None]
    return min(known) if known else None


def whole(value: float) -> str:
    """Write a rate or a count: a whole number with its thousands apart; one decimal below ten."""
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


def milliseconds(value: float) -> str:
    """Write milliseconds in three digits or so."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def microseconds(value: float) -> str:
    """Write µs in two or three digits."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def ratio(value: float | None) -> str:
    """Write a ratio in two digits or so; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def percent(value: float) -> str:
    """Write per cent, and whatever is not nothing as more than nothing."""
    if 0 < abs(value) < 0.1:
        return "< 0.1%"
    return f"{value:.0f}%" if abs(value) >= 10 or value == round(value) else f"{value:.1f}%"
