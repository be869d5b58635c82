"""Rebuilding finds every difference between books and rows, mends what is missing, and leaves alone what is not its."""

from contextlib import aclosing
from uuid import UUID

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tigerbeetle import TransferFlags

from support.engines import DIRECT, FREEZING, PAIRS, World, in_a_loop, now_ms
from support.forgeries import CHANGES, LIES, Change, a_row, be_busy, leg, replace, send, settle
from transfer_engine.engine import rebuilding
from transfer_engine.engine.ledger.paging import transfer_pages
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.outcomes import Resolution
from transfer_engine.engine.rebuilding import RebuildReport, rebuild_records
from transfer_engine.engine.rebuilt_rows import REBUILT_VOID
from transfer_engine.engine.reconciliation import Difference, Legs, Rules, compare, sort_legs
from transfer_engine.engine.records.protocol import RecordsDamaged, RecordsUnavailable
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.transfers import TransferRecord, TransferState, TransferStatus


@pytest.fixture
async def busy(world: World) -> World:
    await be_busy(world)
    return world


@pytest.mark.parametrize(("change", "difference"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
async def test_a_difference_is_found_and_a_dry_run_writes_nothing(
    busy: World, change: Change, difference: Difference
) -> None:
    assert (await busy.rebuild()).agrees
    await change(busy)
    rows = dict(busy.records.rows)
    report = await busy.rebuild()
    assert not report.agrees
    assert difference.value in report.found
    assert report.left == report.found
    assert not report.is_written
    assert all(example.what for examples in report.examples.values() for example in examples)
    assert set(report.examples) == set(report.found)
    assert busy.records.rows == rows


@pytest.mark.parametrize(
    ("change", "difference"),
    [(change, difference) for change, difference in CHANGES if difference is not Difference.UNKNOWN_ASSET],
    ids=[change.__name__ for change, difference in CHANGES if difference is not Difference.UNKNOWN_ASSET],
)
async def test_what_says_something_else_than_the_ledger_is_never_overwritten(
    busy: World, change: Change, difference: Difference
) -> None:
    whole = dict(busy.records.rows)
    await change(busy)
    rows = dict(busy.records.rows)
    report = await busy.rebuild(write=True)
    if report.rebuilt and difference in {Difference.MISSING_ROW, Difference.UNFINISHED_ROW}:
        assert report.agrees
        [mended] = [req_id for req_id, row in busy.records.rows.items() if rows.get(req_id) != row]
        assert the_same(busy.records.rows[mended], whole[mended])
    else:
        assert report.left[difference.value] >= 1
        assert all(busy.records.rows[req_id] == row for req_id, row in rows.items())


def the_same(rebuilt: TransferRecord, original: TransferRecord) -> bool:
    """Whether a row is what it was, but for what the ledger does not have."""
    if original.state is TransferState.COMMITTED:
        return rebuilt == msgspec.structs.replace(original, retry_count=0)
    assert rebuilt.error == REBUILT_VOID
    assert rebuilt.state in {TransferState.FAILED, TransferState.ROLLED_BACK}
    if rebuilt.source not in {FREEZING, DIRECT}:
        assert rebuilt.state is original.state is TransferState.ROLLED_BACK
    return rebuilt == msgspec.structs.replace(original, error=rebuilt.error, state=rebuilt.state, retry_count=0)


ASKED = st.tuples(
    st.sampled_from(sorted(PAIRS)),
    st.integers(1, 3),
    st.sampled_from([None, None, 1, 2]),
    st.sampled_from([1, 40, 250, 5_000]),
    st.sampled_from(["", "", "", "refuse", "late", "void"]),
)


async def live_and_rebuild(asked: list[tuple[str, int, int | None, int, str]], lost: set[int], page: int) -> None:
    world = World()
    await world.fund(1, 2, 3)
    async with world.engine(service_timeout_ms=50, deadline_ms=200) as engine:
        for pair, user_id, target_user_id, amount, fate in asked:
            source, target = PAIRS[pair]
            # Between two users' accounts in cores neither is in the ledger: such a row is reported, not made again.
            is_other = target_user_id is not None and not {source, target} <= {FREEZING, DIRECT}
            for core in world.cores.values():
                core.behave(
                    Behaviour(
                        ops=frozenset({CoreOperation.DEPOSIT, CoreOperation.WITHDRAW}),
                        refuse="no" if fate == "refuse" else None,
                        crash_before={"late": 2, "void": 999}.get(fate, 0),
                    )
                )
            other = {"target_user_id": target_user_id} if is_other else {}
            told = await world.ask(engine, source, target, user_id=user_id, amount=amount, **other)
            for core in world.cores.values():
                core.behave(Behaviour())
            if fate == "void" and told.outcome.status is TransferStatus.PENDING:
                await engine.resolve(told.outcome.req_id, Resolution.VOID)
        await world.heal(engine)
    await settle(world)
    await world.check()
    originals = dict(world.records.rows)
    # Refusals leave nothing in the ledger: there is nothing to make their rows from.
    async with aclosing(transfer_pages(world.ledger)) as pages:
        in_books = {transfer.user_data_128 async for page_of_books in pages for transfer in page_of_books}
    rebuildable = [req_id for req_id in originals if req_id in in_books]
    gone = [req_id for number, req_id in enumerate(rebuildable) if number in lost]
    for req_id in gone:
        del world.records.rows[req_id]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rebuilding, "BATCH_EVENTS_MAX", page)
        dry = await world.rebuild()
        assert dry.rebuilt == len(gone)
        assert dry.found == dry.left == ({"missing_row": len(gone)} if gone else {})
        report = await world.rebuild(write=True)
        again = await world.rebuild(write=True)
    assert report.agrees, report.examples
    assert report.found == dry.found
    assert (again.rebuilt, again.found) == (0, {})
    assert world.records.rows.keys() == originals.keys()
    for req_id, row in originals.items():
        rebuilt = world.records.rows[req_id]
        assert the_same(rebuilt, row) if req_id in gone else rebuilt == row, (rebuilt, row)
    world.told = []  # a refusal's reason is not in the ledger: failed, where it was rolled back
    await world.check()


@settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    asked=st.lists(ASKED, min_size=1, max_size=12),
    lost=st.sets(st.integers(0, 25)),
    page=st.sampled_from([1, 2, 3, 7, 8189]),
)
def test_deleted_rows_are_made_again_as_they_were(
    asked: list[tuple[str, int, int | None, int, str]], lost: set[int], page: int
) -> None:
    in_a_loop(lambda: live_and_rebuild(asked, lost, page))


async def test_what_a_journal_has_an_intent_of_is_left_to_recovery(world: World) -> None:
    """The engine may have to let a core commit yet; a terminal row would tell its recovery not to."""
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading")
        await world.ask(engine, FREEZING, "funding")
        await world.ask(engine, "funding", "trading", amount=5_000)
    rows = dict(world.records.rows)
    for told in world.told:
        del world.records.rows[told.outcome.req_id.int]
    report = await world.rebuild(write=True)
    assert report.agrees
    assert (report.unfinished, report.rebuilt) == (3, 0)
    assert len(world.records.rows) == len(rows) - 3
    async with world.engine() as engine:
        await world.heal(engine)
    for told in world.told[:2]:
        assert world.row(told.outcome.req_id) == rows[told.outcome.req_id.int]
    await world.check()


async def test_a_hold_that_waits_for_a_core_is_an_engines_matter(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine() as engine:
        await world.ask(engine, "funding", FREEZING)
        report = await world.rebuild(write=True)
        assert report.agrees
        assert (report.unfinished, report.open_holds) == (1, 1)
        world.records.blobs.clear()
        assert (await world.rebuild(write=True)).left == {"stranded_hold": 1}
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)


async def test_what_is_younger_than_the_margin_is_not_looked_at(busy: World) -> None:
    row = max(busy.records.rows.values(), key=lambda row: row.updated_at)
    settled_ms = now_ms() - row.updated_at
    del busy.records.rows[row.req_id.int]
    assert (await busy.rebuild(margin_ms=settled_ms + 1)).agrees
    assert not (await busy.rebuild(margin_ms=settled_ms - 1)).agrees


async def test_an_end_behind_the_margin_of_a_hold_before_it_is_not_looked_at(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine(service_timeout_ms=10) as engine:
        told = await world.ask(engine, "funding", FREEZING)
        await trio.sleep(60)
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)
    del world.records.rows[told.outcome.req_id.int]
    world.records.blobs.clear()
    assert (await world.rebuild(margin_ms=30_000)).agrees
    assert (await world.rebuild()).found == {"missing_row": 1}


async def test_whose_it_was_is_found_among_those_that_the_ledger_knows(world: World) -> None:
    """Between cores the accounts are everybody's: only the fingerprint tells."""
    await world.fund(2, 3)
    for core in world.cores.values():
        await core.fund(999, 1, 1_000)
    async with world.engine() as engine:
        known = await world.ask(engine, FREEZING, DIRECT, user_id=3)
        to_another = await world.ask(engine, "funding", DIRECT, user_id=2, target_user_id=3)
        unknown = await world.ask(engine, FREEZING, DIRECT, user_id=999)
        between = await world.ask(engine, FREEZING, DIRECT, user_id=2, target_user_id=3)
    await settle(world)
    for told in (known, to_another, unknown, between):
        del world.records.rows[told.outcome.req_id.int]
    report = await world.rebuild(write=True)
    assert (report.rebuilt, report.found, report.left) == (2, {"missing_row": 4}, {"missing_row": 2})
    assert world.row(known.outcome.req_id).user_id == 3
    assert world.row(to_another.outcome.req_id).target_user_id == 3
    left = report.examples["missing_row"]
    assert {one.req_id for one in left} == {unknown.outcome.req_id, between.outcome.req_id}
    assert all("none of the users that the ledger knows" in one.what for one in left)


async def test_a_void_of_which_the_ledger_does_not_say_everything(busy: World) -> None:
    """Nothing moved in either: `failed` is written, and called uncertain; a `rolled_back` still prevails over it."""
    row = next(
        row
        for row in busy.records.rows.values()
        if row.source == FREEZING and row.target == DIRECT and row.state is TransferState.ROLLED_BACK
    )
    del busy.records.rows[row.req_id.int]
    report = await busy.rebuild(write=True)
    assert (report.rebuilt, report.uncertain) == (1, 1)
    rebuilt = busy.records.rows[row.req_id.int]
    assert (rebuilt.state, rebuilt.error) == (TransferState.FAILED, REBUILT_VOID)
    await busy.records.write([], [row])
    assert busy.records.rows[row.req_id.int] == row


@pytest.mark.parametrize(
    ("between", "end"),
    [
        (TransferState.SOURCE_PENDING, TransferState.FAILED),
        (TransferState.TARGET_PENDING, TransferState.ROLLED_BACK),
        (TransferState.COMPENSATING, TransferState.ROLLED_BACK),
    ],
)
async def test_an_unfinished_row_knows_more_than_the_ledger(
    busy: World, between: TransferState, end: TransferState
) -> None:
    row = next(
        row
        for row in busy.records.rows.values()
        if row.source == FREEZING and row.target == DIRECT and row.state is TransferState.ROLLED_BACK
    )
    replace(busy, row, state=between, error="the core said no", retry_count=7, updated_at=1)
    report = await busy.rebuild(write=True)
    assert (report.rebuilt, report.uncertain, report.found) == (1, 0, {"unfinished_row": 1})
    rebuilt = busy.records.rows[row.req_id.int]
    assert (rebuilt.state, rebuilt.error, rebuilt.retry_count) == (end, "the core said no", 7)
    assert (rebuilt.created_at, rebuilt.updated_at) == (row.created_at, row.updated_at)


async def test_examples_are_bounded_and_all_differences_are_counted(busy: World) -> None:
    for row in list(busy.records.rows.values()):
        if row.state is TransferState.COMMITTED:
            replace(busy, row, state=TransferState.FAILED)
    rules = Rules(busy.registry(dict(busy.cores)), {1, 2, 3})
    report = await rebuild_records(
        busy.ledger, busy.records, rules, now_ms=now_ms(), margin_ms=None, write=True, examples_most=2
    )
    assert len(report.examples["other_end"]) == 2 < report.left["other_end"]


async def test_a_backend_that_does_not_answer_is_asked_again(busy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    row = a_row(busy, TransferState.COMMITTED)
    del busy.records.rows[row.req_id.int]
    busy.records.fail_next("before", "after")
    faults = {"query_transfers": LedgerUnavailable, "lookup_transfers": LedgerUnavailable}
    for name, fault in faults.items():
        fail_once(monkeypatch, busy.ledger, name, fault)
    for name in ("get_many", "scan_records", "claims", "low_water_mark"):
        fail_once(monkeypatch, busy.records, name, RecordsUnavailable)
    assert (await busy.rebuild(write=True)).agrees
    assert busy.records.rows[row.req_id.int] == row
    busy.records.fail_next(*["before"] * 99)
    del busy.records.rows[row.req_id.int]
    with pytest.raises(RecordsUnavailable):
        await busy.rebuild(write=True)


def fail_once(monkeypatch: pytest.MonkeyPatch, backend: object, name: str, fault: type[Exception]) -> None:
    original = getattr(backend, name)
    faults = [fault("the answer was lost")]

    async def answer(*arguments: object, **options: object) -> object:
        if faults:
            raise faults.pop()
        return await original(*arguments, **options)

    monkeypatch.setattr(backend, name, answer)


async def test_a_damaged_blob_ends_the_run(busy: World) -> None:
    busy.records.blobs[0, 1 << 40, 1] = b"\xff"
    with pytest.raises(RecordsDamaged, match="sequence 1"):
        await busy.rebuild()


async def test_beside_a_running_engine_nothing_is_found_and_nothing_written(world: World) -> None:
    """Honest books under load: what is under way, or has ended a moment ago, is no difference."""
    await world.fund(2, 3, amount=100_000)
    reports: list[RebuildReport] = []
    async with world.engine() as engine, trio.open_nursery() as nursery:

        async def load(user_id: int) -> None:
            for number in range(60):
                pair = list(PAIRS.values())[(number + user_id) % len(PAIRS)]
                await world.ask(engine, *pair, user_id=user_id, amount=1 if number % 5 else 10**9)
                await trio.sleep(0.3)

        for user_id in (2, 3):
            nursery.start_soon(load, user_id)
        world.cores[FREEZING].behave(Behaviour(latency_ms=300))
        for _ in range(30):
            await trio.sleep(1)
            reports.append(await world.rebuild(write=True, margin_ms=5_000))
    assert all(report.agrees and not report.rebuilt for report in reports), reports
    assert reports[-1].compared > 50
    await world.check()


async def test_an_empty_world(world: World) -> None:
    report = await World().rebuild(write=True)
    assert report.agrees
    assert (report.ledger_transfers, report.rows, report.compared) == (0, 0, 0)


async def test_progress_is_told(busy: World) -> None:
    told: list[rebuilding.Progress] = []
    rules = Rules(busy.registry(dict(busy.cores)), {1, 2, 3})
    await rebuild_records(
        busy.ledger, busy.records, rules, now_ms=now_ms(), margin_ms=None, write=False, progress=told.append
    )
    assert [one.what for one in told] == ["journals", "ledger", "records"]
    assert all(one.done is None or 0 <= one.done <= 1 for one in told)


@pytest.mark.parametrize("number", [2, 3, 4, 5, 8, 15])
async def test_an_end_under_a_later_leg(world: World, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The legs before it were burnt; whichever ended the hold, the page of the hold and that of the row find it."""
    await world.fund(1)
    async with world.engine() as engine:
        told = await world.ask(engine, "funding", "trading")
    like = world.row(told.outcome.req_id)
    flags = TransferFlags.VOID_PENDING_TRANSFER if number % 2 else TransferFlags.POST_PENDING_TRANSFER
    event = {"amount": like.amount, "user_data_64": like.fingerprint}
    await send(world, leg(1, flags=TransferFlags.PENDING, **event))
    await send(world, leg(number, pending_id=LIES | 1, flags=flags, **event))
    hold, end = await world.ledger.lookup_transfers([LIES | 1, LIES | number])
    world.records.rows[LIES] = msgspec.structs.replace(
        like,
        req_id=UUID(int=LIES),
        state=TransferState.ROLLED_BACK if number % 2 else TransferState.COMMITTED,
        created_at=hold.timestamp // 1_000_000,
        updated_at=end.timestamp // 1_000_000,
    )
    for size in (1, 2, 8189):
        monkeypatch.setattr(rebuilding, "BATCH_EVENTS_MAX", size)
        report = await world.rebuild()
        assert report.agrees, report.examples
        assert report.compared == len(world.records.rows)


async def test_what_ended_behind_the_margin_may_lack_its_row(busy: World) -> None:
    row = a_row(busy, TransferState.COMMITTED)
    by_req_id: dict[int, Legs] = {}
    sort_legs(await busy.ledger.lookup_transfers([row.req_id.int | 1, row.req_id.int | 2]), by_req_id)
    [legs] = by_req_id.values()
    rules = Rules(busy.registry(dict(busy.cores)), {1})
    pending = msgspec.structs.replace(row, state=TransferState.SOURCE_PENDING)
    for late in (None, pending):
        assert not list(compare(legs, late, rules, until_ms=row.updated_at - 1))
        assert list(compare(legs, late, rules, until_ms=row.updated_at))
    failed = msgspec.structs.replace(row, state=TransferState.FAILED)
    assert list(compare(legs, failed, rules, until_ms=0)), "what contradicts the ledger does so at once"
