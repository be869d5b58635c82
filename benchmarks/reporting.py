"""From a command to its report: the machine is described, the work is done and watched, what it measured is told."""

import shlex
import sys
from collections.abc import Awaitable, Callable

import click
import trio

from transfer_engine.benchmarks.machine import this_machine
from transfer_engine.benchmarks.output import Output, finish
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.result import Report
from transfer_engine.benchmarks.sources import UNUSABLE
from transfer_engine.engine import tune_garbage_collection

Work = Callable[[Progress, Report], Awaitable[Report]]


def report_on(work: Work, output: Output) -> None:
    """Do a command's work, and tell what it measured.

    Args:
        work: gets who is told of its progress, and a report that has the command and the machine alone; returns the
            report with all that was measured.
        output: where the report goes.

    Raises:
        click.ClickException: a target can't be used; the message says what to mend.
        click.exceptions.Exit: the books are broken, or a threshold is crossed.
    """
    report = Report(command=command_line(), machine=this_machine())
    tune_garbage_collection()
    try:
        with output.progress() as progress:
            report = trio.run(work, progress, report)
    except UNUSABLE as error:
        raise click.ClickException(str(error)) from None
    finish(report, output)


def command_line() -> str:
    """Return the command as it was typed."""
    context = click.get_current_context(silent=True)
    path = context.command_path if context is not None else "transfer-engine bench"
    words = path.split()
    typed = sys.argv[1:]
    if words[-1] in typed:
        typed = typed[typed.index(words[-1]) + 1 :]
        return shlex.join([*words, *typed])
    return path
