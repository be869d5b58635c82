"""The clock, and the harness that cancels a program after every single step it takes."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest
import trio
from trio.testing import MockClock


class _CancelAfterSteps(trio.abc.Instrument):
    """Cancels a scope when the loop has taken so many task steps: every await of every task is such a place."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._scope = scope
        self._steps_left = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps_left -= 1
        if self._steps_left == 0:
            self._scope.cancel()


@contextmanager
def _cancelled_after(steps: int) -> Iterator[trio.CancelScope]:
    with trio.CancelScope() as scope:
        instrument = _CancelAfterSteps(scope, steps)
        trio.lowlevel.add_instrument(instrument)
        try:
            yield scope
        finally:
            trio.lowlevel.remove_instrument(instrument)


CancelledAfter = Callable[[int], "contextmanager[trio.CancelScope]"]


@pytest.fixture
def cancelled_after():
    """A scope that is cancelled after the given number of steps of the whole loop."""
    return _cancelled_after


@pytest.fixture
def at_every_step():
    """Run ``program(steps)`` in a loop of its own for 1, 2, 3 … until it says that it ended before it was cancelled.

    Returns how often it was cancelled.
    """

    def run_all(program: Callable[[int], Awaitable[bool]], *, at_least: int) -> None:
        for steps in count(1):
            was_cancelled = trio.run(program, steps, clock=MockClock(autojump_threshold=0))
            if not was_cancelled:
                assert steps > at_least, f"the program ends after {steps} steps: the harness cancels too little of it"
                return

    return run_all


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Crashes are logged with their tracebacks; here they happen on purpose by the thousand."""
    caplog.set_level("CRITICAL", logger="transfer_engine.actors")
