"""Statements on their way to a cluster: the one place where the driver's thread and trio's meet.

Everything here runs in trio's thread, but for :meth:`_Statement.answered` and :meth:`_Statement.failed`, which the
driver's event loop calls. They put what came into a deque and wake trio once for a burst: a wake-up is a lock and a
system call, and what is raised in the driver's thread is lost.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import trio
from cassandra.cluster import ResponseFuture, Session

from transfer_engine.engine.records.cassandra_cluster import NEVER_RETRY
from transfer_engine.engine.records.cassandra_errors import translate
from transfer_engine.engine.records.cassandra_messages import Request
from transfer_engine.engine.records.protocol import RecordsUnavailable
from transfer_engine.engine.settings import CassandraSettings

Rows = Sequence[tuple[Any, ...]]
"""What a statement answers; empty for a write."""


class SessionStatistics(msgspec.Struct, frozen=True):
    """What a session has done: statements in flight and waiting now; sent, failed and given up since it was opened."""

    in_flight: int
    waiting: int
    sent: int
    failed: int
    given_up: int
    wake_ups: int


class Routing:
    """What the driver's load balancing asks of a statement: the partition that it goes to, if it is one."""

    __slots__ = ("keyspace", "routing_key")

    is_idempotent: Final = True
    """Every statement of ours may be applied twice; lightweight ones are told apart by what they wrote."""

    def __init__(self, keyspace: str | None, routing_key: bytes | None) -> None:
        self.keyspace = keyspace
        self.routing_key = routing_key


ANYWHERE: Final = Routing(None, None)


class _Group:
    """Statements whose caller waits for all of them; ``unsent`` of the ``left`` ones still wait for their turn."""

    __slots__ = ("error", "left", "results", "since", "task", "unsent")

    def __init__(self, count: int, now: float) -> None:
        self.left = count
        self.unsent = count
        self.since = now
        """When its last statement was sent, or when it was handed in."""
        self.results: list[Rows] = [()] * count
        self.error: BaseException | None = None
        self.task: trio.lowlevel.Task | None = None


class _Future(ResponseFuture):  # type: ignore[misc]  # the driver has no types
    """Lets go of its timer when it is done.

    Each of the two holds the other: left to Python's collector, a few thousand statements are a pause of 100 ms.
    """

    def _cancel_timer(self) -> None:
        super()._cancel_timer()
        self._timer = None


class _Statement:
    """One statement: waiting for its turn, in flight, or done."""

    __slots__ = ("error", "group", "holds_slot", "index", "is_done", "request", "routing", "rows", "session")

    def __init__(self, session: "CassandraSession", group: _Group, index: int, request: Request, routing: Routing):
        self.session = session
        self.group = group
        self.index = index
        self.request = request
        self.routing = routing
        self.rows: Rows = ()
        self.error: BaseException | None = None
        self.holds_slot = False
        self.is_done = False

    def answered(self, rows: Rows | None) -> None:
        """Take the answer; the driver's thread calls this."""
        self.rows = rows or ()
        self.session._deliver(self)

    def failed(self, error: BaseException) -> None:
        """Take the error; the driver's thread calls this."""
        self.error = error
        self.session._deliver(self)


class CassandraSession:
    """Sends statements over a connected driver, so many at a time, none of them waited for longer than its deadline.

    A statement in flight has ``timeout_ms``; one that waits for its turn does so for as long as others are answered: a
    cluster that is slow under a great load is not to be sent all of it again and again.

    Make it, use it and close it within one trio run.
    """

    def __init__(self, driver: Session, settings: CassandraSettings) -> None:
        self.settings = settings
        self._driver = driver
        self._timeout_s = settings.timeout_ms / 1000
        self._balancing = driver.cluster.profile_manager.default.load_balancing_policy
        self._token = trio.lowlevel.current_trio_token()
        self._waiting: deque[_Statement] = deque()
        self._completed: deque[_Statement] = deque()
        self._is_awake = False
        self._is_closed = False
        self._answered_at = 0.0
        self._in_flight = 0
        self._sent = 0
        self._failed = 0
        self._given_up = 0
        self._wake_ups = 0

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{self._in_flight} in flight, {len(self._waiting)} waiting"
        return f"<CassandraSession {', '.join(self.settings.contact_points)}, {state}>"

    def statistics(self) -> SessionStatistics:
        """Return how it stands."""
        return SessionStatistics(
            in_flight=self._in_flight,
            waiting=len(self._waiting),
            sent=self._sent,
            failed=self._failed,
            given_up=self._given_up,
            wake_ups=self._wake_ups,
        )

    async def execute(self, request: Request, routing: Routing = ANYWHERE) -> Rows:
        """Send a statement and return its rows; see :meth:`execute_all`."""
        return (await self.execute_all([(request, routing)]))[0]

    async def execute_all(self, requests: Sequence[tuple[Request, Routing]]) -> list[Rows]:
        """Send statements, all at once as far as the bound of statements in flight allows; return the rows of each.

        Cancellation leaves those that were sent on their way, and the others unsent.

        Raises:
            RecordsUnavailable: one was not answered in time, or one failed; any of them may have been applied.
            RecordsMisconfigured: the server refused one; others may have been applied.
            trio.ClosedResourceError: the session is closed.
        """
        if self._is_closed:
            raise trio.ClosedResourceError("the record store is closed")
        if not requests:
            await trio.lowlevel.checkpoint()
            return []
        group = _Group(len(requests), trio.current_time())
        statements = [
            _Statement(self, group, index, request, routing) for index, (request, routing) in enumerate(requests)
        ]
        self._waiting.extend(statements)
        self._send_waiting()
        try:
            is_late = await self._wait_for(group)
        except BaseException:  # cancelled
            self._drop_unsent(group)
            self._given_up += 1
            raise
        if is_late:
            self._drop_unsent(group)
            self._given_up += 1
            self._release(statements)
            raise RecordsUnavailable(
                f"Cassandra at {', '.join(self.settings.contact_points)}: no answer within timeout_ms "
                f"({self.settings.timeout_ms}) to {group.left} of {len(statements)} statements"
            )
        if group.error is not None:
            raise translate(group.error, self.settings) from group.error
        return group.results

    async def _wait_for(self, group: _Group) -> bool:
        """Wait until nothing of a group is left; tell whether its deadline came first."""

        def abort(_: object) -> trio.lowlevel.Abort:
            group.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        while group.left:
            # Looked at again when it is over: it moves on while statements are sent and answered.
            deadline = self._deadline(group)
            if deadline <= trio.current_time():
                return True
            with trio.CancelScope(deadline=deadline):
                group.task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
        return False

    def _deadline(self, group: _Group) -> float:
        since = max(group.since, self._answered_at) if group.unsent else group.since
        return since + self._timeout_s

    def _drop_unsent(self, group: _Group) -> None:
        """What was not sent of a group is not sent."""
        if group.unsent:
            self._waiting = deque(statement for statement in self._waiting if statement.group is not group)
            group.left -= group.unsent
            group.unsent = 0

    def _release(self, statements: Sequence[_Statement]) -> None:
        """Free the places of statements past their deadline: should the driver forget one, no place is lost."""
        for statement in statements:
            if statement.holds_slot:
                statement.holds_slot = False
                self._in_flight -= 1
        self._send_waiting()

    def _send_waiting(self) -> None:
        now = trio.current_time()
        while self._waiting and self._in_flight < self.settings.concurrency:
            statement = self._waiting.popleft()
            statement.holds_slot = True
            statement.group.unsent -= 1
            statement.group.since = now
            self._in_flight += 1
            self._sent += 1
            try:
                future = _Future(
                    self._driver,
                    statement.request,
                    statement.routing,
                    self._timeout_s,
                    retry_policy=NEVER_RETRY,
                    load_balancer=self._balancing,
                )
                future.add_callbacks(statement.answered, statement.failed)
                future.send_request()
            except Exception as error:  # noqa: BLE001  it may have been sent: unknown, like any other
                statement.failed(error)

    def _deliver(self, statement: _Statement) -> None:
        """Hand a statement that is done over to trio. Any thread."""
        self._completed.append(statement)
        if not self._is_awake:
            self._is_awake = True
            with suppress(trio.RunFinishedError):  # the run is over: nobody waits
                self._token.run_sync_soon(self._take_completed)

    def _take_completed(self) -> None:
        # Before the deque is read: what comes after that wakes trio again.
        self._is_awake = False
        self._wake_ups += 1
        while self._completed:
            self._complete(self._completed.popleft())
        self._send_waiting()

    def _complete(self, statement: _Statement) -> None:
        if statement.is_done:  # the driver may tell of a time-out and of a lost connection
            return
        statement.is_done = True
        if statement.holds_slot:
            statement.holds_slot = False
            self._in_flight -= 1
        group = statement.group
        if statement.error is not None:
            self._failed += 1
            group.error = group.error or statement.error
            self._drop_unsent(group)
        else:
            self._answered_at = trio.current_time()
        group.results[statement.index] = statement.rows
        group.left -= 1
        self._wake_if_done(group)

    def _wake_if_done(self, group: _Group) -> None:
        if not group.left and group.task is not None:
            task, group.task = group.task, None
            trio.lowlevel.reschedule(task)

    def close(self) -> None:
        """Let nothing more be sent; what waits fails as unknown."""
        self._is_closed = True
        for group in {statement.group for statement in self._waiting}:
            group.error = group.error or RecordsUnavailable("the record store was closed")
            self._drop_unsent(group)
            self._wake_if_done(group)
