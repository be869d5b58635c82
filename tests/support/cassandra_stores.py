"""Keyspaces for tests of the record store, in the process's one Cassandra."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
import trio
from cassandra.cluster import Session

from support.cassandra_server import CassandraMissing, CassandraServer, shared_cassandra
from transfer_engine.engine.records import cassandra_cluster, cassandra_schema
from transfer_engine.engine.records.cassandra_rows import COLUMNS
from transfer_engine.engine.records.cassandra_store import CassandraRecords, open_cassandra_records
from transfer_engine.engine.settings import CassandraSettings

TIMEOUT_MS: Final = 30_000
"""A test's machine is slow and shared; tests of the deadline take one of their own."""

_TABLES: Final = (
    "transfers",
    "history",
    "history_periods",
    "intents",
    "intent_buckets",
    "marks",
    "claims",
    "claimed_nodes",
    "webhook_endpoints",
)
_numbers = count()


def server_or_skip() -> CassandraServer:
    """Return the process's Cassandra, or skip the test in a loud line."""
    try:
        return shared_cassandra()
    except CassandraMissing as missing:
        pytest.skip(str(missing))


def settings_of(server: CassandraServer, **changes: Any) -> CassandraSettings:
    """Return the settings of a keyspace on a server; a fresh one unless ``keyspace`` is said."""
    fields: dict[str, Any] = {
        "contact_points": (server.address,),
        "keyspace": f"test_{next(_numbers)}",
        "replication_factor": 1,
        "connect_timeout_ms": TIMEOUT_MS,
        "timeout_ms": TIMEOUT_MS,
    }
    return CassandraSettings(**fields | changes)


@contextmanager
def connected(settings: CassandraSettings) -> Iterator[Session]:
    """A session of the driver's own, to do by hand what the record store would not."""
    session = cassandra_cluster.connect(settings)
    try:
        yield session
    finally:
        cassandra_cluster.shut_down(session)


def forge_state(session: Session, keyspace: str, req_id: UUID, state: str) -> None:
    """Write another state into a transfer's row by hand, stamped by a clock, as nobody should."""
    fields = [name for name in COLUMNS if name != "req_id"]
    named = ", ".join(f"record.{name}" for name in fields)
    [row] = session.execute(f"SELECT {named} FROM {keyspace}.transfers WHERE req_id = %s", (req_id,))  # noqa: S608
    forged = dict(zip(fields, row, strict=True)) | {"state": state}
    literal = ", ".join(f"{name}: %s" for name in forged)
    update = f"UPDATE {keyspace}.transfers SET record = {{{literal}}} WHERE req_id = %s"  # noqa: S608
    session.execute(update, (*forged.values(), req_id))


def empty_shared_keyspace(server: CassandraServer) -> CassandraSettings:
    """Return the settings of a keyspace that all tests share, one after the other, with nothing in it.

    A keyspace of its own takes a test 0.5 s, and the server some memory for good; to empty this one takes 0.1 s. After
    a kill it is another one: that a table was emptied may be forgotten then, while the log of its writes is not.
    """
    settings = settings_of(server, keyspace=f"shared_{server.starts}")
    with connected(settings) as session:
        if not cassandra_schema.read_version(session, settings.keyspace):
            cassandra_schema.apply(settings, lambda _: None)
        # All of them: a table without rows may hold deletions, which what is written later would not outlive.
        truncated = [session.execute_async(f"TRUNCATE {settings.keyspace}.{table}", timeout=60) for table in _TABLES]
        for future in truncated:
            future.result()
    return settings


@asynccontextmanager
async def open_quietly(settings: CassandraSettings) -> AsyncIterator[CassandraRecords]:
    """Open a record store; once it is closed, nothing that it sent is on its way any more."""
    async with open_cassandra_records(settings) as store:
        try:
            yield store
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(TIMEOUT_MS / 1000):
                while store.statistics().in_flight:  # noqa: ASYNC110  nobody tells
                    await trio.sleep(0.005)


class CassandraStore:
    """An empty record store that can be closed and opened again; skips where there is no server."""

    def __init__(self, folder: Path) -> None:
        self.settings = empty_shared_keyspace(server_or_skip())

    def open(self) -> "Any":
        return open_quietly(self.settings)
