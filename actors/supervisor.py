"""Erlang's supervision on trio: children that crash are restarted, up to a limit, and then their supervisor gives up.

One strategy, one-for-one: what children share survives outside of their tasks (mailboxes, entries waiting), so that the
restart of one asks nothing of the others. Children that must fall together get a supervisor of their own, as a child.
"""

import enum
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from transfer_engine.actors.backoff import Backoff, CrashWindow

_log = logging.getLogger(__name__)


class Restart(enum.Enum):
    """When a child that has ended is started again."""

    PERMANENT = "permanent"
    """Always, also when it just returned."""
    TRANSIENT = "transient"
    """When it crashed."""
    TEMPORARY = "temporary"
    """Never; its crash is told and has no other consequence."""


class ChildState(enum.Enum):
    """What a child is doing."""

    IDLE = "idle"
    """Not started yet."""
    RUNNING = "running"
    BACKING_OFF = "backing off"
    """It ended, and is started again soon."""
    STOPPING = "stopping"
    ENDED = "ended"


class SupervisorEscalation(Exception):
    """Children ended more often than the supervisor's limit allows; the last child's error is chained."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A child: what runs, and what happens when it has ended.

    ``run(task_status=...)`` is the child's life; it calls ``task_status.started()`` when the next child may start.
    ``drain``, if given, is awaited before the child is stopped on purpose, up to the deadline of the stop; it returns
    when the child has nothing left to do. ``backoff`` replaces the supervisor's.
    """

    name: str
    run: Callable[..., Awaitable[None]]
    restart: Restart = Restart.PERMANENT
    drain: Callable[[], Awaitable[None]] | None = None
    backoff: Backoff | None = None


@dataclass(frozen=True, slots=True)
class ChildStatistics:
    """What a child is doing and has done."""

    name: str
    state: ChildState
    restarts: int
    crashes: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class SupervisorStatistics:
    """What a supervisor's children are doing and have done, in the order in which they start."""

    name: str
    running: bool
    children: tuple[ChildStatistics, ...]


class _Child:
    """A child's life, seen from outside of its task."""

    __slots__ = ("crashes", "ended", "last_error", "ready", "restarts", "scope", "spec", "state")

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.restarts = 0
        self.crashes = 0
        self.last_error: str | None = None
        self.prepare()

    def prepare(self) -> None:
        """Be as before the first start, but for what is counted."""
        self.state = ChildState.IDLE
        # Shielded: when the supervisor is cancelled it stops its children itself, the last one first.
        self.scope = trio.CancelScope(shield=True)
        self.ready = trio.Event()
        self.ended = trio.Event()

    def started(self, _value: object = None) -> None:
        """Be the child's ``task_status``; it may be told again after a restart."""
        self.ready.set()

    def statistics(self) -> ChildStatistics:
        return ChildStatistics(
            name=self.spec.name,
            state=self.state,
            restarts=self.restarts,
            crashes=self.crashes,
            last_error=self.last_error,
        )


class Supervisor:
    """Starts children in order, restarts them by their rules, stops them in reverse order.

    A child that ends and is to be restarted waits for a ``backoff`` that grows with its restarts in a row (a run longer
    than ``window_ms`` begins anew). More than ``restarts_most`` restarts of all children together within ``window_ms``
    make :meth:`run` stop them all and raise :class:`SupervisorEscalation`. ``on_crash(name, error)`` is called for each
    crash, synchronously; it is for alerts.

    Raises :class:`ValueError` if two children have one name.
    """

    def __init__(
        self,
        name: str,
        children: Sequence[ChildSpec],
        *,
        restarts_most: int = 10,
        window_ms: int = 60_000,
        backoff: Backoff | None = None,
        on_crash: Callable[[str, Exception], None] | None = None,
    ) -> None:
        self.name = name
        self._children = {spec.name: _Child(spec) for spec in children}
        if len(self._children) < len(children):
            names = [spec.name for spec in children]
            raise ValueError(f"children of supervisor {name!r} share a name: {names}")
        self._window = CrashWindow(restarts_most, window_ms)
        self._window_s = window_ms / 1000
        self._backoff = Backoff() if backoff is None else backoff
        self._on_crash = on_crash
        self._running = False
        self._stopping = False
        self._body = trio.CancelScope()
        self._escalation: SupervisorEscalation | None = None

    def __repr__(self) -> str:
        children = ", ".join(f"{name} {child.state.value}" for name, child in self._children.items())
        return f"<Supervisor {self.name!r} {'running' if self._running else 'not running'}: {children}>"

    def statistics(self) -> SupervisorStatistics:
        """Return what the children are doing and have done."""
        return SupervisorStatistics(
            name=self.name,
            running=self._running,
            children=tuple(child.statistics() for child in self._children.values()),
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the children in order and supervise them; return when all have ended for good.

        Each starts when the one before has told that it is ready. Cancellation cancels the children one after the
        other, the last one first, each when the one behind it has ended; none is drained (see :meth:`shutdown`), and
        none is left behind. It may be run again after it ended.

        Raises :class:`SupervisorEscalation` after too many restarts, :class:`RuntimeError` if it is running already.
        """
        if self._running:
            raise RuntimeError(f"the supervisor {self.name!r} is running already")
        self._running = True
        self._escalation = None
        self._body = trio.CancelScope()
        self._window.clear()
        for child in self._children.values():
            child.prepare()
        try:
            async with trio.open_nursery() as nursery:
                await self._oversee(nursery, task_status)
        finally:
            # Not at the start: a shutdown that came just before it counts.
            self._stopping = False
            self._running = False
        if self._escalation is not None:
            raise self._escalation

    async def _oversee(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        started: list[_Child] = []
        try:
            with self._body:
                for child in self._children.values():
                    if self._stopping:
                        break
                    started.append(child)
                    child.state = ChildState.RUNNING
                    nursery.start_soon(self._supervise, child, name=f"{self.name}: {child.spec.name}")
                    await child.ready.wait()
                task_status.started()
                for child in started:
                    await child.ended.wait()
        finally:
            # Not unbounded: each of them is cancelled, and is waited for as any nursery waits.
            with trio.CancelScope(shield=True):
                for child in reversed(started):
                    child.scope.cancel()
                    await child.ended.wait()

    async def shutdown(self, *, deadline_ms: int) -> bool:
        """Stop the children, the last one first: each is drained, then cancelled. :meth:`run` then returns.

        Returns True if all were drained; at the deadline, ``deadline_ms`` from now for all together, those that are
        left are cancelled undrained. A child that has ended has nothing to drain. A supervisor that is not running is
        shut down as soon as it is run. Cancellation of this call leaves the children that it did not come to running.
        """
        self._stopping = True
        deadline = trio.current_time() + deadline_ms / 1000
        drained = True
        for child in reversed(self._children.values()):
            drained = await self._stop(child, deadline) and drained
        return drained

    async def stop(self, name: str, *, deadline_ms: int) -> bool:
        """Stop one child for good: it is drained until the deadline (ms from now), then cancelled, and not restarted.

        Returns True if it was drained. Raises :class:`KeyError` if there is no such child. Cancellation leaves it
        running if it was still being drained.
        """
        return await self._stop(self._children[name], trio.current_time() + deadline_ms / 1000)

    async def _stop(self, child: _Child, deadline: float) -> bool:
        if child.state in {ChildState.IDLE, ChildState.ENDED}:
            await trio.lowlevel.checkpoint()
            return True
        drained = child.spec.drain is None
        if child.spec.drain is not None:
            with trio.move_on_at(deadline):
                try:
                    await child.spec.drain()
                    drained = True
                except Exception as error:  # noqa: BLE001  whatever it raises, the child is stopped all the same
                    self._crashed(child, error)
        child.state = ChildState.STOPPING
        child.scope.cancel()
        await child.ended.wait()
        return drained

    async def _supervise(self, child: _Child) -> None:
        """Live the child's life, restarts and all; ends when it is not to be restarted."""
        try:
            with child.scope:
                await self._restart_loop(child)
        except Exception as error:  # noqa: BLE001  its last words, while it was being cancelled
            self._crashed(child, error)
        finally:
            child.state = ChildState.ENDED
            child.ready.set()
            child.ended.set()

    async def _restart_loop(self, child: _Child) -> None:
        backoff = child.spec.backoff or self._backoff
        attempts = 0
        while True:
            child.state = ChildState.RUNNING
            began = trio.current_time()
            error: Exception | None = None
            try:
                await child.spec.run(task_status=child)
            except Exception as crash:  # noqa: BLE001  a crash is whatever the child let out
                error = crash
                self._crashed(child, crash)
            if child.scope.cancel_called or child.spec.restart is Restart.TEMPORARY:
                return
            if child.spec.restart is Restart.TRANSIENT and error is None:
                return
            if self._window.record():
                self._escalate(child, error)
                return
            attempts = 1 if trio.current_time() - began > self._window_s else attempts + 1
            child.state = ChildState.BACKING_OFF
            await backoff.sleep(attempts)
            child.restarts += 1

    def _escalate(self, child: _Child, error: Exception | None) -> None:
        if self._escalation is None:
            how = "returned" if error is None else "crashed"
            self._escalation = SupervisorEscalation(
                f"too many restarts under supervisor {self.name!r} ({self._window!r}): {child.spec.name!r} {how} last"
            )
            self._escalation.__cause__ = error
            self._body.cancel()

    def _crashed(self, child: _Child, error: Exception) -> None:
        child.crashes += 1
        child.last_error = repr(error)  # not the error itself: it holds on to its frames
        _log.error("supervisor %s: child %s crashed", self.name, child.spec.name, exc_info=error)
        if self._on_crash is not None:
            try:
                self._on_crash(child.spec.name, error)
            except Exception:  # noqa: BLE001  an alert that fails must not take the children down
                _log.exception("supervisor %s: the crash callback crashed", self.name)
