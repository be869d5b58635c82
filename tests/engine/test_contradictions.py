"""Somebody else ends a hold at the worst moment, or a core breaks its word: what is final stays, what is not waits.

Another engine, or an operator elsewhere, is played by its leg, sent to the ledger behind the engine's back.
"""

from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest
import trio

from support.engines import DIRECT, FREEZING, PAIRS, Told, World
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.services.protocol import Failed, Success
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.transfers import TransferState, TransferStatus


async def leg_of_another(world: World, engine: Engine, leg: int) -> UUID:
    """Send a post (even) or void (odd) of the one transfer under way."""
    await trio.sleep(0.25)
    [transfer] = engine._parts.open_transfers
    event = transfer.body.void(leg) if leg % 2 else transfer.body.post(leg)
    [answer] = await world.ledger.create_transfers([event])
    assert answer.status.name == "CREATED"
    await trio.sleep(0.25)
    return transfer.uuid


async def interrupted(
    world: World, engine: Engine, pair: str, step: str, act: Callable[[], Awaitable[object]], *, after: bool = False
) -> Told:
    """Ask for a transfer, and act just before (or after) one of its steps."""
    stop = world.wire.stop(step, after=after)
    told: list[Told] = []

    async def ask() -> None:
        told.append(await world.ask(engine, *PAIRS[pair]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await stop.reached.wait()
        await act()
        stop.released.set()
    return told[0]


@pytest.mark.parametrize("pair", ["wallet->core", "wallet->core without freeze", "core->core"])
async def test_a_targets_success_that_meets_a_void_is_a_contradiction(world: World, pair: str) -> None:
    target = PAIRS[pair][1]
    async with world.engine() as engine:
        told = await interrupted(
            world, engine, pair, f"{target}.deposit", lambda: leg_of_another(world, engine, 3), after=True
        )
        req_id = told.outcome.req_id
        assert told.outcome.status is TransferStatus.PENDING
        assert engine.statistics().alerts["contradiction"] == 1
        await trio.sleep(20)
        assert engine.statistics().open_transfers == 1
        assert world.row(req_id).state is TransferState.TARGET_PENDING, "no terminal state"
        assert f"{PAIRS[pair][0]}.rollback" not in world.wire.names(req_id)
        assert "void" not in world.wire.names(req_id)
    assert await world.spendable(1, target) == 1_100, "the target's Success stays"


@pytest.mark.parametrize("pair", ["core->wallet", "core without freeze->wallet"])
async def test_a_sources_success_that_meets_a_void_gets_its_amount_back(world: World, pair: str) -> None:
    source = PAIRS[pair][0]
    async with world.engine() as engine:
        told = await interrupted(
            world, engine, pair, f"{source}.withdraw", lambda: leg_of_another(world, engine, 3), after=True
        )
        assert (told.outcome.status, told.outcome.message) == (TransferStatus.ROLLED_BACK, "voided by an operator")
        steps = world.wire.names(told.outcome.req_id)
        assert steps[-6:] == ["post", "row compensating", "void", f"{source}.rollback", "get", "row rolled_back"]
        assert f"{source}.commit" not in steps
    assert await world.spendable(1, source) == 1_000
    await world.check()


@pytest.mark.parametrize("pair", PAIRS)
async def test_a_post_by_another_is_this_ones_too(world: World, pair: str) -> None:
    source, target = PAIRS[pair]
    before = [await world.spendable(1, service) for service in (source, target)]
    async with world.engine() as engine:
        if pair == "wallet->wallet":
            stop = world.wire.stop("hold")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.ask, engine, source, target)
                await stop.reached.wait()
                [transfer] = engine._parts.open_transfers
                await world.ledger.create_transfers([transfer.body.hold(), transfer.body.post(4)])
                stop.released.set()
            told = world.told[0]
        else:
            told = await interrupted(world, engine, pair, "post", lambda: leg_of_another(world, engine, 4))
        assert told.outcome.status is TransferStatus.COMMITTED
    row = world.row(told.outcome.req_id)
    [leg] = await world.ledger.lookup_transfers([told.outcome.req_id.int | 4])
    assert row.updated_at == leg.timestamp // 1_000_000, "whoever writes the last row writes the same one"
    assert [await world.spendable(1, service) for service in (source, target)] == [before[0] - 100, before[1] + 100]
    await world.check()


@pytest.mark.parametrize("pair", ["wallet->core", "core->core"])
async def test_a_void_by_another_after_the_targets_refusal_is_this_ones_too(world: World, pair: str) -> None:
    source, target = PAIRS[pair]
    world.cores[target].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
    async with world.engine() as engine:
        told = await interrupted(world, engine, pair, "void", lambda: leg_of_another(world, engine, 5))
        assert told.outcome.status is TransferStatus.ROLLED_BACK
    assert await world.spendable(1, source) == 1_000
    await world.check()


@pytest.mark.parametrize("pair", ["wallet->core", "core->core"])
async def test_a_refusal_by_the_target_that_meets_a_post_is_a_contradiction(world: World, pair: str) -> None:
    source, target = PAIRS[pair]
    world.cores[target].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
    async with world.engine() as engine:
        told = await interrupted(world, engine, pair, "void", lambda: leg_of_another(world, engine, 2))
        assert told.outcome.status is TransferStatus.PENDING
        assert engine.statistics().alerts["contradiction"] == 1
        await trio.sleep(20)
        assert world.row(told.outcome.req_id).state is TransferState.COMPENSATING
        assert f"{source}.rollback" not in world.wire.names(told.outcome.req_id), "a posted hold is never rolled back"


@pytest.mark.parametrize("pair", ["core->wallet", "core->core"])
async def test_a_refusal_by_the_source_that_meets_a_post_is_a_contradiction(world: World, pair: str) -> None:
    source, _ = PAIRS[pair]
    world.cores[source].behave(Behaviour(ops=frozenset({CoreOperation.WITHDRAW}), refuse="closed for today"))
    async with world.engine() as engine:
        told = await interrupted(world, engine, pair, "void", lambda: leg_of_another(world, engine, 2))
        assert told.outcome.status is TransferStatus.PENDING
        assert engine.statistics().alerts["contradiction"] == 1
        await trio.sleep(20)
        assert not world.row(told.outcome.req_id).state.is_terminal


async def test_a_source_that_takes_its_word_back_once_the_target_was_asked_voids_nothing(world: World) -> None:
    """The deposit may have been taken by then: a void would make money out of nothing."""
    world.cores[DIRECT].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), crash_after=999))
    async with world.engine() as engine:
        told = await world.ask(engine, FREEZING, DIRECT)
        req_id = told.outcome.req_id
        assert world.row(req_id).state is TransferState.TARGET_PENDING
        world.wire.forged[f"{FREEZING}.withdraw"] = Failed("never heard of it")
        await trio.sleep(20)
        assert "void" not in world.wire.names(req_id)
        assert engine.statistics().alerts["contradiction"] > 0
        world.wire.forged.clear()
        world.cores[DIRECT].behave(Behaviour())
        await world.heal(engine)
    assert world.row(req_id).state is TransferState.COMMITTED
    await world.check()


async def test_a_refused_commit_is_an_alert_and_no_doubt_about_the_transfer(world: World) -> None:
    async with world.engine() as engine:
        world.wire.forged[f"{FREEZING}.commit"] = Failed("no")
        told = await world.ask(engine, FREEZING, "funding")
        assert told.outcome.status is TransferStatus.COMMITTED
        assert engine.statistics().alerts["commit_refused"] == 1


async def test_a_refused_rollback_is_a_contradiction(world: World) -> None:
    world.cores[DIRECT].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
    async with world.engine() as engine:
        world.wire.forged[f"{FREEZING}.rollback"] = Failed("no")
        told = await world.ask(engine, FREEZING, DIRECT)
        assert told.outcome.status is TransferStatus.PENDING
        assert engine.statistics().alerts["contradiction"] == 1
        await trio.sleep(10)
        assert world.row(told.outcome.req_id).state is TransferState.COMPENSATING


@pytest.mark.parametrize("step", ["withdraw", "commit", "deposit", "rollback"])
@pytest.mark.parametrize("garbage", [None, True, "success", Success])
async def test_an_answer_that_is_none_is_pending(world: World, step: str, garbage: object) -> None:
    service = DIRECT if step == "deposit" else FREEZING
    if step == "rollback":
        world.cores[DIRECT].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
    async with world.engine() as engine:
        world.wire.forged[f"{service}.{step}"] = garbage
        told = await world.ask(engine, FREEZING, DIRECT)
        assert told.outcome.status is TransferStatus.PENDING
        world.wire.forged.clear()
        await world.heal(engine)
    await world.check()


@pytest.mark.parametrize("reason", ["", "\ud800 half a character", "x" * 1_000_000], ids=["empty", "surrogate", "huge"])
async def test_a_reason_that_no_row_can_hold_is_made_to_fit(world: World, reason: str) -> None:
    async with world.engine() as engine:
        world.wire.forged[f"{FREEZING}.withdraw"] = Failed(reason)
        told = await world.ask(engine, FREEZING, "funding")
    assert told.outcome.status is TransferStatus.FAILED
    error = world.row(told.outcome.req_id).error
    assert error
    assert len(error.encode()) <= 2_000


@pytest.mark.parametrize(
    ("pair", "leg", "state"), [("wallet->core", 2, "committed"), ("core->wallet", 3, "rolled_back")]
)
async def test_a_leg_that_another_body_has_used_tells_what_it_did(
    world: World, pair: str, leg: int, state: str
) -> None:
    """Two bodies of one key between the same accounts differ in the fingerprint alone, and in the amount."""

    async def end_by_other_body() -> None:
        [transfer] = engine._parts.open_transfers
        event = transfer.body.void(leg) if leg % 2 else transfer.body.post(leg)
        event.user_data_64 = 1
        [answer] = await world.ledger.create_transfers([event])
        assert answer.status.name == "CREATED"

    async with world.engine() as engine:
        told = await interrupted(world, engine, pair, "post", end_by_other_body)
        assert told.outcome.status.value == state
    await world.check()
