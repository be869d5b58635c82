"""Tasks that have emptied their actor's mailbox, and wait to be lent to the next one that needs a task.

It owns the waiting tasks, and nothing that they serve. Those that nobody needed for a while are dismissed. A task that
is cancelled leaves by itself; should all of them die, no message was theirs.
"""

from itertools import islice
from typing import Final, Generic, TypeVar

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

A = TypeVar("A")

SLICE: Final = 1_000
"""Tasks spawned or dismissed between two checkpoints: at 2.5-9 µs each, the other tasks wait for under 10 ms."""


class _Loan(Generic[A]):
    """What a task finds when it is woken: the actor that it is lent to, or none where it is dismissed."""

    __slots__ = ("actor",)

    def __init__(self) -> None:
        self.actor: A | None = None


class SpareTasks(Generic[A]):
    """The spare tasks of a pool."""

    __slots__ = ("_least", "_loans")

    def __init__(self) -> None:
        # A stack: the newest is lent first, so that surplus tasks gather at its bottom.
        self._loans: dict[Task, _Loan[A]] = {}
        self._least = 0

    def __len__(self) -> int:
        return len(self._loans)

    def lend(self, actor: A) -> bool:
        """Have a task serve an actor; False where none is spare."""
        if not self._loans:
            return False
        task, loan = self._loans.popitem()
        self._least = min(self._least, len(self._loans))
        loan.actor = actor
        trio.lowlevel.reschedule(task)
        return True

    async def wait(self) -> A | None:
        """Let the running task be spare; return whom it is to serve, or None where it is dismissed.

        Cancellation leaves nothing behind.
        """
        task = trio.lowlevel.current_task()
        loan: _Loan[A] = _Loan()
        self._loans[task] = loan

        def abort(_: RaiseCancelT) -> Abort:
            del self._loans[task]
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return loan.actor

    async def dismiss_surplus(self, every_s: float) -> None:
        """Dismiss, now and then, the tasks that nobody needed since the last time; until cancelled."""
        while True:
            await trio.sleep(every_s)
            surplus = self._least
            while surplus > 0:
                for task in list(islice(self._loans, min(surplus, SLICE))):
                    del self._loans[task]
                    trio.lowlevel.reschedule(task)
                surplus -= SLICE
                await trio.lowlevel.checkpoint()
            self._least = len(self._loans)
