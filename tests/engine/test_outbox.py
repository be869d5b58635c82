"""The outbox: whoever has an endpoint is told of each of his transfers' ends, whatever dies; and not for ever again."""

from itertools import count

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from support.engines import FREEZING, Machine, World, in_a_loop, until
from support.receivers import Receivers
from support.wire import Wire
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.outbox_limits import OutboxLimits
from transfer_engine.engine.records.protocol import OUTBOX_SHARDS, ClaimLost
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.transfers import TransferState

QUICK = {"heartbeat_ms": 2_000, "lease_ms": 6_000, "adoption_recheck_ms": 10_000, "scan_interval_ms": 2_000}


async def new_world(*told: int, limits: OutboxLimits | None = None, **settings: object) -> tuple[World, Receivers]:
    """Return a world in which users 1 to 3 have money, and these have endpoints; nobody was told of the deposits."""
    world = World(**settings)
    await world.fund(1, 2, 3)
    world.outbox = limits or OutboxLimits()
    receivers = Receivers(world)
    await receivers.register(*told)
    return world, receivers


async def ask_several(world: World, engine: Engine) -> None:
    """Ask for a transfer to another user, one to a core, one by a key twice, and one that is refused."""
    await world.ask(engine, "funding", "trading", user_id=1, target_user_id=2)
    await world.ask(engine, "funding", FREEZING, user_id=2)
    for _ in range(2):
        await world.ask(engine, "funding", "trading", user_id=2, key="one")
    await world.ask(engine, "funding", "trading", user_id=1, amount=5_000)
    await world.ask(engine, "funding", "trading", user_id=3)


# Nothing is lost


@pytest.mark.parametrize("fate", ["cut_before", "cut_after", "lose_answer"])
def test_an_engine_that_dies_at_any_call_has_told_everything_in_the_end(fate: str) -> None:
    async def once(number: int) -> bool:
        world, receivers = await new_world(1, 2)

        async def live(world: World, engine: Engine) -> None:
            async with receivers.serve(engine):
                await ask_several(world, engine)

        is_over = await world.live(live, number=number, fate=fate)
        async with world.engine() as engine:
            await receivers.drain(engine)
        receivers.check(1, 2)
        await world.check()
        assert not [key for key in world.records.blobs if key[0] >= OUTBOX_SHARDS]
        return is_over

    for number in count(1):
        if in_a_loop(lambda number=number: once(number)):
            assert number > 15
            break


@pytest.mark.parametrize("fate", ["cut_before", "cut_after"])
def test_another_engine_tells_what_one_could_not_that_died_at_any_call(fate: str) -> None:
    async def once(number: int) -> bool:
        world, receivers = await new_world(1, 2, **QUICK)

        async def live(world: World, engine: Engine) -> None:
            await ask_several(world, engine)
            await world.heal(engine)

        is_over = await world.live(live, number=number, fate=fate)
        async with world.engine(node=1, machine=Machine()) as engine:
            await world.adopt(engine)
            await receivers.drain(engine)
        receivers.check(1, 2)
        assert len(receivers.told) == len({message.key for message in receivers.told})
        assert not [key for key in world.records.blobs if key[0] >= OUTBOX_SHARDS]
        return is_over

    for number in count(1):
        if in_a_loop(lambda number=number: once(number)):
            assert number > 15
            break


@pytest.mark.parametrize("fate", ["cut_before", "cut_after"])
def test_an_adopter_may_die_as_well(fate: str) -> None:
    async def once(number: int) -> bool:
        world, receivers = await new_world(1, 2, **QUICK)
        async with world.engine() as engine:
            await ask_several(world, engine)
            await world.heal(engine)

        async def adopt(world: World, engine: Engine) -> None:
            await world.adopt(engine)

        wire = Wire()
        wire.fate_after_opening = (number, fate)
        with wire.scope:
            async with world.engine(wire, node=1, machine=Machine()) as engine:
                wire.opened()
                await world.adopt(engine)
        async with world.engine(node=2, machine=Machine()) as engine:
            await world.adopt(engine, shards=0 if wire.fates else 1)
            await receivers.drain(engine)
        async with world.engine(node=1, machine=Machine()) as engine:
            await receivers.drain(engine)
        receivers.check(1, 2)
        return bool(wire.fates)

    for number in count(1):
        if in_a_loop(lambda number=number: once(number)):
            assert number > 10
            break


async def test_what_a_woken_engine_writes_too_late_is_told_by_its_adopter(autojump_clock: object) -> None:
    """It stopped before it wrote message and row. When it wakes, its outbox is settled, and its row lands anyway."""
    world, receivers = await new_world(1, **QUICK)
    wire = Wire()
    write = wire.stop("outbox")

    async def ask_for_ever() -> None:
        async with world.engine(wire) as engine:
            await world.ask(engine, "funding", "trading")
            await trio.sleep_forever()

    async def stop_and_wake() -> None:
        with pytest.raises(ClaimLost):
            await ask_for_ever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_and_wake)
        await write.reached.wait()
        wire.pause()
        way = Wire()
        hold = way.stop("hold")  # the adopter's own end of it comes after the woken one's
        async with world.engine(way, node=1, machine=Machine()) as other:
            await world.adopt_only(other)
            write.released.set()
            wire.resume()
            await until(lambda: "row committed" in wire.names())
            assert receivers.told == []
            hold.released.set()
            await receivers.drain(other)
    receivers.check(1)


# In the end, and not for ever


async def test_only_users_with_an_endpoint_are_told_and_it_costs_the_others_nothing(autojump_clock: object) -> None:
    world, receivers = await new_world()
    async with world.engine() as engine:
        await ask_several(world, engine)
        await receivers.drain(engine)
        assert "outbox" not in world.wire.names()
    assert receivers.told == []


async def test_what_was_delivered_is_not_told_again_by_the_next_life(autojump_clock: object) -> None:
    world, receivers = await new_world(1, 2, 3)
    for _ in range(3):
        async with world.engine() as engine, receivers.serve(engine):
            await ask_several(world, engine)
            await trio.sleep(25)
    receivers.check(1, 2, 3)
    assert len(receivers.told) == len({message.key for message in receivers.told}) == 16


async def test_a_graceful_stop_leaves_only_what_was_not_delivered(autojump_clock: object) -> None:
    world, receivers = await new_world(1, 2, 3)
    receivers.failing = {3}
    for _ in range(3):
        async with world.engine() as engine, receivers.serve(engine):
            await ask_several(world, engine)
            await trio.sleep(25)
    receivers.failing = set()
    async with world.engine(node=1, machine=Machine()) as other:
        await world.adopt(other)
        await receivers.drain(other)
    receivers.check(1, 2, 3)
    assert len(receivers.told) == len({message.key for message in receivers.told}) == 16


async def test_one_that_fails_delays_no_other_and_holds_up_no_mark(autojump_clock: object) -> None:
    world, receivers = await new_world(1, 3)
    receivers.failing = {1}
    async with world.engine() as engine, receivers.serve(engine) as outbox:
        await world.ask(engine, "funding", "trading", user_id=1)
        await world.ask(engine, "funding", "trading", user_id=3)
        await trio.sleep(1)
        await trio.testing.wait_all_tasks_blocked()  # his message is on its way as he is answered
        assert [message.to_user_id for message in receivers.told] == [3]
        bucket = outbox.current_bucket
        await trio.sleep(600)
        assert outbox.statistics().low_water_mark > bucket + 45
        assert outbox.statistics().carried_forward >= 5
    assert len(receivers.attempts) in range(110, 125)
    receivers.failing = set()
    async with world.engine() as engine:
        await receivers.drain(engine)
    receivers.check(1, 3)
    assert [message.attempts > 100 for message in receivers.told] == [False, True]
    assert [message.to_user_id for message in receivers.told] == [3, 1]


async def test_a_users_messages_come_in_order_also_after_failures(autojump_clock: object) -> None:
    world, receivers = await new_world(1)
    receivers.failing = {1}
    async with world.engine() as engine, receivers.serve(engine):
        for amount in range(1, 11):
            await world.ask(engine, "funding", "trading", amount=amount)
        await trio.sleep(100)
        receivers.failing = set()
        await trio.sleep(10)
    assert [message.amount for message in receivers.told] == list(range(1, 11))


@pytest.mark.parametrize("waiting_most", [1, 2, 7])
async def test_what_has_no_room_in_memory_waits_in_the_store(waiting_most: int, autojump_clock: object) -> None:
    world, receivers = await new_world(1, 2, 3, limits=OutboxLimits(waiting_most=waiting_most))
    receivers.delivery_s = 0.5
    async with world.engine() as engine, receivers.serve(engine) as outbox:
        most = 0
        for amount in range(1, 31):
            await world.ask(engine, "funding", "trading", user_id=amount % 3 + 1, amount=amount)
            most = max(most, outbox.statistics().waiting)
        assert outbox.statistics().is_full
        assert most <= waiting_most
    async with world.engine() as engine:
        await receivers.drain(engine)
    receivers.check(1, 2, 3)
    for user_id in (1, 2, 3):
        amounts = [message.amount for message in receivers.told if message.to_user_id == user_id]
        assert list(dict.fromkeys(amounts)) == sorted(set(amounts))


async def test_an_endpoint_that_falls_behind_too_far_is_disabled(autojump_clock: object) -> None:
    world, receivers = await new_world(1, 3, limits=OutboxLimits(endpoint_waiting_most=5))
    receivers.failing = {1}
    async with world.engine() as engine, receivers.serve(engine) as outbox:
        for _ in range(7):
            await world.ask(engine, "funding", "trading", user_id=1, amount=1)
        await trio.sleep(2)
        stored = await outbox.endpoints.get(1)
        assert stored is not None
        assert stored.disabled_because == "more than 5 messages waited for it"
        assert (outbox.statistics().waiting, outbox.statistics().dropped) == (0, 6)
        assert engine.statistics().alerts["webhook_endpoint_disabled"] == 1
        await world.ask(engine, "funding", "trading", user_id=1, amount=1)
        await world.ask(engine, "funding", "trading", user_id=3)
        await trio.testing.wait_all_tasks_blocked()  # his message is on its way as he is answered
        assert [message.to_user_id for message in receivers.told] == [3]
        receivers.failing = set()
        await outbox.endpoints.enable(1)
        await world.ask(engine, "funding", "trading", user_id=1, amount=9)
        await trio.sleep(1)
        assert receivers.told[-1].amount == 9


async def test_a_failing_endpoint_makes_room_for_the_others(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer_engine.engine.outbox.CROWD_LEAST", 3)
    world, receivers = await new_world(1, 3, limits=OutboxLimits(waiting_most=6))
    receivers.failing = {1}
    async with world.engine() as engine, receivers.serve(engine) as outbox:
        for _ in range(6):
            await world.ask(engine, "funding", "trading", user_id=1, amount=1)
        await world.ask(engine, "funding", "trading", user_id=3)
        await until(lambda: receivers.told)
        assert outbox.statistics().disabled_endpoints == 1
        assert receivers.told[0].to_user_id == 3


async def test_an_endpoint_that_was_taken_away_is_told_nothing_more(autojump_clock: object) -> None:
    world, receivers = await new_world(1)
    receivers.failing = {1}
    async with world.engine() as engine, receivers.serve(engine) as outbox:
        await world.ask(engine, "funding", "trading", amount=1)
        assert await outbox.endpoints.remove(1)
        assert not await outbox.endpoints.remove(1)
        assert await outbox.endpoints.get(1) is None
        receivers.failing = set()
        await world.ask(engine, "funding", "trading", amount=2)
        await trio.sleep(60)
        endpoint, is_new = await outbox.endpoints.register(1, "https://new.example/")
        assert is_new
        assert endpoint.secret.startswith("whsec_")
        await world.ask(engine, "funding", "trading", amount=3)
        await trio.sleep(1)
    assert [message.amount for message in receivers.told] == [3]


async def test_engines_learn_of_each_others_endpoints(autojump_clock: object) -> None:
    world, receivers = await new_world()
    async with world.engine() as engine, world.engine(node=1, machine=Machine()) as other, receivers.serve(engine):
        assert other.outbox is not None
        await other.outbox.endpoints.register(1, "https://new.example/")
        await trio.sleep(40)
        await world.ask(engine, "funding", "trading")
        await until(lambda: receivers.told)


async def test_a_store_that_does_not_answer_is_asked_again(autojump_clock: object) -> None:
    world, receivers = await new_world(1)
    async with world.engine() as engine, receivers.serve(engine) as outbox:
        world.wire.down = {"records"}
        await trio.sleep(5)
        assert engine.statistics().alerts["outbox_interrupted"] >= 1
        world.wire.down = set()
        await world.ask(engine, "funding", "trading")
        await until(lambda: receivers.told)
        assert outbox.statistics().delivered == 1


async def test_a_damaged_blob_is_alerted_and_the_others_are_delivered(autojump_clock: object) -> None:
    world, receivers = await new_world(1)
    async with world.engine() as engine:
        for _ in range(2):
            await world.ask(engine, "funding", "trading", amount=1)
    first, *_ = [key for key in sorted(world.records.blobs) if key[0] == OUTBOX_SHARDS]
    world.records.blobs[first] = b"\xc1"
    async with world.engine() as engine:
        await receivers.drain(engine)
        assert engine.statistics().alerts["outbox_damaged"] == 1
    assert len(receivers.told) == 1


@given(
    fates=st.dictionaries(
        st.integers(5, 120), st.sampled_from(["lose_request", "lose_answer", "cut_before", "cut_after"]), max_size=6
    ),
    failing=st.lists(st.sets(st.sampled_from([1, 2, 3])), min_size=1, max_size=4),
    waiting_most=st.sampled_from([1, 3, 100]),
)
def test_whatever_is_lost_and_whoever_dies_every_end_is_told(
    fates: dict[int, str], failing: list[set[int]], waiting_most: int
) -> None:
    async def once() -> None:
        world, receivers = await new_world(1, 2, 3, limits=OutboxLimits(waiting_most=waiting_most))
        for fails in failing:
            receivers.failing = fails
            wire = Wire(dict(fates))
            with wire.scope:
                async with world.engine(wire) as engine, receivers.serve(engine):
                    await ask_several(world, engine)
                    await trio.sleep(30)
        receivers.failing = set()
        async with world.engine() as engine:
            await receivers.drain(engine)
        receivers.check(1, 2, 3)
        assert all(row.state in TransferState for row in world.records.rows.values())

    in_a_loop(once)


async def test_a_core_that_is_slow_is_told_of_when_it_has_ended(autojump_clock: object) -> None:
    world, receivers = await new_world(1)
    world.cores[FREEZING].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), pending_calls=2))
    async with world.engine() as engine, receivers.serve(engine):
        await world.ask(engine, "funding", FREEZING)
        await until(lambda: receivers.told)
    assert receivers.told[0].state is TransferState.COMMITTED
