"""Many callers, few flushes: whatever waits when a flush may start is that flush.

There is no timer: under light load an entry is flushed alone and at once, under heavy load the batches grow by
themselves. Flushes start in the order of their entries, and end in any order.

It owns the entries from the moment they are taken until each is answered once, and the order in which flushes start.
It never splits an entry, never answers one whose flush didn't return or fail, and never decides what a flush means.

No await in here holds an entry: what waits, what is in flight and what is to be repeated are fields of the object. So
a caller that is cancelled takes nothing along, and a loop that dies amid its flushes leaves each of them behind as it
was: the next run starts the same batches again, in the same order. Flushes must be idempotent.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

from transfer_engine.actors.batches import Batch, Batches, Waiting
from transfer_engine.actors.flush_faults import FlushCrashed, FlushMiscounted, GroupCommitFull, fresh

E = TypeVar("E")
R = TypeVar("R")

OnAnswer = Callable[[R | None, Exception | None], None]
"""Called with an entry's result, or with its fault."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GroupCommitStatistics:
    """What a group commit is doing and has done. Weights are in the unit of its ``weigh``."""

    name: str
    running: bool
    entries_waiting: int
    """Entries not answered yet, those in the flushes under way included."""
    weight_waiting: int
    entries_in_flight: int
    """Entries in the flushes under way, and in those that died and are to be repeated."""
    flushes_in_flight: int
    """Flushes under way."""
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


class GroupCommit(Generic[E, R]):
    """Gathers entries into flushes: first in, first out, an entry never split, few flushes at a time.

    Up to ``flushes_most`` flushes are in flight. Each takes the oldest entries that no other has taken, and
    ``flush`` is called in that order, up to its first await. A flush's entries are answered when it returns, whatever
    the others do: with more than one in flight, answers come out of order. None starts for less than an even share of
    what the others hold; alone, one starts for any entry.

    ``flush(entries)`` returns one result for each entry, in order. If it raises one of ``expected_faults``, every entry
    of that batch is answered by a fresh copy of it: the outcome is unknown, the callers decide. Anything else that it
    raises is a crash: the other flushes in flight are cancelled, :meth:`run` raises it to its supervisor, and the next
    run starts the same batches again, in order. A batch that has crashed ``crashes_most`` times is flushed entry by
    entry; an entry that crashes alone as often is answered by :class:`FlushCrashed`, and the others go on.

    Bounds, in the unit of ``weigh`` (1 an entry if it is not given): ``batch_weight_most`` in one flush,
    ``waiting_weight_most`` in all, the flushes under way included. What waits is shared out among the flushes that may
    start, in parts of ``batch_weight_least`` or more (``batch_weight_most`` if it is not given): callers that are all
    answered at once and all come back at once fill one flush otherwise, and the others stay empty.

    ``gather()``, if it is given, is awaited before each batch is begun, while there is something to flush: it may wait
    for more. It must come back soon, and end; what it raises is a crash. Only with one flush at a time.

    Raises :class:`ValueError` for bounds that make no sense.
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[list[E]], Awaitable[list[R]]],
        *,
        weigh: Callable[[E], int] | None = None,
        batch_weight_most: int,
        batch_weight_least: int | None = None,
        waiting_weight_most: int,
        expected_faults: tuple[type[Exception], ...] = (),
        crashes_most: int = 3,
        flushes_most: int = 1,
        gather: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        if not 1 <= batch_weight_most <= waiting_weight_most:
            raise ValueError(
                f"group commit {name!r} needs 1 <= batch_weight_most <= waiting_weight_most, "
                f"not {batch_weight_most} and {waiting_weight_most}"
            )
        if batch_weight_least is None:
            batch_weight_least = batch_weight_most
        if not 1 <= batch_weight_least <= batch_weight_most:
            raise ValueError(
                f"group commit {name!r} needs 1 <= batch_weight_least <= batch_weight_most, "
                f"not {batch_weight_least} and {batch_weight_most}"
            )
        if crashes_most < 1:
            raise ValueError(f"crashes_most of group commit {name!r} must be at least 1, not {crashes_most}")
        if flushes_most < 1:
            raise ValueError(f"flushes_most of group commit {name!r} must be at least 1, not {flushes_most}")
        if gather is not None and flushes_most > 1:
            raise ValueError(f"group commit {name!r} can't gather for {flushes_most} flushes at a time")
        self.name = name
        self._flush = flush
        self._gather = gather
        self._weigh = weigh
        self._batch_weight_most = batch_weight_most
        self._waiting_weight_most = waiting_weight_most
        self._expected_faults = expected_faults
        self._crashes_most = crashes_most
        self._flushes_most = flushes_most

        self._batches: Batches[E, R] = Batches(
            weight_most=batch_weight_most, weight_least=batch_weight_least, in_flight_most=flushes_most
        )
        self._running = False
        self._stopping = False
        """One lane's flush crashed: the others are being cancelled."""
        self._idle: list[Task] = []
        """Lanes with nothing to flush, or not enough."""
        self._is_waking = False
        """An idle lane is on its way, and will take what is there when it comes."""
        self._drained: trio.Event | None = None
        self._is_heavy: tuple[int, trio.Event] | None = None
        """From which weight on whoever gathers is called."""

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
        batches = self._batches
        return (
            f"<GroupCommit {self.name!r} {state}: {batches.entries} entries waiting, {batches.entries_held} of them in "
            f"flight, {batches.in_flight} flushes of {self._flushes_most}, "
            f"weight {batches.weight} of {self._waiting_weight_most}, {self._crashes} crashes>"
        )

    @property
    def entries_waiting(self) -> int:
        """Entries that are not answered yet, those in flight included."""
        return self._batches.entries

    @property
    def weight_waiting(self) -> int:
        """The weight of the entries that are not answered yet, those in flight included."""
        return self._batches.weight

    async def wait_for_weight(self, weight: int) -> None:
        """Wait until entries of so much weight are not answered yet. For one task at a time: ``gather``.

        Cancellation leaves nothing behind.
        """
        if self._batches.weight >= weight:
            await trio.lowlevel.checkpoint()
        else:
            is_heavy = trio.Event()
            self._is_heavy = weight, is_heavy
            try:
                await is_heavy.wait()
            finally:
                self._is_heavy = None

    def statistics(self) -> GroupCommitStatistics:
        """Return what it is doing and has done."""
        return GroupCommitStatistics(
            name=self.name,
            running=self._running,
            entries_waiting=self._batches.entries,
            weight_waiting=self._batches.weight,
            entries_in_flight=self._batches.entries_held,
            flushes_in_flight=self._batches.in_flight,
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
        waiting = self._take(entry, trio.lowlevel.current_task(), None, admitted=admitted)
        await trio.lowlevel.wait_task_rescheduled(waiting.abandon)
        if waiting.error is not None:
            raise waiting.error
        return cast("R", waiting.result)

    def submit_nowait(self, entry: E, *, on_answer: OnAnswer[R] | None = None, admitted: bool = False) -> int:
        """Take ``entry``; without ``on_answer`` its result is dropped, its faults are only counted and logged.

        ``on_answer`` is called once, with what :meth:`submit` would return or raise, from within the flush's task and
        before that begins another one: it must neither wait nor raise. What it raises all the same is logged.

        Returns its ticket for :meth:`has_passed`: 1 or more, and more than every entry's that was taken before.

        Raises :class:`GroupCommitFull` and :class:`ValueError` like :meth:`submit`.
        """
        self._take(entry, None, on_answer, admitted=admitted)
        return self._batches.taken

    def has_passed(self, ticket: int) -> bool:
        """Tell whether the entry of a ticket is done with: flushed, failed with an expected fault, or set aside.

        Raises :class:`ValueError` if there is no such ticket.
        """
        return self._batches.has_passed(ticket)

    @trio.lowlevel.enable_ki_protection
    def _take(self, entry: E, task: Task | None, on_answer: OnAnswer[R] | None, *, admitted: bool) -> Waiting[E, R]:
        weight = 1 if self._weigh is None else self._weigh(entry)
        if not 1 <= weight <= self._batch_weight_most:
            raise ValueError(
                f"an entry of weight {weight} doesn't fit {self.name!r}: a flush takes 1 to {self._batch_weight_most}"
            )
        if self._batches.weight + weight > self._waiting_weight_most and not admitted:
            self._entries_refused += 1
            raise GroupCommitFull(
                f"{self.name!r} is full: weight {self._batches.weight} of {self._waiting_weight_most} waits"
            )
        waiting: Waiting[E, R] = Waiting(entry, weight, task, on_answer)
        self._batches.append(waiting)
        if self._is_heavy is not None and self._batches.weight >= self._is_heavy[0]:
            self._is_heavy[1].set()
        if self._idle and not self._is_waking and self._batches.can_begin:
            self._wake()
        return waiting

    async def wait_drained(self) -> None:
        """Wait until every entry is answered.

        Only a running group commit drains: bound the wait with a deadline. Cancellation leaves nothing behind.
        """
        if not self._batches.entries:
            await trio.lowlevel.checkpoint()
        while self._batches.entries:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Flush until cancelled. Meant as a supervisor's permanent child; it is run again after it crashed.

        Cancellation amid flushes leaves their entries waiting: the next run starts the same batches again. Raises what
        a flush raised when it crashed, and :class:`RuntimeError` if it is running already.
        """
        if self._running:
            raise RuntimeError(f"the group commit {self.name!r} is running already")
        self._running = True
        self._stopping = False
        try:
            task_status.started()
            if self._flushes_most == 1:
                await self._lane()
            else:
                await self._lanes()
        finally:
            self._running = False
            self._batches.put_back(crashes_most=self._crashes_most)

    async def _lanes(self) -> None:
        first_crash: list[Exception] = []

        async def lane(nursery: trio.Nursery) -> None:
            try:
                await self._lane()
            except Exception as crash:  # noqa: BLE001  run() raises it, by itself and not in a group
                first_crash.append(crash)
                self._stopping = True
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for number in range(self._flushes_most):
                nursery.start_soon(lane, nursery, name=f"{self.name}: lane {number}")
        raise first_crash[0]

    async def _lane(self) -> None:
        """Flush one batch after the other: as many flushes are in flight as there are lanes."""
        while not self._stopping:
            if self._gather is not None and self._batches.can_begin:
                await self._gather()
            batch = self._batches.begin()
            if batch is None:
                await self._wait_for_entries()
            else:
                if self._idle and not self._is_waking and self._batches.can_begin:
                    self._wake()  # this batch didn't take all
                # Nothing is awaited between the two: flushes are called in the order in which they are begun.
                await self._flush_batch(batch)

    async def _flush_batch(self, batch: Batch[E, R]) -> None:
        try:
            results = await self._flush([waiting.entry for waiting in batch.waiting])
            if len(results) != len(batch.waiting):
                raise FlushMiscounted(  # noqa: TRY301
                    f"{self.name!r} flushed {len(batch.waiting)} entries and got {len(results)} results"
                )
        except self._expected_faults as fault:
            self._last_error = repr(fault)  # not the error itself: it holds on to its frames
            self._entries_faulted += len(batch.waiting)
            _log.warning("group commit %s: a flush of %d entries failed: %r", self.name, len(batch.waiting), fault)
            self._release(batch)
            for waiting in batch.waiting:
                if waiting.task is not None or waiting.on_answer is not None:
                    self._answer(waiting, None, fresh(fault))
        except Exception as crash:
            if not self._crashed(batch, crash):
                raise
        else:
            self._flushes += 1
            self._entries_flushed += len(batch.waiting)
            self._entries_most_in_a_flush = max(self._entries_most_in_a_flush, len(batch.waiting))
            self._release(batch)
            for waiting, result in zip(batch.waiting, results, strict=True):
                if waiting.task is not None or waiting.on_answer is not None:
                    self._answer(waiting, result, None)

    async def _wait_for_entries(self) -> None:
        """Be idle until there may be something to flush. Cancellation leaves every entry where it is."""
        task = trio.lowlevel.current_task()
        self._idle.append(task)

        def abort(_: RaiseCancelT) -> Abort:
            self._idle.remove(task)
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self._is_waking = False

    def _wake(self) -> None:
        self._is_waking = True
        trio.lowlevel.reschedule(self._idle.pop())

    @trio.lowlevel.enable_ki_protection
    def _release(self, batch: Batch[E, R]) -> None:
        self._batches.release(batch)
        if self._drained is not None and not self._batches.entries:
            self._drained.set()
            self._drained = None

    def _crashed(self, batch: Batch[E, R], crash: Exception) -> bool:
        """Count the crash; True if it was dealt with here: an entry was set aside."""
        if self._stopping:
            # Another flush has crashed, and this one was being cancelled. Nobody knows whether it would have crashed by
            # itself, so it doesn't count against its entries, which are flushed again anyway.
            _log.error("group commit %s: a flush crashed while it was being cancelled", self.name, exc_info=crash)
            return True
        self._crashes += 1
        self._last_error = repr(crash)  # not the error itself: it holds on to its frames
        batch.crashes += 1
        if len(batch.waiting) > 1 or batch.crashes < self._crashes_most:
            return False
        [waiting] = batch.waiting
        self._entries_crashed += 1
        _log.critical(
            "group commit %s: an entry crashed %d flushes and is set aside: %r",
            self.name, batch.crashes, waiting.entry, exc_info=crash,
        )  # fmt: skip
        error = FlushCrashed(f"{self.name!r} crashed {batch.crashes} times on one entry: {crash!r}")
        error.__cause__ = crash
        self._release(batch)
        self._answer(waiting, None, error)
        return True

    def _answer(self, waiting: Waiting[E, R], result: R | None, error: Exception | None) -> None:
        """Answer an entry, whose batch was released."""
        if waiting.task is not None:
            waiting.result = result
            waiting.error = error
            trio.lowlevel.reschedule(waiting.task)
        elif waiting.on_answer is not None:
            try:
                waiting.on_answer(result, error)
            except Exception:  # noqa: BLE001  whoever it is, the others of his batch are to have their answers
                _log.critical(
                    "group commit %s: an answer could not be told: %r", self.name, waiting.entry, exc_info=True
                )
