"""Random work on a record store, against a plain model: rows, histories, journal, marks and claims always agree."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from support.record_stores import STORES, Reopenable, SqliteStore, record
from transfer_engine.engine.records import sqlite_ids, sqlite_rows
from transfer_engine.engine.records.protocol import ClaimLost, JournalBlob, Life, RecordStore
from transfer_engine.schema.ids import SNOWFLAKE_EPOCH_MS, issued_req_id, keyed_req_id
from transfer_engine.schema.transfers import TransferRecord, TransferState

REQ_IDS = [UUID(int=issued_req_id(number)) for number in range(4)]
REQ_IDS += [UUID(int=keyed_req_id("", "transfer", str(number))) for number in range(4)]
USERS = range(1, 5)
SHARDS = range(2)

small = st.integers(0, 3)
rows = st.builds(
    record,
    st.just(0),
    st.sampled_from([state.value for state in TransferState]),
    req_id=st.sampled_from(REQ_IDS),
    user_id=st.sampled_from(USERS),
    target_user_id=st.sampled_from(USERS),
    created_at=small,
    updated_at=small,
    amount=small,
    retry_count=small,
    error=st.sampled_from(["", "insufficient funds"]),
    fingerprint=st.integers(0, 3).map(lambda bits: bits << 62),
)
places = st.tuples(st.sampled_from(SHARDS), small, small)
operations = st.one_of(
    st.tuples(st.just("write"), st.lists(places, max_size=3), st.lists(rows, max_size=5)),
    st.tuples(st.just("write_concurrently"), st.lists(rows, max_size=8)),
    st.tuples(st.just("raise_mark"), st.sampled_from(SHARDS), small),
    st.tuples(st.just("claim"), st.sampled_from(SHARDS), st.sampled_from("ab"), small),
    st.tuples(st.just("raise_ceiling"), st.integers(0, 9), small),
    st.tuples(st.just("reopen")),
)


class Model:
    """What a record store must hold; as plain as can be."""

    def __init__(self) -> None:
        self.rows: dict[int, TransferRecord] = {}
        self.blobs: dict[tuple[int, int, int], bytes] = {}
        self.marks = dict.fromkeys(SHARDS, 0)
        self.lives: list[Life] = []
        self.ceilings = dict.fromkeys(SHARDS, SNOWFLAKE_EPOCH_MS)

    def write(self, row: TransferRecord) -> None:
        stored = self.rows.get(row.req_id.int)
        if stored is None or stored.version < row.version:
            self.rows[row.req_id.int] = row

    def history(self, user_id: int) -> list[TransferRecord]:
        own = [row for row in self.rows.values() if user_id in (row.user_id, row.target_user_id)]
        return sorted(own, key=lambda row: (row.created_at, row.req_id.int), reverse=True)

    def is_present(self, life: Life) -> bool:
        return life.epoch == max(other.epoch for other in self.lives if other.node == life.node)


async def apply(store: RecordStore, model: Model, operation: tuple[Any, ...]) -> None:
    match operation:
        case ("write", blob_places, written):
            bodies = [(place, repr(place).encode()) for place in blob_places]
            await store.write([JournalBlob(*place, body=body) for place, body in bodies], written)
            model.blobs.update(bodies)
            for row in written:
                model.write(row)
        case ("write_concurrently", written):
            # In whatever order they land: of equal versions the first stays, so each is made the only one of its kind.
            unique = {(row.req_id, row.version): row for row in written if not same_version(model, row)}
            async with trio.open_nursery() as nursery:
                for row in unique.values():
                    nursery.start_soon(store.write, [], [row])
            for row in unique.values():
                model.write(row)
        case ("raise_mark", shard, bucket):
            await store.raise_low_water_mark(shard, bucket)
            model.marks[shard] = max(model.marks[shard], bucket)
        case ("claim", node, owner, ms):
            life = await store.claim(node, owner, ceiling_ms=SNOWFLAKE_EPOCH_MS + ms)
            epoch = 1 + sum(other.node == node for other in model.lives)
            assert life == Life(node=node, epoch=epoch, owner=owner, after_ms=model.ceilings[node])
            model.lives.append(life)
            model.ceilings[node] = max(model.ceilings[node], SNOWFLAKE_EPOCH_MS + ms)
        case ("raise_ceiling", index, ms) if model.lives:
            life = model.lives[index % len(model.lives)]
            if model.is_present(life):
                await store.raise_ceiling(life, SNOWFLAKE_EPOCH_MS + ms)
                model.ceilings[life.node] = max(model.ceilings[life.node], SNOWFLAKE_EPOCH_MS + ms)
            else:
                with pytest.raises(ClaimLost):
                    await store.raise_ceiling(life, SNOWFLAKE_EPOCH_MS + ms)


def same_version(model: Model, row: TransferRecord) -> bool:
    stored = model.rows.get(row.req_id.int)
    return stored is not None and stored.version == row.version


async def check(store: RecordStore, model: Model, limit: int) -> None:
    assert await store.get_many([req_id.int for req_id in REQ_IDS]) == model.rows
    scanned = await store.scan_records(after=0, limit=limit)
    while page := await store.scan_records(after=scanned[-1].req_id.int, limit=limit) if scanned else []:
        scanned += page
    assert scanned == [model.rows[key] for key in sorted(model.rows)]
    for user_id in USERS:
        listed: list[TransferRecord] = []
        position = None
        while True:
            page = await store.history(user_id, limit=limit, position=position)
            listed += page.records
            position = page.next_position
            if position is None:
                break
        assert listed == model.history(user_id)
    for shard in SHARDS:
        assert await store.low_water_mark(shard) == model.marks[shard]
        found = [blob async for blob in store.read_journal(shard, from_bucket=model.marks[shard])]
        assert [(blob.shard, blob.bucket, blob.sequence) for blob in found] == sorted(
            place for place in model.blobs if place[0] == shard and place[1] >= model.marks[shard]
        )


@pytest.mark.parametrize("kind", STORES)
@settings(max_examples=60, deadline=None)
@given(work=st.lists(operations, max_size=25), limit=st.integers(1, 5))
def test_a_store_agrees_with_the_model(kind: str, work: list[tuple[Any, ...]], limit: int) -> None:
    run_work(STORES[kind], work, limit)


few = st.integers(1, 8)


@settings(max_examples=100, deadline=None)
@given(work=st.lists(operations, max_size=25), limit=st.integers(1, 5), history=few, ids=few, merge=few)
def test_sqlite_agrees_while_it_moves_histories_and_ids(
    work: list[tuple[Any, ...]], limit: int, history: int, ids: int, merge: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_rows, "HISTORY_RECENT_MOST", history)
        patch.setattr(sqlite_ids, "IDS_MOST", ids)
        patch.setattr(sqlite_ids, "MERGE_LEAST", merge)
        run_work(SqliteStore, work, limit)


def run_work(kind: Callable[[Path], Reopenable], work: list[tuple[Any, ...]], limit: int) -> None:
    async def run() -> None:
        model = Model()
        with tempfile.TemporaryDirectory() as folder:
            reopenable = kind(Path(folder))
            while True:
                async with reopenable.open() as store:
                    while work and work[0][0] != "reopen":
                        await apply(store, model, work.pop(0))
                    await check(store, model, limit)
                if not work:
                    return
                work.pop(0)

    work = list(work)
    trio.run(run)
