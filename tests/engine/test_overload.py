"""Overload and outages: refused early, by the right code, with nothing taken; and what was taken is never lost."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from support.engines import FREEZING, PAIRS, World
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.outcomes import InvalidTransfer, Overloaded, RefusalCode
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.schema.transfers import TransferState, TransferStatus


async def nothing_was_taken(world: World, engine: Engine, act: Callable[[], Any]) -> Overloaded:
    """Return the refusal, having seen that it left nothing."""
    before = (engine.statistics().open_transfers, engine.statistics().unsettled_intents, world.wire.calls)
    told = await act()
    assert (engine.statistics().open_transfers, engine.statistics().unsettled_intents, world.wire.calls) == before
    assert isinstance(told.answer, Overloaded), told
    assert told.answer.is_retryable
    assert told.answer.retry_after_s > 0
    return told.answer


async def test_a_full_mailbox(world: World) -> None:
    async with world.engine(mailbox_capacity=3) as engine, trio.open_nursery() as nursery:
        stop = world.wire.stop("hold")
        for _ in range(3):
            nursery.start_soon(world.ask, engine, "funding", "trading")
        await stop.reached.wait()
        refusal = await nothing_was_taken(world, engine, lambda: world.ask(engine, "funding", "trading", key="key"))
        assert refusal.code is RefusalCode.OVERLOADED
        assert "user 1" in refusal.message
        other = await world.ask(engine, "funding", "trading", user_id=2, deadline_ms=1)
        assert other.outcome.status is TransferStatus.PENDING, "another user's mailbox has room"
        stop.released.set()
        await world.heal(engine)
        again = await world.ask(engine, "funding", "trading", key="key")
        assert again.outcome.status is TransferStatus.COMMITTED
    await world.check()


async def test_too_many_open_transfers(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine(open_transfers_most=3) as engine:
        for _ in range(3):
            assert (await world.ask(engine, "funding", FREEZING)).outcome.status is TransferStatus.PENDING
        refusal = await nothing_was_taken(
            world, engine, lambda: world.ask(engine, "funding", "trading", user_id=2, key="key")
        )
        assert refusal.code is RefusalCode.OVERLOADED
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)
        again = await world.ask(engine, "funding", "trading", user_id=2, key="key")
        assert again.outcome.status is TransferStatus.COMMITTED
    await world.check()


async def test_joining_needs_no_room(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine(open_transfers_most=1) as engine:
        first = await world.ask(engine, "funding", FREEZING, key="key")
        joined = await world.ask(engine, "funding", FREEZING, key="key", deadline_ms=10)
        assert joined.outcome.req_id == first.outcome.req_id
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)


async def test_shutting_down(world: World) -> None:
    async with world.engine() as engine:
        engine.begin_shutdown()
        refusal = await nothing_was_taken(world, engine, lambda: world.ask(engine, "funding", "trading"))
        assert refusal.code is RefusalCode.SHUTTING_DOWN
        assert not (await engine.readiness()).ready


@pytest.mark.parametrize("backend", ["ledger", "records"])
async def test_an_outage_refuses_what_is_new_and_keeps_what_was_taken(world: World, backend: str) -> None:
    async with world.engine() as engine:
        world.wire.down.add(backend)
        taken = await world.ask(engine, "funding", "trading", key="taken")
        assert taken.outcome.status is TransferStatus.PENDING, "unknown is never failed, and never 503"
        assert trio.current_time() <= 2.1
        refusal = await nothing_was_taken(world, engine, lambda: world.ask(engine, "funding", "trading", key="new"))
        assert refusal.code is RefusalCode.UNAVAILABLE
        assert ("ledger" if backend == "ledger" else "record store") in refusal.message
        readiness = await engine.readiness()
        assert not getattr(readiness, backend).ready
        assert not readiness.ready
        await trio.sleep(9)

        world.wire.down.clear()
        await world.heal(engine)
        assert (await engine.readiness()).ready
        assert (await world.ask(engine, "funding", "trading", key="taken")).outcome.status == "committed"
        assert (await world.ask(engine, "funding", "trading", key="new")).outcome.status == "committed"
        assert engine.statistics().supervisor.children[0].restarts == 0
    assert world.row(taken.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


@pytest.mark.parametrize("fate", ["lose_request", "lose_answer"])
async def test_an_intent_whose_append_is_unknown_is_appended_again_and_answered_pending(
    world: World, fate: str
) -> None:
    async with world.engine() as engine:
        world.wire.next_fates["intent"] = [fate] * 40
        told = await world.ask(engine, "funding", "trading", key="key")
        assert told.outcome.status is TransferStatus.PENDING
        assert "hold" not in world.wire.names(), "intent first"
        world.wire.next_fates.clear()
        await world.heal(engine)
        assert (await engine.get(told.outcome.req_id)).state is TransferState.COMMITTED  # type: ignore[union-attr]
    await world.check()


@pytest.mark.parametrize("backend", ["ledger", "records"])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_an_outage_while_transfers_are_under_way_sets_none_aside(
    world: World, pair: tuple[str, str], backend: str
) -> None:
    """It lasts for many scans; replays that meet it are no crashes of the transfer's."""
    for core in world.cores.values():
        core.behave(Behaviour(crash_before=999))
    async with world.engine() as engine:
        told = await world.ask(engine, *pair, key="key")
        world.wire.down.add(backend)
        await trio.sleep(60)
        world.wire.down.clear()
        for core in world.cores.values():
            core.behave(Behaviour())
        await world.heal(engine)
        assert "transfer_set_aside" not in engine.statistics().alerts
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


async def test_a_replay_that_can_not_read_the_record_is_asked_again(world: World) -> None:
    async with world.engine() as engine:
        first = await world.ask(engine, "funding", "trading", key="key")
        world.wire.next_fates["get"] = ["lose_answer"] * 10
        again = await world.ask(engine, "funding", "trading", key="key")
        assert again.outcome.status is TransferStatus.PENDING
        await world.heal(engine, within_s=120)
        assert "transfer_set_aside" not in engine.statistics().alerts
        last = await world.ask(engine, "funding", "trading", key="key")
        assert (last.outcome.status, last.outcome.req_id) == ("committed", first.outcome.req_id)
    await world.check()


async def test_a_ledger_that_breaks_while_it_is_down_does_not_stay_down_for_ever(world: World) -> None:
    """The batch that met the outage is set aside; then nobody asks any more, unless new work is let in."""
    async with world.engine() as engine:
        original = world.ledger.create_transfers

        async def broken(transfers):  # type: ignore[no-untyped-def]
            raise RuntimeError("this ledger is broken")

        world.wire.next_fates["hold"] = ["lose_request"]
        world.ledger.create_transfers = broken  # type: ignore[method-assign]
        told = await world.ask(engine, "funding", "trading", key="key")
        assert told.outcome.status is TransferStatus.PENDING
        await trio.sleep(10)
        world.ledger.create_transfers = original  # type: ignore[method-assign]
        await trio.sleep(10)
        other = await world.ask(engine, "funding", "trading", user_id=2)
        assert other.outcome.status is TransferStatus.COMMITTED


@pytest.mark.parametrize("deadline_ms", [-1, float("nan"), "5", True, None.__class__])
async def test_a_deadline_that_is_none_is_refused_before_anything_is_taken(world: World, deadline_ms: Any) -> None:
    async with world.engine() as engine:
        with pytest.raises(InvalidTransfer) as refused:
            await engine.transfer(
                source="funding", target="trading", user_id=1, asset_id=1, amount=1, deadline_ms=deadline_ms
            )
        assert (refused.value.code, refused.value.field) == (RefusalCode.INVALID_TYPE, "deadline_ms")
        assert engine.statistics().open_transfers == 0
    assert await world.spendable(1, "funding") == 1_000


async def test_a_deadline_of_zero_is_a_look(world: World) -> None:
    async with world.engine() as engine:
        told = await world.ask(engine, "funding", "trading", deadline_ms=0)
        assert told.outcome.status is TransferStatus.PENDING
        await world.heal(engine)
        assert world.row(told.outcome.req_id).state is TransferState.COMMITTED


async def test_a_core_is_not_trampled_where_there_is_no_gap_between_replays(world: World) -> None:
    async with world.engine(replay_gap_ms=0, service_timeout_ms=1_000) as engine:
        with trio.fail_after(60):
            world.cores[FREEZING].behave(Behaviour(crash_before=100))
            await world.ask(engine, "funding", FREEZING)
        assert world.wire.names().count(f"{FREEZING}.deposit") < 20
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)
