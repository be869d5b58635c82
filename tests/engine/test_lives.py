"""Lives: what is promised is durable first, a new life starts above all former ones, a lost claim asks nothing."""

from collections.abc import Callable

import pytest
import trio

from support.engines import BORN_MS, FREEZING, Machine, World, now_ms
from support.memory_records import MemoryRecords, take_over
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.lives import begin_life
from transfer_engine.engine.outcomes import Overloaded, RefusalCode
from transfer_engine.engine.patience import Patience
from transfer_engine.engine.records.protocol import ClaimLost, Life
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.schema.ids import SNOWFLAKE_EPOCH_MS, SnowflakeGenerator, snowflake_of
from transfer_engine.schema.transfers import TransferState, TransferStatus


def milliseconds_of(req_id: int) -> int:
    return (snowflake_of(req_id) >> 22) + SNOWFLAKE_EPOCH_MS


async def begin(
    store: MemoryRecords,
    machine: Machine,
    *,
    node: int = 0,
    clock_ms: Callable[[], int] = now_ms,
    ahead_ms: int = 10_000,
) -> tuple[Life, SnowflakeGenerator]:
    begun = await begin_life(
        store,
        node=node,
        clock_ms=clock_ms,
        ahead_ms=ahead_ms,
        heartbeat_ms=2_500,
        lease_ms=10_000,
        former_lives=machine,
        patience=Patience(Alerts()),
    )
    return begun.life, begun.identifiers


async def test_identifiers_stay_below_the_durable_ceiling(world: World) -> None:
    async with world.engine() as engine:
        for _ in range(20):
            told = await world.ask(engine, "funding", "trading", amount=1)
            assert milliseconds_of(told.outcome.req_id.int) <= world.records.claim_of[0].ceiling_ms
            await trio.sleep(1.7)


async def test_the_next_life_issues_above_the_former_ones_ceiling(world: World) -> None:
    highest = 0
    for _ in range(4):
        async with world.engine() as engine:
            ceiling = world.records.claim_of[0].ceiling_ms
            for _ in range(3):
                told = await world.ask(engine, "funding", "trading", amount=1)
                assert told.outcome.req_id.int > highest
                highest = told.outcome.req_id.int
        async with world.engine() as engine:
            told = await world.ask(engine, "funding", "trading", amount=1)
            assert milliseconds_of(told.outcome.req_id.int) > ceiling
            highest = told.outcome.req_id.int
    await world.check()


async def test_a_clock_that_steps_back_between_lives_repeats_nothing(world: World) -> None:
    store, machine = MemoryRecords(), Machine()
    seen: list[int] = []
    for clock_ms in (BORN_MS, BORN_MS - 10**9, BORN_MS + 5, 0):
        life, generator = await begin(
            store, machine, node=3, clock_ms=lambda clock_ms=clock_ms: clock_ms, ahead_ms=1_000
        )
        assert life.epoch == len(seen) // 10 + 1
        seen += [generator.issue() for _ in range(10)]
        assert store.claim_of[3].ceiling_ms >= generator.logical_ms
    assert sorted(set(seen)) == seen


async def test_an_engine_that_restarts_again_and_again_does_not_run_ahead_of_the_clock(world: World) -> None:
    store, machine = MemoryRecords(), Machine()
    seen: list[int] = []
    for _ in range(100):
        _, generator = await begin(store, machine)
        seen += [generator.issue() for _ in range(5)]
        await trio.sleep(0.2)
    assert sorted(set(seen)) == seen
    assert store.claim_of[0].ceiling_ms <= now_ms() + 11_000


async def test_an_engine_ahead_of_the_clock_has_identifiers_enough_until_its_next_beat(world: World) -> None:
    store, machine = MemoryRecords(), Machine()
    await begin(store, machine, ahead_ms=600_000)
    _, generator = await begin(store, machine)
    for _ in range(100_000):
        generator.issue()
    assert generator.ceiling_ms > generator.logical_ms


async def test_without_a_heartbeat_identifiers_run_out_and_keys_go_on(world: World) -> None:
    async with world.engine(ceiling_ahead_ms=10_000, lease_ms=600_000) as engine:
        world.wire.next_fates["ceiling"] = ["lose_request"] * 1_000
        await trio.sleep(60)
        assert engine.statistics().alerts["heartbeat_failed"] > 10
        ceiling = engine._parts.journal._identifiers
        ceiling._sequence = (1 << 12) - 1  # the last millisecond is used up
        told = await world.ask(engine, "funding", "trading")
        assert isinstance(told.answer, Overloaded)
        assert told.answer.code is RefusalCode.UNAVAILABLE
        keyed = await world.ask(engine, "funding", "trading", key="key")
        assert keyed.outcome.status is TransferStatus.COMMITTED
        world.wire.next_fates.clear()
        await trio.sleep(3)
        assert (await world.ask(engine, "funding", "trading")).outcome.status is TransferStatus.COMMITTED
    await world.check()


async def test_a_lost_claim_asks_nothing_more_and_ends_the_engine(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    asked: list[str] = []
    with pytest.raises(ClaimLost):  # noqa: PT012  the engine's context raises it
        async with world.engine() as engine:
            waiting = await world.ask(engine, "funding", FREEZING)
            await take_over(world.records, 0)
            with trio.CancelScope(shield=True):  # of an embedder that takes its time
                await trio.sleep(5)
                assert engine.statistics().alerts["claim_lost"] == 1
                asked = asked_of_others(world)
                told = await world.ask(engine, "funding", "trading", key="key")
                assert isinstance(told.answer, Overloaded)
                assert not (await engine.readiness()).ready
                await trio.sleep(60)
                assert asked_of_others(world) == asked
            await trio.sleep_forever()
    assert asked_of_others(world) == asked
    world.cores[FREEZING].behave(Behaviour())
    async with world.engine() as engine:
        await world.heal(engine)
    assert world.row(waiting.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


def asked_of_others(world: World) -> list[str]:
    return [name for name in world.wire.names() if name in {"hold", "post", "accounts", f"{FREEZING}.deposit"}]


async def test_a_claim_that_is_lost_after_the_intent_was_taken_asks_nothing_of_the_ledger(world: World) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ClaimLost):  # noqa: PT012  the engine's context raises it
            async with world.engine() as engine:
                stop = world.wire.stop("intent")
                nursery.start_soon(lambda: world.ask(engine, "funding", "trading", key="key", deadline_ms=9_000))
                await stop.reached.wait()
                await take_over(world.records, 0)
                await trio.sleep(2.6)
                stop.released.set()
                await trio.sleep(9)
        assert trio.current_time() < 5
        assert world.told[0].outcome.status is TransferStatus.PENDING
        assert not {"accounts", "hold"} & set(world.wire.names())
    async with world.engine() as engine:
        await world.heal(engine)
    assert world.row(world.told[0].outcome.req_id).state is TransferState.COMMITTED
    await world.check()


async def test_a_lost_claim_moves_no_mark(world: World) -> None:
    with pytest.raises(ClaimLost):  # noqa: PT012  the engine's context raises it
        async with world.engine():
            await take_over(world.records, 0)
            mark = world.records.marks.get(0, 0)
            await trio.sleep(100)
    assert world.records.marks.get(0, 0) == mark


@pytest.mark.parametrize("fate", ["lose_request", "lose_answer"])
async def test_a_beat_that_was_lost_raises_nothing_too_early(world: World, fate: str) -> None:
    async with world.engine(lease_ms=600_000) as engine:
        for _ in range(10):
            world.wire.next_fates["ceiling"] = [fate]
            world.wire.next_fates["mark"] = [fate]
            await trio.sleep(2.5)
            told = await world.ask(engine, "funding", "trading", amount=1)
            assert milliseconds_of(told.outcome.req_id.int) <= world.records.claim_of[0].ceiling_ms
    await world.check()
