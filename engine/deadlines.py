"""Deadlines of callers: one task for all of them, because a cancel scope a caller costs as much as the rest of it.

Callers with the engine's own deadline stand in one queue, in the order in which they came, which is the order in
which they are due. The sweeper looks at its head a few times a deadline, and lets those go that are due before it
looks again: a caller waits at most its deadline, and at least most of it. Those at the head that were answered leave
with them: kept until they were due, they would be most of what the engine holds, and what its collector walks through.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

from transfer_engine.engine.open_transfers import OpenTransfer
from transfer_engine.engine.outcomes import InvalidTransfer, RefusalCode

SWEEPS_IN_DEADLINE: Final = 40
"""How often the sweeper looks within one deadline: a caller may be let go by this fraction of it early."""


class Waits(Protocol):
    """Somebody who waits, and can be let go."""

    @property
    def is_waiting(self) -> bool:
        """Whether he does still."""
        ...

    def wake(self) -> None:
        """Let him go; a second time does nothing."""
        ...


class Deadlines:
    """Lets callers wait for an answer, no longer than their deadline.

    Args:
        deadline_ms: the engine's own.
        on_sweep: called with each sweep, synchronously: some forty times a deadline.
    """

    def __init__(self, deadline_ms: int, *, on_sweep: Callable[[], None] = lambda: None) -> None:
        self.deadline_ms = deadline_ms
        self._on_sweep = on_sweep
        self._deadline_s = deadline_ms / 1000
        self._tick_s = self._deadline_s / SWEEPS_IN_DEADLINE
        self._queue: deque[tuple[float, Waits]] = deque()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Deadlines of {self._deadline_s:g} s: {len(self._queue)} callers, answered ones included>"

    async def wait(self, transfer: OpenTransfer, deadline_ms: int | None) -> None:
        """Wait until the transfer is answered, will not be soon, or the deadline is there (None: the engine's own).

        At once where it is closed. Cancellation leaves the transfer as it is: the work goes on.
        """
        if transfer.answer is not None or self._is_closed:
            await trio.lowlevel.checkpoint()
        elif deadline_ms is None:
            waiter = transfer.new_waiter()
            self._queue.append((trio.current_time() + self._deadline_s, waiter))
            await waiter.wait()
        else:
            with trio.move_on_after(deadline_ms / 1000):
                await transfer.new_waiter().wait()

    def listen(self, transfer: OpenTransfer, on_wake: Callable[[], None]) -> None:
        """Have ``on_wake`` called, once, when :meth:`wait` with the engine's own deadline would return.

        It is called from within other work, or right now: it must neither raise nor take long.
        """
        if transfer.answer is not None or self._is_closed:
            on_wake()
        else:
            self._queue.append((trio.current_time() + self._deadline_s, transfer.new_listener(on_wake)))

    def watch(self, waits: Waits) -> None:
        """Have somebody let go at the engine's own deadline, if he waits still; at once where it is closed."""
        if self._is_closed:
            waits.wake()
        else:
            self._queue.append((trio.current_time() + self._deadline_s, waits))

    def close(self) -> None:
        """Let everybody go who waits, and let nobody wait any more: the engine has ended, no answer will come."""
        self._is_closed = True
        while self._queue:
            self._queue.popleft()[1].wake()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sweep until cancelled; cancellation leaves the callers waiting, for the next run or for their answers."""
        task_status.started()
        queue = self._queue
        while True:
            await trio.sleep(self._tick_s)
            self._on_sweep()
            due = trio.current_time() + self._tick_s
            while queue and (queue[0][0] <= due or not queue[0][1].is_waiting):
                queue.popleft()[1].wake()


def check_deadline(deadline_ms: object) -> None:
    """Check a caller's own deadline.

    Raises:
        InvalidTransfer: it is none.
    """
    if deadline_ms is not None and (type(deadline_ms) is not int or deadline_ms < 0):
        raise InvalidTransfer(
            RefusalCode.INVALID_TYPE, "deadline_ms must be an integer of milliseconds, 0 or more", field="deadline_ms"
        )
