"""Two reports side by side: what differs between them, and by how much each figure of each run changed."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from transfer_engine.benchmarks.descriptions import busy_line
from transfer_engine.benchmarks.figures import Measured, figure, floor_ratio
from transfer_engine.benchmarks.result import Floor, Machine, Report, Result
from transfer_engine.benchmarks.thresholds import CHANGE, Threshold

COMPARED: Final[tuple[str, ...]] = (
    "offered",
    "achieved",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "p999_ms",
    "max_ms",
    "cpu_us",
    "servers_us",
    "rss_mib",
    "writes",
    "committed_percent",
    "late_percent",
    "dropped",
    "ready_s",
    "first_transfer_s",
    "settled_s",
    "growth_ratio",
    "each_kib",
    "idle_percent",
)
"""Figures that a comparison shows; thresholds know the others, too."""

UNLIKE: Final = ("cores", "cpu", "memory_mib", "system")
"""What makes two machines different ones: their rates can't be compared."""


_RATE: Final = re.compile(r", [\d,.]+/s\b")
_NUMBER: Final = re.compile(r"\d[\d,.]*\d|\d")


class Change(msgspec.Struct, frozen=True):
    """A figure of one run in both reports."""

    name: str
    before: float | None
    after: float | None

    @property
    def percent(self) -> float | None:
        """The change in per cent of what was; None where there is none to tell."""
        if self.before is None or self.after is None:
            return None
        if self.before == self.after:
            return 0.0
        return 100 * (self.after - self.before) / abs(self.before) if self.before else None


class Pair(msgspec.Struct, frozen=True):
    """One run, as it is in both reports."""

    name: str
    changes: tuple[Change, ...]
    """Of :data:`COMPARED`, where either report has it, then of the ratios to floors of one name."""
    plan_differences: tuple[str, ...]
    before: Measured
    after: Measured


class Comparison(msgspec.Struct, frozen=True):
    """Two reports, compared."""

    warnings: tuple[str, ...]
    """Why the figures may not be comparable at all."""
    differences: tuple[str, ...]
    """Of machine, versions, commit: what is not the same, as ``name: before → after``."""
    pairs: tuple[Pair, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def compare(before: Report, after: Report) -> Comparison:
    """Compare two reports, run by run.

    Runs are matched by name, those of sweeps by the sweep and its value; then by name but for the rate in it, which may
    have been a share of what the machine did. Where each report has one run alone, these two are compared.
    """
    old, new = _named(before), _named(after)
    matches = {name: name for name in old if name in new}
    left = {_RATE.sub("", name): name for name in new if name not in matches}
    for name in old:
        other = left.get(_RATE.sub("", name))
        if name not in matches and other is not None and other not in matches.values():
            matches[name] = other
    if len(old) == len(new) == 1:
        matches = dict(zip(old, new, strict=True))
    return Comparison(
        warnings=tuple(_warnings(before, after)),
        differences=tuple(_differences(_facts(before.machine), _facts(after.machine))),
        pairs=tuple(
            _pair(name if name == other else f"{name} → {other}", old[name], before, new[other], after)
            for name, other in sorted(matches.items(), key=lambda match: list(old).index(match[0]))
        ),
        only_before=tuple(name for name in old if name not in matches),
        only_after=tuple(name for name in new if name not in matches.values()),
    )


def _named(report: Report) -> dict[str, Measured]:
    """Return all runs by names of their own; a second one of a name has its number behind it."""
    named: dict[str, Measured] = {}

    def add(name: str, measured: Measured) -> None:
        number, free = 1, name
        while free in named:
            number += 1
            free = f"{name} ({number})"
        named[free] = measured

    for measured in (*report.results, *report.baselines):
        add(measured.name, measured)
    for sweep in report.sweeps:
        for value, result in zip(sweep.values, sweep.results, strict=True):
            add(f"{sweep.over} {value:g}: {result.name}", result)
    for recovery in report.recoveries:
        add(f"recovery: {recovery.name}", recovery)
    for growth in report.growths:
        add(f"growth: {growth.name}", growth)
    for idle in report.idle_websockets:
        add(idle.name, idle)
    return named


def _pair(name: str, old: Measured, before: Report, new: Measured, after: Report) -> Pair:
    changes = [Change(figure_name, figure(old, figure_name), figure(new, figure_name)) for figure_name in COMPARED]
    differences: tuple[str, ...] = ()
    if isinstance(old, Result) and isinstance(new, Result):
        differences = tuple(_differences(_flat(old.plan), _flat(new.plan)))
        if not any(result is old for result in before.baselines):
            changes += _ratios(old, before, new, after)
    return Pair(
        name=name,
        changes=tuple(change for change in changes if change.before is not None or change.after is not None),
        plan_differences=differences,
        before=old,
        after=new,
    )


def _ratios(old: Result, before: Report, new: Result, after: Report) -> Iterator[Change]:
    floors = _numbered(after)
    for place, floor in _numbered(before).items():
        if place in floors:
            yield Change(
                f"of {_both_names(floor, floors[place])}", floor_ratio(old, floor), floor_ratio(new, floors[place])
            )


def _both_names(old: Floor, new: Floor) -> str:
    """Return the name of a floor in two reports, with both numbers where these differ."""
    others = iter(_NUMBER.findall(new.name))
    pairs = ((number, next(others)) for number in _NUMBER.findall(old.name))
    both = iter([number if number == other else f"{number} → {other}" for number, other in pairs])
    return _NUMBER.sub(lambda _: next(both), old.name)


def _numbered(report: Report) -> dict[tuple[str, int], Floor]:
    """Return floors by their names without the numbers in them, and which of that name they are.

    The groups of a floor are as large as the flushes of the run that it is measured beside, so no two are the same.
    """
    numbered: dict[tuple[str, int], Floor] = {}
    for floor in report.floors:
        name = _NUMBER.sub("", floor.name)
        numbered[name, sum(known == name for known, _ in numbered)] = floor
    return numbered


def _facts(machine: Machine) -> dict[str, Any]:
    facts = _flat(machine)
    # When and how busy differ always: they are said by the tables of each report.
    return {name: value for name, value in facts.items() if name != "at" and not name.startswith("load_before")}


def _flat(struct: msgspec.Struct) -> dict[str, Any]:
    """Return a struct's fields, those of structs and dicts within it under ``outer inner``."""
    flat: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for part, inner in value.items():
                add(f"{name} {part}".strip(), inner)
        else:
            flat[name] = value

    add("", msgspec.to_builtins(struct))
    return flat


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield f"{name}: {_said(old)} → {_said(new)}"


def _said(value: Any) -> str:
    return "none" if value is None or value in ("", []) else str(value)


def _warnings(before: Report, after: Report) -> Iterator[str]:
    unlike = [name for name in UNLIKE if getattr(before.machine, name) != getattr(after.machine, name)]
    if unlike:
        yield f"the machines differ ({', '.join(unlike)}): read the ratios to floors, not the rates"
    for which, report in (("first", before), ("second", after)):
        busy = busy_line(report.machine)
        if busy is not None:
            yield f"the {which} report: {busy}"
        broken = [name for name, result in _named(report).items() if not result.books.hold]
        if broken:
            yield f"the books are broken in the {which} report: {', '.join(broken)}"


def crossed_changes(before: Report, after: Report, thresholds: Iterable[Threshold]) -> list[str]:
    """Return a line for each threshold and run that crossed it; plain figures are the second report's."""
    pairs = compare(before, after).pairs
    others = {id(result) for result in after.baselines}
    lines = []
    for threshold in thresholds:
        values = [
            (pair.name, value)
            for pair in pairs
            if threshold.is_about(pair.name) and (threshold.run or id(pair.after) not in others)
            for value in (_value(threshold.name, pair, before, after),)
            if value is not None
        ]
        lines += [f"{threshold}: {value:,.6g} in {name}" for name, value in values if threshold.is_true_of(value)]
        if not values:
            lines.append(f"{threshold}: no run of both reports measured it")
    return lines


def _value(name: str, pair: Pair, before: Report, after: Report) -> float | None:
    figure_name, bracket, floor = name.partition("[")
    if not figure_name.endswith(CHANGE):
        return figure(pair.after, name, after.floors)
    of = figure_name.removesuffix(CHANGE) + bracket + floor
    return Change(of, figure(pair.before, of, before.floors), figure(pair.after, of, after.floors)).percent
