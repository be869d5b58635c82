"""Many callers, one flush: whatever waits while a flush is running becomes the next flush.

There is no timer: under light load an entry is flushed alone and at once, under heavy load the batches grow by
themselves. Entries are held outside of any task until they are answered, so a crash or a cancellation of the loop
flushes them again; flushes must be idempotent.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar, cast

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

from transfer_engine.actors.mailbox import Mailbox

E = TypeVar("E")
R = TypeVar("R")

_log = logging.getLogger(__name__)


class GroupCommitFull(Exception):
    """As much waits as may wait: the entry was not taken. Try again later."""


class FlushCrashed(Exception):
    """The flush of this very entry crashed too often. Whether it was applied is unknown; the cause is chained."""


class FlushMiscounted(Exception):
    """A flush returned another number of results than it was given entries: a crash."""


@dataclass(frozen=True, slots=True)
class GroupCommitStatistics:
    """What a group commit is doing and has done. Weights are in the unit of its ``weigh``."""

    name: str
    running: bool
    entries_waiting: int
    """Entries not answered yet, those in the flush under way included."""
    weight_waiting: int
    entries_in_flight: int
    """Entries in the flush under way, or in one that crashed and is to be repeated."""
    flushes: int
    """Flushes that returned."""
    entries_flushed: int
    entries_most_in_a_flush: int
    entries_refused: int
    """Not taken: too much waited."""
    entries_faulted: int
    """Answered by one of the expected faults."""
    entries_crashed: int
    """Set aside and answered by :class:`FlushCrashed`."""
    crashes: int
    last_error: str | None


class _Waiting(Generic[E, R]):
    """An entry, its answer and, while there is one, the task that waits for it."""

    __slots__ = ("entry", "error", "result", "task", "weight")

    def __init__(self, entry: E, weight: int, task: Task | None) -> None:
        self.entry = entry
        self.weight = weight
        self.task = task
        self.result: R | None = None
        self.error: Exception | None = None

    def abandon(self, _: RaiseCancelT) -> Abort:
        """Forget the task, which is being cancelled; the entry stays where it is."""
        self.task = None
        return Abort.SUCCEEDED


class GroupCommit(Generic[E, R]):
    """Gathers entries into flushes: one flush at a time, first in, first out, an entry never split.

    ``flush(entries)`` returns one result for each entry, in order. If it raises one of ``expected_faults``, every entry
    of that batch is answered by a fresh copy of it: the outcome is unknown, the callers decide. Anything else that it
    raises is a crash: :meth:`run` raises it to its supervisor, and the next run flushes the same entries again. A batch
    that has crashed ``crashes_most`` times is flushed entry by entry; an entry that crashes alone as often is answered
    by :class:`FlushCrashed`, and the others go on.

    Bounds, in the unit of ``weigh`` (1 an entry if it is not given): ``batch_weight_most`` in one flush,
    ``waiting_weight_most`` in all, the flush under way included.
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[list[E]], Awaitable[list[R]]],
        *,
        weigh: Callable[[E], int] | None = None,
        batch_weight_most: int,
        waiting_weight_most: int,
        expected_faults: tuple[type[Exception], ...] = (),
        crashes_most: int = 3,
    ) -> None:
        if not 1 <= batch_weight_most <= waiting_weight_most:
            raise ValueError(
                f"group commit {name!r} needs 1 <= batch_weight_most <= waiting_weight_most, "
                f"not {batch_weight_most} and {waiting_weight_most}"
            )
        if crashes_most < 1:
            raise ValueError(f"crashes_most of group commit {name!r} must be at least 1, not {crashes_most}")
        self.name = name
        self._flush = flush
        self._weigh = weigh
        self._batch_weight_most = batch_weight_most
        self._waiting_weight_most = waiting_weight_most
        self._expected_faults = expected_faults
        self._crashes_most = crashes_most

        # Every weight is at least 1, so the bound on the weight bounds the number of entries too.
        self._waiting: Mailbox[_Waiting[E, R]] = Mailbox(waiting_weight_most)
        self._weight_waiting = 0
        self._held = 0
        """Entries of the flush that was begun and is not answered; it is repeated with these very entries."""
        self._alone = 0
        """Entries, from the oldest on, that are flushed one by one: their batch crashed too often."""
        self._crashes_in_a_row = 0
        self._running = False
        self._drained: trio.Event | None = None

        self._flushes = 0
        self._entries_flushed = 0
        self._entries_most_in_a_flush = 0
        self._entries_refused = 0
        self._entries_faulted = 0
        self._entries_crashed = 0
        self._crashes = 0
        self._last_error: str | None = None

    def __repr__(self) -> str:
        state = "running" if self._running else "not running"
        return (
            f"<GroupCommit {self.name!r} {state}: {len(self._waiting)} entries waiting, {self._held} of them in "
            f"flight, weight {self._weight_waiting} of {self._waiting_weight_most}, {self._crashes} crashes>"
        )

    def statistics(self) -> GroupCommitStatistics:
        """Return what it is doing and has done."""
        return GroupCommitStatistics(
            name=self.name,
            running=self._running,
            entries_waiting=len(self._waiting),
            weight_waiting=self._weight_waiting,
            entries_in_flight=self._held,
            flushes=self._flushes,
            entries_flushed=self._entries_flushed,
            entries_most_in_a_flush=self._entries_most_in_a_flush,
            entries_refused=self._entries_refused,
            entries_faulted=self._entries_faulted,
            entries_crashed=self._entries_crashed,
            crashes=self._crashes,
            last_error=self._last_error,
        )

    async def submit(self, entry: E, *, admitted: bool = False) -> R:
        """Wait until ``entry`` is flushed and return its result.

        The entry is taken before the first checkpoint. Cancellation while waiting leaves it there: it is flushed all
        the same, and its result is dropped. ``admitted`` ignores ``waiting_weight_most``.

        Raises :class:`GroupCommitFull` and :class:`ValueError` (heavier than a whole flush, or no weight at all) when
        it was not taken; one of the expected faults or :class:`FlushCrashed` when its outcome is unknown.
        """
        waiting = self._take(entry, trio.lowlevel.current_task(), admitted=admitted)
        await trio.lowlevel.wait_task_rescheduled(waiting.abandon)
        if waiting.error is not None:
            raise waiting.error
        return cast("R", waiting.result)

    def submit_nowait(self, entry: E, *, admitted: bool = False) -> None:
        """Take ``entry``; its result is dropped, its faults are only counted and logged.

        Raises :class:`GroupCommitFull` and :class:`ValueError` like :meth:`submit`.
        """
        self._take(entry, None, admitted=admitted)

    @trio.lowlevel.enable_ki_protection
    def _take(self, entry: E, task: Task | None, *, admitted: bool) -> _Waiting[E, R]:
        weight = 1 if self._weigh is None else self._weigh(entry)
        if not 1 <= weight <= self._batch_weight_most:
            raise ValueError(
                f"an entry of weight {weight} doesn't fit {self.name!r}: a flush takes 1 to {self._batch_weight_most}"
            )
        if self._weight_waiting + weight > self._waiting_weight_most and not admitted:
            self._entries_refused += 1
            raise GroupCommitFull(
                f"{self.name!r} is full: weight {self._weight_waiting} of {self._waiting_weight_most} waits"
            )
        waiting: _Waiting[E, R] = _Waiting(entry, weight, task)
        self._weight_waiting += weight
        self._waiting.put_nowait(waiting, admitted=True)
        return waiting

    async def wait_drained(self) -> None:
        """Wait until every entry is answered.

        Only a running group commit drains: bound the wait with a deadline. Cancellation leaves nothing behind.
        """
        await trio.lowlevel.checkpoint()
        while self._waiting:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Flush until cancelled. Meant as a supervisor's permanent child; it is run again after it crashed.

        Cancellation amid a flush leaves that flush's entries waiting: the next run flushes the same ones again. Raises
        what the flush raised when it crashed, and :class:`RuntimeError` if it is running already.
        """
        if self._running:
            raise RuntimeError(f"the group commit {self.name!r} is running already")
        self._running = True
        try:
            task_status.started()
            while True:
                if not self._waiting:
                    await self._waiting.wait_for_message()
                await self._flush_once()
        finally:
            self._running = False

    async def _flush_once(self) -> None:
        batch = self._gather()
        self._held = len(batch)
        try:
            results = await self._flush([waiting.entry for waiting in batch])
            if len(results) != len(batch):
                raise FlushMiscounted(f"{self.name!r} flushed {len(batch)} entries and got {len(results)} results")  # noqa: TRY301
        except self._expected_faults as fault:
            self._last_error = repr(fault)  # not the error itself: it holds on to its frames
            self._entries_faulted += len(batch)
            _log.warning("group commit %s: a flush of %d entries failed: %r", self.name, len(batch), fault)
            self._release(batch)
            for waiting in batch:
                if waiting.task is not None:
                    waiting.error = _fresh(fault)
                    trio.lowlevel.reschedule(waiting.task)
        except Exception as crash:
            if not self._crashed(batch, crash):
                raise
        else:
            self._flushes += 1
            self._entries_flushed += len(batch)
            self._entries_most_in_a_flush = max(self._entries_most_in_a_flush, len(batch))
            self._release(batch)
            for waiting, result in zip(batch, results, strict=True):
                if waiting.task is not None:
                    waiting.result = result
                    trio.lowlevel.reschedule(waiting.task)

    def _gather(self) -> list[_Waiting[E, R]]:
        """Return the entries of the next flush; they stay in the mailbox."""
        if self._held:
            return self._waiting.peek(self._held)
        if self._alone:
            return self._waiting.peek(1)
        if self._weight_waiting <= self._batch_weight_most:
            return list(self._waiting)
        count = weight = 0
        for waiting in self._waiting:
            weight += waiting.weight
            if weight > self._batch_weight_most:
                break
            count += 1
        return list(islice(self._waiting, count))

    @trio.lowlevel.enable_ki_protection
    def _release(self, batch: list[_Waiting[E, R]]) -> None:
        """Let the batch leave the mailbox: it is answered now, whatever the answer."""
        self._waiting.drop(len(batch))
        self._weight_waiting -= sum([waiting.weight for waiting in batch])
        self._held = 0
        self._alone = max(0, self._alone - len(batch))
        self._crashes_in_a_row = 0
        if self._drained is not None and not self._waiting:
            self._drained.set()
            self._drained = None

    def _crashed(self, batch: list[_Waiting[E, R]], crash: Exception) -> bool:
        """Count the crash; True if it was dealt with here: an entry was set aside."""
        self._crashes += 1
        self._last_error = repr(crash)  # not the error itself: it holds on to its frames
        self._crashes_in_a_row += 1
        if self._crashes_in_a_row < self._crashes_most:
            return False
        if len(batch) > 1:
            self._held = 0
            self._alone = len(batch)
            self._crashes_in_a_row = 0
            return False
        [waiting] = batch
        self._entries_crashed += 1
        _log.critical(
            "group commit %s: an entry crashed %d flushes and is set aside: %r",
            self.name, self._crashes_in_a_row, waiting.entry, exc_info=crash,
        )  # fmt: skip
        waiting.error = FlushCrashed(f"{self.name!r} crashed {self._crashes_in_a_row} times on one entry: {crash!r}")
        waiting.error.__cause__ = crash
        self._release(batch)
        if waiting.task is not None:
            trio.lowlevel.reschedule(waiting.task)
        return True


def _fresh(fault: Exception) -> Exception:
    """Return a copy of ``fault``, chained to it: one exception object raised in many tasks mixes up their tracebacks.

    It is made without ``__init__``, whose signature may be anything. A class that can't be made even so is raised as it
    is: whoever waits must be answered.
    """
    try:
        fresh = type(fault).__new__(type(fault), *fault.args)
    except Exception:  # noqa: BLE001  a constructor of its own may raise anything
        return fault
    fresh.__dict__.update(fault.__dict__)
    fresh.__cause__ = fault
    return fresh
