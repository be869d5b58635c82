"""One key, many callers: joined, replayed, cancelled, late. Nobody's waiting changes what happens to the transfer."""

from typing import Any

import pytest
import trio
import trio.testing

from support.engines import DIRECT, FREEZING, PAIRS, World
from transfer_engine.engine.outcomes import KeyReused, Overloaded
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.schema.transfers import TransferState, TransferStatus


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_the_same_key_under_way_joins(world: World, pair: tuple[str, str]) -> None:
    before = [await world.spendable(1, service) for service in pair]
    async with world.engine() as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(lambda: world.ask(engine, *pair, key="key"))
        outcomes = [told.outcome for told in world.told]
        assert {outcome.status for outcome in outcomes} == {TransferStatus.COMMITTED}
        assert len({outcome.req_id for outcome in outcomes}) == 1
        assert sorted(outcome.replayed for outcome in outcomes) == [False, True, True, True, True]
        assert world.wire.names().count("intent") == world.wire.names().count("hold") == 1
        assert engine.statistics().replayed == 4
    assert [await world.spendable(1, service) for service in pair] == [before[0] - 100, before[1] + 100]
    await world.check()


async def test_a_refusal_is_joined_and_replayed_too(world: World) -> None:
    async with world.engine() as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(lambda: world.ask(engine, "funding", "trading", amount=5_000, key="key"))
        await world.ask(engine, "funding", "trading", amount=5_000, key="key")
    outcomes = [told.outcome for told in world.told]
    assert {(outcome.status, outcome.message) for outcome in outcomes} == {("failed", "insufficient funds")}
    assert sorted(outcome.replayed for outcome in outcomes) == [False, True, True]
    await world.check()


OTHER_BODIES: list[dict[str, Any]] = [{"amount": 99}, {"target": FREEZING}, {"source": DIRECT}, {"target_user_id": 2}]


@pytest.mark.parametrize("step", ["intent", "hold", "row committed"])
@pytest.mark.parametrize("other", OTHER_BODIES)
async def test_another_body_under_way_waits_for_the_ledgers_word(
    world: World, other: dict[str, Any], step: str
) -> None:
    asked = {"source": "funding", "target": "trading"} | other
    async with world.engine() as engine:
        async with trio.open_nursery() as nursery:
            stop = world.wire.stop(step)
            nursery.start_soon(lambda: world.ask(engine, "funding", "trading", key="key"))
            await stop.reached.wait()
            nursery.start_soon(lambda: world.ask(engine, asked.pop("source"), asked.pop("target"), key="key", **asked))
            await trio.testing.wait_all_tasks_blocked()
            stop.released.set()
        first, second = world.told
        assert first.outcome.status is TransferStatus.COMMITTED
        assert isinstance(second.answer, KeyReused)
        assert world.wire.names().count("row committed") == 1
    await world.check()


@pytest.mark.parametrize("other", OTHER_BODIES)
async def test_the_owner_of_a_key_is_answered_while_another_body_is_under_way(
    world: World, other: dict[str, Any]
) -> None:
    asked = {"source": "funding", "target": "trading"} | other
    async with world.engine() as engine:
        owner = await world.ask(engine, "funding", "trading", key="key")
        async with trio.open_nursery() as nursery:
            stop = world.wire.stop("intent")
            nursery.start_soon(lambda: world.ask(engine, asked.pop("source"), asked.pop("target"), key="key", **asked))
            await stop.reached.wait()
            nursery.start_soon(lambda: world.ask(engine, "funding", "trading", key="key"))
            await trio.testing.wait_all_tasks_blocked()
            stop.released.set()
        _, foreign, again = world.told
        assert isinstance(foreign.answer, KeyReused)
        assert (again.outcome.status, again.outcome.replayed) == (TransferStatus.COMMITTED, True)
        assert again.outcome.req_id == owner.outcome.req_id
    await world.check()


async def test_who_waited_for_a_contest_is_answered_by_its_deadline_all_the_same(world: World) -> None:
    async with world.engine() as engine, trio.open_nursery() as nursery:
        await world.ask(engine, "funding", "trading", key="key")
        stop = world.wire.stop("intent")
        nursery.start_soon(lambda: world.ask(engine, "funding", "trading", key="key", amount=5))
        await stop.reached.wait()
        began = trio.current_time()

        async def release() -> None:
            await trio.sleep(0.2)
            again.append(world.wire.stop("hold", after=True))  # the foreign body's
            again.append(world.wire.stop("intent"))  # the owner's own, which then waits, too
            stop.released.set()
            await again[0].reached.wait()
            again[0].released.set()

        again: list[Any] = []
        nursery.start_soon(release)
        told = await world.ask(engine, "funding", "trading", key="key", deadline_ms=300)
        assert told.outcome.status is TransferStatus.PENDING
        assert trio.current_time() == pytest.approx(began + 0.3)
        again[1].released.set()
        await world.heal(engine)
    await world.check()


async def test_a_contest_that_nobody_decides_is_answered_at_the_deadline_and_takes_nothing(world: World) -> None:
    async with world.engine() as engine, trio.open_nursery() as nursery:
        stop = world.wire.stop("hold")
        nursery.start_soon(lambda: world.ask(engine, "funding", "trading", key="key"))
        await stop.reached.wait()
        began = trio.current_time()
        told = await world.ask(engine, "funding", "trading", key="key", amount=5, deadline_ms=300)
        assert isinstance(told.answer, Overloaded)
        assert told.answer.is_retryable
        assert trio.current_time() == began + 0.3
        assert engine.statistics().open_transfers == 1
        stop.released.set()
        await world.heal(engine)
    await world.check()


async def test_keys_of_different_subjects_and_schemes_never_meet(world: World) -> None:
    async with world.engine() as engine:
        first = await world.ask(engine, "funding", "trading", key="key", subject="a")
        second = await world.ask(engine, "funding", "trading", key="key", subject="b", amount=50)
        credit = await engine.credit(user_id=1, account="trading", asset_id=1, amount=7, idempotency_key="key")
    assert len({first.outcome.req_id, second.outcome.req_id, credit.req_id}) == 3
    assert {first.outcome.status, second.outcome.status, credit.status} == {TransferStatus.COMMITTED}
    assert await world.spendable(1, "trading") == 157


async def test_an_alias_names_the_same_body(world: World) -> None:
    async with world.engine() as engine:
        first = await engine.transfer(
            source="funding", target="spot", user_id=1, asset_id=1, amount=100, idempotency_key="key"
        )
        again = await engine.transfer(
            source="funding", target="trading", user_id=1, asset_id=1, amount=100, idempotency_key="key"
        )
    assert (again.req_id, again.replayed) == (first.req_id, True)
    assert world.row(first.req_id).target == "trading"


async def test_a_deadline_answers_pending_and_the_work_goes_on(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(latency_ms=700))
    async with world.engine() as engine:
        began = trio.current_time()
        told = await world.ask(engine, "funding", FREEZING, deadline_ms=100)
        assert (told.outcome.status, trio.current_time() - began) == (TransferStatus.PENDING, 0.1)
        assert told.outcome.message == "Processing in background"
        joined = await world.ask(engine, "funding", FREEZING, deadline_ms=100)
        assert joined.outcome.req_id != told.outcome.req_id
        await trio.sleep(0.7)
        assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
        await world.heal(engine)
    await world.check()


async def test_the_engines_own_deadline(world: World) -> None:
    async with world.engine(deadline_ms=1_000) as engine:
        world.wire.down.add("ledger")
        began = trio.current_time()
        told = await world.ask(engine, "funding", "trading")
        assert told.outcome.status is TransferStatus.PENDING
        assert 0.9 <= trio.current_time() - began <= 1.0
        world.wire.down.clear()
        await world.heal(engine)
    await world.check()


async def test_a_joined_caller_has_a_deadline_of_its_own(world: World) -> None:
    async with world.engine() as engine, trio.open_nursery() as nursery:
        stop = world.wire.stop("hold")
        nursery.start_soon(lambda: world.ask(engine, "funding", "trading", key="key"))
        await stop.reached.wait()
        began = trio.current_time()
        joined = await world.ask(engine, "funding", "trading", key="key", deadline_ms=50)
        assert (joined.outcome.status, joined.outcome.replayed) == (TransferStatus.PENDING, True)
        assert trio.current_time() == began + 0.05
        stop.released.set()
        await world.heal(engine)
    assert world.told[0].outcome.status is TransferStatus.COMMITTED
    await world.check()


@pytest.mark.parametrize("step", ["intent", "accounts", "hold", "row target_pending", f"{FREEZING}.deposit", "post"])
async def test_a_cancelled_caller_cancels_nothing(world: World, step: str) -> None:
    async with world.engine() as engine:
        async with trio.open_nursery() as nursery:
            stop = world.wire.stop(step)
            nursery.start_soon(lambda: world.ask(engine, "funding", FREEZING, key="key"))
            await stop.reached.wait()
            nursery.cancel_scope.cancel()
        assert world.told[0].answer is None
        stop.released.set()
        await world.heal(engine)
        again = await world.ask(engine, "funding", FREEZING, key="key")
        assert (again.outcome.status, again.outcome.replayed) == (TransferStatus.COMMITTED, True)
    assert await world.spendable(1, "funding") == 900
    await world.check()


async def test_one_of_several_callers_is_cancelled_and_the_others_are_answered(world: World) -> None:
    async with world.engine() as engine:
        scopes = [trio.CancelScope() for _ in range(3)]

        async def ask(scope: trio.CancelScope) -> None:
            with scope:
                await world.ask(engine, "funding", "trading", key="key")

        async with trio.open_nursery() as nursery:
            stop = world.wire.stop("hold")
            for scope in scopes:
                nursery.start_soon(ask, scope)
            await stop.reached.wait()
            scopes[1].cancel()
            await trio.testing.wait_all_tasks_blocked()
            stop.released.set()
        assert sorted(told.answer is None for told in world.told) == [False, False, True]
    await world.check()


async def test_a_look_up_tells_what_was_told_while_the_key_is_asked_again(world: World) -> None:
    """I4: a resubmission, or another body, must not make a committed transfer look unfinished."""
    async with world.engine() as engine, trio.open_nursery() as nursery:
        first = await world.ask(engine, "funding", "trading", key="key")
        for amount in (100, 5):
            stop = world.wire.stop("hold")
            nursery.start_soon(lambda amount=amount: world.ask(engine, "funding", "trading", amount=amount, key="key"))
            await stop.reached.wait()
            record = await engine.get(first.outcome.req_id)
            assert record == world.row(first.outcome.req_id)
            stop.released.set()
            await world.heal(engine)
    await world.check()


async def test_callers_are_let_go_when_a_transfer_is_left_to_the_scanner(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=99_999))
    async with world.engine(service_timeout_ms=100) as engine:
        for pair in (("funding", FREEZING), (FREEZING, "funding")):
            began = trio.current_time()
            told = await world.ask(engine, *pair)
            assert told.outcome.status is TransferStatus.PENDING
            assert trio.current_time() - began < 0.2, "nothing will happen before its deadline"
            assert told.outcome.message == "Processing in background: the service raised SimulatedCrash"
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)
    await world.check()


async def test_transfers_without_a_key_are_never_joined(world: World) -> None:
    async with world.engine() as engine, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(lambda: world.ask(engine, "funding", "trading"))
    assert len({told.outcome.req_id for told in world.told}) == 10
    assert await world.spendable(1, "trading") == 1_000
    await world.check()
