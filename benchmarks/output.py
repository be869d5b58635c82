"""What commands do with what they measured: the options that say where it goes, and the exit code.

Exit codes: 0 all is well; 1 the books are broken, or a run came to nothing; 2 wrong usage; 4 a threshold is crossed.
Broken books beat a crossed threshold. (3 is the command line's own: the engine can't be reached.)
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec
from rich.console import Console

from transfer_engine.benchmarks.figures import Measured
from transfer_engine.benchmarks.progress import Progress, Silence, live_progress
from transfer_engine.benchmarks.redaction import without_secrets
from transfer_engine.benchmarks.report_html import write_html
from transfer_engine.benchmarks.report_json import write_json
from transfer_engine.benchmarks.report_text import print_report
from transfer_engine.benchmarks.result import Report, Result
from transfer_engine.benchmarks.thresholds import NoThreshold, Threshold, all_measured, crossed, parse_threshold

BROKEN: Final = 1
CROSSED: Final = 4

STDOUT: Final = Path("-")

_R = TypeVar("_R")


class Output(msgspec.Struct, frozen=True):
    """Where a report goes, and what must not be in it."""

    json: Path | None = None
    """``-`` is stdout; the tables are then on stderr."""
    html: Path | None = None
    thresholds: tuple[Threshold, ...] = ()
    is_quiet: bool = False
    """Whether nothing is told while a command runs."""

    def progress(self) -> AbstractContextManager[Progress]:
        """Return what is told while a command runs, as a context around the runs."""
        return nullcontext(Silence()) if self.is_quiet else live_progress()


def read_thresholds(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Any:
    """Read ``--fail-if``'s values, before anything runs."""
    of_changes = context.info_name == "compare"
    try:
        return tuple(parse_threshold(value, of_changes=of_changes) for value in values)
    except NoThreshold as error:
        raise click.BadParameter(str(error), ctx=context, param=parameter) from None


def _writable(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Refuse a file in a folder that isn't there before anything runs, rather than after it."""
    if value is not None and value != STDOUT and not value.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {value.parent}", ctx=context, param=parameter)
    return value


fail_if_option: Final = click.option(
    "--fail-if",
    "thresholds",
    multiple=True,
    callback=read_thresholds,
    metavar="CONDITION",
    help="Exit with 4 if this is true of a run, as in 'p99_ms>50' or 'achieved{hot}<10000'. Repeatable.",
)


def output_options(command: Callable[..., _R]) -> Callable[..., _R]:
    """Give a command ``--json``, ``--html``, ``--fail-if`` and ``--quiet``; it gets one argument ``output`` for all."""

    @wraps(command)
    def with_output(
        *arguments: Any,
        json_path: Path | None,
        html_path: Path | None,
        thresholds: tuple[Threshold, ...],
        is_quiet: bool,
        **others: Any,
    ) -> _R:
        output = Output(json=json_path, html=html_path, thresholds=thresholds, is_quiet=is_quiet)
        return command(*arguments, output=output, **others)

    for option in (
        click.option("--quiet", "is_quiet", is_flag=True, help="Tell nothing while it runs."),
        fail_if_option,
        click.option(
            "--html",
            "html_path",
            type=click.Path(path_type=Path, dir_okay=False),
            callback=_writable,
            help="Write a page with plots, which opens offline.",
        ),
        click.option(
            "--json",
            "json_path",
            type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
            callback=_writable,
            help="Write all figures; - is stdout, and the tables go to stderr.",
        ),
    ):
        with_output = option(with_output)
    return with_output


def finish(report: Report, output: Output) -> None:
    """Print a report, write its files, and end the command.

    Raises:
        click.exceptions.Exit: with the exit code, where that is not 0.
        click.ClickException: a file can't be written.
    """
    report = without_secrets(report)
    is_piped = output.json == STDOUT
    print_report(report, Console(stderr=is_piped, highlight=False))
    try:
        if output.json is not None:
            write_json(report, output.json)
        if output.html is not None:
            write_html(report, output.html)
    except OSError as error:
        raise click.ClickException(str(error)) from None
    for line in (lines := crossed(report, output.thresholds)):
        click.secho(f"threshold crossed: {line}", fg="red", bold=True, err=is_piped)
    failures = [line for measured in (*all_measured(report), *report.baselines) for line in failure_lines(measured)]
    for line in failures:
        click.secho(line, fg="red", bold=True, err=True)
    if failures:
        raise click.exceptions.Exit(BROKEN)
    if lines:
        raise click.exceptions.Exit(CROSSED)


def failure_lines(measured: Measured) -> list[str]:
    """Return why a run is none, whatever its speed: its books don't hold, or nothing was committed."""
    lines = []
    if not measured.books.hold:
        lines.append(f"the books don't hold after {measured.name}: this is no run")
    if isinstance(measured, Result) and measured.achieved <= 0:
        lines.append(f"nothing was committed in {measured.name}: this is no run")
    return lines
