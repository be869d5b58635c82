"""Thresholds: conditions on figures that end a command with an exit code of their own, as k6's do.

``p99_ms>50`` is about every run of a command except baselines, which are other people's; ``p99_ms{hot}>50`` about
every run, baselines included, whose name contains ``hot``. A condition says what must *not* be: where it is true the
threshold is crossed. So it is where nothing was measured that it could be about: a check that can't fail is none.
"""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from transfer_engine.benchmarks.figures import FLOOR_RATIO, NAMES, Measured, figure
from transfer_engine.benchmarks.result import Report

OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
KNEE: Final = "knee"
"""Of a sweep over rates; ``knee{…}`` is about the sweeps over what is named."""
CHANGE: Final = "_change_percent"
"""What a comparison puts behind a figure's name."""

_THRESHOLD: Final = re.compile(
    r"\s*(?P<name>\w+)\s*(?P<floor>\[[^\]]+\])?\s*(?:\{(?P<run>[^}]+)\})?\s*"
    r"(?P<operator>>=|<=|==|!=|>|<)\s*(?P<limit>[-+]?(?:\d[\d_]*)?\.?\d+(?:e[-+]?\d+)?)\s*",
    re.IGNORECASE,
)


class NoThreshold(ValueError):
    """A text is no threshold. The message says what it should look like, or which names there are."""


class Threshold(msgspec.Struct, frozen=True):
    """A figure, how it is compared, and with what."""

    name: str
    """Of the figure; of a floor's ratio with the floor in brackets."""
    operator: str
    limit: float
    run: str = ""
    """A part of the names of the runs that it is about; empty: all but baselines."""

    def __str__(self) -> str:
        run = f"{{{self.run}}}" if self.run else ""
        return f"{self.name}{run}{self.operator}{self.limit:.15g}"

    def is_true_of(self, value: float) -> bool:
        """Return whether the condition is true of a value: whether that crosses the threshold."""
        return OPERATORS[self.operator](value, self.limit)

    def is_about(self, run: str) -> bool:
        """Return whether a run's name contains what was named."""
        return self.run.casefold() in run.casefold()


def known_names(*, of_changes: bool = False) -> tuple[str, ...]:
    """Return the names of all figures; those of changes too where two reports are compared."""
    names = (*NAMES, FLOOR_RATIO)
    return (*names, *(f"{name}{CHANGE}" for name in names)) if of_changes else (*names, KNEE)


def parse_threshold(text: str, *, of_changes: bool = False) -> Threshold:
    """Read a threshold such as ``p99_ms>50``, ``achieved{hot} < 10000`` or ``floor_ratio[ledger]<0.1``.

    Args:
        text: What was typed.
        of_changes: Whether two reports are compared, so that names of changes are known too.

    Raises:
        NoThreshold: it is none, or its figure isn't known.
    """
    match = _THRESHOLD.fullmatch(text)
    if match is None:
        raise NoThreshold(
            f"{text!r} is no threshold: write a figure, one of {' '.join(OPERATORS)}, and a number, as in 'p99_ms>50'"
        )
    name = match["name"]
    if name not in known_names(of_changes=of_changes):
        if name.endswith(CHANGE) and name.removesuffix(CHANGE) in known_names():
            raise NoThreshold(f"{text!r}: changes are known to 'bench compare' alone")
        listed = ", ".join(name for name in known_names(of_changes=of_changes) if not name.endswith(CHANGE))
        changes = f", and each of them with {CHANGE} behind it" if of_changes else ""
        raise NoThreshold(f"{text!r}: there is no figure {match['name']}; there are {listed}{changes}")
    floor = match["floor"] or ""
    if floor and not name.startswith(FLOOR_RATIO):
        raise NoThreshold(
            f"{text!r}: only {FLOOR_RATIO} is of a floor; a run is named in braces, as in 'p99_ms{{hot}}>50'"
        )
    return Threshold(f"{name}{floor}", match["operator"], float(match["limit"].replace("_", "")), match["run"] or "")


def all_measured(report: Report) -> Iterator[Measured]:
    """Yield all that was measured but baselines."""
    yield from report.results
    for sweep in report.sweeps:
        yield from sweep.results
    yield from report.recoveries
    yield from report.growths
    yield from report.idle_websockets


def crossed(report: Report, thresholds: Iterable[Threshold]) -> list[str]:
    """Return a line for each threshold and run that crossed it, in order."""
    return [line for threshold in thresholds for line in _crossed_by(report, threshold)]


def _crossed_by(report: Report, threshold: Threshold) -> Iterator[str]:
    measured = False
    for of, value in _values(report, threshold):
        measured = True
        if threshold.is_true_of(value):
            yield f"{threshold}: {value:,.6g} in {of}"
    if not measured:
        yield f"{threshold}: no run measured it"


def _values(report: Report, threshold: Threshold) -> Iterator[tuple[str, float]]:
    if threshold.name == KNEE:
        for sweep in report.sweeps:
            if sweep.knee is not None and threshold.is_about(sweep.over):
                yield f"the sweep over {sweep.over}", sweep.knee
        return
    for measured in (*all_measured(report), *(report.baselines if threshold.run else ())):
        value = figure(measured, threshold.name, report.floors) if threshold.is_about(measured.name) else None
        if value is not None:
            yield measured.name, value
