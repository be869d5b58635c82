"""One actor a key: messages of one key are handled in order, those of different keys at the same time.

An actor is a mailbox and, while it has messages, somebody who is at them. What may be lost lives in the mailboxes,
outside of any task. So an idle actor costs no memory at all.

Where the pool is given ``begin``, messages are begun by one task for all actors, and answered by whoever calls back:
what nearly always takes no more than to be handed on from one group commit to the next costs no task at all, where
three wake-ups of one would be half of it. Whatever is different takes a task. Tasks are lent: one that has emptied its
actor's mailbox serves the next actor that needs one, and those that nobody needed for a while are dismissed; so that
costs one wake-up, not a spawn.

What lives here: mailboxes, tasks, crashes. What never does: what a message means. Should a run die, the actors that
tasks were at are served anew by the next one; those that were begun are left to whoever will call back.
"""

import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

from transfer_engine.actors.actor import BEGUN, QUEUED, TASK, Actor, Trouble
from transfer_engine.actors.backoff import Backoff, CrashWindow
from transfer_engine.actors.mailbox import MailboxFull
from transfer_engine.actors.pool_statistics import PoolStatistics
from transfer_engine.actors.spare_tasks import SLICE, SpareTasks
from transfer_engine.actors.turns import Begin

K = TypeVar("K", bound=Hashable)
M = TypeVar("M")

_log = logging.getLogger(__name__)


class PoolClosed(Exception):
    """The pool takes no more messages: it is being shut down. The message was not taken."""


class PoolEscalation(Exception):
    """Handlers crash more often than the pool's limit allows. Every message is still in its mailbox."""


class ActorPool(Generic[K, M]):
    """Actors made on demand, one for each key that has messages.

    ``handle(key, messages)`` is given up to ``batch_most`` of one key's oldest messages, in order. When it returns, all
    of them are answered and leave the mailbox. It is never running twice for one key. If it raises an
    :class:`Exception`, nothing leaves: after a ``backoff`` the messages of that batch are handled one at a time, and
    one that crashes its handler ``crashes_most`` times is poison: ``poison(key, message, error)`` is awaited, the
    message leaves, those behind it go on. ``poison`` itself is tried ``crashes_most`` times at most. Delivery is at
    least once: a handler that was cancelled or crashed halfway sees the same messages again.

    ``begin(key, messages, turn)``, if it is given, comes first, called synchronously with what ``handle`` would be
    given. True: it is answered for, and ``turn`` is told how it went; until then nobody else is at that key's messages,
    also where :meth:`run` ends meanwhile. False, or where the actor has crashed: ``handle``'s.

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
        begin: Begin[K, M] | None = None,
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
        self._begin = begin
        self._mailbox_capacity = mailbox_capacity
        self._batch_most = batch_most
        self._idle_ms = idle_ms
        self._crashes_most = crashes_most
        self._backoff = Backoff() if backoff is None else backoff
        self._messages_most = messages_most
        self._window = CrashWindow(pool_crashes_most, pool_crashes_window_ms)

        # Invariant between any two steps of the loop: a key is in _actors if and only if its mailbox has messages, and
        # then it is either in _queue, once, or begun, or (while the pool runs) served by exactly one task, or about to
        # be: run() spawns what it finds.
        self._actors: dict[K, Actor[K, M]] = {}
        self._queue: deque[Actor[K, M]] = deque()
        """Those whose messages are to be begun."""
        self._beginner: Task | None = None
        """Begins them; here while it has nothing to do."""
        self._spare: SpareTasks[Actor[K, M]] = SpareTasks()
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
        actor = Actor(key, self._mailbox_capacity, TASK)
        actor.mailbox.put_nowait(message)
        self._actors[key] = actor
        self._messages_waiting += 1
        self._serve_soon(actor)

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
                if self._begin is not None:
                    nursery.start_soon(self._begin_queued, name=f"beginner of {self.name}")
                try:
                    await self._respawn(nursery)
                    task_status.started()
                    await self._spare.dismiss_surplus(self._idle_ms / 1000)
                finally:
                    # While this body runs the nursery is open; from here on nobody may spawn into it.
                    self._nursery = None
        finally:
            self._running = False
        if self._escalation is not None:
            raise self._escalation

    async def _respawn(self, nursery: trio.Nursery) -> None:
        """Spawn a task for every actor that takes one, and that only a former run has served, or nobody yet."""
        for position, actor in enumerate([actor for actor in self._actors.values() if actor.service is TASK]):
            if position % SLICE == 0:
                await trio.lowlevel.checkpoint()
            self._spawn(nursery, actor)

    def _spawn(self, nursery: trio.Nursery, actor: Actor[K, M]) -> None:
        self._context.run(lambda: nursery.start_soon(self._serve, actor, name=f"actor of {self.name}"))

    def _serve_soon(self, actor: Actor[K, M]) -> None:
        """Have somebody at an actor's messages, that nobody is at."""
        if self._begin is None or actor.trouble is not None:
            self._lend_task(actor)
            return
        actor.service = QUEUED
        self._queue.append(actor)
        if self._beginner is not None:
            beginner, self._beginner = self._beginner, None
            trio.lowlevel.reschedule(beginner)

    def _lend_task(self, actor: Actor[K, M]) -> None:
        actor.service = TASK
        if not self._spare.lend(actor) and self._nursery is not None:
            self._spawn(self._nursery, actor)

    async def _begin_queued(self) -> None:
        """Begin what is queued, until cancelled; that leaves the rest in the queue, for the next run."""
        task = trio.lowlevel.current_task()
        queue = self._queue

        def abort(_: RaiseCancelT) -> Abort:
            self._beginner = None
            return Abort.SUCCEEDED

        while True:
            # All that there are now, in one go: they came together, and go on together. Not those that come meanwhile.
            for _ in range(len(queue)):
                self._begin_one(queue.popleft())
            if queue:
                await trio.lowlevel.checkpoint()
            else:
                self._beginner = task
                await trio.lowlevel.wait_task_rescheduled(abort)

    @trio.lowlevel.enable_ki_protection
    def _begin_one(self, actor: Actor[K, M]) -> None:
        messages = actor.mailbox.peek(self._batch_most)
        actor.service = BEGUN
        actor.begun = len(messages)
        turn = _Turn(self, actor)
        try:
            is_begun = self._begin is not None and self._begin(actor.key, messages, turn)
        except Exception as error:  # noqa: BLE001  a crash is whatever it let out
            turn.crashed(error)
        else:
            if not is_begun:
                turn.hand_over()

    def _begun_done(self, actor: Actor[K, M]) -> None:
        self._messages_handled += actor.begun
        if self._leave(actor, actor.begun):
            self._serve_soon(actor)

    async def _serve(self, actor: Actor[K, M] | None) -> None:
        """Empty the actor's mailbox, then wait to be lent to another actor; return when dismissed."""
        while actor is not None:
            await self._empty(actor)
            del actor  # a spare task keeps nothing alive
            actor = await self._spare.wait()

    async def _empty(self, actor: Actor[K, M]) -> None:
        """Handle an actor's messages until there are none, or until they can be begun again."""
        while True:
            if actor.crash is not None:
                crash, actor.crash = actor.crash, None
                await self._crashed(actor, actor.begun, crash)
                del crash
            elif actor.trouble is None:
                messages = actor.mailbox.peek(self._batch_most)
                try:
                    await self._handle(actor.key, messages)
                except Exception as error:  # noqa: BLE001  a crash is whatever the handler let out
                    await self._crashed(actor, len(messages), error)
                else:
                    self._messages_handled += len(messages)
                    self._leave(actor, len(messages))
                del messages
            else:
                await self._handle_alone(actor, actor.trouble)
            if not actor.mailbox:
                return
            if self._begin is not None and actor.trouble is None:
                self._serve_soon(actor)
                return
            # A key that never runs dry must not keep the other tasks from running, whatever its handler awaits.
            await trio.lowlevel.checkpoint()

    def _leave(self, actor: Actor[K, M], count: int) -> bool:
        """Let the ``count`` oldest messages leave, and the actor with the last of them; False where it has left."""
        actor.mailbox.drop(count)
        self._messages_waiting -= count
        if actor.mailbox:
            return True
        del self._actors[actor.key]
        if self._drained is not None and not self._actors:
            self._drained.set()
            self._drained = None
        return False

    async def _handle_alone(self, actor: Actor[K, M], trouble: Trouble) -> None:
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

    async def _crashed(self, actor: Actor[K, M], count: int, error: Exception) -> None:
        """Remember the crash of a batch of ``count`` messages, then back off."""
        trouble = actor.trouble
        if trouble is None:
            trouble = actor.trouble = Trouble(count, error)
        trouble.error = error
        if count == 1:
            trouble.crashes += 1
        await self._back_off(trouble, actor, error)

    async def _back_off(self, trouble: Trouble, actor: Actor[K, M], error: Exception) -> None:
        self._note_crash(actor, error)
        trouble.attempts += 1
        await self._backoff.sleep(trouble.attempts)

    def _note_crash(self, actor: Actor[K, M], error: Exception) -> None:
        """Count and log a crash; too many of them end this run."""
        self._crashes += 1
        self._last_error = repr(error)  # not the error itself: it holds on to its frames
        _log.error("pool %s: the handler of actor %r crashed", self.name, actor.key, exc_info=error)
        if self._window.record() and self._nursery is not None and self._escalation is None:
            self._escalation = PoolEscalation(f"too many crashes in pool {self.name!r}: {self._window!r}")
            self._escalation.__cause__ = error
            self._nursery.cancel_scope.cancel()


class _Turn(Generic[K, M]):
    """A turn, see :class:`transfer_engine.actors.turns.Turn`."""

    __slots__ = ("_actor", "_pool")

    def __init__(self, pool: ActorPool[K, M], actor: Actor[K, M]) -> None:
        self._pool = pool
        self._actor = actor

    def done(self) -> None:
        self._pool._begun_done(self._actor)

    def crashed(self, error: Exception) -> None:
        self._actor.crash = error
        self._pool._lend_task(self._actor)

    def hand_over(self) -> None:
        self._pool._lend_task(self._actor)
