"""Books of a real TigerBeetle against rows in a real Cassandra: what is lost there is made again from here."""

import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from support.cassandra_stores import connected, forge_state
from support.engines import UNLIMITED_ASSETS
from support.production import Pair
from transfer_engine.engine import open_engine
from transfer_engine.engine.audit import audit
from transfer_engine.engine.backends import open_backends
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.rebuilding import RebuildReport, rebuild_records
from transfer_engine.engine.rebuilt_rows import REBUILT_VOID
from transfer_engine.engine.reconciliation import Rules
from transfer_engine.engine.records.paging import record_pages
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.services.registry import ServiceRegistry
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.engine.settings import DEFAULT_SERVICES, ServiceSettings, Settings
from transfer_engine.engine.wiring import now_ms
from transfer_engine.schema.transfers import TransferRecord, TransferState

USERS = range(1, 21)
PATIENCE_S = 60
PAIRS = [("funding", "trading"), ("trading", "funding"), ("funding", "core"), ("core", "trading"), ("core", "bank")]
WRITTEN = ("transfers", "history", "history_periods", "intents", "intent_buckets", "marks")
"""Every table that is not the lives'."""

Opened = tuple[ServiceRegistry, Ledger, RecordStore]


def settings(pair: Pair, directory: Path, **changes: Any) -> Settings:
    services = (
        *DEFAULT_SERVICES,
        ServiceSettings(name="core", code=100, kind="simulated_core"),
        ServiceSettings(name="bank", code=101, kind="simulated_core", freezes=False),
    )
    directory.mkdir(exist_ok=True)
    fields = {"data_dir": directory, "services": services, "assets": UNLIMITED_ASSETS, **pair.backends(), **changes}
    return Settings.model_validate(fields)


async def load(engine: Engine, *, each: int, users: range = USERS) -> None:
    """Let users move money between all pairs, half of the time more than they have."""
    chance = random.Random(1)

    async def be(user_id: int, plan: list[tuple[str, str, int]]) -> None:
        await engine.credit(user_id=user_id, account="funding", asset_id=1, amount=1_000)
        await engine.simulated_cores["core"].fund(user_id, 1, 1_000)
        for source, target, amount in plan:
            await engine.transfer(source=source, target=target, user_id=user_id, asset_id=1, amount=amount)

    async with trio.open_nursery() as nursery:
        for user_id in users:
            plan = [(*chance.choice(PAIRS), chance.choice([1, 20, 300, 5_000])) for _ in range(each)]
            nursery.start_soon(be, user_id, plan)


async def rows_of(records: RecordStore) -> dict[int, TransferRecord]:
    async with aclosing(record_pages(records)) as pages:
        return {row.req_id.int: row async for page in pages for row in page}


async def rebuild(opened: Opened, *, write: bool, margin_ms: int | None = None) -> RebuildReport:
    registry, ledger, records = opened
    return await rebuild_records(
        ledger, records, Rules(registry, {1, 2, 3}), now_ms=now_ms(), margin_ms=margin_ms, write=write
    )


@asynccontextmanager
async def a_life(pair: Pair, directory: Path, **changes: Any) -> AsyncIterator[Engine]:
    async with open_engine(settings(pair, directory, **changes)) as engine:
        yield engine


async def test_every_row_of_a_lost_keyspace_is_made_again(pair: Pair, tmp_path: Path) -> None:
    async with a_life(pair, tmp_path / "one") as engine:
        await load(engine, each=15)
        engine.simulated_cores["bank"].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="no"))
        await load(engine, each=4, users=range(30, 40))
        while engine.statistics().open_transfers:  # noqa: ASYNC110  the scanner's doing
            await trio.sleep(0.1)
    ours = settings(pair, tmp_path / "one")
    async with open_backends(ours) as opened:
        originals = await rows_of(opened[2])
        assert (await rebuild(opened, write=False)).agrees
    with connected(ours.cassandra) as session:
        for table in WRITTEN:
            session.execute(f"TRUNCATE {ours.cassandra.keyspace}.{table}", timeout=60)
    moved = {req_id: row for req_id, row in originals.items() if row.state is not TransferState.FAILED}
    async with open_backends(ours) as opened:
        dry = await rebuild(opened, write=False)
        assert dry.left == {"missing_row": dry.rebuilt}
        assert await rows_of(opened[2]) == {}
        report = await rebuild(opened, write=True)
        assert report.agrees, report.examples
        rebuilt = await rows_of(opened[2])
        assert report.rebuilt == dry.rebuilt == len(rebuilt) >= len(moved)
        for req_id, row in rebuilt.items():
            original = originals[req_id]
            if original.state is TransferState.COMMITTED:
                assert row == msgspec.structs.replace(original, retry_count=0)
            else:
                assert row == msgspec.structs.replace(original, state=row.state, error=REBUILT_VOID, retry_count=0), (
                    original
                )
        assert moved.keys() <= rebuilt.keys()
        listed = {
            record.req_id.int for user in (1, 30) for record in (await opened[2].history(user, limit=999)).records
        }
        assert listed == {req_id for req_id, row in rebuilt.items() if row.user_id in {1, 30}}
        assert (await rebuild(opened, write=True)).found == {}
        registry, ledger, records = opened
        holds = await audit(ledger, records, registry)
        assert holds.holds, holds.findings


async def test_beside_engines_under_load_nothing_is_found(pair: Pair, tmp_path: Path) -> None:
    """Neither by the command nor by the engine that looks all the time."""
    looking = {"reconcile_margin_ms": 1_000, "reconcile_interval_ms": 20}
    async with a_life(pair, tmp_path / "one", **looking) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: load(engine, each=150))
        async with open_backends(settings(pair, tmp_path / "beside")) as opened:
            for _ in range(4):
                await trio.sleep(1.5)
                report = await rebuild(opened, write=True, margin_ms=1_000)
                assert (report.found, report.rebuilt) == ({}, 0), report.examples
            assert report.compared > 0
        await trio.sleep(3)
        statistics = engine.statistics()
        assert statistics.reconciler.compared > 100
        assert statistics.reconciler.mismatches == 0
        assert "books_unreadable" not in statistics.alerts
        nursery.cancel_scope.cancel()


async def test_the_engine_calls_for_a_forged_row_and_for_one_that_it_can_not_read(pair: Pair, tmp_path: Path) -> None:
    looking = {"reconcile_margin_ms": 1_000, "reconcile_interval_ms": 20}
    async with a_life(pair, tmp_path / "one", **looking) as engine:
        await load(engine, each=3)
        told = await engine.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=1)
        with connected(settings(pair, tmp_path / "one").cassandra) as session:
            forge_state(session, pair.keyspace, told.req_id, "failed")
            with trio.fail_after(PATIENCE_S):
                while not engine.statistics().reconciler.by_difference:  # noqa: ASYNC110  the reconciler's doing
                    await trio.sleep(0.1)
            assert engine.statistics().reconciler.by_difference == {"other_end": 1}
            forge_state(session, pair.keyspace, told.req_id, "limbo")
            with trio.fail_after(2 * PATIENCE_S):
                while "books_unreadable" not in engine.statistics().alerts:  # noqa: ASYNC110  the reconciler's doing
                    await trio.sleep(0.1)
        assert engine.statistics().reconciler.running


async def test_a_row_that_was_deleted_by_hand_stays_deleted_and_is_said_to_be(pair: Pair, tmp_path: Path) -> None:
    """The delete is stamped by a clock, and stands above every write of ours."""
    ours = settings(pair, tmp_path / "one")
    async with a_life(pair, tmp_path / "one") as engine:
        await load(engine, each=2)
        told = await engine.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=1)
    with connected(ours.cassandra) as session:
        session.execute(f"TRUNCATE {pair.keyspace}.intents", timeout=60)
        session.execute(f"DELETE FROM {pair.keyspace}.transfers WHERE req_id = %s", (told.req_id,))  # noqa: S608
    async with open_backends(ours) as opened:
        report = await rebuild(opened, write=True)
    assert (report.rebuilt, report.found, report.left) == (1, {"missing_row": 1}, {"missing_row": 1})
    assert report.examples["missing_row"][0].req_id == told.req_id
