"""What is told while a command runs: what it is at, and each second of a load.

On a terminal one line that changes; elsewhere plain lines. Both go to stderr, so that stdout is the report's alone. No
thread of its own redraws anything: whoever is measured must not pay for being watched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from transfer_engine.benchmarks.figures import milliseconds, whole
from transfer_engine.benchmarks.plan import Plan, plan_name
from transfer_engine.benchmarks.result import Result, Second

LINE_MOST: Final = 110


class Progress(Protocol):
    """Whoever is told. No method waits for anything but a terminal's own pace, and none raises."""

    def step(self, what: str) -> None:
        """Something begins that takes a while: a server's start, users' credit, the look at the books."""
        ...

    def load(self, plan: Plan) -> None:
        """A load begins; its seconds follow, those of the warm-up with an ``at_s`` below zero, if they are told."""
        ...

    def second(self, second: Second) -> None:
        """One second of the load is over."""
        ...

    def result(self, result: Result) -> None:
        """A run is over."""
        ...


class Silence:
    """Tells nobody anything."""

    def step(self, what: str) -> None:
        """See :class:`Progress`."""

    def load(self, plan: Plan) -> None:
        """See :class:`Progress`."""

    def second(self, second: Second) -> None:
        """See :class:`Progress`."""

    def result(self, result: Result) -> None:
        """See :class:`Progress`."""


class _Lines:
    """Plain lines, or with ``live`` one line that changes and lines for what is over."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console = console
        self._live = live
        self._name = ""
        self._seconds: float | None = None

    def step(self, what: str) -> None:
        self._now(f"{what} …")

    def load(self, plan: Plan) -> None:
        self._name = plan_name(plan)
        self._seconds = None if plan.length.transfers is not None else plan.length.seconds
        self._now(f"{self._name}: load …")

    def second(self, second: Second) -> None:
        figures = (
            f"{whole(second.committed)}/s  P50 {milliseconds(second.p50_ms)}  P99 {milliseconds(second.p99_ms)}  "
            f"max {milliseconds(second.max_ms)} ms"
        )
        at_s = second.at_s + 1
        if at_s <= 0:
            at = "warm-up"
        else:
            at = f"{at_s:.0f} s" if self._seconds is None else f"{at_s:.0f} of {self._seconds:.0f} s"
        self._now(f"{self._name}: {at}  {figures}" if self._live is not None else f"  {at:>12}  {figures}")

    def result(self, result: Result) -> None:
        if self._live is not None:
            self._live.update(Text(""))
        latencies = result.latencies
        self._line(
            f"{result.name}: {whole(result.achieved)}/s  P50 {milliseconds(latencies.p50_ms)}  "
            f"P99 {milliseconds(latencies.p99_ms)} ms  {'books hold' if result.books.hold else 'BOOKS ARE BROKEN'}",
            "" if result.books.hold else "bold red",
        )

    def _now(self, text: str) -> None:
        if self._live is None:
            self._line(text, "dim")
            return
        line = Text(text, style="dim", no_wrap=True, overflow="ellipsis")
        self._live.update(line, refresh=True)

    def _line(self, text: str, style: str) -> None:
        self._console.print(Text(text, style=style), soft_wrap=True, highlight=False)


@contextmanager
def live_progress(console: Console | None = None) -> Iterator[Progress]:
    """Tell a person what goes on until the block is left; the line that changed is then gone.

    Args:
        console: Where to; stderr by default.
    """
    if console is None:
        console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _Lines(console, None)
        return
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
        yield _Lines(console, live)
