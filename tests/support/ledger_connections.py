"""Connections and locks through which a test comes between any two steps of the embedded ledger's writer or readers."""

import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from transfer_engine.engine.ledger.writer import LedgerWriter


def nothing(_statement: str) -> None:
    """Let a statement run."""


class WatchedConnection:
    """A connection that calls a test before and after each statement; what the test raises comes from the statement."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        before: Callable[[str], None] = nothing,
        after: Callable[[str], None] = nothing,
    ) -> None:
        self._connection = connection
        self._before = before
        self._after = after

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        self._before(statement)
        cursor = self._connection.execute(statement, *values)
        self._after(statement)
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def fail_next_commit(writer: LedgerWriter, *, lands: bool) -> None:
    """Let the next commit fail: before it has done anything, or when all of it is in the file."""

    def fail(statement: str) -> None:
        if statement == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")

    connection = writer._connect()
    writer._connection = WatchedConnection(connection, **{"after" if lands else "before": fail})  # type: ignore[assignment]


class WatchedLock:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.waited_for = threading.Event()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.waited_for.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
