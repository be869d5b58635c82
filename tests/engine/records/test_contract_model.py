"""Random work on a record store, against a plain model: rows, histories, journal, marks and claims always agree."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from support.record_stores import STORES, Reopenable, SqliteStore, record
from transfer_engine.engine import id_tree
from transfer_engine.engine.records import sqlite_history
from transfer_engine.engine.records.protocol import Claim, ClaimLost, JournalBlob, Life, RecordStore
from transfer_engine.schema.ids import SNOWFLAKE_EPOCH_MS, issued_req_id, keyed_req_id
from transfer_engine.schema.transfers import TransferRecord, TransferState

REQ_IDS = [UUID(int=issued_req_id(number)) for number in range(4)]
REQ_IDS += [UUID(int=keyed_req_id("", "transfer", str(number))) for number in range(4)]
USERS = range(1, 5)
SHARDS = range(2)

small = st.integers(0, 3)


def row_of(req_id: UUID, state: TransferState, retry_count: int, body: int) -> TransferRecord:
    """Return a row of which all but its identifier follows from its version: rows of one version are the same row."""
    drawn = random.Random(f"{state} {0 if state.is_terminal else retry_count} {body}")
    return record(
        0,
        state.value,
        req_id=req_id,
        user_id=drawn.choice(USERS),
        target_user_id=drawn.choice(USERS),
        created_at=drawn.randrange(4),
        updated_at=drawn.randrange(4),
        amount=drawn.randrange(4),
        retry_count=0 if state.is_terminal else retry_count,
        error=drawn.choice(["", "insufficient funds"]),
        fingerprint=body << 62,
    )


rows = st.builds(row_of, st.sampled_from(REQ_IDS), st.sampled_from(TransferState), small, small)
places = st.tuples(st.sampled_from(SHARDS), small, small)
operations = st.one_of(
    st.tuples(st.just("write"), st.lists(places, max_size=3), st.lists(rows, max_size=5)),
    st.tuples(st.just("write_concurrently"), st.lists(rows, max_size=8)),
    st.tuples(st.just("raise_mark"), st.sampled_from(SHARDS), small),
    st.tuples(st.just("claim"), st.sampled_from(SHARDS), small, st.booleans()),
    st.tuples(st.just("raise_ceiling"), st.integers(0, 9), small, small),
    st.tuples(st.just("release"), st.integers(0, 9)),
    st.tuples(st.just("reopen")),
)


class Model:
    """What a record store must hold; as plain as can be."""

    def __init__(self) -> None:
        self.rows: dict[int, TransferRecord] = {}
        self.blobs: dict[tuple[int, int, int], bytes] = {}
        self.marks = dict.fromkeys(SHARDS, 0)
        self.lives: list[Life] = []
        self.claims: dict[int, Claim] = {}

    def write(self, row: TransferRecord) -> None:
        stored = self.rows.get(row.req_id.int)
        if stored is None or stored.version < row.version:
            self.rows[row.req_id.int] = row

    def history(self, user_id: int) -> list[TransferRecord]:
        own = [row for row in self.rows.values() if user_id in (row.user_id, row.target_user_id)]
        return sorted(own, key=lambda row: (row.created_at, row.req_id.int), reverse=True)

    def claim_of(self, life: Life, *owners: str) -> Claim | None:
        claim = self.claims[life.node]
        return claim if claim.epoch == life.epoch and claim.owner in (life.owner, *owners) else None


async def apply(store: RecordStore, model: Model, operation: tuple[Any, ...]) -> None:
    match operation:
        case ("write", blob_places, written):
            bodies = [(place, repr(place).encode()) for place in blob_places]
            await store.write([JournalBlob(*place, body=body) for place, body in bodies], written)
            model.blobs.update(bodies)
            for row in written:
                model.write(row)
        case ("write_concurrently", written):
            async with trio.open_nursery() as nursery:
                for row in written:
                    nursery.start_soon(store.write, [], [row])
            for row in written:
                model.write(row)
        case ("raise_mark", shard, bucket):
            await store.raise_low_water_mark(shard, bucket)
            model.marks[shard] = max(model.marks[shard], bucket)
        case _:
            await apply_to_claims(store, model, operation)


async def apply_to_claims(store: RecordStore, model: Model, operation: tuple[Any, ...]) -> None:
    match operation:
        case ("claim", node, ms, is_stale):
            former = model.claims.get(node)
            owner = f"owner {len(model.lives)}"
            if is_stale and former is not None:
                stale = msgspec.structs.replace(former, beat=former.beat + 1)
                with pytest.raises(ClaimLost):
                    await store.claim(node, owner, former=stale, ceiling_ms=SNOWFLAKE_EPOCH_MS + ms)
                return
            life = await store.claim(node, owner, former=former, ceiling_ms=SNOWFLAKE_EPOCH_MS + ms)
            epoch, after_ms = (0, SNOWFLAKE_EPOCH_MS) if former is None else (former.epoch, former.ceiling_ms)
            assert life == Life(node=node, epoch=epoch + 1, owner=owner, after_ms=after_ms)
            model.lives.append(life)
            model.claims[node] = Claim(node, epoch + 1, owner, max(after_ms, SNOWFLAKE_EPOCH_MS + ms), 0)
        case ("raise_ceiling", index, ms, beat) if model.lives:
            life = model.lives[index % len(model.lives)]
            claim = model.claim_of(life)
            ceiling_ms = SNOWFLAKE_EPOCH_MS + ms
            if claim is None:
                with pytest.raises(ClaimLost):
                    await store.raise_ceiling(life, ceiling_ms, beat=beat)
                return
            await store.raise_ceiling(life, ceiling_ms, beat=beat)
            if beat > claim.beat:
                ceiling_ms = max(ceiling_ms, claim.ceiling_ms)
                model.claims[life.node] = msgspec.structs.replace(claim, ceiling_ms=ceiling_ms, beat=beat)
        case ("release", index) if model.lives:
            life = model.lives[index % len(model.lives)]
            claim = model.claim_of(life, "")
            if claim is None:
                with pytest.raises(ClaimLost):
                    await store.release(life)
                return
            await store.release(life)
            model.claims[life.node] = msgspec.structs.replace(claim, owner="")


async def check(store: RecordStore, model: Model, limit: int) -> None:
    assert await store.get_many([req_id.int for req_id in REQ_IDS]) == model.rows
    scanned: list[TransferRecord] = []
    place: int | None = None
    while True:
        rows = await store.scan_records(position=place, limit=limit)
        scanned += rows.records
        place = rows.next_position
        if place is None:
            break
    assert sorted(scanned, key=lambda row: row.req_id) == [model.rows[key] for key in sorted(model.rows)]
    assert await store.claims() == [model.claims[node] for node in sorted(model.claims)]
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
@given(work=st.lists(operations, max_size=25), limit=st.integers(1, 5), history=few, ids=few)
def test_sqlite_agrees_while_it_moves_histories_and_ids(
    work: list[tuple[Any, ...]], limit: int, history: int, ids: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_history, "HISTORY_RECENT_MOST", history)
        patch.setattr(id_tree, "ENTRIES_MAX", ids)
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
