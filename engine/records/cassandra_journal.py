"""The journal of intents in Cassandra: which requests append, read and drop blobs, and the marks of shards."""

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from transfer_engine.engine.records.cassandra_messages import (
    READ_CONSISTENCY,
    WRITE_CONSISTENCY,
    Request,
    bigint_key,
    bigint_value,
    bytes_value,
    composite_key,
    int_key,
    int_value,
)
from transfer_engine.engine.records.cassandra_session import CassandraSession, Routing
from transfer_engine.engine.records.cassandra_statements import Statements
from transfer_engine.engine.records.known import KnownKeys
from transfer_engine.engine.records.protocol import JOURNAL_BLOB_BYTES_MAX, JournalBlob, RecordsDamaged

READ_BLOBS: Final = 16
"""Blobs fetched at once: 16 MiB of memory at most."""

BUCKETS_AT_ONCE: Final = 100
"""Buckets listed, or dropped, at once."""

KNOWN_BUCKETS_MOST: Final = 4_096
"""Buckets remembered as listed: an engine appends to a few; one that was forgotten is listed again."""

_BUCKET_MAX: Final = (1 << 63) - 1


class CassandraJournal:
    """The tables of intents, their buckets and marks; see `RecordStore` for what its methods promise."""

    def __init__(self, session: CassandraSession, statements: Statements) -> None:
        self._session = session
        self._statements = statements
        self._consistency = WRITE_CONSISTENCY[session.settings.consistency]
        self._read_consistency = READ_CONSISTENCY[session.settings.consistency]
        self._listed: KnownKeys[tuple[int, int]] = KnownKeys(KNOWN_BUCKETS_MOST)
        self._dropped_below: dict[int, int] = {}

    def appends(self, blobs: Sequence[JournalBlob]) -> list[tuple[Request, Routing]]:
        """Return the requests that append blobs; the append is certain only when all of them are answered.

        Raises:
            ValueError: a blob is too large.
        """
        requests = []
        for place in {(blob.shard, blob.bucket) for blob in blobs}:
            if place not in self._listed:
                shard, bucket = place
                values: tuple[bytes, ...] = (int_value(shard), bigint_value(bucket))
                requests.append(
                    self._statements.request("insert_bucket", values, self._consistency, routing_key=int_key(shard))
                )
        for blob in blobs:
            if len(blob.body) > JOURNAL_BLOB_BYTES_MAX:
                raise ValueError(f"a journal blob has {len(blob.body)} bytes: {JOURNAL_BLOB_BYTES_MAX} at most")
            values = (
                int_value(blob.shard),
                bigint_value(blob.bucket),
                bigint_value(blob.sequence),
                bytes_value(blob.body),
            )
            key = _partition(blob.shard, blob.bucket)
            requests.append(self._statements.request("insert_intents", values, self._consistency, routing_key=key))
        return requests

    def appended(self, blobs: Sequence[JournalBlob]) -> None:
        """Remember that the buckets of these blobs are listed, once the append is certain."""
        for blob in blobs:
            self._listed.add((blob.shard, blob.bucket))

    async def read(self, shard: int, from_bucket: int) -> AsyncGenerator[JournalBlob, None]:
        """Yield the blobs of a shard from a bucket on, by (bucket, sequence); what is appended meanwhile may follow."""
        while True:
            buckets = await self._buckets(shard, from_bucket, _BUCKET_MAX)
            for bucket in buckets:
                after = -1
                while True:
                    values = (int_value(shard), bigint_value(bucket), bigint_value(after), int_value(READ_BLOBS))
                    rows = await self._session.execute(
                        *self._statements.request(
                            "select_intents", values, self._read_consistency, routing_key=_partition(shard, bucket)
                        )
                    )
                    for sequence, body in rows:
                        if body is None:
                            raise RecordsDamaged(
                                f"(shard, bucket, seq) {(shard, bucket, sequence)} has no body in table intents: "
                                "restore it from a backup, or journal what it held again"
                            )
                        yield JournalBlob(shard=shard, bucket=bucket, sequence=sequence, body=body)
                    if len(rows) < READ_BLOBS:
                        break
                    after = rows[-1][0]
            if len(buckets) < BUCKETS_AT_ONCE:
                return
            from_bucket = buckets[-1] + 1

    async def _buckets(self, shard: int, first: int, below: int) -> list[int]:
        values = (int_value(shard), bigint_value(first), bigint_value(below), int_value(BUCKETS_AT_ONCE))
        rows = await self._session.execute(
            *self._statements.request("select_buckets", values, self._read_consistency, routing_key=int_key(shard))
        )
        return [bucket for (bucket,) in rows]

    async def mark(self, shard: int) -> int:
        """Return a shard's low-water mark, 0 at first."""
        rows = await self._session.execute(
            *self._statements.request(
                "select_mark", (int_value(shard),), self._read_consistency, routing_key=int_key(shard)
            )
        )
        if not rows:
            return 0
        bucket = rows[0][0]
        if not isinstance(bucket, int):
            raise RecordsDamaged(f"shard {shard} has no bucket in table marks: it was written by hand")
        return bucket

    async def raise_mark(self, shard: int, bucket: int) -> None:
        """Raise a shard's mark, then drop the partitions below it; what is left undone is done the next time.

        Cancellation leaves the mark raised or not, and what lies below it there or not.
        """
        if bucket < 1:
            return
        values = (int_value(shard), bigint_value(bucket), bigint_value(bucket))
        await self._session.execute(
            *self._statements.request("raise_mark", values, self._consistency, routing_key=int_key(shard))
        )
        first = self._dropped_below.get(shard, 0)
        while True:
            buckets = await self._buckets(shard, first, bucket)
            if not buckets:
                break
            await self._session.execute_all(
                [
                    self._statements.request(
                        "delete_intents",
                        (int_value(shard), bigint_value(settled)),
                        self._consistency,
                        routing_key=_partition(shard, settled),
                    )
                    for settled in buckets
                ]
            )
            # The list goes after what it lists: a crash in between leaves nothing that is not listed.
            last = (int_value(shard), bigint_value(buckets[-1] + 1))
            await self._session.execute(
                *self._statements.request("delete_buckets", last, self._consistency, routing_key=int_key(shard))
            )
            first = buckets[-1] + 1
        self._dropped_below[shard] = max(bucket, self._dropped_below.get(shard, 0))


def _partition(shard: int, bucket: int) -> bytes:
    return composite_key(int_key(shard), bigint_key(bucket))
