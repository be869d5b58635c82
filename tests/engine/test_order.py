"""I6: one user's transfers reach their sources in the order in which they were accepted."""

import pytest
import trio
import trio.testing

from support.engines import DIRECT, FREEZING, PAIRS, World
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.transfers import TransferStatus

REACHES = {"hold", f"{FREEZING}.withdraw", f"{DIRECT}.withdraw"}


async def ask_in_order(world: World, engine: Engine, asked: list[tuple[str, str]], nursery: trio.Nursery) -> list[int]:
    """Ask for transfers of user 1, one after the other, without waiting for answers; return their `req_id`s."""
    accepted = []
    for source, target in asked:
        before = {transfer.req_id for transfer in engine._parts.open_transfers}
        nursery.start_soon(lambda source=source, target=target: world.ask(engine, source, target, amount=1))
        await trio.testing.wait_all_tasks_blocked()
        [req_id] = {transfer.req_id for transfer in engine._parts.open_transfers} - before
        accepted.append(req_id)
    return accepted


def reached(world: World) -> list[int]:
    """Return the transfers in the order in which they reached their sources, each at its first time."""
    holds = {entry.req_id: index for index, entry in reversed(list(enumerate(world.wire.log))) if entry.name == "hold"}
    withdraws = {
        entry.req_id: index
        for index, entry in reversed(list(enumerate(world.wire.log)))
        if entry.name.endswith(".withdraw")
    }
    return sorted(holds, key=lambda req_id: withdraws.get(req_id, holds[req_id]))


@pytest.mark.parametrize("batch_most", [1, 3, 512])
async def test_across_batches_of_the_mailbox(world: World, batch_most: int) -> None:
    async with world.engine(user_batch_most=batch_most) as engine, trio.open_nursery() as nursery:
        await world.ask(engine, "funding", "trading", amount=1)
        stop = world.wire.stop("hold")
        accepted = await ask_in_order(world, engine, [("funding", "trading"), ("trading", "funding")] * 4, nursery)
        stop.released.set()
        await world.heal(engine)
        assert reached(world)[1:] == accepted
    await world.check()


@pytest.mark.parametrize("batch_most", [1, 3, 512])
async def test_all_pairs_reach_their_sources_in_order(world: World, batch_most: int) -> None:
    """The ledger and the cores each see them in order; a core's transfer reaches it when its withdraw is called."""
    async with world.engine(user_batch_most=batch_most) as engine, trio.open_nursery() as nursery:
        stop = world.wire.stop("intent")
        accepted = await ask_in_order(world, engine, [*PAIRS.values()] * 3, nursery)
        stop.released.set()
        await world.heal(engine)
        for name in REACHES:
            firsts = list(dict.fromkeys(entry.req_id for entry in world.wire.log if entry.name == name))
            assert firsts == [req_id for req_id in accepted if req_id in firsts], name
    await world.check()


async def test_what_is_in_order_decides_who_gets_the_money(world: World) -> None:
    """Each takes all there is: only the first one gets it, whatever it waits for."""
    async with world.engine() as engine, trio.open_nursery() as nursery:
        stop = world.wire.stop("intent")
        for target in (FREEZING, "trading", DIRECT, "trading"):
            nursery.start_soon(lambda target=target: world.ask(engine, "funding", target, amount=1_000))
            await trio.testing.wait_all_tasks_blocked()
        stop.released.set()
        await world.heal(engine)
        told = {told.asked["target"]: told.outcome.status for told in world.told}
    assert told == {FREEZING: "committed", "trading": "failed", DIRECT: "failed"}
    await world.check()


@pytest.mark.parametrize("batch_most", [1, 512])
@pytest.mark.parametrize("source", [FREEZING, "funding"])
async def test_those_behind_a_slow_core_go_on(world: World, source: str, batch_most: int) -> None:
    target = FREEZING if source == "funding" else "funding"
    world.cores[FREEZING].behave(Behaviour(latency_ms=60_000))
    async with world.engine(user_batch_most=batch_most, service_timeout_ms=300) as engine:
        async with trio.open_nursery() as nursery:
            stop = world.wire.stop("intent")
            for pair in ((source, target), ("funding", "trading"), (source, target), ("funding", DIRECT)):
                nursery.start_soon(world.ask, engine, *pair)
                await trio.testing.wait_all_tasks_blocked()
            stop.released.set()
        told = {told.asked["target"]: told.outcome.status for told in world.told}
        assert told == {target: "pending", "trading": "committed", DIRECT: "committed"}
        assert trio.current_time() < 2.2
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)
    await world.check()


async def test_wallet_pairs_behind_many_calls_of_a_slow_core_are_answered_in_time(world: World) -> None:
    """The ledger took them in the same trip: their answers do not wait for a core that is none of theirs."""
    world.cores[FREEZING].behave(Behaviour(latency_ms=60_000))
    async with world.engine() as engine:
        async with trio.open_nursery() as nursery:
            stop = world.wire.stop("intent")
            nursery.start_soon(lambda: world.ask(engine, DIRECT, "funding", amount=1))
            await stop.reached.wait()
            for _ in range(3):
                nursery.start_soon(lambda: world.ask(engine, FREEZING, "funding", amount=1))
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(world.ask, engine, "funding", "trading")
            await trio.testing.wait_all_tasks_blocked()
            stop.released.set()
        told = {told.asked["source"]: told.outcome.status for told in world.told}
        assert told == {DIRECT: "committed", FREEZING: "pending", "funding": "committed"}
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)
    await world.check()


@pytest.mark.parametrize("step", ["intent", "hold", f"{FREEZING}.withdraw"])
async def test_after_a_restart_unfinished_ones_come_first(world: World, step: str) -> None:
    async def die(world: World, engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            stop = world.wire.stop(step, after=True)
            source = "funding" if step != f"{FREEZING}.withdraw" else FREEZING
            for number in range(3):
                nursery.start_soon(
                    lambda number=number: world.ask(engine, source, "trading", amount=1_000, key=f"before {number}")
                )
                await trio.testing.wait_all_tasks_blocked()
            await stop.reached.wait()
            nursery.start_soon(lambda: world.ask(engine, "funding", DIRECT, amount=1_000, key="lost"))
            await trio.testing.wait_all_tasks_blocked()
            world.wire.cut()

    await world.live(die, number=999, fate="")
    source = "funding" if step != f"{FREEZING}.withdraw" else FREEZING
    async with world.engine() as engine:
        recovered = engine.statistics().recovered
        assert recovered > 0
        stop = world.wire.stop("hold")
        with trio.move_on_after(0):
            await world.ask(engine, source, DIRECT if source == "funding" else "funding", amount=1_000, key="after")
        stop.released.set()
        await world.heal(engine)
        told = await world.ask(engine, source, "trading", amount=1_000, key="before 0")
        assert told.outcome.status is TransferStatus.COMMITTED, "it came first, and took all there was"
        last = await world.ask(engine, source, DIRECT if source == "funding" else "funding", amount=1_000, key="after")
        assert last.outcome.status is TransferStatus.FAILED
    await world.check()


async def test_users_do_not_wait_for_each_other(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(ops=frozenset({CoreOperation.WITHDRAW}), latency_ms=900))
    async with world.engine() as engine, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: world.ask(engine, FREEZING, "funding", user_id=2))
        await trio.sleep(0.1)
        began = trio.current_time()
        told = await world.ask(engine, "funding", "trading", user_id=1)
        assert told.outcome.status is TransferStatus.COMMITTED
        assert trio.current_time() == began
    await world.check()
