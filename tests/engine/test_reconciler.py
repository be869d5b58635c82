"""The reconciler beside a working engine: it calls for every mismatch, once, and for nothing else."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from support.engines import DIRECT, FREEZING, PAIRS, World, now_ms
from support.forgeries import CHANGES, Change, a_row, be_busy, leg, replace, send
from transfer_engine.engine import reconciler
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.reconciler import ReconcilerStatistics
from transfer_engine.engine.reconciliation import Difference
from transfer_engine.engine.records.protocol import RecordPage, RecordsDamaged, RecordsUnavailable
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.engine.settings import Settings
from transfer_engine.schema.transfers import TransferRecord, TransferState

ON: dict[str, Any] = {"reconcile": True}
STRANGERS = {Difference.UNKNOWN_ASSET, Difference.UNKNOWN_SERVICE}
"""What other settings show, not other books: an engine is opened with them."""


@pytest.fixture
async def busy(world: World) -> World:
    await be_busy(world)
    return world


def seen(engine: Engine) -> ReconcilerStatistics:
    return engine.statistics().reconciler


@pytest.mark.parametrize(
    ("change", "difference"),
    [(change, difference) for change, difference in CHANGES if difference not in STRANGERS],
    ids=[change.__name__ for change, difference in CHANGES if difference not in STRANGERS],
)
async def test_a_mismatch_is_told_once(
    busy: World, autojump_clock: MockClock, change: Change, difference: Difference
) -> None:
    async with busy.engine(**ON, reconcile_interval_ms=2_000, pending_critical_ms=60_000) as engine:
        await trio.sleep(200)
        assert seen(engine).mismatches == 0
        assert seen(engine).past_rounds > 1
        assert seen(engine).rows_rounds > 1
        assert engine.statistics().alerts == {}
        with capture_logs() as logs:
            await change(busy)
            await trio.sleep(200)
        assert difference.value in seen(engine).by_difference
        assert seen(engine).mismatches == engine.statistics().alerts["books_mismatch"]
        told = [log for log in logs if log["event"] == "books_mismatch"]
        assert {log["difference"] for log in told} == set(seen(engine).by_difference)
        assert all(log["log_level"] == "critical" and log["req_id"] and log["what"] for log in told)
        mismatches = seen(engine).mismatches
        await trio.sleep(200)
        assert seen(engine).mismatches == mismatches


async def test_a_mismatch_of_now_is_told_within_a_minute(world: World, autojump_clock: MockClock) -> None:
    await world.fund(1)
    async with world.engine(**ON) as engine:
        told = await world.ask(engine, "funding", "trading")
        lied_at = trio.current_time()
        replace(world, world.row(told.outcome.req_id), state=TransferState.FAILED)
        while not engine.statistics().alerts:  # noqa: ASYNC110  the reconciler's doing, a while away
            await trio.sleep(1)
        assert 30 < trio.current_time() - lied_at < 60
        assert seen(engine).by_difference == {"other_end": 1}


async def test_nothing_is_told_of_honest_books_under_load(world: World, autojump_clock: MockClock) -> None:
    """Slow cores, refusals, operators, a record store that comes and goes, and deaths: no call for a person."""
    await world.fund(1, 2, amount=100_000)

    async def load(engine: Engine, user_id: int) -> None:
        for number in range(150):
            pair = list(PAIRS.values())[(number + user_id) % len(PAIRS)]
            await world.ask(engine, *pair, user_id=user_id, amount=1 if number % 5 else 10**9)
            await trio.sleep(0.3)

    for _ in range(3):
        world.cores[FREEZING].behave(Behaviour(latency_ms=700))
        world.cores[DIRECT].behave(Behaviour(lose_replies=50))
        with trio.CancelScope() as death:
            async with world.engine(**ON, reconcile_margin_ms=5_000, reconcile_interval_ms=100) as engine:
                async with trio.open_nursery() as nursery:
                    for user_id in (1, 2):
                        nursery.start_soon(load, engine, user_id)
                    await trio.sleep(20)
                    world.records.fail_next(*["before", "after"] * 20)
                assert seen(engine).compared > 30
                assert seen(engine).mismatches == 0
                assert "books_mismatch" not in engine.statistics().alerts
                death.cancel()
    async with world.engine(**ON) as engine:
        await world.heal(engine)
        await trio.sleep(600)
        assert seen(engine).mismatches == 0
    await world.check()


async def test_what_waits_for_a_core_is_no_mismatch_until_it_is_critical(
    world: World, autojump_clock: MockClock
) -> None:
    """Posted, and the source's core has not committed yet: to another engine that is a transfer under way."""
    await world.fund(1)
    async with world.engine(**ON, node=1, pending_critical_ms=600_000) as other:
        async with world.engine(service_timeout_ms=10) as engine:
            told = await world.ask(engine, FREEZING, "funding")
        row = world.row(told.outcome.req_id)
        assert row.state is TransferState.COMMITTED
        world.records.blobs.clear()  # else the other one takes it over
        replace(world, row, state=TransferState.SOURCE_PENDING)
        await trio.sleep(500)
        assert seen(other).mismatches == 0
        await trio.sleep(200)
        assert seen(other).by_difference == {"unfinished_row": 1}


async def test_what_is_under_way_in_this_engine_is_its_own_matter(world: World, autojump_clock: MockClock) -> None:
    """However long it takes: those who have it in hand raise their own alerts."""
    await world.fund(1)
    async with world.engine(**ON) as engine, trio.open_nursery() as nursery:
        row = world.wire.stop("row committed")
        nursery.start_soon(lambda: world.ask(engine, "funding", "trading"))
        await row.reached.wait()
        compared = seen(engine).compared
        await trio.sleep(300)
        assert seen(engine).compared > compared
        assert seen(engine).mismatches == 0
        row.released.set()
        await world.heal(engine)


async def test_a_row_may_be_on_its_way_from_another_engine(world: World, autojump_clock: MockClock) -> None:
    """Up to the margin; one that is not there by then is missed."""
    await world.fund(1)
    async with world.engine(**ON) as engine:
        for late_s, differences in ((20, {}), (200, {"missing_row": 1})):
            told = await world.ask(engine, "funding", "trading")
            row = world.records.rows.pop(told.outcome.req_id.int)
            compared = seen(engine).compared
            await trio.sleep(late_s)
            world.records.rows[row.req_id.int] = row
            await trio.sleep(60)
            assert seen(engine).compared > compared
            assert seen(engine).by_difference == differences


async def test_a_stranded_hold_is_told_when_it_is_critical(busy: World, autojump_clock: MockClock) -> None:
    async with busy.engine(**ON, pending_critical_ms=600_000) as engine:
        await send(busy, leg(1, flags=2))
        await trio.sleep(500)
        assert seen(engine).mismatches == 0
        await trio.sleep(200)
        assert seen(engine).by_difference == {"stranded_hold": 1}


@pytest.mark.parametrize(("name", "change"), [(change.__name__, change) for change, of in CHANGES if of in STRANGERS])
async def test_other_settings_show_strangers(busy: World, autojump_clock: MockClock, name: str, change: Change) -> None:
    await change(busy)
    async with busy.engine(**ON) as engine:
        await trio.sleep(120)
        assert set(seen(engine).by_difference) <= {"unknown_asset", "unknown_service"}
        assert seen(engine).mismatches > 0


async def test_pages_of_any_size_and_the_limit_of_a_turn(
    busy: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def noting(backend: object, name: str, limit_of: Any) -> None:
        original = getattr(backend, name)

        async def ask(*arguments: Any, **options: Any) -> Any:
            asked.append((name, limit_of(*arguments, **options)))
            return await original(*arguments, **options)

        monkeypatch.setattr(backend, name, ask)

    noting(busy.ledger, "query_transfers", lambda query_filter: query_filter.limit)
    noting(busy.records, "scan_records", lambda *, position=None, limit: limit)
    for page in (4, 5, 7, 1_000):
        async with busy.engine(**ON, reconcile_page=page) as engine:
            asked.clear()
            await trio.sleep(600)
            statistics = seen(engine)
        assert statistics.past_rounds >= 2
        assert statistics.rows_rounds >= 2
        assert statistics.mismatches == 0
        assert max(limit for _, limit in asked) <= page // 2
        ended = len({row.req_id for row in busy.records.rows.values() if row.state is not TransferState.FAILED})
        assert statistics.compared >= 2 * ended
        assert statistics.rows_compared >= 2 * len(busy.records.rows)


async def test_each_round_finds_what_the_others_pages_split(busy: World, autojump_clock: MockClock) -> None:
    """A hold on one page and its end on another: compared, once."""
    del busy.records.rows[a_row(busy, TransferState.ROLLED_BACK).req_id.int]
    for page in (4, 6, 10):
        async with busy.engine(**ON, reconcile_page=page) as engine:
            await trio.sleep(300)
            assert seen(engine).by_difference == {"missing_row": 1}


async def test_the_present_jumps_where_more_happens_than_a_turn_reads(world: World, autojump_clock: MockClock) -> None:
    await world.fund(1, amount=100_000)
    async with world.engine(**ON, reconcile_page=4, reconcile_interval_ms=1_000) as engine:
        for number in range(450):
            told = await world.ask(engine, "funding", "trading", amount=1)
            if number == 200:
                replace(world, world.row(told.outcome.req_id), state=TransferState.FAILED)
            await trio.sleep(0.25)
        assert seen(engine).jumps > 0
        assert now_ms() - seen(engine).present_ms < 30_000 + reconciler.LAG_MOST_MS + 5_000
        await trio.sleep(1_800)
        assert seen(engine).by_difference == {"other_end": 1}


async def test_backends_that_do_not_answer_are_waited_for(busy: World, autojump_clock: MockClock) -> None:
    replace(busy, a_row(busy, TransferState.COMMITTED), state=TransferState.FAILED)
    async with busy.engine(**ON) as engine:
        busy.wire.down |= {"ledger", "records"}
        await trio.sleep(600)
        assert seen(engine).faults > 5
        assert seen(engine).mismatches == 0
        busy.wire.down.clear()
        await trio.sleep(300)
        assert seen(engine).mismatches == 1
        assert engine.statistics().supervisor.children[-1].crashes == 0


def spoil(patch: pytest.MonkeyPatch, world: World, spoilt: int) -> None:
    """Let one row be such that no page with it can be read."""
    get, get_many, scan_records = world.records.get, world.records.get_many, world.records.scan_records

    def check(rows: Iterable[TransferRecord | None]) -> None:
        if any(row is not None and row.req_id.int == spoilt for row in rows):
            raise RecordsDamaged(f"row {spoilt} has the unknown state 'weird'")

    async def spoilt_get(req_id: int) -> TransferRecord | None:
        row = await get(req_id)
        check([row])
        return row

    async def spoilt_get_many(req_ids: Sequence[int]) -> dict[int, TransferRecord]:
        rows = await get_many(req_ids)
        check(rows.values())
        return rows

    async def spoilt_scan(*, position: int | None = None, limit: int) -> RecordPage:
        page = await scan_records(position=position, limit=limit)
        check(page.records)
        return page

    for spoilt_one in (spoilt_get, spoilt_get_many):
        patch.setattr(world.records, spoilt_one.__name__.removeprefix("spoilt_"), spoilt_one)
    patch.setattr(world.records, "scan_records", spoilt_scan)


async def test_a_row_that_can_not_be_read_is_told_and_the_others_are_compared(
    busy: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged, unreadable = [row for row in busy.records.rows.values() if row.state is TransferState.COMMITTED][:2]
    replace(busy, forged, state=TransferState.FAILED)
    async with busy.engine(**ON) as engine:
        spoil(monkeypatch, busy, unreadable.req_id.int)
        await trio.sleep(600)
        assert seen(engine).by_difference == {"other_end": 1, "unreadable_row": 1}
        assert engine.statistics().alerts == {"books_mismatch": 2, "books_unreadable": 1}
        assert seen(engine).running
    report = await busy.rebuild(write=True)
    assert report.left == {"other_end": 1, "unreadable_row": 2}
    assert "can't be read" in report.examples["unreadable_row"][1].what


async def test_whatever_goes_wrong_in_it_the_engine_goes_on(
    busy: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug of ours")

    async with busy.engine(**ON) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(busy.records, "get_many", crash)
            patch.setattr(busy.records, "scan_records", crash)
            await trio.sleep(300)
            assert engine.statistics().alerts == {"books_unreadable": 1}
        rounds = seen(engine).rows_rounds
        await trio.sleep(300)
        assert seen(engine).rows_rounds > rounds
        assert sum(child.crashes for child in engine.statistics().supervisor.children) == 0


async def test_an_answer_that_is_lost_between_two_questions(
    busy: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever question fails, the next turn asks all again, and nothing is left out."""
    replace(busy, a_row(busy, TransferState.COMMITTED), state=TransferState.FAILED)
    for backend, name, fault in (
        (busy.ledger, "query_transfers", LedgerUnavailable),
        (busy.ledger, "lookup_transfers", LedgerUnavailable),
        (busy.records, "get_many", RecordsUnavailable),
        (busy.records, "scan_records", RecordsUnavailable),
    ):
        original = getattr(backend, name)
        calls = 0

        async def every_third_is_lost(
            *arguments: Any, original: Any = original, fault: Any = fault, **options: Any
        ) -> Any:
            nonlocal calls
            calls += 1
            if calls % 3 == 1:
                raise fault("lost")
            return await original(*arguments, **options)

        async with busy.engine(**ON) as engine:
            with monkeypatch.context() as patch:
                patch.setattr(backend, name, every_third_is_lost)
                await trio.sleep(300)
            assert seen(engine).by_difference == {"other_end": 1}, name


async def test_many_mismatches_are_counted_and_some_are_told(busy: World, autojump_clock: MockClock) -> None:
    rows = [row for row in busy.records.rows.values() if row.state is not TransferState.FAILED]
    for row in rows:
        del busy.records.rows[row.req_id.int]
    async with busy.engine(**ON) as engine, trio.open_nursery():
        with capture_logs() as logs:
            await trio.sleep(120)
        assert seen(engine).by_difference == {"missing_row": len(rows)}
        told = [log for log in logs if log["event"] == "books_mismatch"]
        assert len(told) == min(len(rows), reconciler.ALERTS_IN_TURN_MOST) + (
            len(rows) > reconciler.ALERTS_IN_TURN_MOST
        )
        if len(rows) > reconciler.ALERTS_IN_TURN_MOST:
            assert told[-1]["more"] == len(rows) - reconciler.ALERTS_IN_TURN_MOST


async def test_what_was_told_is_remembered_up_to_a_bound(
    busy: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "TOLD_MOST", 2)
    for row in list(busy.records.rows.values())[:6]:
        replace(busy, row, fingerprint=1)
    async with busy.engine(**ON) as engine:
        await trio.sleep(600)
        assert len(engine._parts.reconciler._told) == 2


async def test_a_clock_that_is_set_back(
    busy: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with busy.engine(**ON) as engine:
        await trio.sleep(600)
        monkeypatch.setattr(engine._parts.reconciler, "_clock_ms", lambda: now_ms() - 3_600_000)
        await trio.sleep(1)
        present_ms = seen(engine).present_ms
        await trio.sleep(600)
        assert seen(engine).present_ms == present_ms
        assert (seen(engine).faults, seen(engine).mismatches) == (0, 0)


async def test_it_can_be_switched_off_and_is_on_by_default(busy: World, autojump_clock: MockClock) -> None:
    assert Settings().reconcile
    del busy.records.rows[a_row(busy, TransferState.COMMITTED).req_id.int]
    async with busy.engine(reconcile=False) as engine:
        await trio.sleep(1_000)
        statistics = seen(engine)
        assert (statistics.running, statistics.compared, statistics.mismatches) == (False, 0, 0)


async def test_it_stops_with_its_engine(busy: World, autojump_clock: MockClock) -> None:
    async with busy.engine(**ON) as engine:
        await trio.sleep(10)
        assert seen(engine).running
        assert "Reconciler" in repr(engine._parts.reconciler)
        stopped_at = trio.current_time()
    assert not seen(engine).running
    assert trio.current_time() - stopped_at < 1
