"""One actor a key: messages of one key are handled in order, those of different keys at the same time.

An actor is a mailbox plus, while it has messages, a task. What may be lost lives in the mailboxes, outside of any
task; tasks are lent: one that has emptied its actor's mailbox serves the next actor that gets a message, and those that
nobody needed for a while are dismissed. So an idle actor costs no memory at all, and a message to any actor costs one
task wake-up, not a spawn.

What lives here: mailboxes, tasks, crashes. What never does: what a message means.
"""

import contextvars
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, TypeVar

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

from transfer_engine.actors.backoff import Backoff, CrashWindow
from transfer_engine.actors.mailbox import Mailbox, MailboxFull

K = TypeVar("K", bound=Hashable)
M = TypeVar("M")

_log = logging.getLogger(__name__)

_SLICE: Final = 1_000
"""Tasks spawned or dismissed between two checkpoints: at 2.5-9 µs each, the other tasks wait for under 10 ms."""


class PoolClosed(Exception):
    """The pool takes no more messages: it is being shut down. The message was not taken."""


class PoolEscalation(Exception):
    """Handlers crash more often than the pool's limit allows. Every message is still in its mailbox."""


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a pool is doing and has done."""

    name: str
    running: bool
    closed: bool
    actors: int
    """Actors with messages: keys whose mailbox is not empty."""
    tasks_spare: int
    """Tasks that wait for an actor to serve."""
    messages_waiting: int
    """Messages in all mailboxes, those being handled included."""
    messages_handled: int
    messages_refused: int
    """Not taken: a mailbox or the pool was full, or the pool was closed."""
    messages_poisoned: int
    """Set aside, because they crashed their handler too often."""
    crashes: int
    """Handler and poison callbacks that raised."""
    last_error: str | None


class _Trouble:
    """What an actor remembers of its crashes until the messages of the crashed batch are past."""

    __slots__ = ("alone", "attempts", "crashes", "error", "poison_crashes")

    def __init__(self, alone: int, error: Exception) -> None:
        self.alone = alone
        """Messages, from the oldest on, that are handled one at a time."""
        self.attempts = 0
        """Crashes in a row: what the backoff grows with."""
        self.crashes = 0
        """Crashes of the oldest message, handled alone."""
        self.poison_crashes = 0
        self.error = error


class _Actor(Generic[K, M]):
    """A key's mailbox and its trouble, outside of any task. That of a spare task has no key."""

    __slots__ = ("key", "mailbox", "trouble")

    def __init__(self, key: K, capacity: int) -> None:
        self.key = key
        self.mailbox: Mailbox[M] = Mailbox(capacity)
        self.trouble: _Trouble | None = None


class ActorPool(Generic[K, M]):
    """Actors made on demand, one for each key that has messages.

    ``handle(key, messages)`` is given up to ``batch_most`` of one key's oldest messages, in order. When it returns, all
    of them are answered and leave the mailbox. It is never running twice for one key. If it raises an
    :class:`Exception`, nothing leaves: after a ``backoff`` the messages of that batch are handled one at a time, and
    one that crashes its handler ``crashes_most`` times is poison: ``poison(key, message, error)`` is awaited, the
    message leaves, those behind it go on. ``poison`` itself is tried ``crashes_most`` times at most. Delivery is at
    least once: a handler that was cancelled or crashed halfway sees the same messages again.

    Bounds: ``mailbox_capacity`` messages a key, ``messages_most`` in all mailboxes together (None: no such bound). A
    task that was spare for ``idle_ms`` is dismissed before ``2 * idle_ms`` are over. More than ``pool_crashes_most``
    crashes in ``pool_crashes_window_ms`` make :meth:`run` raise.

    The synchronous methods are called from within the trio loop that :meth:`run` is in.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[K, list[M]], Awaitable[None]],
        *,
        mailbox_capacity: int,
        batch_most: int,
        idle_ms: int,
        poison: Callable[[K, M, BaseException], Awaitable[None]],
        crashes_most: int = 3,
        backoff: Backoff | None = None,
        messages_most: int | None = None,
        pool_crashes_most: int = 1_000,
        pool_crashes_window_ms: int = 10_000,
    ) -> None:
        for field, value in (
            ("mailbox_capacity", mailbox_capacity),
            ("batch_most", batch_most),
            ("idle_ms", idle_ms),
            ("crashes_most", crashes_most),
            ("messages_most", messages_most),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{field} of pool {name!r} must be at least 1, not {value}")
        self.name = name
        self._handle = handle
        self._poison = poison
        self._mailbox_capacity = mailbox_capacity
        self._batch_most = batch_most
        self._idle_ms = idle_ms
        self._crashes_most = crashes_most
        self._backoff = Backoff() if backoff is None else backoff
        self._messages_most = messages_most
        self._window = CrashWindow(pool_crashes_most, pool_crashes_window_ms)

        # Invariant between any two steps of the loop: a key is in _actors if and only if its mailbox has messages, and
        # while the pool runs, then exactly one task serves it (or is about to be spawned by run()).
        self._actors: dict[K, _Actor[K, M]] = {}
        # A stack: the newest is served first, so that surplus tasks gather at its bottom. Each keeps an empty actor.
        self._spare: dict[Task, _Actor[K, M]] = {}
        self._spare_least = 0
        self._nursery: trio.Nursery | None = None
        self._context = contextvars.Context()
        self._running = False
        self._closed = False
        self._drained: trio.Event | None = None
        self._escalation: PoolEscalation | None = None

        self._messages_waiting = 0
        self._messages_handled = 0
        self._messages_refused = 0
        self._messages_poisoned = 0
        self._crashes = 0
        self._last_error: str | None = None

    def __repr__(self) -> str:
        state = "running" if self._running else "not running"
        closed = ", closed" if self._closed else ""
        return (
            f"<ActorPool {self.name!r} {state}{closed}: {len(self._actors)} actors, "
            f"{self._messages_waiting} messages waiting, {len(self._spare)} tasks spare, {self._crashes} crashes>"
        )

    @property
    def messages_waiting(self) -> int:
        """Messages in all mailboxes, those being handled included."""
        return self._messages_waiting

    @property
    def messages_gone(self) -> int:
        """Messages that have left their mailboxes: handled, or set aside."""
        return self._messages_handled + self._messages_poisoned

    def messages_of(self, key: K) -> int:
        """Return how many messages of one key are in its mailbox."""
        actor = self._actors.get(key)
        return 0 if actor is None else len(actor.mailbox)

    def statistics(self) -> PoolStatistics:
        """Return what the pool is doing and has done."""
        return PoolStatistics(
            name=self.name,
            running=self._running,
            closed=self._closed,
            actors=len(self._actors),
            tasks_spare=len(self._spare),
            messages_waiting=self._messages_waiting,
            messages_handled=self._messages_handled,
            messages_refused=self._messages_refused,
            messages_poisoned=self._messages_poisoned,
            crashes=self._crashes,
            last_error=self._last_error,
        )

    @trio.lowlevel.enable_ki_protection
    def tell_nowait(self, key: K, message: M, *, admitted: bool = False) -> None:
        """Put ``message`` into the mailbox of ``key``; the actor is made if there is none.

        Synchronous, no checkpoint: once it has returned, no caller's cancellation touches the message. It may be
        called before :meth:`run` and between two runs: then the message waits for the next run. ``admitted`` ignores
        the bounds: for work that was accepted in a former life.

        Raises :class:`MailboxFull` or :class:`PoolClosed`; then the message was not taken.
        """
        if self._closed:
            self._messages_refused += 1
            raise PoolClosed(f"the pool {self.name!r} is closed")
        if self._messages_most is not None and self._messages_waiting >= self._messages_most and not admitted:
            self._messages_refused += 1
            raise MailboxFull(f"the pool {self.name!r} is full: {self._messages_waiting} messages wait")
        actor = self._actors.get(key)
        if actor is not None:
            try:
                actor.mailbox.put_nowait(message, admitted=admitted)
            except MailboxFull:
                self._messages_refused += 1
                raise
            self._messages_waiting += 1
            return
        self._messages_waiting += 1
        if self._spare:
            task, actor = self._spare.popitem()
            self._spare_least = min(self._spare_least, len(self._spare))
            actor.key = key
            actor.mailbox.put_nowait(message)
            self._actors[key] = actor
            trio.lowlevel.reschedule(task)
            return
        actor = _Actor(key, self._mailbox_capacity)
        actor.mailbox.put_nowait(message)
        self._actors[key] = actor
        if self._nursery is not None:
            self._spawn(self._nursery, actor)

    def close(self) -> None:
        """Take no more messages: from now on :meth:`tell_nowait` raises :class:`PoolClosed`. Idempotent.

        What waits is still handled; see :meth:`wait_drained`.
        """
        self._closed = True

    async def wait_drained(self) -> None:
        """Wait until every mailbox is empty and no handler is running.

        Only a running pool drains: bound the wait with a deadline. Cancellation leaves nothing behind.
        """
        await trio.lowlevel.checkpoint()
        while self._actors:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the actors until cancelled. Meant as a supervisor's child; it may be run again after it ended.

        Cancellation, of it or of any handler, loses no message: all stay in their mailboxes and the next run serves
        them. Raises :class:`PoolEscalation` if handlers crash too often, :class:`RuntimeError` if it is running
        already, and what a handler raised beyond :class:`Exception`.
        """
        if self._running:
            raise RuntimeError(f"the pool {self.name!r} is running already")
        self._running = True
        self._escalation = None
        self._window.clear()
        try:
            async with trio.open_nursery() as nursery:
                # Tasks get the pool's context, not that of the caller whose message happened to need one.
                self._context = contextvars.copy_context()
                self._nursery = nursery
                try:
                    await self._respawn(nursery)
                    task_status.started()
                    await self._dismiss_surplus()
                finally:
                    # While this body runs the nursery is open; from here on nobody may spawn into it.
                    self._nursery = None
        finally:
            self._running = False
        if self._escalation is not None:
            raise self._escalation

    async def _respawn(self, nursery: trio.Nursery) -> None:
        """Spawn a task for every actor that a former run, or nobody yet, has served."""
        for position, actor in enumerate(tuple(self._actors.values())):
            if position % _SLICE == 0:
                await trio.lowlevel.checkpoint()
            self._spawn(nursery, actor)

    def _spawn(self, nursery: trio.Nursery, actor: _Actor[K, M]) -> None:
        self._context.run(lambda: nursery.start_soon(self._serve, actor, name=f"actor of {self.name}"))

    async def _dismiss_surplus(self) -> None:
        """Dismiss, every ``idle_ms``, the spare tasks that nobody needed since the last time."""
        while True:
            await trio.sleep(self._idle_ms / 1000)
            surplus = self._spare_least
            while surplus > 0:
                for task in list(islice(self._spare, min(surplus, _SLICE))):
                    # Its mailbox is empty: that is how the task knows that it is dismissed.
                    del self._spare[task]
                    trio.lowlevel.reschedule(task)
                surplus -= _SLICE
                await trio.lowlevel.checkpoint()
            self._spare_least = len(self._spare)

    async def _serve(self, actor: _Actor[K, M]) -> None:
        """Empty the actor's mailbox, then wait to be lent to another actor; return when dismissed."""
        task = trio.lowlevel.current_task()
        mailbox = actor.mailbox
        spare = self._spare

        def abort(_: RaiseCancelT) -> Abort:
            del spare[task]
            return Abort.SUCCEEDED

        while mailbox:
            while True:
                if actor.trouble is None:
                    messages = mailbox.peek(self._batch_most)
                    try:
                        await self._handle(actor.key, messages)
                    except Exception as error:  # noqa: BLE001  a crash is whatever the handler let out
                        await self._crashed(actor, len(messages), error)
                    else:
                        self._messages_handled += len(messages)
                        self._leave(actor, len(messages))
                    del messages  # a spare task keeps nothing alive
                else:
                    await self._handle_alone(actor, actor.trouble)
                if not mailbox:
                    break
                # A key that never runs dry must not keep the other tasks from running, whatever its handler awaits.
                await trio.lowlevel.checkpoint()
            spare[task] = actor
            await trio.lowlevel.wait_task_rescheduled(abort)

    def _leave(self, actor: _Actor[K, M], count: int) -> None:
        """Let the ``count`` oldest messages leave, and the actor with the last of them."""
        actor.mailbox.drop(count)
        self._messages_waiting -= count
        if not actor.mailbox:
            del self._actors[actor.key]
            del actor.key
            if self._drained is not None and not self._actors:
                self._drained.set()
                self._drained = None

    async def _handle_alone(self, actor: _Actor[K, M], trouble: _Trouble) -> None:
        """Handle the oldest message of a crashed batch alone, or set it aside."""
        [message] = actor.mailbox.peek(1)
        poisonous = trouble.crashes >= self._crashes_most
        try:
            if poisonous:
                await self._poison(actor.key, message, trouble.error)
            else:
                await self._handle(actor.key, [message])
        except Exception as error:  # noqa: BLE001  a crash is whatever the handler let out
            if not poisonous:
                await self._crashed(actor, 1, error)
                return
            trouble.poison_crashes += 1
            if trouble.poison_crashes < self._crashes_most:
                await self._back_off(trouble, actor, error)
                return
            self._note_crash(actor, error)
            _log.critical(
                "pool %s: the poison callback of actor %r crashed %d times; its message is dropped: %r",
                self.name, actor.key, trouble.poison_crashes, message, exc_info=error,
            )  # fmt: skip
        if poisonous:
            self._messages_poisoned += 1
        else:
            self._messages_handled += 1
        trouble.alone -= 1
        trouble.attempts = trouble.crashes = trouble.poison_crashes = 0
        if trouble.alone == 0:
            actor.trouble = None
        self._leave(actor, 1)

    async def _crashed(self, actor: _Actor[K, M], count: int, error: Exception) -> None:
        """Remember the crash of a batch of ``count`` messages, then back off."""
        trouble = actor.trouble
        if trouble is None:
            trouble = actor.trouble = _Trouble(count, error)
        trouble.error = error
        if count == 1:
            trouble.crashes += 1
        await self._back_off(trouble, actor, error)

    async def _back_off(self, trouble: _Trouble, actor: _Actor[K, M], error: Exception) -> None:
        self._note_crash(actor, error)
        trouble.attempts += 1
        await self._backoff.sleep(trouble.attempts)

    def _note_crash(self, actor: _Actor[K, M], error: Exception) -> None:
        """Count and log a crash; too many of them end this run."""
        self._crashes += 1
        self._last_error = repr(error)  # not the error itself: it holds on to its frames
        _log.error("pool %s: the handler of actor %r crashed", self.name, actor.key, exc_info=error)
        if self._window.record() and self._nursery is not None and self._escalation is None:
            self._escalation = PoolEscalation(f"too many crashes in pool {self.name!r}: {self._window!r}")
            self._escalation.__cause__ = error
            self._nursery.cancel_scope.cancel()
