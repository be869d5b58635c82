"""How a life begins: at once where the former one is certainly over, after its lease where not, never beside it."""

import pytest
import trio

from support.engines import BORN_MS, FREEZING, Machine, World, now_ms, until
from support.memory_records import MemoryRecords, take_over
from support.wire import Wire, WiredRecords
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.backends import Opening
from transfer_engine.engine.former_lives import TOKENS_MOST, Alone, FormerLives, LifeFile, Strangers
from transfer_engine.engine.lives import ADOPTER, Begun, NodeInUse, begin_life
from transfer_engine.engine.patience import Patience
from transfer_engine.engine.records.protocol import BUCKET_MS, ClaimLost
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.schema.transfers import TransferState, TransferStatus


async def begin(
    store, former_lives: FormerLives | None = None, *, opening: Opening | None = None, alerts: Alerts | None = None
) -> Begun:
    return await begin_life(
        store,
        node=0,
        clock_ms=now_ms,
        ahead_ms=10_000,
        heartbeat_ms=2_500,
        lease_ms=10_000,
        former_lives=former_lives or Strangers(),
        patience=Patience(alerts or Alerts(), opening),
    )


async def die(world: World, machine: Machine | None = None) -> None:
    """Live a life that is killed."""
    wire = Wire()
    with wire.scope:
        async with world.engine(wire, machine=machine):
            await trio.sleep(5)
            wire.cut()


# After a former life


async def test_a_restart_on_the_same_machine_waits_for_nothing(world: World) -> None:
    await die(world)
    began = trio.current_time()
    async with world.engine() as engine:
        assert trio.current_time() - began < 0.1
        assert (await world.ask(engine, "funding", "trading")).outcome.status is TransferStatus.COMMITTED


async def test_a_restart_elsewhere_waits_for_the_lease_and_says_so(world: World) -> None:
    await die(world)
    began = trio.current_time()
    opening = Opening()
    said: list[str] = []
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            await trio.sleep(5)
            said.append(opening.waits_for)

        nursery.start_soon(listen)
        begun = await begin(world.records, Machine(), opening=opening)
    assert 12.5 <= trio.current_time() - began <= 15.1
    assert begun.life.epoch == 3
    assert said == ["the lease of the engine that had node 0 to be over"]
    assert opening.waits_for == ""


async def test_after_a_graceful_stop_a_restart_anywhere_waits_for_nothing(world: World) -> None:
    async with world.engine():
        pass
    began = trio.current_time()
    async with world.engine(machine=Machine()):
        assert trio.current_time() - began < 0.1


async def test_a_node_that_runs_is_in_use(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(NodeInUse, match=r"node 0 is claimed by a running engine: give this engine another `node`"):
            async with world.engine(machine=Machine()):
                pass
        await trio.sleep(30)
        assert (await world.ask(engine, "funding", "trading")).outcome.status is TransferStatus.COMMITTED


async def test_of_two_that_begin_at_once_one_is_told_that_the_node_is_in_use(world: World) -> None:
    await die(world)
    lives: list[Begun] = []
    refused: list[NodeInUse] = []

    async def live() -> None:
        try:
            async with world.engine(machine=Machine()) as engine:
                lives.append(engine)
                await trio.sleep(60)
        except NodeInUse as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(live)
    assert (len(lives), len(refused)) == (1, 2)


async def test_an_adopter_gives_way_at_once(world: World) -> None:
    await take_over(world.records, 0, f"{ADOPTER}another")
    began = trio.current_time()
    await begin(world.records)
    assert trio.current_time() - began < 0.1


async def test_a_claim_that_is_lost_while_it_is_asked_for_is_watched_anew(world: World) -> None:
    wire = Wire()
    store = WiredRecords(world.records, wire)
    wire.interludes[2] = lambda: take_over(world.records, 0, "faster")
    began = trio.current_time()
    begun = await begin(store)
    assert trio.current_time() - began >= 12.5
    assert begun.life.epoch == 3


@pytest.mark.parametrize("fate", ["lose_request", "lose_answer"])
@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_store_that_does_not_answer_is_asked_again(world: World, number: int, fate: str) -> None:
    store = WiredRecords(world.records, Wire({number: fate}))
    alerts = Alerts()
    begun = await begin(store, alerts=alerts)
    assert alerts.counts() == {"records_unavailable": 1}
    claim = world.records.claim_of[0]
    assert (claim.epoch, claim.owner, claim.beat) == (begun.life.epoch, begun.life.owner, 1)
    assert begun.life.epoch == 2


async def test_an_engine_begins_when_its_record_store_is_there(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine() as engine:
        told = await world.ask(engine, "funding", FREEZING)
    world.cores[FREEZING].behave(Behaviour())
    wire = Wire()
    wire.down.add("records")
    async with trio.open_nursery() as nursery:

        async def come_back() -> None:
            for _ in range(40):  # there for one call at a time
                await trio.sleep(7)
                wire.down.discard("records")
                calls = wire.calls
                await until(lambda: wire.calls > calls, every_s=0.001)  # noqa: B023  awaited at once
                wire.down.add("records")
            wire.down.clear()

        nursery.start_soon(come_back)
        async with world.engine(wire) as engine:
            assert engine.statistics().alerts["records_unavailable"] > 5
            assert engine.statistics().recovered == 1
            wire.down.clear()
            nursery.cancel_scope.cancel()
    async with world.engine() as engine:
        await world.heal(engine)
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


async def test_waiting_for_a_record_store_can_be_given_up(world: World) -> None:
    wire = Wire()
    wire.down.add("records")
    with trio.move_on_after(100) as scope:
        async with world.engine(wire):
            pass
    assert scope.cancelled_caught


async def test_a_recovery_that_takes_longer_than_the_lease_keeps_the_claim(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine(node=7, shutdown_ms=0) as engine:
        told = await world.ask(engine, "funding", FREEZING)
    mark = world.records.marks[7]
    world.cores[FREEZING].behave(Behaviour())
    wire = Wire()
    stop = wire.stop("get")
    async with world.engine(node=1, machine=Machine()) as other, trio.open_nursery() as nursery:

        async def release() -> None:
            await stop.reached.wait()
            await trio.sleep(100)
            assert world.records.marks[7] == mark, "nothing that was not read yet counts as settled"
            stop.released.set()

        nursery.start_soon(release)
        async with world.engine(wire, node=7) as engine:
            await world.heal(engine)
        assert 7 not in other.statistics().adoption.held
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


async def test_a_claim_that_is_lost_during_recovery_ends_the_opening(world: World) -> None:
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading")
    wire = Wire()
    stop = wire.stop("get")
    async with trio.open_nursery() as nursery:

        async def usurp() -> None:
            await stop.reached.wait()
            await take_over(world.records, 0)

        nursery.start_soon(usurp)
        with pytest.raises(ClaimLost, match="start it again"):
            async with world.engine(
                wire,
            ):
                pytest.fail("it must not open")


# Clocks


async def test_a_clock_that_steps_back_for_an_hour_issues_on(world: World) -> None:
    step_ms = 0
    async with world.engine(clock_ms=lambda: now_ms() + step_ms) as engine:
        issued = []
        for second in range(120):
            if second == 30:
                step_ms = -3_600_000
            issued += [(await world.ask(engine, "funding", "trading", amount=1)).outcome.req_id for _ in range(5)]
            await trio.sleep(1)
        assert issued == sorted(set(issued))
        # Buckets go on, at half their speed: 45 s in these 90.
        assert 4 <= engine._parts.journal.current_bucket - (BORN_MS + 30_000) // BUCKET_MS <= 5
    async with world.engine() as engine:
        told = await world.ask(engine, "funding", "trading", amount=1)
        assert told.outcome.req_id > issued[-1]
    await world.check()


async def test_a_clock_that_jumps_ahead_takes_the_ceiling_with_it(world: World) -> None:
    step_ms = 0
    async with world.engine(clock_ms=lambda: now_ms() + step_ms) as engine:
        first = await world.ask(engine, "funding", "trading", amount=1)
        step_ms = 3_600_000
        second = await world.ask(engine, "funding", "trading", amount=1)  # below the former ceiling
        await trio.sleep(5)
        third = await world.ask(engine, "funding", "trading", amount=1)
        step_ms = 0
        await trio.sleep(60)
        fourth = await world.ask(engine, "funding", "trading", amount=1)
        issued = [told.outcome.req_id for told in (first, second, third, fourth)]
        assert issued == sorted(set(issued))
        assert world.records.claim_of[0].ceiling_ms > now_ms() + 3_000_000
    async with world.engine(node=1, machine=Machine()) as other:
        await trio.sleep(100)
        assert other.statistics().adoption.taken_over == 0
    await world.check()


# What a machine remembers


async def test_the_life_file_remembers_until_a_claim_is_certain(tmp_path) -> None:
    lives = LifeFile(tmp_path)
    assert not lives.is_dead("a")
    await lives.begin("a")
    lives = LifeFile(tmp_path)
    await lives.begin("b")
    lives = LifeFile(tmp_path)
    assert lives.is_dead("a")
    assert lives.is_dead("b")
    assert not lives.is_dead("c")
    await lives.begin("c")
    await lives.began("c")
    lives = LifeFile(tmp_path)
    assert [lives.is_dead(token) for token in "abc"] == [False, False, True]
    for number in range(100):
        await lives.begin(str(number))
    assert len((tmp_path / "life").read_text().split()) == TOKENS_MOST
    assert [path.name for path in tmp_path.iterdir()] == ["life"]


async def test_who_is_alone_knows_everybody_dead_and_strangers_nobody() -> None:
    assert Alone().is_dead("anybody")
    strangers = Strangers()
    await strangers.begin("a")
    await strangers.began("a")
    assert not strangers.is_dead("a")


async def test_memory_records_are_claimed_by_a_first_life_at_once(world: World) -> None:
    begun = await begin(MemoryRecords())
    assert (begun.life.epoch, begun.lease.is_held) == (1, True)
