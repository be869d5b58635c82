"""`bench compare A B`: two reports that ``--json`` wrote, side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from transfer_engine.benchmarks.compare import Change, Comparison, Pair, compare, crossed_changes
from transfer_engine.benchmarks.figures import microseconds, milliseconds, percent, ratio, whole
from transfer_engine.benchmarks.output import CROSSED, fail_if_option
from transfer_engine.benchmarks.redaction import without_secrets
from transfer_engine.benchmarks.report_json import ReportUnreadable, read_report
from transfer_engine.benchmarks.report_text import BAD, fitted
from transfer_engine.benchmarks.result import Report
from transfer_engine.benchmarks.thresholds import Threshold

GOOD_WHEN_MORE: Final = ("achieved", "committed_percent", "of ")
NEITHER: Final = ("offered",)
RATIOS: Final = ("writes", "growth_ratio")
NOTABLE_PERCENT: Final = 5.0
"""A smaller change is written without a colour: runs differ by as much from one another."""

_REPORT: Final = click.Path(path_type=Path, dir_okay=False)


@click.command("compare")
@click.argument("before", type=_REPORT)
@click.argument("after", type=_REPORT)
@fail_if_option
def compare_reports(before: Path, after: Path, thresholds: tuple[Threshold, ...]) -> None:
    """Compare two reports that --json wrote: BEFORE and AFTER, run by run.

    --fail-if knows every figure of AFTER, and its change from BEFORE, as in 'achieved_change_percent<-10'.
    """
    try:
        old, new = without_secrets(read_report(before)), without_secrets(read_report(after))
    except ReportUnreadable as error:
        raise click.UsageError(str(error)) from None
    console = fitted(Console(highlight=False))
    for part in _parts(before, old, after, new, compare(old, new)):
        console.print(part, highlight=False, markup=False)
    lines = crossed_changes(old, new, thresholds)
    for line in lines:
        click.secho(f"threshold crossed: {line}", fg="red", bold=True)
    if lines:
        raise click.exceptions.Exit(CROSSED)


def _parts(before: Path, old: Report, after: Path, new: Report, compared: Comparison) -> Iterator[Text | Padding]:
    for which, path, report in (("before", before, old), ("after ", after, new)):
        machine = report.machine
        yield Text(f"{which}  {path}: {machine.at}, commit {machine.commit or 'unknown'}, {report.command}")
    for warning in compared.warnings:
        yield Text(f"warning: {warning}", style="bold yellow")
    for difference in compared.differences:
        yield Text(f"differs: {difference}")
    if not compared.differences:
        yield Text("the same machine, commit and versions")
    for pair in compared.pairs:
        yield Text("")
        yield Text(pair.name, style="bold cyan")
        for difference in pair.plan_differences:
            yield Padding(Text(f"differs: {difference}", style="bold yellow"), (0, 0, 0, 2))
        yield Padding(_table(pair), (0, 0, 0, 2))
    yield Text("")
    for which, names in (("before", compared.only_before), ("after", compared.only_after)):
        for name in names:
            yield Text(f"only in {which}: {name}")
    if not compared.pairs:
        yield Text("no run is in both reports", style=BAD)


def _table(pair: Pair) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), show_edge=False, header_style="dim", pad_edge=False)
    table.add_column("", overflow="fold")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right", no_wrap=True)
    for change in pair.changes:
        table.add_row(
            Text(change.name),
            _written(change.name, change.before),
            _written(change.name, change.after),
            Text(_signed(change.percent), style=_style(change)),
        )
    return table


def _written(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name.endswith("_ms"):
        return milliseconds(value)
    if name.endswith("_us"):
        return microseconds(value)
    if name.endswith("_percent"):
        return percent(value)
    return ratio(value) if name.startswith("of ") or name in RATIOS else whole(value)


def _signed(change: float | None) -> str:
    if change is None:
        return ""
    return f"{change:+.1f}%" if change else "="


def _style(change: Change) -> str:
    by = change.percent
    if by is None or abs(by) < NOTABLE_PERCENT or change.name in NEITHER:
        return ""
    is_better = (by > 0) == change.name.startswith(GOOD_WHEN_MORE)
    return "green" if is_better else "red"
