"""The four pairs of services, in exactly the order of the design's table: refused and pending at every place, too."""

from uuid import UUID

import pytest
import trio

from support.engines import DIRECT, FREEZING, PAIRS, World
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.transfers import TransferState, TransferStatus

CORES = {FREEZING, DIRECT}
TAKEN = {
    "wallet->wallet": "intent, hold, post, row committed",
    "wallet->core": "intent, hold, row target_pending, {target}.deposit, post, row committed",
    "core->wallet": "intent, hold, row source_pending, {source}.withdraw, post, {source}.commit, row committed",
    "core->core": "intent, hold, row source_pending, {source}.withdraw, row target_pending, {target}.deposit, post, "
    "{source}.commit, row committed",
}
REFUSED_BY_SOURCE = {
    "wallet->wallet": "intent, hold, post, row failed",
    "wallet->core": "intent, hold, row failed",
    "core->wallet": "intent, hold, row source_pending, {source}.withdraw, void, row failed",
    "core->core": "intent, hold, row source_pending, {source}.withdraw, void, row failed",
}
REFUSED_BY_TARGET = {
    "wallet->core": "intent, hold, row target_pending, {target}.deposit, row compensating, void, row rolled_back",
    "core->core": "intent, hold, row source_pending, {source}.withdraw, row target_pending, {target}.deposit, "
    "row compensating, void, {source}.rollback, row rolled_back",
}
TO_CORE = {name: pair for name, pair in PAIRS.items() if pair[1] in CORES}
CALLS = [
    (name, service, operation)
    for name, (source, target) in PAIRS.items()
    for service, operation in (
        *(((source, CoreOperation.WITHDRAW), (source, CoreOperation.COMMIT)) if source in CORES else ()),
        *(((target, CoreOperation.DEPOSIT),) if target in CORES else ()),
    )
]


def steps_of(table: dict[str, str], source: str, target: str) -> list[str]:
    kind = "->".join("core" if service in CORES else "wallet" for service in (source, target))
    return table[kind].format(source=source, target=target).split(", ")


async def balances(world: World, *services: str) -> list[int]:
    return [await world.spendable(1, service) for service in services]


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_a_transfer_that_all_agree_to(world: World, pair: tuple[str, str]) -> None:
    before = await balances(world, *pair)
    async with world.engine() as engine:
        told = await world.ask(engine, *pair)
        steps = world.wire.names(told.outcome.req_id)
        record = await engine.get(told.outcome.req_id)
    assert (told.outcome.status, told.outcome.message, told.outcome.replayed) == (TransferStatus.COMMITTED, None, False)
    assert steps == steps_of(TAKEN, *pair)
    assert record is not None
    assert (record.state, record.error) == (TransferState.COMMITTED, "")
    assert await balances(world, *pair) == [before[0] - 100, before[1] + 100]
    await world.check()


async def test_a_wallet_pair_is_one_trip(world: World) -> None:
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading")
    [hold, post] = world.ledger.batches[-1]
    assert (hold.pending_id, post.pending_id) == (0, hold.id)
    assert not int(hold.flags) & 1, "a chain would break on a replay"


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_a_refusal_by_the_source(world: World, pair: tuple[str, str]) -> None:
    before = await balances(world, *pair)
    async with world.engine() as engine:
        told = await world.ask(engine, *pair, amount=1_001)
        steps = world.wire.names(told.outcome.req_id)
    assert (told.outcome.status, told.outcome.message) == (TransferStatus.FAILED, "insufficient funds")
    assert steps == steps_of(REFUSED_BY_SOURCE, *pair)
    assert world.row(told.outcome.req_id).error == "insufficient funds"
    assert await balances(world, *pair) == before
    await world.check()


@pytest.mark.parametrize("pair", TO_CORE.values(), ids=TO_CORE)
async def test_a_refusal_by_the_target(world: World, pair: tuple[str, str]) -> None:
    before = await balances(world, *pair)
    world.cores[pair[1]].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
    async with world.engine() as engine:
        told = await world.ask(engine, *pair)
        steps = world.wire.names(told.outcome.req_id)
    assert (told.outcome.status, told.outcome.message) == (TransferStatus.ROLLED_BACK, "closed for today")
    assert steps == steps_of(REFUSED_BY_TARGET, *pair)
    assert world.row(told.outcome.req_id).error == "closed for today"
    assert await balances(world, *pair) == before
    await world.check()


@pytest.mark.parametrize("trouble", [{"crash_before": 999}, {"crash_after": 999}, {"lose_replies": 999}], ids=str)
@pytest.mark.parametrize(("pair", "service", "operation"), CALLS)
async def test_pending_at_every_place_and_then_the_scanners_success(
    world: World, pair: str, service: str, operation: CoreOperation, trouble: dict[str, int]
) -> None:
    source, target = PAIRS[pair]
    before = await balances(world, source, target)
    world.cores[service].behave(Behaviour(ops=frozenset({operation}), **trouble))
    async with world.engine() as engine:
        told = await world.ask(engine, source, target)
        req_id = told.outcome.req_id
        assert told.outcome.status is TransferStatus.PENDING
        assert trio.current_time() <= 2.1
        record = await engine.get(req_id)
        assert record is not None
        assert not record.state.is_terminal
        assert not any(name.startswith(("void", f"{source}.rollback")) for name in world.wire.names(req_id))

        await trio.sleep(10)
        assert engine.statistics().open_transfers == 1, "it is asked again and again, and nothing is concluded"
        world.cores[service].behave(Behaviour())
        await world.heal(engine)
    assert world.row(req_id).state is TransferState.COMMITTED
    assert world.row(req_id).error == ""
    assert await balances(world, source, target) == [before[0] - 100, before[1] + 100]
    await world.check()


@pytest.mark.parametrize("trouble", [{"crash_before": 999}, {"lose_replies": 999}], ids=str)
@pytest.mark.parametrize("pair", [(FREEZING, DIRECT), (DIRECT, FREEZING)], ids=str)
async def test_a_pending_rollback_is_asked_again_until_it_is_done(
    world: World, pair: tuple[str, str], trouble: dict[str, int]
) -> None:
    source, target = pair
    world.cores[target].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
    world.cores[source].behave(Behaviour(ops=frozenset({CoreOperation.ROLLBACK}), **trouble))
    async with world.engine() as engine:
        told = await world.ask(engine, *pair)
        req_id = told.outcome.req_id
        assert told.outcome.status is TransferStatus.PENDING
        await trio.sleep(10)
        assert world.row(req_id).state is TransferState.COMPENSATING
        world.cores[source].behave(Behaviour())
        world.cores[target].behave(Behaviour(crash_before=999))  # it has refused: nobody needs it any more
        await world.heal(engine)
    assert world.row(req_id).state is TransferState.ROLLED_BACK
    assert world.row(req_id).error == "closed for today"
    assert await balances(world, *pair) == [1_000, 1_000]
    await world.check()


@pytest.mark.parametrize(("pair", "service", "operation"), [call for call in CALLS if call[2] != CoreOperation.COMMIT])
async def test_a_refusal_that_the_scanner_hears(
    world: World, pair: str, service: str, operation: CoreOperation
) -> None:
    source, target = PAIRS[pair]
    world.cores[service].behave(Behaviour(ops=frozenset({operation}), crash_before=999))
    async with world.engine() as engine:
        told = await world.ask(engine, source, target)
        world.cores[service].behave(Behaviour(ops=frozenset({operation}), refuse="closed for today"))
        await world.heal(engine)
    state = TransferState.FAILED if operation is CoreOperation.WITHDRAW else TransferState.ROLLED_BACK
    assert (world.row(told.outcome.req_id).state, world.row(told.outcome.req_id).error) == (state, "closed for today")
    assert (await balances(world, source, target))[0] == 1_000
    await world.check()


@pytest.mark.parametrize(
    ("pair", "step", "state"),
    [
        ("wallet->wallet", "hold", TransferState.INIT),
        ("core->core", "matching.withdraw", TransferState.SOURCE_PENDING),
        ("core->wallet", "post", TransferState.SOURCE_DONE),
        ("core->core", "bank.deposit", TransferState.TARGET_PENDING),
        ("core->core", "void", TransferState.COMPENSATING),
    ],
)
async def test_states_in_between_are_served_and_persisted_before_the_call(
    world: World, pair: str, step: str, state: TransferState
) -> None:
    if state is TransferState.COMPENSATING:
        world.cores[DIRECT].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
    async with world.engine() as engine, trio.open_nursery() as nursery:
        stop = world.wire.stop(step)
        nursery.start_soon(world.ask, engine, *PAIRS[pair])
        await stop.reached.wait()
        [req_id] = [entry.req_id for entry in world.wire.log if entry.name == "intent"]
        record = await engine.get(UUID(int=req_id))
        assert record is not None
        assert record.state is state
        if state not in {TransferState.INIT, TransferState.SOURCE_DONE}:
            assert world.records.rows[req_id].state is state
        stop.released.set()
    await world.check()
