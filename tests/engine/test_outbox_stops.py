"""The outbox where an engine stops, or is adopted, in the midst of something: no message that was written is lost."""

from functools import partial
from uuid import UUID

import msgspec
import pytest
import trio

from support.engines import Machine, World, until
from support.receivers import Receivers
from support.wire import Wire
from transfer_engine.engine.outbox import Entered
from transfer_engine.engine.outbox_limits import OutboxLimits
from transfer_engine.engine.records.protocol import BUCKET_MS, ClaimLost
from transfer_engine.schema.webhooks import Endpoint

QUICK = {"heartbeat_ms": 2_000, "lease_ms": 6_000, "adoption_recheck_ms": 10_000, "scan_interval_ms": 2_000}


async def new_world(*told: int, limits: OutboxLimits | None = None, **settings: object) -> tuple[World, Receivers]:
    world = World(**settings)
    await world.fund(1, 2, 3)
    world.outbox = limits or OutboxLimits()
    receivers = Receivers(world)
    await receivers.register(*told)
    return world, receivers


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_rows_that_land_while_the_engine_stops_are_told_by_its_next_life(
    is_cancelled: bool, autojump_clock: object
) -> None:
    """Message and row are durable, and the engine was not told so when it said its last words."""
    world, receivers = await new_world(1)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery, world.engine(shutdown_ms=100) as engine:
            outbox = engine.outbox
            assert outbox is not None
            await until(lambda: not outbox.statistics().is_full)
            await trio.sleep(12)  # the next life is to begin in a later bucket
            written = world.wire.stop("outbox", after=True)
            nursery.start_soon(partial(world.ask, engine, "funding", "trading", deadline_ms=10))
            await written.reached.wait()
            if is_cancelled:
                scope.cancel()
    async with world.engine() as engine:
        await receivers.drain(engine)
    receivers.check(1)


@pytest.mark.parametrize("dies", [True, False])
async def test_an_adopter_tells_of_endpoints_that_it_had_not_heard_of(dies: bool, autojump_clock: object) -> None:
    world, receivers = await new_world(limits=OutboxLimits(refresh_ms=3_600_000), **QUICK)
    async with world.engine(node=1, machine=Machine()) as other:
        async with world.engine() as engine:
            wire = world.wire
            assert engine.outbox is not None
            await engine.outbox.endpoints.register(1, "https://new.example/")
            await world.ask(engine, "funding", "trading")
            if dies:
                wire.down.add("records")
        await world.adopt(other)
        await receivers.drain(other)
    assert [message.to_user_id for message in receivers.told] == [1]


async def test_what_lands_late_below_what_had_no_room_is_read_as_well(autojump_clock: object) -> None:
    """Two writes are in flight; the later one is answered first, in a later bucket, when memory is full."""
    world, receivers = await new_world(1, limits=OutboxLimits(waiting_most=1))
    async with world.engine() as engine:
        outbox = engine.outbox
        assert outbox is not None
        await until(lambda: not outbox.statistics().is_full)
        told = await world.ask(engine, "funding", "trading", user_id=2)
        row = msgspec.structs.replace(world.row(told.outcome.req_id), user_id=1, target_user_id=1)

        def enter(amount: int) -> Entered:
            entered = outbox.enter([msgspec.structs.replace(row, req_id=UUID(int=amount), amount=amount)])
            assert entered is not None
            return entered

        late = enter(1)
        await trio.sleep(2 * BUCKET_MS / 1000)
        for amount in (2, 3):
            entered = enter(amount)
            await world.records.write(entered.blobs, ())
            outbox.entered(entered)
        assert outbox.statistics().is_full
        async with receivers.serve(engine):
            await trio.sleep(5)
            await world.records.write(late.blobs, ())
            outbox.entered(late)
            await trio.sleep(60)
    async with world.engine() as engine:
        await receivers.drain(engine)
    assert {message.amount for message in receivers.told} == {1, 2, 3}


async def test_a_clients_own_repetition_is_told_of_by_its_adopter(autojump_clock: object) -> None:
    """The transfer is under way here, by the client's key, when its intent is adopted; the woken engine's row lands."""
    world, receivers = await new_world(1, **QUICK)
    wire, way = Wire(), Wire()
    write = wire.stop("outbox")

    async def ask_for_ever() -> None:
        async with world.engine(wire) as engine:
            await world.ask(engine, "funding", "trading", key="key")
            await trio.sleep_forever()

    async def stop_and_wake() -> None:
        with pytest.raises(ClaimLost):
            await ask_for_ever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_and_wake)
        await write.reached.wait()
        wire.pause()
        hold = way.stop("hold")
        async with world.engine(way, node=1, machine=Machine()) as other:
            nursery.start_soon(partial(world.ask, other, "funding", "trading", key="key"))
            await world.adopt_only(other)
            write.released.set()
            wire.resume()
            await until(lambda: "row committed" in wire.names())
            assert receivers.told == []
            hold.released.set()
            await receivers.drain(other)
    receivers.check(1)


async def test_a_store_that_hangs_at_the_outboxs_last_words_does_not_keep_the_node(autojump_clock: object) -> None:
    world, receivers = await new_world(1)
    receivers.failing = {1}
    async with world.engine() as engine, receivers.serve(engine):
        await trio.sleep(12)
        await world.ask(engine, "funding", "trading")
        world.wire.stop("outbox")
    assert world.records.claim_of[0].owner == ""


async def test_who_changes_an_endpoint_while_it_is_given_up_misses_nothing(autojump_clock: object) -> None:
    world, receivers = await new_world(1, limits=OutboxLimits(endpoint_waiting_most=5))
    receivers.failing = {1}
    async with world.engine() as engine, receivers.serve(engine) as outbox:
        await until(lambda: not outbox.statistics().is_full)
        disable = world.wire.stop("endpoint")
        for amount in range(1, 6):
            await world.ask(engine, "funding", "trading", amount=amount)
        await trio.sleep(1)
        for amount in (6, 7):
            await world.ask(engine, "funding", "trading", amount=amount)
        await disable.reached.wait()
        await world.records.put_endpoint(Endpoint(user_id=1, version=2 << 20, url="https://new.example/"))
        receivers.failing = set()
        disable.released.set()
        await trio.sleep(30)
        assert outbox.statistics().disabled_endpoints == 0
        assert {message.amount for message in receivers.told} == set(range(1, 8))
        bucket = outbox.current_bucket
        await trio.sleep(30)
        assert outbox.statistics().low_water_mark > bucket
