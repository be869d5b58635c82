"""What a group commit holds until it is answered: entries that wait, batches in flight, batches to be repeated.

It owns the order: entries get rising tickets, batches take the oldest first, and a batch that died is begun again as it
was, ahead of all that came later. It never waits, never flushes and never answers: everything here is synchronous, and
knows of trio only the name of the task that an entry's answer goes to, where that is a task.
"""

from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Generic, TypeVar

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

E = TypeVar("E")
R = TypeVar("R")


class Waiting(Generic[E, R]):
    """An entry, its answer and, while there is one, the task that waits for it; or who is called with the answer."""

    __slots__ = ("entry", "error", "on_answer", "result", "task", "weight")

    def __init__(
        self, entry: E, weight: int, task: Task | None, on_answer: Callable[[R | None, Exception | None], None] | None
    ) -> None:
        self.entry = entry
        self.weight = weight
        self.task = task
        self.on_answer = on_answer
        self.result: R | None = None
        self.error: Exception | None = None

    def abandon(self, _: RaiseCancelT) -> Abort:
        """Forget the task, which is being cancelled; the entry stays where it is."""
        self.task = None
        return Abort.SUCCEEDED


class Batch(Generic[E, R]):
    """The entries of one flush, and how often that flush crashed."""

    __slots__ = ("crashes", "first_ticket", "waiting", "weight")

    def __init__(self, first_ticket: int, waiting: list[Waiting[E, R]], weight: int) -> None:
        self.first_ticket = first_ticket
        """The oldest entry's; the others' follow without a gap."""
        self.waiting = waiting
        self.weight = weight
        self.crashes = 0

    def one_by_one(self) -> "list[Batch[E, R]]":
        """Return a batch for every entry, in order. The crashes so far count against none of them."""
        return [Batch(self.first_ticket + n, [waiting], waiting.weight) for n, waiting in enumerate(self.waiting)]


class Batches(Generic[E, R]):
    """First in, first out, cut into batches; an entry is never split, and a single one may not weigh more than a batch.

    Args:
        weight_most: of a batch.
        weight_least: of a part, when what waits is shared out among several batches that may begin.
        in_flight_most: batches in flight at a time. It decides how much each takes; the caller keeps to it.
    """

    __slots__ = (
        "_again",
        "_entries_held",
        "_in_flight",
        "_in_flight_most",
        "_waiting",
        "_weight_held",
        "_weight_least",
        "_weight_most",
        "taken",
        "weight",
    )

    def __init__(self, *, weight_most: int, weight_least: int, in_flight_most: int) -> None:
        self._weight_most = weight_most
        self._weight_least = weight_least
        self._in_flight_most = in_flight_most
        # Every entry that is not answered is in one of these three, and they are in the order of their tickets: what
        # is in flight is older than what is to be repeated, and that is older than what was in no batch yet.
        self._in_flight: dict[Batch[E, R], None] = {}
        self._again: deque[Batch[E, R]] = deque()
        self._waiting: list[Waiting[E, R]] = []
        self._entries_held = 0
        """Of the first two."""
        self._weight_held = 0
        self.weight = 0
        """Of all three."""
        self.taken = 0
        """Entries taken so far: the ticket of the last one."""

    @property
    def entries(self) -> int:
        """Entries not answered yet."""
        return self._entries_held + len(self._waiting)

    @property
    def entries_held(self) -> int:
        """Entries in a batch: in flight, or to be repeated."""
        return self._entries_held

    @property
    def in_flight(self) -> int:
        """Batches begun, and neither answered nor put back."""
        return len(self._in_flight)

    @property
    def can_begin(self) -> bool:
        """Whether :meth:`begin` has a batch to return.

        While others are in flight, what waits must be worth it: an even share of what they hold. If every entry that
        comes were begun at once, those that follow it would all pile up behind the last one that may be in flight: a
        few tiny batches and a large one that start together, and so end together, for ever. What is too little waits
        for more of it, or until one in flight is answered; never for longer than the last one of these takes.
        """
        if self._waiting and not self._again:
            return (self.weight - self._weight_held) * self._in_flight_most >= self._weight_held
        return bool(self._again)

    def append(self, waiting: Waiting[E, R]) -> None:
        """Take an entry, behind all others."""
        self._waiting.append(waiting)
        self.weight += waiting.weight
        self.taken += 1

    def has_passed(self, ticket: int) -> bool:
        """Tell whether the entry of a ticket is gone from here. Raises :class:`ValueError` if there never was one."""
        if not 1 <= ticket <= self.taken:
            raise ValueError(f"there is no ticket {ticket}: those given out are 1 to {self.taken}")
        if ticket > self.taken - len(self._waiting):
            return False
        held = chain(self._in_flight, self._again)
        return not any(batch.first_ticket <= ticket < batch.first_ticket + len(batch.waiting) for batch in held)

    @trio.lowlevel.enable_ki_protection
    def begin(self) -> Batch[E, R] | None:
        """Return the next batch, in flight from now on; None if none can begin."""
        if not self.can_begin:
            return None
        batch = self._again.popleft() if self._again else self._gather()
        self._in_flight[batch] = None
        return batch

    def _gather(self) -> Batch[E, R]:
        waiting = self._waiting
        first_ticket = self.taken - len(waiting) + 1
        weight = self.weight - self._weight_held
        weight_most = self._weight_most
        parts = min(self._in_flight_most - len(self._in_flight), weight // self._weight_least)
        if parts > 1:
            weight_most = min(weight_most, -(-weight // parts))
        if weight <= weight_most:
            self._waiting = []
        else:
            count = weight = 0
            for entry in waiting:
                if weight + entry.weight > weight_most and count:
                    break
                weight += entry.weight
                count += 1
            self._waiting = waiting[count:]
            del waiting[count:]
        self._entries_held += len(waiting)
        self._weight_held += weight
        return Batch(first_ticket, waiting, weight)

    @trio.lowlevel.enable_ki_protection
    def release(self, batch: Batch[E, R]) -> None:
        """Let go of a batch in flight: its entries are answered, whatever the answer."""
        del self._in_flight[batch]
        self._entries_held -= len(batch.waiting)
        self._weight_held -= batch.weight
        self.weight -= batch.weight

    @trio.lowlevel.enable_ki_protection
    def put_back(self, *, crashes_most: int) -> None:
        """Let what is in flight be begun again, in order, ahead of everything else.

        A batch that crashed ``crashes_most`` times is cut up: each of its entries becomes a batch of its own.
        """
        again: list[Batch[E, R]] = []
        for batch in self._in_flight:
            again += [batch] if batch.crashes < crashes_most else batch.one_by_one()
        self._in_flight.clear()
        self._again.extendleft(reversed(again))
