"""From a command to its report: the machine is described, the work is done and watched, what it measured is told."""

import shlex
import signal
import sys
import threading
from collections.abc import Awaitable, Callable

import click
import trio

from transfer_engine.benchmarks.machine import this_machine
from transfer_engine.benchmarks.output import Output, finish
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.result import Report
from transfer_engine.benchmarks.side_tasks import side_tasks
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
            report = trio.run(_unless_terminated, work, progress, report)
    except UNUSABLE as error:
        raise click.ClickException(str(error)) from None
    finish(report, output)


async def _unless_terminated(work: Work, progress: Progress, report: Report) -> Report:
    """Do the work; SIGTERM cancels it, so that whatever it started is ended, too.

    Raises:
        click.ClickException: it was cancelled so.
    """
    with trio.CancelScope() as scope:

        async def watch() -> None:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    scope.cancel()

        is_main = threading.current_thread() is threading.main_thread()  # others get no signals
        async with side_tasks(*((watch,) if is_main else ())):
            return await work(progress, report)
    raise click.ClickException("terminated")


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
