"""The demo as a whole: tells the story, then holds the invariants against the files, and leaves nothing behind."""

import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import trio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from transfer_engine.http.demo_books import read_books
from transfer_engine.http.demo_client import NoAnswer, NotHealed
from transfer_engine.http.demo_invariants import Verdict, check_invariants
from transfer_engine.http.demo_server import LOG_NAME, ServerDied, log_tail
from transfer_engine.http.demo_story import CONFIG, Story, StoryBroken
from transfer_engine.http.settings import ServerSettings

_BREACHES_SHOWN = 10
_BROKEN = (StoryBroken, ServerDied, NoAnswer, NotHealed, trio.TooSlowError, httpx.HTTPError)


async def run_demo(console: Console, directory: Path, *, transfers: int) -> int:
    """Tell the story in a directory, check the invariants, and return the exit code.

    0: everything holds; 1: something does not; 130: it was interrupted. The server is gone in any case.
    """
    console.print(
        "A real server on this machine's loopback, with real files, killed in the middle\n"
        "of its work; then its files are held against what its clients were told."
    )
    story = Story(console, directory, transfers=transfers)
    began = time.perf_counter()
    code = 130
    async with _interruptible() as scope:
        try:
            code = await tell_and_check(console, story)
        finally:
            if story.server is not None:
                await story.server.kill()
    if scope.cancelled_caught:
        console.print("\nInterrupted: the server is stopped.")
        return 130
    console.print(f"   {time.perf_counter() - began:.0f} s in all.")
    return code


async def tell_and_check(console: Console, story: Story) -> int:
    """Tell a story and check the invariants; return 0 if all of them hold, else 1, and show the server's log.

    Cancellation leaves the story's server running.
    """
    try:
        await story.tell()
    except (*_BROKEN, ExceptionGroup) as error:
        console.print(Text(f"\nThe demo broke: {_reason(error)}", style="bold red"))
        _show_log(console, story)
        return 1
    settings = ServerSettings.model_validate({**CONFIG, "data_dir": story.directory / "data"})
    books = await read_books(settings, {note.asked.user_id for note in story.notebook})
    verdicts = check_invariants(story.notebook, books, story.figures)
    show_verdicts(console, verdicts)
    if all(verdict.holds for verdict in verdicts):
        return 0
    _show_log(console, story)
    return 1


def show_verdicts(console: Console, verdicts: list[Verdict]) -> None:
    """Print the table of verdicts, then every breach of those that do not hold."""
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column("invariant", style="bold")
    table.add_column("claim")
    table.add_column("evidence", style="dim", justify="right")
    table.add_column("verdict")
    for verdict in verdicts:
        told = Text("holds", style="green") if verdict.holds else Text("BROKEN", style="bold red")
        table.add_row(verdict.invariant, verdict.claim, verdict.evidence, told)
    console.print("\n[bold]What the files say[/bold]")
    console.print(table)
    for verdict in verdicts:
        for breach in verdict.breaches[:_BREACHES_SHOWN]:
            console.print(Text(f"   {verdict.invariant}: {breach}", style="red"), soft_wrap=True)
        if len(verdict.breaches) > _BREACHES_SHOWN:
            console.print(f"   {verdict.invariant}: … and {len(verdict.breaches) - _BREACHES_SHOWN:,} more")
    if all(verdict.holds for verdict in verdicts):
        console.print(Text("\n   Everything holds.", style="bold green"))
    else:
        console.print(Text("\n   Not everything holds.", style="bold red"))


def _reason(error: Exception) -> str:
    """Return the first reason why the story broke; an error of the demo's own is raised."""
    while isinstance(error, ExceptionGroup):
        _, other = error.split(_BROKEN)
        if other is not None:
            raise other
        error = error.exceptions[0]
    return str(error) or type(error).__name__


def _show_log(console: Console, story: Story) -> None:
    console.print("\nThe end of the server's log:")
    console.print(Text(log_tail(story.directory / LOG_NAME)), soft_wrap=True)


@asynccontextmanager
async def _interruptible() -> AsyncIterator[trio.CancelScope]:
    """Cancel the body at Ctrl-C or SIGTERM, so that it can clean up."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def obey() -> None:
                async for _ in signals:
                    scope.cancel()

            nursery.start_soon(obey)
            with scope:
                yield scope
            nursery.cancel_scope.cancel()


def show(*, transfers: int, keep: Path | None) -> int:
    """Run the demo in a temporary directory, or in ``keep``; return the exit code, see :func:`run_demo`."""
    console = Console(highlight=False)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        return trio.run(partial(run_demo, console, keep, transfers=transfers))
    with tempfile.TemporaryDirectory(prefix="transfer-engine-demo-", ignore_cleanup_errors=True) as directory:
        return trio.run(partial(run_demo, console, Path(directory), transfers=transfers))
