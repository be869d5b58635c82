"""The record store on Cassandra or ScyllaDB; the schema is ``schema/records.cql``.

A write is packed by hand: journal blobs as inserts of their own, rows and history in unlogged batches. Nothing here
waits for one write before the next: each carries its own timestamp, so the order in which they land does not matter.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio
from cassandra.cluster import Session

from transfer_engine.engine import crash_points
from transfer_engine.engine.records import cassandra_cluster
from transfer_engine.engine.records.cassandra_claims import CassandraClaims
from transfer_engine.engine.records.cassandra_endpoints import CassandraEndpoints
from transfer_engine.engine.records.cassandra_errors import BatchTooLarge, translate
from transfer_engine.engine.records.cassandra_history import CassandraHistory
from transfer_engine.engine.records.cassandra_journal import CassandraJournal
from transfer_engine.engine.records.cassandra_messages import (
    READ_CONSISTENCY,
    WRITE_CONSISTENCY,
    Request,
    batch_request,
    bigint_value,
    int_value,
    list_value,
)
from transfer_engine.engine.records.cassandra_rows import PERIOD_MS, RowPacker, history_part, record_of
from transfer_engine.engine.records.cassandra_schema import check_schema
from transfer_engine.engine.records.cassandra_session import ANYWHERE, CassandraSession, Routing, SessionStatistics
from transfer_engine.engine.records.cassandra_statements import LOOK_UP_MOST, Statements, prepare_statements
from transfer_engine.engine.records.known import KnownKeys
from transfer_engine.engine.records.protocol import (
    Claim,
    EndpointPage,
    HistoryPage,
    JournalBlob,
    Life,
    RecordPage,
    RecordsMisconfigured,
    RecordsUnavailable,
)
from transfer_engine.engine.settings import CassandraSettings
from transfer_engine.schema.transfers import TransferRecord
from transfer_engine.schema.webhooks import Endpoint

BATCH_BYTES_MOST: Final = 20 * 1024
"""Packed bytes in one batch: the server counts up to twice as many against its limit of 50 KiB.

Halved whenever a server's limit turns out to be lower. Larger ones cost it no less CPU, smaller ones cost more."""

BATCH_BYTES_LEAST: Final = 1024
"""A server whose limit is below this is set up wrongly."""

SCAN_MOST: Final = 2_000
"""Rows in one page of a scan: about 600 KB."""

KNOWN_PERIODS_MOST: Final = 262_144
"""(user, period) pairs remembered as listed, about 100 bytes each; one that was forgotten is listed again."""

CLOSE_S: Final = 5.0
"""How long closing waits for the driver; it goes on by itself then, in threads that keep no process alive."""

_TOKEN_OFFSET: Final = 1 << 63
_KEY_BITS: Final = 128


class CassandraRecords:
    """The record store on a cluster; made by :func:`open_cassandra_records`, implements `RecordStore`.

    Cancellation of a write leaves what was sent on its way, and what was not unsent: it may land in part. Every method
    raises ``trio.ClosedResourceError`` once the store is closed, and RecordsMisconfigured where the server refuses a
    statement that it took before (its tables were changed).
    """

    def __init__(self, session: CassandraSession, statements: Statements) -> None:
        self._session = session
        self._statements = statements
        settings = session.settings
        self._consistency = WRITE_CONSISTENCY[settings.consistency]
        self._read_consistency = READ_CONSISTENCY[settings.consistency]
        self._packer = RowPacker(
            row=statements.row_prefix, history=statements.history_prefix, period=statements.period_prefix
        )
        self._batch_bytes = BATCH_BYTES_MOST
        self._known_periods: KnownKeys[tuple[int, int]] = KnownKeys(KNOWN_PERIODS_MOST)
        self._claims = CassandraClaims(session, statements)
        self._journal = CassandraJournal(session, statements)
        self._endpoints = CassandraEndpoints(session, statements)
        self._history = CassandraHistory(session, statements, self.get_many)

    def __repr__(self) -> str:
        return f"<CassandraRecords keyspace {self._session.settings.keyspace}, {self._session!r}>"

    def statistics(self) -> SessionStatistics:
        """Return how its statements stand."""
        return self._session.statistics()

    async def claims(self) -> list[Claim]:
        """Return the claims of all nodes, by node, see `RecordStore`."""
        return await self._claims.claims()

    async def find_claim(self, node: int) -> Claim | None:
        """Return a node's claim (linearizable), or None."""
        return await self._claims.find(node)

    async def claim(self, node: int, owner: str, *, former: Claim | None, ceiling_ms: int) -> Life:
        """Begin a life, see `RecordStore`. Cancellation leaves the claim on its way.

        Raises:
            ClaimLost: the node's claim is not ``former`` any more.
        """
        return await self._claims.claim(node, owner, former=former, ceiling_ms=ceiling_ms)

    async def raise_ceiling(self, life: Life, ceiling_ms: int, *, beat: int) -> None:
        """Prove that a life lives, see `RecordStore`. Cancellation leaves the beat on its way.

        Raises:
            ClaimLost: the claim belongs to another owner or epoch by now, or was released.
        """
        await self._claims.beat(life, ceiling_ms, beat)

    async def release(self, life: Life) -> None:
        """Give the node up, see `RecordStore`. Cancellation leaves that on its way.

        Raises:
            ClaimLost: the claim belongs to another owner or epoch by now.
        """
        await self._claims.release(life)

    async def write(self, blobs: Sequence[JournalBlob], records: Sequence[TransferRecord]) -> None:
        """Make journal blobs and rows durable, see `RecordStore`; of rows under one version the larger stays, whole.

        Raises:
            ValueError: a blob is too large, or a number does not fit its column; nothing was written.
            RecordsUnavailable: anything may have been written: write the same again.
        """
        requests = self._journal.appends(blobs)
        if records:
            if requests:  # no row is on its way before they have landed
                await self._session.execute_all(requests)
                requests = []
            crash_points.reach("before_rows")
        while True:
            periods: set[tuple[int, int]] = set()
            batches = self._pack(records, periods) if records else []
            try:
                await self._session.execute_all(requests + batches)
            except BatchTooLarge:
                if self._batch_bytes <= BATCH_BYTES_LEAST:
                    raise
                self._batch_bytes //= 2
            else:
                break
        if records:
            crash_points.reach("between_rows")  # these have landed, and those of other calls are on their way
        self._journal.appended(blobs)
        for place in periods:
            self._known_periods.add(place)

    def _pack(self, records: Sequence[TransferRecord], periods: set[tuple[int, int]]) -> list[tuple[Request, Routing]]:
        """Return the batches of some rows and what their users' histories need; collect the periods they list."""
        packer, known = self._packer, self._known_periods
        entries: list[bytes] = []
        histories: defaultdict[tuple[int, int], list[bytes]] = defaultdict(list)
        for record in records:
            entries.append(packer.row(record))
            user_id, target_user_id = record.user_id, record.target_user_id
            period = record.created_at // PERIOD_MS
            for user in (user_id,) if user_id == target_user_id else (user_id, target_user_id):
                histories[period, history_part(user)].append(packer.history(user, record))
                place = (user, period)
                if place not in known and place not in periods:
                    periods.add(place)
                    entries.append(packer.period(user, period))
        # Those of one partition side by side: within a batch they are one write to the server.
        for shared in histories.values():
            entries += shared
        return self._batches(entries)

    def _batches(self, entries: Sequence[bytes]) -> list[tuple[Request, Routing]]:
        """Return as few batches of entries as may be; the server takes a batch of one entry at any size."""
        batches: list[tuple[Request, Routing]] = []
        start, size = 0, 0
        for end, entry in enumerate(entries):
            if size + len(entry) > self._batch_bytes and start < end:
                batches.append((batch_request(entries[start:end], self._consistency), ANYWHERE))
                start, size = end, 0
            size += len(entry)
        if entries:
            batches.append((batch_request(entries[start:], self._consistency), ANYWHERE))
        return batches

    async def get(self, req_id: int) -> TransferRecord | None:
        """Return the row of a transfer, or None; errors as :meth:`get_many`."""
        return (await self.get_many((req_id,))).get(req_id)

    async def get_many(self, req_ids: Sequence[int]) -> dict[int, TransferRecord]:
        """Return the rows that exist, by `req_id`.

        Raises:
            ValueError: a `req_id` has more than 128 bits.
            RecordsDamaged: a row can't be understood; the message names it.
        """
        keys = [_record_key(req_id) for req_id in dict.fromkeys(req_ids)]
        requests = []
        for start in range(0, len(keys), LOOK_UP_MOST):
            part = keys[start : start + LOOK_UP_MOST]
            routing_key = part[0] if len(part) == 1 else None
            requests.append(
                self._statements.request(
                    "select_rows", (list_value(part),), self._read_consistency, routing_key=routing_key
                )
            )
        found: dict[int, TransferRecord] = {}
        for rows in await self._session.execute_all(requests):
            found.update((record.req_id.int, record) for record in map(record_of, rows))
        return found

    async def history(self, user_id: int, *, limit: int, position: tuple[int, int] | None = None) -> HistoryPage:
        """Return the transfers of a user by ``created_at`` and `req_id`, newest first, see `RecordStore`.

        Raises:
            ValueError: the limit is not positive, or the user's number has more than 63 bits.
            RecordsDamaged: a row can't be understood; the message names it.
        """
        _check_limit(limit)
        if not 0 <= user_id < 1 << 63:
            raise ValueError(f"user_id is {user_id}: it must have 63 bits")
        return await self._history.page(user_id, limit, position)

    async def read_journal(self, shard: int, *, from_bucket: int) -> AsyncGenerator[JournalBlob, None]:
        """Yield the blobs of a shard from a bucket on, by (bucket, sequence); what is appended meanwhile may follow."""
        async for blob in self._journal.read(shard, from_bucket):
            yield blob

    async def low_water_mark(self, shard: int) -> int:
        """Return the lowest bucket that may hold an unsettled intent (0 at first)."""
        return await self._journal.mark(shard)

    async def raise_low_water_mark(self, shard: int, bucket: int) -> None:
        """Say that everything below ``bucket`` is settled, and drop it, see `RecordStore`."""
        await self._journal.raise_mark(shard, bucket)

    async def scan_records(self, *, position: int | None = None, limit: int) -> RecordPage:
        """Return a page of all rows in the order of their tokens, 2,000 at most, see `RecordStore`.

        Raises:
            ValueError: the limit is not positive.
            RecordsDamaged: a row can't be understood; the message names it.
        """
        _check_limit(limit)
        limit = min(limit, SCAN_MOST)
        token, last_key = -_TOKEN_OFFSET, -1
        if position is not None:
            token, last_key = (position >> _KEY_BITS) - _TOKEN_OFFSET, position & ((1 << _KEY_BITS) - 1)
        # Two more than asked for: the row that the last page ended with, and one that tells whether there are more.
        values = (bigint_value(token), int_value(limit + 2))
        rows = await self._session.execute(*self._statements.request("scan_rows", values, self._read_consistency))
        left = [row for row in rows if row[0] > token or row[5].int > last_key]
        page = [record_of(row[1:]) for row in left[:limit]]
        if len(left) <= limit and len(rows) < limit + 2:
            return RecordPage(page, None)
        last = left[limit - 1] if len(left) >= limit else left[-1]
        return RecordPage(page, (last[0] + _TOKEN_OFFSET) << _KEY_BITS | last[5].int)

    async def put_endpoint(self, endpoint: Endpoint) -> None:
        """Write a user's endpoint under its version, see `RecordStore`. Cancellation leaves it on its way."""
        await self._endpoints.put(endpoint)

    async def get_endpoint(self, user_id: int) -> Endpoint | None:
        """Return a user's endpoint, or None.

        Raises:
            RecordsDamaged: the row can't be understood; the message names it.
        """
        return await self._endpoints.get(user_id)

    async def scan_endpoints(self, *, position: int | None = None, limit: int) -> EndpointPage:
        """Return a page of all endpoints, 2,000 at most, see `RecordStore`; one may be short, or empty.

        Raises:
            ValueError: the limit is not positive.
        """
        _check_limit(limit)
        return await self._endpoints.scan(position, min(limit, SCAN_MOST))

    def close(self) -> None:
        """Send nothing more; see :func:`open_cassandra_records`."""
        self._session.close()


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise ValueError(f"limit is {limit}: it must be at least 1")


def _record_key(req_id: int) -> bytes:
    if req_id < 0 or req_id >> _KEY_BITS:
        raise ValueError(f"req_id is {req_id}: it must have 128 bits")
    return req_id.to_bytes(16, "big")


def _connect(settings: CassandraSettings) -> tuple[Session, Statements]:
    driver = cassandra_cluster.connect(settings)
    try:
        check_schema(driver, settings)
        cassandra_cluster.learn_replicas(driver, settings.keyspace)
        return driver, prepare_statements(driver, settings.keyspace)
    except RecordsMisconfigured:  # an answer: whoever waits for the cluster to come would wait for ever
        cassandra_cluster.shut_down(driver)
        raise
    except Exception as error:
        cassandra_cluster.shut_down(driver)
        raise translate(error, settings) from error
    except BaseException:
        cassandra_cluster.shut_down(driver)
        raise


class _Opening:
    """An attempt to connect, in a thread: what it opened is closed again if nobody waits for it any more."""

    def __init__(self, settings: CassandraSettings) -> None:
        self._settings = settings
        self.is_given_up = False

    def run(self) -> tuple[Session, Statements]:
        driver, statements = _connect(self._settings)
        if self.is_given_up:
            cassandra_cluster.shut_down(driver)
        return driver, statements


@asynccontextmanager
async def open_cassandra_records(settings: CassandraSettings) -> AsyncIterator[CassandraRecords]:
    """Connect to a cluster and use its record store for as long as the context lasts.

    Cancellation while it connects leaves nothing open: a connection that is made later is closed at once.

    Raises:
        RecordsUnavailable: no contact point answers within ``connect_timeout_ms``, or not all is prepared within twice
            as long; try again.
        RecordsMisconfigured: credentials, keyspace, schema or another setting are wrong; the message names what to do.
    """
    opening = _Opening(settings)
    opened: tuple[Session, Statements] | None = None
    try:
        with trio.move_on_after(2 * settings.connect_timeout_ms / 1000):
            opened = await trio.to_thread.run_sync(opening.run, abandon_on_cancel=True)
    finally:
        opening.is_given_up = opened is None
    if opened is None:
        raise RecordsUnavailable(
            f"Cassandra at {', '.join(settings.contact_points)} did not answer within twice "
            f"connect_timeout_ms ({settings.connect_timeout_ms})"
        )
    driver, statements = opened
    try:
        records = CassandraRecords(CassandraSession(driver, settings), statements)
        try:
            yield records
        finally:
            records.close()
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S):
            await trio.to_thread.run_sync(cassandra_cluster.shut_down, driver, abandon_on_cancel=True)
