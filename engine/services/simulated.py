"""A simulated core: an in-process service that keeps money durably, and misbehaves when it is told to.

For demonstrations and tests, in place of a matching engine or a remote service. Its money and its answers are real
(:mod:`~transfer_engine.engine.services.simulated_books`); what lives here is the way to it: worker threads, slowness,
lost replies, crashes. Whatever it is told, an answer that was final stays so.
"""

import enum
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

import msgspec
import trio

from transfer_engine.engine.services.protocol import Answer, CoreBalance, Pending, ServiceCall
from transfer_engine.engine.services.simulated_books import Books, Operation, WrongFile

T = TypeVar("T")


class CoreOperation(enum.StrEnum):
    """The calls of a core that change something."""

    WITHDRAW = "withdraw"
    DEPOSIT = "deposit"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    CANCEL = "cancel"


ALL_OPERATIONS: Final = frozenset(CoreOperation)
_TRANSFERS: Final = frozenset({CoreOperation.WITHDRAW, CoreOperation.DEPOSIT})


class SimulatedCrash(Exception):
    """The core crashed in a call, as it was told to. Like every exception of a core, it counts as pending."""


class SimulatedCoreUnavailable(Exception):
    """The core's file can't be opened, read or written."""


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a simulated core misbehaves, from now on. The default is to behave well.

    Every number counts calls, among ``ops``, from the moment at which the core is told. A call meets one misfortune at
    most, the first that has calls left, in the order of the fields; ``latency_ms`` and ``refuse`` go with any.
    """

    ops: frozenset[CoreOperation] = ALL_OPERATIONS
    """Which calls the rest is about."""
    latency_ms: int = 0
    """Pause between applying a call and answering it. A caller who gives up meanwhile leaves it applied."""
    refuse: str | None = None
    """Withdraws and deposits that are asked for the first time are refused for this reason: final, as always."""
    crash_before: int = 0
    """So many calls raise :class:`SimulatedCrash`, and nothing was applied."""
    crash_after: int = 0
    """So many calls are applied, and then raise :class:`SimulatedCrash`."""
    lose_replies: int = 0
    """So many calls are applied, and then answered Pending."""
    pending_calls: int = 0
    """So many withdraws and deposits are answered Pending."""
    pending_applied: bool = False
    """Whether those of ``pending_calls`` were applied."""

    def __post_init__(self) -> None:
        for name in ("latency_ms", "crash_before", "crash_after", "lose_replies", "pending_calls"):
            number = getattr(self, name)
            if number < 0:
                raise ValueError(f"{name} is {number}: it must not be negative")
        if self.refuse == "":
            raise ValueError("refuse is empty: give a reason, or leave it out")


class SimulatedCoreStatistics(msgspec.Struct, frozen=True):
    """What a simulated core did since it was opened.

    ``calls`` counts the calls of each operation, whatever came of them; ``moves`` how often one of them changed what a
    user may spend.
    """

    calls: dict[CoreOperation, int]
    moves: int


class _Fate(enum.Enum):
    """What becomes of one call."""

    ANSWERED = enum.auto()
    CRASH_BEFORE = enum.auto()
    CRASH_AFTER = enum.auto()
    REPLY_LOST = enum.auto()
    PENDING_BEFORE = enum.auto()
    PENDING_AFTER = enum.auto()


class SimulatedCore:
    """A core and reporter of balances (see :class:`~transfer_engine.engine.services.protocol.Core`).

    Made by :func:`open_simulated_core`. Calls run one after the other, in worker threads, each durable (WAL, full
    sync) before it is answered. A fault of the file is Pending, never a refusal.

    Cancelling a call leaves it either not begun or done as a whole, and durable; the caller can't know which.
    """

    def __init__(self, name: str, books: Books, limiter: trio.CapacityLimiter) -> None:
        self.name = name
        self.freezes = books.freezes
        self._books = books
        self._limiter = limiter
        self._calls = dict.fromkeys(CoreOperation, 0)
        self._behaviour = Behaviour()
        self._misfortunes: dict[str, int] = {}

    def __repr__(self) -> str:
        kind = "with" if self.freezes else "without"
        return f"<SimulatedCore {self.name!r} {kind} a freeze, {self._behaviour}, left of it {self._misfortunes}>"

    @property
    def behaviour(self) -> Behaviour:
        """What the core was told last."""
        return self._behaviour

    def behave(self, behaviour: Behaviour) -> None:
        """Misbehave like this from now on; what was left of the former misbehaviour is forgotten."""
        self._behaviour = behaviour
        self._misfortunes = {
            name: getattr(behaviour, name) for name in ("crash_before", "crash_after", "lose_replies", "pending_calls")
        }

    def statistics(self) -> SimulatedCoreStatistics:
        """Return what the core did since it was opened."""
        return SimulatedCoreStatistics(calls=dict(self._calls), moves=self._books.moves)

    async def withdraw(self, call: ServiceCall) -> Answer:
        """Take (or freeze) the amount from the user's account; ``Failed`` if he has not got it."""
        operation = CoreOperation.WITHDRAW
        return await self._call(operation, partial(self._books.withdraw, call, refuse=self._refusal(operation)))

    async def deposit(self, call: ServiceCall) -> Answer:
        """Give the amount to the user's account; ``Failed`` if the balance would exceed 2^63 - 1."""
        operation = CoreOperation.DEPOSIT
        return await self._call(operation, partial(self._books.deposit, call, refuse=self._refusal(operation)))

    async def commit(self, req_id: UUID) -> Answer:
        """Make a withdraw final; without a freeze that moves nothing. Pending where no withdraw is known."""
        return await self._call(CoreOperation.COMMIT, partial(self._books.commit, req_id))

    async def rollback(self, req_id: UUID) -> Answer:
        """Undo a withdraw (once), or fence one that has not come. With a freeze, ``Failed`` after a commit."""
        return await self._call(CoreOperation.ROLLBACK, partial(self._books.rollback, req_id))

    async def cancel(self, req_id: UUID) -> Answer:
        """Fence a deposit that has not come. Success where it was refused or fenced; ``Failed`` once it was taken."""
        return await self._call(CoreOperation.CANCEL, partial(self._books.cancel, req_id))

    async def query(self, req_id: UUID) -> Answer:
        """Tell what the withdraw or deposit of this `req_id` was answered; Pending where nothing is known.

        Never misbehaves. A withdraw that was taken answers Success, rolled back or not: :meth:`operation` tells more.
        """
        try:
            operation = await self._in_thread(partial(self._books.operation, req_id))
        except sqlite3.Error as error:
            return self._technical_fault(error)
        return Pending("nothing is known of this req_id") if operation is None else operation.answer

    async def fund(self, user_id: int, asset_id: int, amount: int) -> None:
        """Put money in from outside (minor units); not idempotent.

        Raises:
            ValueError: a number is out of range, or the balance has no room for the amount.
            SimulatedCoreUnavailable: the file can't be written.
        """
        await self._read(partial(self._books.fund, user_id, asset_id, amount))

    async def balances(self, user_id: int) -> list[CoreBalance]:
        """Return what a user holds, by asset; raises :class:`SimulatedCoreUnavailable`."""
        return await self._read(partial(self._books.balances, user_id))

    async def operation(self, req_id: UUID) -> Operation | None:
        """Return what the books know of a `req_id`; raises :class:`SimulatedCoreUnavailable`."""
        return await self._read(partial(self._books.operation, req_id))

    async def operations(self) -> list[Operation]:
        """Return every operation, by `req_id`, for audits; raises :class:`SimulatedCoreUnavailable`."""
        return await self._read(self._books.operations)

    async def total(self, asset_id: int) -> int:
        """Return all money of an asset in the core, frozen included; raises :class:`SimulatedCoreUnavailable`."""
        return await self._read(partial(self._books.total, asset_id))

    async def funded(self, asset_id: int) -> int:
        """Return what came in from outside, of an asset; raises :class:`SimulatedCoreUnavailable`."""
        return await self._read(partial(self._books.funded, asset_id))

    def _refusal(self, operation: CoreOperation) -> str | None:
        return self._behaviour.refuse if operation in self._behaviour.ops else None

    def _draw_fate(self, operation: CoreOperation) -> _Fate:
        """Decide what becomes of a call, and count the misfortune."""
        left = self._misfortunes
        if operation not in self._behaviour.ops:
            return _Fate.ANSWERED
        if left.get("crash_before"):
            left["crash_before"] -= 1
            return _Fate.CRASH_BEFORE
        if left.get("crash_after"):
            left["crash_after"] -= 1
            return _Fate.CRASH_AFTER
        if left.get("lose_replies"):
            left["lose_replies"] -= 1
            return _Fate.REPLY_LOST
        if operation in _TRANSFERS and left.get("pending_calls"):
            left["pending_calls"] -= 1
            return _Fate.PENDING_AFTER if self._behaviour.pending_applied else _Fate.PENDING_BEFORE
        return _Fate.ANSWERED

    async def _call(self, operation: CoreOperation, work: Callable[[], Answer]) -> Answer:
        # All is decided here, before the first await: the behaviour may change while this call is under way.
        fate = self._draw_fate(operation)
        latency_ms = self._behaviour.latency_ms if operation in self._behaviour.ops else 0
        self._calls[operation] += 1
        answer: Answer = Pending("the core is busy")
        if fate not in (_Fate.CRASH_BEFORE, _Fate.PENDING_BEFORE):
            try:
                answer = await self._in_thread(work)
            except sqlite3.Error as error:
                answer = self._technical_fault(error)
        else:
            await trio.lowlevel.checkpoint()
        if latency_ms:  # without it there is no checkpoint here: an answer that is at hand is not lost to a late cancel
            await trio.sleep(latency_ms / 1000)
        match fate:
            case _Fate.CRASH_BEFORE | _Fate.CRASH_AFTER:
                raise SimulatedCrash(f"core {self.name}: crashed in {operation}")
            case _Fate.REPLY_LOST:
                return Pending("the reply was lost")
            case _Fate.PENDING_AFTER:
                return Pending("the core is busy")
            case _:
                return answer

    def _technical_fault(self, error: sqlite3.Error) -> Pending:
        return Pending(f"core {self.name}: {error}")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run one transaction in a worker thread; once it has begun, no cancellation touches it."""
        return await trio.to_thread.run_sync(work, limiter=self._limiter)

    async def _read(self, work: Callable[[], T]) -> T:
        try:
            return await self._in_thread(work)
        except sqlite3.Error as error:
            raise SimulatedCoreUnavailable(f"core {self.name}: {error}") from error


@asynccontextmanager
async def open_simulated_core(*, name: str, path: Path, freezes: bool) -> AsyncIterator[SimulatedCore]:
    """Open, or make, a simulated core.

    Args:
        name: its name in the registry of services.
        path: its file; the folder must exist. Opened again, it must be under the same name and with the same freeze.
        freezes: whether ``withdraw`` freezes until ``commit``.

    Raises:
        SimulatedCoreUnavailable: the file can't be opened, is damaged, or is not this core's.

    Leaving the block closes the file, cancelled or not; calls made afterwards answer Pending.
    """
    limiter = trio.CapacityLimiter(1)  # the connection serves one thread at a time
    try:
        books = await trio.to_thread.run_sync(partial(Books, name=name, path=path, freezes=freezes), limiter=limiter)
    except (sqlite3.Error, WrongFile) as error:
        raise SimulatedCoreUnavailable(f"core {name}: {path}: {error}") from error
    try:
        yield SimulatedCore(name, books, limiter)
    finally:
        # Bounded: at most one transaction is under way, and closing takes milliseconds.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(books.close, limiter=limiter)
