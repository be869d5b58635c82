"""Adoption: what an engine leaves that died or stopped, another one ends; and one that wakes does no harm."""

from functools import partial
from itertools import count

import pytest
import trio

from support.engines import DIRECT, FREEZING, PAIRS, Machine, World, in_a_loop, until
from support.wire import Wire
from transfer_engine.engine.callers import Answer, TransferOrder
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.former_lives import Alone
from transfer_engine.engine.outcomes import KeyReused, Overloaded
from transfer_engine.engine.records.protocol import ClaimLost, JournalBlob
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.transfers import TransferState, TransferStatus, encode_intents


async def ask_twice(pair: tuple[str, str], world: World, engine: Engine) -> None:
    """Ask for one transfer, twice by its key, and for one that is refused."""
    await world.ask(engine, *pair, key="one")
    await world.ask(engine, *pair, key="one")
    await world.ask(engine, *pair, amount=5_000, key="too much")


async def ask_in_vain(pair: tuple[str, str], world: World, engine: Engine) -> None:
    """Ask for a transfer that the target refuses."""
    world.cores[pair[1]].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
    await world.ask(engine, *pair, key="refused")


QUICK = {"heartbeat_ms": 2_000, "lease_ms": 6_000, "adoption_recheck_ms": 10_000, "scan_interval_ms": 2_000}
"""Less to wait for, where one life after the other is lived."""

PROGRAMS = [pytest.param(partial(ask_twice, pair), id=name) for name, pair in PAIRS.items()]
PROGRAMS += [
    pytest.param(partial(ask_in_vain, PAIRS[name]), id=f"{name} refused") for name in ("wallet->core", "core->core")
]


# Engines that died


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("fate", ["cut_before", "cut_after"])
def test_another_engine_ends_what_one_left_that_died_at_any_call(program, fate: str) -> None:
    async def once(number: int) -> bool:
        world = World(**QUICK)
        await world.fund(1)
        is_over = await world.live(program, number=number, fate=fate)
        is_released = world.records.claim_of[0].owner == ""
        async with world.engine(node=1, machine=Machine()) as engine:
            await world.adopt(engine, shards=0 if is_released else 1)
        await world.check()
        assert world.records.claim_of[0].owner == ""
        return is_over

    for number in count(1):
        if in_a_loop(lambda number=number: once(number)):
            assert number > 5
            break


@pytest.mark.parametrize("program", PROGRAMS[:4])
def test_an_adopter_that_dies_at_any_call_is_followed_by_another(program) -> None:
    async def once(number: int) -> bool:
        world = World(**QUICK)
        await world.fund(1)
        await world.live(program, number=5, fate="cut_after")
        wire = Wire({number: "cut_after"})
        with wire.scope:
            async with world.engine(wire, node=1, machine=Machine()) as engine:
                await world.adopt(engine)
        unreleased = sum(claim.owner != "" for claim in world.records.claim_of.values())
        async with world.engine(node=2, machine=Machine()) as engine:
            await world.adopt(engine, shards=unreleased)
        await world.check()
        return not wire.is_cut

    for number in [*range(7, 40), *range(40, 1_000, 9)]:
        if in_a_loop(lambda number=number: once(number)):
            assert number > 40
            break


async def test_two_engines_are_killed_in_turn_and_the_third_has_it_all(world: World) -> None:
    for node in (0, 1):
        wire = Wire()
        world.cores[FREEZING].behave(Behaviour(crash_before=999))
        with wire.scope:
            async with world.engine(wire, node=node, machine=Machine()) as engine, trio.open_nursery() as nursery:
                if node == 1:
                    await until(lambda: engine.statistics().adoption.taken_over)
                for number, pair in enumerate(PAIRS.values()):
                    for user_id in (1, 2):
                        key = f"{node} {number}"
                        nursery.start_soon(partial(world.ask, engine, *pair, user_id=user_id, amount=10, key=key))
                await trio.sleep(0.5)
                wire.cut()
    world.cores[FREEZING].behave(Behaviour())
    async with world.engine(node=2, machine=Machine()) as engine:
        await world.adopt(engine, shards=2)
        assert engine.statistics().adoption.transfers >= 5
    await world.check()
    assert len(world.told) == 28


async def test_of_two_adopters_one_has_it(world: World) -> None:
    await world.live(partial(ask_twice, PAIRS["core->core"]), number=4, fate="cut_after")
    async with (
        world.engine(node=1, machine=Machine()) as first,
        world.engine(node=2, machine=Machine()) as second,
    ):
        await trio.sleep(100)
        statistics = [engine.statistics().adoption for engine in (first, second)]
        assert sorted(each.taken_over for each in statistics) == [0, 1]
        assert sorted(each.transfers for each in statistics) == [0, 1]
        await world.heal(first)
        await world.heal(second)
    await world.check()


async def test_an_engine_that_died_is_not_adopted_before_its_lease_is_over(world: World) -> None:
    async with world.engine(node=1, machine=Machine()) as engine:
        wire = Wire()
        with wire.scope:
            async with world.engine(wire):
                await trio.sleep(31)
                died_at = trio.current_time()
                wire.cut()
        await until(lambda: engine.statistics().adoption.held, every_s=0.1)
        assert 10 <= trio.current_time() - died_at <= 12.5 + 2.5 + 0.2


async def test_an_engine_that_lives_is_left_alone(world: World) -> None:
    async with world.engine(), world.engine(node=1, machine=Machine()) as other:
        await trio.sleep(300)
        assert other.statistics().adoption.taken_over == 0
        assert (await world.ask(other, "funding", "trading")).outcome.status is TransferStatus.COMMITTED


async def test_the_next_life_of_an_adopted_node_starts_at_once_and_above_it(world: World) -> None:
    await world.live(partial(ask_twice, PAIRS["wallet->core"]), number=4, fate="cut_after")
    async with world.engine(node=1, machine=Machine()) as adopter:
        await until(lambda: adopter.statistics().adoption.held)
        began = trio.current_time()
        async with world.engine(machine=Machine()) as engine:
            assert trio.current_time() - began < 1
            await trio.sleep(80)
            assert adopter.statistics().adoption.held == ()
            assert adopter.statistics().adoption.settled == 0
            await world.heal(engine)
            await world.heal(adopter)
            told = await world.ask(engine, "funding", "trading")
            assert told.outcome.status is TransferStatus.COMMITTED
    await world.check()


# Engines that stopped on purpose


async def test_what_a_graceful_stop_left_is_adopted_at_once(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine(shutdown_ms=100) as engine:
        await trio.sleep(20)  # so that its ceiling is in a later bucket
        told = await world.ask(engine, "funding", FREEZING)
    world.cores[FREEZING].behave(Behaviour())
    async with world.engine(node=1, machine=Machine()) as engine:
        await trio.sleep(6)
        assert engine.statistics().open_transfers == 0
        assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
        await world.adopt(engine)
    await world.check()


async def test_a_settled_shard_is_looked_at_once_and_never_claimed(world: World) -> None:
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading")
    released = world.records.claim_of[0]
    assert released.owner == ""
    assert world.records.marks[0] == released.ceiling_ms // 10_000
    async with world.engine(node=1, machine=Machine()) as engine:
        await trio.sleep(100)
        assert engine.statistics().adoption.taken_over == 0
        assert world.wire.names().count("journal") == 2  # its own, and this one
    assert world.records.claim_of[0] == released


# Engines that were paused


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(("fate", "pause_s"), [("pause", 60), ("pause_after", 15)])
def test_an_engine_that_wakes_does_no_harm(program, fate: str, pause_s: float) -> None:
    async def once(number: int) -> bool:
        world = World(**QUICK)
        await world.fund(1)
        wire = Wire()
        wire.fate_after_opening = (number, fate)
        ended = trio.Event()

        async def live() -> None:
            try:
                async with world.engine(wire) as engine:
                    wire.opened()
                    await program(world, engine)
                    await trio.sleep_forever()
            except ClaimLost:
                ended.set()

        async with world.engine(node=1, machine=Machine()) as other, trio.open_nursery() as nursery:
            nursery.start_soon(live)
            await trio.sleep(2)
            if wire.fates:
                nursery.cancel_scope.cancel()
                return True
            await trio.sleep(pause_s)
            assert other.statistics().adoption.taken_over == 1
            wire.resume()
            await trio.sleep(10)
            assert ended.is_set()
            await world.adopt(other)
            await world.check()
        async with world.engine() as engine:
            await world.heal(engine)
        await world.check()
        return False

    for number in count(1):
        if in_a_loop(lambda number=number: once(number)):
            assert number > 5
            break


async def test_a_short_pause_is_a_lapse_and_not_the_end(world: World) -> None:
    async with world.engine(node=1, machine=Machine()) as other, world.engine(wire := Wire()) as engine:
        await trio.sleep(1)
        wire.pause()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(world.ask, engine, "funding", DIRECT, key="key"))
            await trio.sleep(11)
            refused = await world.ask(engine, "funding", "trading", key="other")
            assert "lease has lapsed" in str(refused.answer)
            wire.resume()
        await trio.sleep(3)
        assert (await world.ask(engine, "funding", "trading", key="other")).outcome.status is TransferStatus.COMMITTED
        await world.heal(engine)
        await trio.sleep(60)
        assert other.statistics().adoption.taken_over == 0
        assert engine.statistics().alerts.get("claim_lost") is None
    assert world.row(world.told[0].outcome.req_id).state is TransferState.COMMITTED
    await world.check()


# What arrives late


async def test_an_intent_that_arrives_after_the_adoption_is_found_by_the_second_look(world: World) -> None:
    wire = Wire()
    with wire.scope:
        async with world.engine(wire) as engine, trio.open_nursery() as nursery:
            stop = wire.stop("intent")
            nursery.start_soon(partial(world.ask, engine, "funding", "trading", key="late"))
            await stop.reached.wait()
            [transfer] = engine._parts.open_transfers
            late = JournalBlob(0, transfer.bucket, 1 << 60, encode_intents([transfer.intent]))
            wire.cut()
    async with world.engine(node=1, machine=Machine()) as adopter:
        await until(lambda: adopter.statistics().adoption.held)
        await trio.sleep(30)
        await world.records.write([late], [])
        assert adopter.statistics().adoption.transfers == 0
        await world.adopt(adopter)
        assert adopter.statistics().adoption.transfers == 1
        assert world.row(transfer.uuid).state is TransferState.COMMITTED
        assert [key for key in world.records.blobs if key[0] == 0] == [], "all of the shard is settled"
    await world.check()


async def test_a_transfer_that_its_client_sent_here_again_is_joined_and_kept(world: World) -> None:
    """The client did not wait for the adoption: the very same intent is under way here when it is found there."""
    world.cores[FREEZING].behave(Behaviour(crash_before=10_000))
    wire = Wire()
    with wire.scope:
        async with world.engine(wire) as engine:
            await world.ask(engine, "funding", FREEZING, key="one")
            await world.ask(engine, FREEZING, "funding", key="two")
            wire.cut()
    async with world.engine(node=1, machine=Machine()) as adopter:
        same = await world.ask(adopter, "funding", FREEZING, key="one")
        other = await world.ask(adopter, FREEZING, "funding", key="two", amount=7)
        await trio.sleep(150)
        assert adopter.statistics().adoption.settled == 1
        assert adopter.statistics().adoption.transfers == 1
        assert adopter.statistics().open_transfers == 2
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(adopter)
    assert world.row(same.outcome.req_id).state is TransferState.COMMITTED
    assert isinstance(other.answer, KeyReused)
    assert world.row(world.told[1].outcome.req_id).amount == 100
    await world.check()


async def test_another_body_that_waits_behind_here_pins_no_mark_and_ends(world: World) -> None:
    """Two bodies of one key, each known to one engine only, and it is not known yet whose the key is."""
    wire = Wire()
    with wire.scope:
        async with world.engine(wire) as engine, trio.open_nursery() as nursery:
            stop = wire.stop("accounts")
            nursery.start_soon(partial(world.ask, engine, "funding", FREEZING, key="key", user_id=3))
            await stop.reached.wait()
            wire.cut()
    late = Wire()
    async with world.engine(late, node=1, machine=Machine()) as adopter:
        late.down.add("ledger")
        told = await world.ask(adopter, "funding", "trading", key="key", user_id=3, amount=7)
        assert told.outcome.status is TransferStatus.PENDING
        await trio.sleep(1_000)
        assert adopter.statistics().adoption.settled == 1
        assert adopter.statistics().unsettled_intents == 2
        assert adopter._parts.journal.current_bucket - adopter.statistics().low_water_mark <= 32
        late.down.clear()
        await world.heal(adopter)
    assert world.row(told.outcome.req_id).amount == 7
    await world.check()


async def test_who_waits_behind_a_body_that_is_refused_comes_next(world: World) -> None:
    wire = Wire()
    with wire.scope:
        async with world.engine(wire) as engine, trio.open_nursery() as nursery:
            stop = wire.stop("accounts")
            nursery.start_soon(partial(world.ask, engine, "funding", "trading", key="key", user_id=3))
            await stop.reached.wait()
            wire.cut()
    waits = {"service_timeout_ms": 200_000, "deadline_ms": 300_000}
    async with world.engine(node=1, machine=Machine(), **waits) as adopter, trio.open_nursery() as nursery:
        slow = world.wire.stop(f"{FREEZING}.withdraw")
        nursery.start_soon(partial(world.ask, adopter, FREEZING, "funding", user_id=3, amount=5))
        await trio.sleep(1)
        nursery.start_soon(partial(world.ask, adopter, "funding", "trading", key="key", user_id=3, amount=7))
        await world.adopt_only(adopter)
        assert adopter.statistics().unsettled_intents == 2, "the second body has not been written yet"
        world.wire.next_fates["ceiling"] = ["lose_request"] * 6
        await trio.sleep(12)
        slow.released.set()
        await trio.sleep(10)
        assert isinstance(world.told[2].answer, Overloaded)
        await world.heal(adopter)
        again = await world.ask(adopter, "funding", "trading", key="key", user_id=3, amount=7)
        assert isinstance(again.answer, KeyReused)
    [row] = [row for row in world.records.rows.values() if row.user_id == 3 and row.target == "trading"]
    assert (row.amount, row.state) == (100, TransferState.COMMITTED)
    await world.check()


async def test_who_is_refused_may_ask_again_from_within_his_answer(world: World) -> None:
    """His second request is under way before the body that waited behind the first one would be."""
    wire, way = Wire(), Wire()
    with wire.scope:
        async with world.engine(wire) as engine, trio.open_nursery() as nursery:
            stop = wire.stop("hold", after=True)
            nursery.start_soon(partial(world.ask, engine, "funding", FREEZING, key="key", user_id=3))
            await stop.reached.wait()
            wire.cut()
    answers: list[Answer | Exception] = []
    async with world.engine(way, node=1, machine=Machine(), deadline_ms=300_000) as adopter:
        hold = way.stop("hold")
        order = TransferOrder(
            source="funding", target="trading", user_id=3, asset_id=1, amount=7, idempotency_key="key"
        )

        def ask_again(answer: Answer | Exception) -> None:
            answers.append(answer)
            if len(answers) < 3:
                adopter.submit(order, ask_again)

        adopter.submit(order, ask_again)
        await world.adopt_only(adopter)
        hold.released.set()
        await world.heal(adopter)
        await until(lambda: len(answers) == 3)
        assert "drive_crashed" not in adopter.statistics().alerts
    assert isinstance(answers[-1], KeyReused)
    [row] = [row for row in world.records.rows.values() if row.user_id == 3 and row.source == "funding"]
    assert (row.amount, row.state) == (100, TransferState.COMMITTED)
    await world.check()


async def test_where_all_others_are_certainly_dead_nobody_waits_for_their_leases(world: World) -> None:
    await world.live(partial(ask_twice, PAIRS["wallet->core"]), number=4, fate="cut_after")
    began = trio.current_time()
    async with world.engine(node=1, machine=Alone()) as engine:
        await until(lambda: engine.statistics().adoption.transfers, every_s=0.1)
        assert trio.current_time() - began < 3
        await world.adopt(engine)
    await world.check()
