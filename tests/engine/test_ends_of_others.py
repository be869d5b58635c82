"""Another engine ends the same transfer: both come to one end, and a row that contradicts the ledger is left alone."""

from functools import partial

import msgspec
import pytest
import trio

from support.engines import DIRECT, FREEZING, PAIRS, Machine, World
from support.wire import Wire
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.services.protocol import Failed
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.transfers import TransferRecord, TransferState, TransferStatus

REFUSING = Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today")


async def end_by_another(world: World, engine: Engine, leg: int, state: TransferState, error: str) -> TransferRecord:
    """Be another engine that ends the one transfer under way, and writes its last row."""
    [transfer] = engine._parts.open_transfers
    event = transfer.body.void(leg) if leg % 2 else transfer.body.post(leg)
    [answer] = await world.ledger.create_transfers([event])
    assert answer.status.name == "CREATED"
    ended_at = answer.timestamp // 1_000_000
    row = msgspec.structs.replace(transfer.record(), state=state, error=error, updated_at=ended_at)
    await world.records.write([], [row])
    return row


async def test_a_row_that_contradicts_the_ledger_is_alerted_and_left_alone(world: World) -> None:
    async with world.engine() as engine, trio.open_nursery() as nursery:
        stop = world.wire.stop("post")
        nursery.start_soon(partial(world.ask, engine, "funding", FREEZING, key="key"))
        await stop.reached.wait()
        row = await end_by_another(world, engine, 4, TransferState.FAILED, "a defect")
        stop.released.set()
        await trio.sleep(60)
        assert engine.statistics().alerts["terminal_conflict"] == 1
        assert world.told[0].outcome.status is TransferStatus.PENDING
        assert world.row(row.req_id) == row
        [transfer] = engine._parts.open_transfers
        assert transfer.is_quarantined
        assert not transfer.state.is_terminal
        assert transfer.error == "its row says failed, and the ledger committed"


@pytest.mark.parametrize(("leg", "stored"), [(3, TransferState.FAILED), (5, TransferState.ROLLED_BACK)])
async def test_that_nothing_moved_keeps_the_name_that_it_was_given_first(
    world: World, leg: int, stored: TransferState
) -> None:
    # An operator at another engine has voided it, fenced the source, and written its name for that.
    async with world.engine() as engine, trio.open_nursery() as nursery:
        stop = world.wire.stop("post")
        nursery.start_soon(partial(world.ask, engine, FREEZING, "funding", key="key"))
        await stop.reached.wait()
        row = await end_by_another(world, engine, leg, stored, "cancelled elsewhere")
        await world.cores[FREEZING].rollback(row.req_id)
        stop.released.set()
        await world.heal(engine)
        assert world.told[0].outcome.status.value == stored.value
        assert world.told[0].outcome.message == "cancelled elsewhere"
        assert world.row(row.req_id) == row
    await world.check()


async def test_a_post_by_another_engine_ends_here_with_the_row_that_is_there(world: World) -> None:
    async with world.engine() as engine, trio.open_nursery() as nursery:
        stop = world.wire.stop("post")
        nursery.start_soon(partial(world.ask, engine, "funding", FREEZING, key="key"))
        await stop.reached.wait()
        row = await end_by_another(world, engine, 2, TransferState.COMMITTED, "")
        stop.released.set()
        await world.heal(engine)
        assert world.told[0].outcome.status is TransferStatus.COMMITTED
        assert world.row(row.req_id) == row
        assert engine.statistics().alerts.get("terminal_conflict") is None
    await world.check()


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("step", ["row compensating", "void", f"{FREEZING}.rollback", "row rolled_back"])
async def test_a_source_that_is_fenced_by_another_engine_has_the_same_end_there_and_here(
    world: World, step: str, forgets: bool
) -> None:
    """The one engine's withdraw is late: it comes after the other one's rollback, or in the midst of undoing.

    A source may answer it as it did first, or refuse it because it was rolled back.
    """
    world.cores[DIRECT].behave(REFUSING)
    late, early = Wire(), Wire()
    if forgets and step != "row compensating":
        late.forged[f"{FREEZING}.withdraw"] = Failed("it was rolled back")
    async with (
        world.engine(late) as one,
        world.engine(early, node=1, machine=Machine()) as other,
        trio.open_nursery() as nursery,
    ):
        withdraw = late.stop(f"{FREEZING}.withdraw")
        nursery.start_soon(partial(world.ask, one, FREEZING, DIRECT, key="key", deadline_ms=60_000))
        await withdraw.reached.wait()
        undoing = early.stop(step, after=True)
        nursery.start_soon(partial(world.ask, other, FREEZING, DIRECT, key="key", deadline_ms=60_000))
        await undoing.reached.wait()
        withdraw.released.set()
        await trio.sleep(0.5)
        undoing.released.set()
        await world.heal(one)
        await world.heal(other)
    assert {told.outcome.status for told in world.told} == {TransferStatus.ROLLED_BACK}
    await world.check()


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_two_engines_that_drive_one_transfer_come_to_one_end(world: World, pair: tuple[str, str]) -> None:
    for core in world.cores.values():
        core.behave(Behaviour(latency_ms=20, lose_replies=1))
    async with (
        world.engine() as one,
        world.engine(node=1, machine=Machine()) as other,
        trio.open_nursery() as nursery,
    ):
        for engine in (one, other, one, other):
            nursery.start_soon(partial(world.ask, engine, *pair, key="key"))
            nursery.start_soon(partial(world.ask, engine, *pair, key="too much", amount=1_001))
            await trio.sleep(0.005)
    statuses = {(told.asked["idempotency_key"], told.outcome.status) for told in world.told}
    assert statuses == {("key", TransferStatus.COMMITTED), ("too much", TransferStatus.FAILED)}
    await world.check()


async def test_a_service_that_the_adopter_lacks_keeps_its_transfers_unsettled_and_pins_nothing(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine(shutdown_ms=100) as engine:
        told = await world.ask(engine, "funding", FREEZING)
    world.cores[FREEZING].behave(Behaviour())
    whole = world.settings
    world.settings = whole.model_copy(update={"services": tuple(one for one in whole.services if one.name != FREEZING)})
    cores, world.cores = world.cores, {DIRECT: world.cores[DIRECT]}
    async with world.engine(node=1, machine=Machine()) as engine:
        await trio.sleep(100)
        assert engine.statistics().adoption.settled == 1
        assert engine.statistics().alerts["unknown_service"] >= 1
        assert engine.statistics().unsettled_intents == 1
        await trio.sleep(1_000)
        assert engine.statistics().unsettled_intents == 1
        assert engine._parts.journal.current_bucket - engine.statistics().low_water_mark <= 32
    world.settings, world.cores = whole, cores
    async with world.engine(node=1, machine=Machine()) as engine:
        assert engine.statistics().recovered == 1
        await world.heal(engine)
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()
