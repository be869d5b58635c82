"""A record store in memory: small, real, without threads, so that tests run on trio's autojump clock.

It outlives the engines that are opened on it, as a file would; `fail_next` makes writes fail, before or after they
are applied, as a store does whose answer is lost.
"""

from collections.abc import AsyncGenerator, Sequence
from uuid import UUID

import trio

from transfer_engine.engine.records.protocol import (
    JOURNAL_BLOB_BYTES_MAX,
    Claim,
    ClaimLost,
    EndpointPage,
    HistoryPage,
    JournalBlob,
    Life,
    RecordPage,
    RecordsDamaged,
    RecordStore,
    RecordsUnavailable,
)
from transfer_engine.schema.ids import SNOWFLAKE_EPOCH_MS
from transfer_engine.schema.transfers import TransferRecord
from transfer_engine.schema.webhooks import Endpoint


class MemoryRecords:
    def __init__(self) -> None:
        self.rows: dict[int, TransferRecord] = {}
        self.blobs: dict[tuple[int, int, int], bytes] = {}
        self.marks: dict[int, int] = {}
        self.claim_of: dict[int, Claim] = {}
        self.endpoints: dict[int, Endpoint] = {}
        self.faults: list[str] = []

    def fail_next(self, *faults: str) -> None:
        """Let the next writes fail: `before` they are applied, or `after` it."""
        self.faults += faults

    async def claims(self) -> list[Claim]:
        await trio.lowlevel.checkpoint()
        return [self.claim_of[node] for node in sorted(self.claim_of)]

    async def find_claim(self, node: int) -> Claim | None:
        await trio.lowlevel.checkpoint()
        return self.claim_of.get(node)

    async def claim(self, node: int, owner: str, *, former: Claim | None, ceiling_ms: int) -> Life:
        await trio.lowlevel.checkpoint()
        epoch, after_ms = (0, SNOWFLAKE_EPOCH_MS) if former is None else (former.epoch, former.ceiling_ms)
        life = Life(node=node, epoch=epoch + 1, owner=owner, after_ms=after_ms)
        stored = self.claim_of.get(node)
        if stored is not None and (stored.epoch, stored.owner) == (life.epoch, owner):
            return life
        if stored != former:
            raise ClaimLost(f"node {node} is {stored} by now")
        self.claim_of[node] = Claim(node, life.epoch, owner, max(ceiling_ms, after_ms), 0)
        return life

    async def raise_ceiling(self, life: Life, ceiling_ms: int, *, beat: int) -> None:
        await trio.lowlevel.checkpoint()
        stored = self._claim_of(life, {life.owner})
        if beat > stored.beat:
            ceiling_ms = max(ceiling_ms, stored.ceiling_ms)
            self.claim_of[life.node] = Claim(life.node, life.epoch, life.owner, ceiling_ms, beat)

    async def release(self, life: Life) -> None:
        await trio.lowlevel.checkpoint()
        stored = self._claim_of(life, {life.owner, ""})
        self.claim_of[life.node] = Claim(life.node, life.epoch, "", stored.ceiling_ms, stored.beat)

    def _claim_of(self, life: Life, owners: set[str]) -> Claim:
        stored = self.claim_of.get(life.node)
        if stored is None or stored.epoch != life.epoch or stored.owner not in owners:
            raise ClaimLost(f"node {life.node} is {stored} by now, and not {life}")
        return stored

    async def write(self, blobs: Sequence[JournalBlob], records: Sequence[TransferRecord]) -> None:
        await trio.lowlevel.checkpoint()
        for blob in blobs:
            if len(blob.body) > JOURNAL_BLOB_BYTES_MAX:
                raise ValueError(f"a journal blob has {len(blob.body)} bytes: {JOURNAL_BLOB_BYTES_MAX} at most")
            if self.blobs.get((blob.shard, blob.bucket, blob.sequence), blob.body) != blob.body:
                raise RecordsDamaged(f"another blob is under {(blob.shard, blob.bucket, blob.sequence)}")
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "before":
            raise RecordsUnavailable("the write was lost")
        for blob in blobs:
            self.blobs[blob.shard, blob.bucket, blob.sequence] = blob.body
        for record in records:
            former = self.rows.get(record.req_id.int)
            if former is None or record.version > former.version:
                self.rows[record.req_id.int] = record
        if fault == "after":
            raise RecordsUnavailable("the answer was lost")

    async def get(self, req_id: int) -> TransferRecord | None:
        await trio.lowlevel.checkpoint()
        return self.rows.get(req_id)

    async def get_many(self, req_ids: Sequence[int]) -> dict[int, TransferRecord]:
        await trio.lowlevel.checkpoint()
        return {req_id: self.rows[req_id] for req_id in req_ids if req_id in self.rows}

    async def history(self, user_id: int, *, limit: int, position: tuple[int, int] | None = None) -> HistoryPage:
        await trio.lowlevel.checkpoint()
        _check_limit(limit)
        keys = sorted(
            (
                (row.created_at, row.req_id.int)
                for row in self.rows.values()
                if user_id in {row.user_id, row.target_user_id}
            ),
            reverse=True,
        )
        left = [key for key in keys if position is None or key < position]
        page = left[:limit]
        return HistoryPage(
            records=[self.rows[req_id] for _, req_id in page],
            next_position=page[-1] if len(left) > limit else None,
        )

    async def read_journal(self, shard: int, *, from_bucket: int) -> AsyncGenerator[JournalBlob, None]:
        for key in sorted(self.blobs):
            await trio.lowlevel.checkpoint()
            if key[0] == shard and key[1] >= from_bucket:
                yield JournalBlob(shard=key[0], bucket=key[1], sequence=key[2], body=self.blobs[key])

    async def low_water_mark(self, shard: int) -> int:
        await trio.lowlevel.checkpoint()
        return self.marks.get(shard, 0)

    async def raise_low_water_mark(self, shard: int, bucket: int) -> None:
        await trio.lowlevel.checkpoint()
        self.marks[shard] = max(bucket, self.marks.get(shard, 0))
        for key in [key for key in self.blobs if key[0] == shard and key[1] < bucket]:
            del self.blobs[key]

    async def scan_records(self, *, position: int | None = None, limit: int) -> RecordPage:
        await trio.lowlevel.checkpoint()
        _check_limit(limit)
        keys = [req_id for req_id in sorted(self.rows) if position is None or req_id > position]
        return RecordPage(
            records=[self.rows[req_id] for req_id in keys[:limit]],
            next_position=keys[limit - 1] if len(keys) > limit else None,
        )

    async def put_endpoint(self, endpoint: Endpoint) -> None:
        await trio.lowlevel.checkpoint()
        former = self.endpoints.get(endpoint.user_id)
        if former is None or endpoint.version > former.version:
            self.endpoints[endpoint.user_id] = endpoint

    async def get_endpoint(self, user_id: int) -> Endpoint | None:
        await trio.lowlevel.checkpoint()
        return self.endpoints.get(user_id)

    async def scan_endpoints(self, *, position: int | None = None, limit: int) -> EndpointPage:
        await trio.lowlevel.checkpoint()
        _check_limit(limit)
        users = [user_id for user_id in sorted(self.endpoints) if position is None or user_id > position]
        return EndpointPage(
            endpoints=[self.endpoints[user_id] for user_id in users[:limit]],
            next_position=users[limit - 1] if len(users) > limit else None,
        )


async def take_over(records: RecordStore, node: int, owner: str = "another") -> Life:
    """Claim a node, whoever has it."""
    return await records.claim(node, owner, former=await records.find_claim(node), ceiling_ms=0)


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise ValueError(f"limit is {limit}: it must be at least 1")


def stored(records: MemoryRecords, req_id: UUID) -> TransferRecord:
    """Return a row that must be there."""
    return records.rows[req_id.int]
