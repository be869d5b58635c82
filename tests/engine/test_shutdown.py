"""How an engine stops: drained, or at once; and what its embedder sees of it."""

import pytest
import trio

from support.engines import FREEZING, PAIRS, World
from support.memory_records import take_over
from transfer_engine.engine.outcomes import Overloaded
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.schema.transfers import TransferState, TransferStatus


class EmbeddersOwn(Exception):
    pass


async def test_an_exception_of_the_embedder_comes_out_as_it_is(world: World) -> None:
    with pytest.raises(EmbeddersOwn):
        async with world.engine():
            raise EmbeddersOwn


async def test_a_record_store_that_is_down_at_the_end_is_no_exception(world: World) -> None:
    async with world.engine():
        world.wire.down.add("records")


async def test_a_lost_claim_at_the_end_is_no_exception(world: World) -> None:
    async with world.engine():
        await take_over(world.records, 0)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_a_graceful_stop_drains_what_is_under_way(world: World, pair: tuple[str, str]) -> None:
    for core in world.cores.values():
        core.behave(Behaviour(latency_ms=300))
    async with trio.open_nursery() as nursery:
        async with world.engine() as engine:
            stop = world.wire.stop("hold")
            for _ in range(3):
                nursery.start_soon(world.ask, engine, *pair)
            await stop.reached.wait()
            assert engine.statistics().open_transfers == 3

            async def release() -> None:
                await trio.sleep(0.2)
                stop.released.set()

            nursery.start_soon(release)
        assert {told.outcome.status for told in world.told} == {TransferStatus.COMMITTED}
    assert engine.statistics().unsettled_intents == 0
    await world.check()


async def test_a_stop_waits_no_longer_than_its_deadline_and_lets_callers_go(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(latency_ms=60_000))
    async with trio.open_nursery() as nursery:
        async with world.engine(shutdown_ms=1_500, service_timeout_ms=60_000, deadline_ms=60_000) as engine:
            nursery.start_soon(lambda: world.ask(engine, "funding", FREEZING, key="key"))
            nursery.start_soon(lambda: world.ask(engine, FREEZING, "funding", key="other"))
            await trio.sleep(0.1)
        assert 1.5 <= trio.current_time() <= 1.7
        assert [told.outcome.status for told in world.told] == [TransferStatus.PENDING] * 2
    world.cores[FREEZING].behave(Behaviour())
    async with world.engine() as engine:
        assert engine.statistics().recovered == 2
        await world.heal(engine)
    assert {world.row(told.outcome.req_id).state for told in world.told} == {TransferState.COMMITTED}
    await world.check()


async def test_a_stop_while_the_backends_are_down_ends_too(world: World) -> None:
    async with trio.open_nursery() as nursery:
        async with world.engine(shutdown_ms=1_000) as engine:
            world.wire.down |= {"ledger", "records"}
            nursery.start_soon(lambda: world.ask(engine, "funding", "trading", key="key"))
            await trio.sleep(0.1)
        assert trio.current_time() < 5
    async with world.engine() as engine:
        await world.heal(engine)
    await world.check()


async def test_users_that_are_touched_once_leave_nothing_behind(world: World) -> None:
    users = 4_000
    async with world.engine(idle_ms=1_000, known_accounts_most=100, mailbox_capacity=10, waiting_least=9_000) as engine:
        async with trio.open_nursery() as nursery:
            for user_id in range(10, 10 + users):
                nursery.start_soon(
                    lambda user_id=user_id: engine.credit(user_id=user_id, account="funding", asset_id=1, amount=5)
                )
        await trio.sleep(5)
        parts = engine._parts
        statistics = engine.statistics()
        assert (statistics.open_transfers, statistics.unsettled_intents, statistics.drives_under_way) == (0, 0, 0)
        assert (statistics.users.actors, statistics.users.messages_waiting) == (0, 0)
        assert statistics.users.tasks_spare == 0
        assert len(parts.submitter._known) <= 100
        assert len(parts.deadlines._queue) == 0
        assert statistics.ended == {"committed": users}
    await world.check()


@pytest.mark.parametrize("deadline_ms", [None, 60_000])
@pytest.mark.parametrize("amount", [100, 200], ids=["joining", "contesting"])
async def test_nobody_waits_for_an_engine_that_has_ended(world: World, amount: int, deadline_ms: int | None) -> None:
    """A caller that still has the engine in its hand asks for a key that was under way at the end."""
    with trio.CancelScope() as life:
        async with world.engine() as engine, trio.open_nursery() as nursery:
            stop = world.wire.stop("hold")
            nursery.start_soon(lambda: world.ask(engine, "funding", "trading", key="key"))
            await stop.reached.wait()
            life.cancel()
    with trio.move_on_after(120) as patience:
        late = await world.ask(engine, "funding", "trading", key="key", amount=amount, deadline_ms=deadline_ms)
    assert not patience.cancelled_caught
    if amount == 100:
        assert late.outcome.status is TransferStatus.PENDING
    else:
        assert isinstance(late.answer, Overloaded)
    async with world.engine() as engine:
        await world.heal(engine)
    await world.check()
