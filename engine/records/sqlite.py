"""The embedded record store: one SQLite file, one group commit a write."""

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from transfer_engine.engine.records.protocol import (
    JOURNAL_BLOB_BYTES_MAX,
    Claim,
    EndpointPage,
    HistoryPage,
    JournalBlob,
    Life,
    RecordPage,
    RecordsDamaged,
)
from transfer_engine.engine.records.sqlite_claims import (
    read_claim,
    read_claims,
    write_beat,
    write_claim,
    write_release,
)
from transfer_engine.engine.records.sqlite_columns import require_req_id, values_of
from transfer_engine.engine.records.sqlite_endpoints import read_endpoint, scan_endpoints, write_endpoint
from transfer_engine.engine.records.sqlite_file import connect_reader, connect_writer, transaction, translated_errors
from transfer_engine.engine.records.sqlite_rows import SqliteRows, Staged, scan_rows
from transfer_engine.engine.writer_thread import WriterThread
from transfer_engine.schema.transfers import TransferRecord
from transfer_engine.schema.webhooks import Endpoint

T = TypeVar("T")

GROUP_WRITES_MOST: Final = 64
"""Calls of :meth:`SqliteRecords.write` that one transaction takes: bounds how long the first one waits."""

JOURNAL_READ_BLOBS: Final = 16
"""Blobs fetched at once by :meth:`SqliteRecords.read_journal`: 16 MiB of memory at most."""

TRIM_BLOBS: Final = 64
"""Settled blobs dropped in one transaction, so that the journal's clean-up holds up no write for long."""


class _Write:
    """What one call of ``write`` wants written, and how it went."""

    __slots__ = ("blobs", "error", "is_done", "rows")

    def __init__(self, blobs: Sequence[JournalBlob], records: Sequence[TransferRecord]) -> None:
        for blob in blobs:
            if len(blob.body) > JOURNAL_BLOB_BYTES_MAX:
                raise ValueError(f"a journal blob has {len(blob.body)} bytes: {JOURNAL_BLOB_BYTES_MAX} at most")
        self.blobs = blobs
        self.rows = [(record.req_id.int, values_of(record)) for record in records]
        self.is_done = False
        self.error: BaseException | None = None


class _Reader:
    """One connection for reading: its calls run one after the other in worker threads, beside the writer's."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = connection
        self._turn = trio.CapacityLimiter(1)

    async def run(self, read: Callable[[sqlite3.Connection], T]) -> T:
        return await trio.to_thread.run_sync(self._run, read, limiter=self._turn)

    def _run(self, read: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            raise trio.ClosedResourceError(f"{self._path} is closed")
        with translated_errors(self._path):
            return read(self._connection)

    async def close(self) -> None:
        async with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


class SqliteRecords:
    """The record store on one SQLite file; made by :func:`open_sqlite_records`, implements `RecordStore`.

    One connection writes, one call at a time in a thread of its own; calls that wait meanwhile share the next commit.
    Two more read, one for look-ups and one for long scans: no read waits for a write.

    Cancellation: a call that is cancelled before its turn did nothing; later it is finished first, so no transaction
    is left half done. Every method raises ``trio.ClosedResourceError`` once the store is closed.
    """

    def __init__(
        self, path: Path, writer: sqlite3.Connection, looker: sqlite3.Connection, scanner: sqlite3.Connection
    ) -> None:
        self._path = path
        self._writer = writer
        self._looker = _Reader(path, looker)
        self._scanner = _Reader(path, scanner)
        self._turn = trio.Lock()
        self._thread = WriterThread(f"records {path.name}")
        self._waiting: list[_Write] = []
        self._is_closed = False
        self._rows = SqliteRows(writer)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{len(self._waiting)} writes waiting"
        return f"<SqliteRecords {self._path}, {state}>"

    async def claims(self) -> list[Claim]:
        """Return the claims of all nodes, by node."""
        return await self._looker.run(read_claims)

    async def find_claim(self, node: int) -> Claim | None:
        """Return a node's claim, or None where the node was never claimed."""
        return await self._looker.run(lambda connection: read_claim(connection, node))

    async def claim(self, node: int, owner: str, *, former: Claim | None, ceiling_ms: int) -> Life:
        """Begin a life: take a node over from the claim that was read, exactly as it was read, see `RecordStore`.

        Raises:
            ClaimLost: the node's claim is not ``former`` any more.
        """
        return await self._write_alone(lambda: write_claim(self._writer, node, owner, former, ceiling_ms))

    async def raise_ceiling(self, life: Life, ceiling_ms: int, *, beat: int) -> None:
        """Make a beat and a higher ceiling durable (Unix ms); neither is ever lowered.

        Raises:
            ClaimLost: the claim belongs to another owner or epoch by now, or was released.
        """
        await self._write_alone(lambda: write_beat(self._writer, life, ceiling_ms, beat))

    async def release(self, life: Life) -> None:
        """Give the node up; releasing it again changes nothing.

        Raises:
            ClaimLost: the claim belongs to another owner or epoch by now.
        """
        await self._write_alone(lambda: write_release(self._writer, life))

    async def write(self, blobs: Sequence[JournalBlob], records: Sequence[TransferRecord]) -> None:
        """Make journal blobs and rows durable, all or nothing, see `RecordStore`.

        Cancelled before its turn it writes nothing; afterwards everything is written, though nobody waits for it.

        Raises:
            ValueError: a blob is too large, or a number does not fit its column.
            RecordsUnavailable: all or nothing was written.
            RecordsDamaged: the file can't be read, or another blob is journaled in a blob's place.
        """
        write = _Write(blobs, records)
        self._waiting.append(write)
        try:
            async with self._turn:
                if not write.is_done:
                    self._check_open()
                    await self._write_waiting()
        finally:
            if write in self._waiting:
                self._waiting.remove(write)
        if write.error is not None:
            raise write.error

    async def get(self, req_id: int) -> TransferRecord | None:
        """Return the row of a transfer, or None; errors as :meth:`get_many`."""
        return (await self.get_many((req_id,))).get(req_id)

    async def get_many(self, req_ids: Sequence[int]) -> dict[int, TransferRecord]:
        """Return the rows that exist, by `req_id`.

        Raises:
            ValueError: a `req_id` has more than 128 bits.
            RecordsDamaged: a row can't be understood; the message names it.
        """
        keys = list(map(require_req_id, req_ids))
        return await self._looker.run(
            lambda connection: {record.req_id.int: record for record in self._rows.find(connection, keys)}
        )

    async def history(self, user_id: int, *, limit: int, position: tuple[int, int] | None = None) -> HistoryPage:
        """Return the transfers of a user by ``created_at`` and `req_id`, newest first, see `RecordStore`.

        A refusal that was recorded under two times is listed by the time of its row.

        Raises:
            ValueError: the limit is not positive.
            RecordsDamaged: a row can't be understood; the message names it.
        """
        _check_limit(limit)
        return await self._looker.run(lambda connection: self._rows.read_history(connection, user_id, limit, position))

    async def read_journal(self, shard: int, *, from_bucket: int) -> AsyncGenerator[JournalBlob, None]:
        """Yield the blobs of a shard from a bucket on, by (bucket, sequence); what is appended meanwhile may follow."""
        after = (from_bucket, -1)
        while True:
            rows = await self._scanner.run(
                lambda connection, after=after: connection.execute(  # type: ignore[misc]
                    "SELECT bucket, seq, body FROM intents WHERE shard = ? AND (bucket, seq) > (?, ?) "
                    "ORDER BY bucket, seq LIMIT ?",
                    (shard, *after, JOURNAL_READ_BLOBS),
                ).fetchall()
            )
            for bucket, sequence, body in rows:
                yield JournalBlob(shard=shard, bucket=bucket, sequence=sequence, body=body)
            if len(rows) < JOURNAL_READ_BLOBS:
                return
            after = rows[-1][:2]

    async def low_water_mark(self, shard: int) -> int:
        """Return the lowest bucket that may hold an unsettled intent (0 at first)."""
        row = await self._looker.run(
            lambda connection: connection.execute("SELECT bucket FROM marks WHERE shard = ?", (shard,)).fetchone()
        )
        return 0 if row is None else int(row[0])

    async def raise_low_water_mark(self, shard: int, bucket: int) -> None:
        """Say that everything below ``bucket`` is settled, and drop it. The mark never goes down.

        Cancellation may leave settled blobs where they are; they go with the next call.
        """

        def raise_mark() -> None:
            self._writer.execute(
                "INSERT INTO marks (shard, bucket) VALUES (?, ?) "
                "ON CONFLICT (shard) DO UPDATE SET bucket = excluded.bucket WHERE excluded.bucket > marks.bucket",
                (shard, bucket),
            )

        def trim() -> int:
            return self._writer.execute(
                "DELETE FROM intents WHERE (shard, bucket, seq) IN ("
                "SELECT i.shard, i.bucket, i.seq FROM marks m "
                "JOIN intents i ON i.shard = m.shard AND i.bucket < m.bucket WHERE m.shard = ? LIMIT ?)",
                (shard, TRIM_BLOBS),
            ).rowcount

        await self._write_alone(raise_mark)
        while await self._write_alone(trim):
            pass

    async def scan_records(self, *, position: int | None = None, limit: int) -> RecordPage:
        """Return a page of all rows, in the order of their arrival, see `RecordStore`.

        Raises:
            ValueError: the limit is not positive.
            RecordsDamaged: a row can't be understood; the message names it.
        """
        _check_limit(limit)
        return await self._scanner.run(lambda connection: scan_rows(connection, position, limit))

    async def put_endpoint(self, endpoint: Endpoint) -> None:
        """Write a user's endpoint, unless a later version is there, see `RecordStore`."""
        await self._write_alone(lambda: write_endpoint(self._writer, endpoint))

    async def get_endpoint(self, user_id: int) -> Endpoint | None:
        """Return a user's endpoint, or None.

        Raises:
            RecordsDamaged: the row can't be understood; the message names it.
        """
        return await self._looker.run(lambda connection: read_endpoint(connection, user_id))

    async def scan_endpoints(self, *, position: int | None = None, limit: int) -> EndpointPage:
        """Return a page of all endpoints, by user, see `RecordStore`.

        Raises:
            ValueError: the limit is not positive.
        """
        _check_limit(limit)
        return await self._scanner.run(lambda connection: scan_endpoints(connection, position, limit))

    async def _write_waiting(self) -> None:
        """Write the calls that wait, in one transaction. The caller holds the turn, and its own call is among them."""
        group, self._waiting = self._waiting[:GROUP_WRITES_MOST], self._waiting[GROUP_WRITES_MOST:]
        errors: Sequence[BaseException | None]
        with trio.CancelScope(shield=True):  # the others of the group wait for it, too; a group is bounded
            try:
                errors = await self._thread.run(partial(self._write_group, group))
            except Exception as error:  # noqa: BLE001  handed to every caller: no thread could be started
                errors = [error] * len(group)
        for write, failure in zip(group, errors, strict=True):
            write.error = failure
            write.is_done = True

    def _write_group(self, group: Sequence[_Write]) -> list[BaseException | None]:
        try:
            staged = self._in_transaction(lambda: self._write_calls(group))
        except Exception as error:  # noqa: BLE001  each caller gets its own
            if len(group) == 1:
                return [error]
            return [error for write in group for error in self._write_group([write])]
        if staged is not None:
            self._rows.committed(staged)
        return [None] * len(group)

    def _write_calls(self, group: Sequence[_Write]) -> Staged | None:
        for write in group:
            for blob in write.blobs:
                self._write_blob(blob)
        rows = [values for write in group for values in write.rows]
        return self._rows.write(rows) if rows else None

    def _write_blob(self, blob: JournalBlob) -> None:
        place = (blob.shard, blob.bucket, blob.sequence)
        cursor = self._writer.execute(
            "INSERT OR ROLLBACK INTO intents (shard, bucket, seq, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (*place, blob.body),
        )
        if cursor.rowcount == 0:
            (stored,) = self._writer.execute(
                "SELECT body FROM intents WHERE shard = ? AND bucket = ? AND seq = ?", place
            ).fetchone()
            if stored != blob.body:
                raise RecordsDamaged(
                    f"{self._path} has another blob under (shard, bucket, seq) {place}: "
                    "two engines journal as one node; stop one"
                )

    async def _write_alone(self, function: Callable[[], T]) -> T:
        async with self._turn:
            self._check_open()
            return await self._thread.run(partial(self._in_transaction, function))

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError(f"{self._path} is closed")

    def _in_transaction(self, function: Callable[[], T]) -> T:
        with translated_errors(self._path), transaction(self._writer):
            return function()

    async def close(self) -> None:
        """Wait for what is under way, then close the file. Not cancellable: what waits for its turn fails."""
        if self._is_closed:
            return
        self._is_closed = True
        with trio.CancelScope(shield=True):
            await self._looker.close()
            await self._scanner.close()
            async with self._turn:
                await self._thread.run(self._writer.close)
                await self._thread.close()


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise ValueError(f"limit is {limit}: it must be at least 1")


def _connect(path: Path) -> SqliteRecords:
    connections = [connect_writer(path)]
    try:
        connections += [connect_reader(path), connect_reader(path)]
        return SqliteRecords(path, *connections)
    except BaseException:
        for connection in connections:
            connection.close()
        raise


@asynccontextmanager
async def open_sqlite_records(path: Path) -> AsyncIterator[SqliteRecords]:
    """Open the record store in a file, made if it does not exist; its folder must exist.

    Cancellation while it opens leaves the file with or without its (empty) tables.

    Raises:
        RecordsDamaged: the file can't be read, is no record store, or is of another version.
        RecordsUnavailable: the file can't be opened.
    """
    with translated_errors(path):
        records = await trio.to_thread.run_sync(_connect, path)
    try:
        yield records
    finally:
        await records.close()
