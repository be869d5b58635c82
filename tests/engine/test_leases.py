"""The lease: while it has lapsed nothing is asked of ledger and cores, and afterwards everything goes on."""

from functools import partial

import pytest
import trio

from support.engines import DIRECT, FREEZING, PAIRS, World
from support.memory_records import take_over
from transfer_engine.engine.leases import Lease, LeaseLapsed
from transfer_engine.engine.outcomes import Overloaded, RefusalCode, Resolution
from transfer_engine.engine.records.protocol import ClaimLost
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.transfers import TransferState, TransferStatus

OF_RECORDS = {
    "find claim",
    "claim",
    "claims",
    "ceiling",
    "mark",
    "release",
    "intent",
    "get",
    "scan",
    "journal",
    "read mark",
}


def asked_of_others(world: World, since: float) -> list[str]:
    """Return what the ledger and the cores were asked after a moment, look-ups of the reconciler's apart."""
    return [
        entry.name
        for entry in world.wire.log
        if entry.time >= since
        and entry.name not in OF_RECORDS
        and not entry.name.startswith(("row ", "query", "lookup"))
    ]


def stop_beating(world: World) -> None:
    world.wire.next_fates["ceiling"] = ["lose_request"] * 10_000


def beat_again(world: World) -> None:
    world.wire.next_fates.clear()


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_a_lapsed_lease_asks_nothing_until_a_beat_succeeds(world: World, pair: tuple[str, str]) -> None:
    for core in world.cores.values():
        core.behave(Behaviour(pending_calls=10_000))
    async with world.engine(service_timeout_ms=3_000) as engine, trio.open_nursery() as nursery:
        stop_beating(world)
        for number in range(14):
            nursery.start_soon(partial(world.ask, engine, *pair, key=f"{number}", amount=10))
            await trio.sleep(1)
        await trio.sleep(20)
        assert asked_of_others(world, since=10.1) == []
        refused = await world.ask(engine, *pair)
        assert isinstance(refused.answer, Overloaded)
        assert refused.answer.code is RefusalCode.UNAVAILABLE
        assert engine.statistics().alerts.get("transfer_stuck") is None
        for transfer in engine._parts.open_transfers:
            with pytest.raises(Overloaded, match="lease has lapsed"):
                await engine.resolve(transfer.uuid, Resolution.VOID)
        for core in world.cores.values():
            core.behave(Behaviour())
        beat_again(world)
        await trio.sleep(3)
        await world.heal(engine)
        assert (await world.ask(engine, *pair, amount=10)).outcome.status is TransferStatus.COMMITTED
    for told in world.told:
        if not isinstance(told.answer, Overloaded):
            assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_a_lease_that_lapses_behind_any_step_is_seen_before_the_next(
    world: World, pair: tuple[str, str], is_refused: bool
) -> None:
    if is_refused and pair[1] in world.cores:
        world.cores[pair[1]].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
    async with world.engine() as engine:
        await world.ask(engine, *pair, amount=10)
        steps = [entry for entry in asked_of_others(world, since=-1) if entry != "accounts"]
    for step in dict.fromkeys(steps):
        async with world.engine(service_timeout_ms=60_000) as engine, trio.open_nursery() as nursery:
            reached = world.wire.stop(step, after=True)
            nursery.start_soon(partial(world.ask, engine, *pair, amount=10))
            await reached.reached.wait()
            stop_beating(world)
            await trio.sleep(13)
            lapsed_at = trio.current_time()
            reached.released.set()
            await trio.sleep(10)
            assert asked_of_others(world, since=lapsed_at) == [], step
            beat_again(world)
            await trio.sleep(3)
            await world.heal(engine)
    await world.check()


async def test_a_transfer_that_waits_in_its_mailbox_when_the_lease_lapses_is_refused(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(pending_calls=10_000))
    async with world.engine(service_timeout_ms=60_000, deadline_ms=60_000) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(partial(world.ask, engine, FREEZING, "funding", key="first"))
        stop_beating(world)
        await trio.sleep(5)
        nursery.start_soon(partial(world.ask, engine, "funding", "trading", key="second"))
        await trio.sleep(10)
        first, second = world.told
        assert isinstance(second.answer, Overloaded)
        assert engine.statistics().open_transfers == engine.statistics().unsettled_intents == 1
        assert "lease has lapsed" in str(second.answer)
        world.cores[FREEZING].behave(Behaviour())
        beat_again(world)
        await trio.sleep(3)
        again = await world.ask(engine, "funding", "trading", key="second")
        assert again.outcome.status is TransferStatus.COMMITTED
        await world.heal(engine)
        assert first.outcome.status is TransferStatus.PENDING
    await world.check()


@pytest.mark.parametrize("resolution", Resolution)
async def test_a_resolve_that_meets_a_lapse_stops_there(world: World, resolution: Resolution) -> None:
    world.cores[DIRECT].behave(Behaviour(pending_calls=10_000))
    async with world.engine() as engine:
        told = await world.ask(engine, FREEZING, DIRECT)
        await trio.sleep(1)
        step = world.wire.stop(f"{DIRECT}.cancel" if resolution is Resolution.VOID else f"{FREEZING}.withdraw")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.resolve, told.outcome.req_id, resolution)
            await step.reached.wait()
            stop_beating(world)
            world.cores[DIRECT].behave(Behaviour())
            await trio.sleep(11)
            lapsed_at = trio.current_time()
            step.released.set()
        await trio.sleep(10)
        assert len(asked_of_others(world, since=lapsed_at)) <= 1, "what was under way, and nothing after it"
        beat_again(world)
        await world.heal(engine)
    await world.check()


async def test_a_lease_counts_from_when_the_beat_was_sent(autojump_clock: object) -> None:
    lease = Lease(10_000)
    assert not lease.is_held
    with pytest.raises(LeaseLapsed, match="no heartbeat"):
        lease.require()
    sent_at = trio.current_time()
    await trio.sleep(4)
    lease.renew(sent_at)
    await trio.sleep(5.9)
    lease.require()
    await trio.sleep(0.2)
    assert not lease.is_held
    lease.renew(trio.current_time())
    lease.renew(sent_at)  # an older answer that comes late
    assert lease.is_held
    assert lease.not_held_because == ""
    lease.lose(ClaimLost("taken over"))
    lease.renew(trio.current_time())
    assert not lease.is_held
    assert "lost its claim" in lease.not_held_because
    assert lease.lost.is_set()


async def test_a_claim_that_is_lost_in_a_graceful_stop_is_no_error(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(latency_ms=6_000))
    async with trio.open_nursery() as nursery, world.engine(service_timeout_ms=60_000) as engine:
        nursery.start_soon(partial(world.ask, engine, "funding", FREEZING, key="key"))
        await trio.sleep(0.1)
        await take_over(world.records, 0)
    world.cores[FREEZING].behave(Behaviour())
    async with world.engine() as engine:
        await world.heal(engine)
    await world.check()


async def test_a_lapse_lets_no_transfer_overtake_those_of_its_user_that_came_before(world: World) -> None:
    """Their intents were on the way when it began; those that follow are accepted as soon as it is over."""
    async with world.engine(deadline_ms=1_000) as engine, trio.open_nursery() as nursery:
        await world.ask(engine, "funding", "trading", amount=1)
        append = world.wire.stop("intent", after=True)
        for number in range(3):
            nursery.start_soon(partial(world.ask, engine, "funding", "trading", key=f"early {number}", amount=1))
        await append.reached.wait()
        stop_beating(world)
        await trio.sleep(15)
        append.released.set()
        await trio.sleep(1)
        beat_again(world)
        while not (await engine.readiness()).ready:  # noqa: ASYNC110  the heartbeat's doing, a while away
            await trio.sleep(0.01)
        for number in range(3):
            nursery.start_soon(partial(world.ask, engine, "funding", "trading", key=f"late {number}", amount=1))
        await trio.sleep(60)
        await world.heal(engine)
    early, late = (
        [told.outcome.req_id.int for told in world.told if str(told.asked["idempotency_key"]).startswith(word)]
        for word in ("early", "late")
    )
    held = [entry.req_id for entry in world.wire.log if entry.name == "hold"]
    assert {told.outcome.status for told in world.told[1:4]} == {TransferStatus.PENDING}
    assert max(held.index(req_id) for req_id in early) < min(held.index(req_id) for req_id in late)
    await world.check()
