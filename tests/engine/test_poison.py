"""A transfer that crashes whatever touches it is set aside: its user goes on, and so does the scanner."""

import pytest
import trio
import trio.testing
from tigerbeetle import Transfer

from support.engines import FREEZING, PAIRS, World
from transfer_engine.engine.open_transfers import OpenTransfer
from transfer_engine.engine.outcomes import Resolution
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.schema.ids import LEG_MAX, keyed_req_id
from transfer_engine.schema.transfers import TransferState, TransferStatus

POISON = keyed_req_id("", "transfer", "poison")


class Poisonous(Exception):
    pass


def poison_the_ledger(world: World, *, flags: int = 0xFFFF) -> None:
    """Every batch that has an event of the transfer crashes whoever sends it."""

    def forge(transfer: Transfer) -> None:
        if transfer.id & ~LEG_MAX == POISON and int(transfer.flags) & flags:
            raise Poisonous

    world.ledger.forge = forge


def heal_the_ledger(world: World) -> None:
    world.ledger.forge = lambda _: None


@pytest.mark.parametrize("pair", ["wallet->wallet", "wallet->core", "core->wallet"])
async def test_a_poison_message_does_not_block_its_user(world: World, pair: str) -> None:
    poison_the_ledger(world)
    async with world.engine() as engine:
        async with trio.open_nursery() as nursery:
            stop = world.wire.stop("intent")
            nursery.start_soon(lambda: world.ask(engine, "funding", "trading", amount=1, deadline_ms=9_000))
            await stop.reached.wait()
            nursery.start_soon(lambda: world.ask(engine, *PAIRS[pair], key="poison"))
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(lambda: world.ask(engine, "funding", "trading", amount=1, deadline_ms=9_000))
                await trio.testing.wait_all_tasks_blocked()
            stop.released.set()
        told = [(told.asked["idempotency_key"] or "", told.outcome.status.value) for told in world.told]
        assert sorted(told) == [("", "committed")] * 4 + [("poison", "pending")]
        assert trio.current_time() < 9, "the submitter's restarts take their time, but not for ever"
        assert engine.statistics().alerts["transfer_set_aside"] == 1
        assert engine.statistics().users.messages_waiting == 0

        sent = world.wire.names().count("hold")
        await trio.sleep(20)
        assert world.wire.names().count("hold") == sent, "nobody tries it any more"
        assert engine.statistics().scanner.crashes == 0
        assert all(child.state.value == "running" for child in engine.statistics().supervisor.children)

        heal_the_ledger(world)
        report = await engine.resolve(world_req_id(world), Resolution.POST)
        assert report.state == TransferState.COMMITTED
        await world.heal(engine)
    await world.check()


def world_req_id(world: World):  # type: ignore[no-untyped-def]
    [told] = [told for told in world.told if told.asked["idempotency_key"] == "poison"]
    return told.outcome.req_id


async def test_several_poisonous_transfers_do_not_take_the_engine_down(world: World) -> None:
    poison = {keyed_req_id("", "transfer", f"poison {number}") for number in range(5)}

    def forge(transfer: Transfer) -> None:
        if transfer.id & ~LEG_MAX in poison:
            raise Poisonous

    world.ledger.forge = forge
    async with world.engine() as engine:
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(
                    lambda number=number: world.ask(
                        engine, "funding", "trading", user_id=number + 1, amount=1, key=f"poison {number}"
                    )
                )
        await trio.sleep(60)
        assert engine.statistics().alerts["transfer_set_aside"] == 5
        assert (await world.ask(engine, "funding", "trading")).outcome.status is TransferStatus.COMMITTED
    async with world.engine() as engine:
        await trio.sleep(60)
        assert engine.statistics().alerts["transfer_set_aside"] == 5, "nor the next life, which starts with them"
        assert (await world.ask(engine, "funding", "trading")).outcome.status is TransferStatus.COMMITTED
    heal_the_ledger(world)
    async with world.engine() as engine:
        await world.heal(engine)
    await world.check()


async def test_a_drive_that_crashes_again_and_again_is_set_aside_too(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine() as engine:
        told = await world.ask(engine, "funding", FREEZING, key="poison")
        poison_the_ledger(world)
        await trio.sleep(40)
        assert engine.statistics().alerts["transfer_set_aside"] == 1
        assert engine.statistics().scanner.crashes == 0
        assert engine.statistics().drives_under_way == 0
        assert (await world.ask(engine, "funding", "trading")).outcome.status is TransferStatus.COMMITTED
        record = await engine.get(told.outcome.req_id)
        assert record is not None
        assert "set aside" in record.error
    heal_the_ledger(world)
    world.cores[FREEZING].behave(Behaviour())
    async with world.engine() as engine:
        await world.heal(engine)
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED, "the next life takes it up again"
    await world.check()


async def test_what_an_operator_takes_up_again_is_the_scanners_again(world: World) -> None:
    poison_the_ledger(world)
    async with world.engine() as engine:
        told = await world.ask(engine, "funding", FREEZING, key="poison")
        await trio.sleep(10)
        heal_the_ledger(world)
        world.cores[FREEZING].behave(Behaviour(crash_before=999))
        report = await engine.resolve(told.outcome.req_id, Resolution.POST)
        assert report.state == "target_pending"
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


@pytest.mark.parametrize("resolution", Resolution)
async def test_what_was_set_aside_before_its_intent_was_durable_gets_it_before_anything_moves(
    world: World, resolution: Resolution
) -> None:
    async with world.engine() as engine:
        original = world.records.write

        async def broken(blobs, records):  # type: ignore[no-untyped-def]
            if blobs:
                raise Poisonous
            await original(blobs, records)

        world.records.write = broken  # type: ignore[method-assign]
        told = await world.ask(engine, "funding", "trading", key="poison")
        assert told.outcome.status is TransferStatus.PENDING
        await trio.sleep(10)
        assert engine.statistics().alerts["transfer_set_aside"] == 1
        world.records.write = original  # type: ignore[method-assign]
        was_durable = []

        def look(_: Transfer) -> None:
            was_durable.append(any(told.outcome.req_id.bytes in blob for blob in world.records.blobs.values()))

        world.ledger.forge = look
        report = await engine.resolve(told.outcome.req_id, resolution)
        assert report.state == ("committed" if resolution is Resolution.POST else "failed")
        assert was_durable
        assert all(was_durable)
    await world.check()


async def test_a_last_row_that_the_store_can_not_take_is_tried_again_by_the_scanner(world: World) -> None:
    """The store chokes on one row for a while: its transfer must not be forgotten by everybody."""
    async with world.engine() as engine:
        original = world.records.write

        async def broken(blobs, records):  # type: ignore[no-untyped-def]
            if any(record.req_id.int == POISON for record in records):
                raise Poisonous
            await original(blobs, records)

        world.records.write = broken  # type: ignore[method-assign]
        told = await world.ask(engine, "funding", "trading", key="poison")
        assert told.outcome.status is TransferStatus.PENDING
        await trio.sleep(5)
        world.records.write = original  # type: ignore[method-assign]
        await world.heal(engine)
        assert engine.statistics().ended["committed"] == 1
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


@pytest.mark.parametrize("resolution", Resolution)
@pytest.mark.parametrize("amount", [100, 5_000])
async def test_a_last_row_that_the_store_never_takes_is_set_aside_for_an_operator(
    world: World, resolution: Resolution, amount: int
) -> None:
    async with world.engine() as engine:
        original = world.records.write

        async def broken(blobs, records):  # type: ignore[no-untyped-def]
            if any(record.req_id.int == POISON for record in records):
                raise Poisonous
            await original(blobs, records)

        world.records.write = broken  # type: ignore[method-assign]
        told = await world.ask(engine, "funding", "trading", amount=amount, key="poison")
        await trio.sleep(100)
        assert 1 < engine.statistics().alerts["last_row_missing"] < 5, "it is not tried for ever"
        world.records.write = original  # type: ignore[method-assign]
        report = await engine.resolve(told.outcome.req_id, resolution)
        expected = TransferState.COMMITTED if amount == 100 else TransferState.FAILED
        assert report.state == world.row(told.outcome.req_id).state == expected
        await world.heal(engine)
    await world.check()


async def test_a_row_in_between_that_the_store_can_not_take_is_its_own_transfers_trouble(world: World) -> None:
    async with world.engine() as engine:
        original = world.records.write

        async def broken(blobs, records):  # type: ignore[no-untyped-def]
            if any(record.req_id.int == POISON for record in records):
                raise Poisonous
            await original(blobs, records)

        world.records.write = broken  # type: ignore[method-assign]
        told = await world.ask(engine, FREEZING, "funding", key="poison")
        assert told.outcome.status is TransferStatus.PENDING
        assert engine.statistics().users.crashes == 0, "its user's queue went on"
        assert f"{FREEZING}.withdraw" not in world.wire.names()
        world.records.write = original  # type: ignore[method-assign]
        await world.heal(engine)
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


async def test_a_handler_that_crashes_once_handles_its_message_again(world: World) -> None:
    async with world.engine() as engine:
        crashes = iter([True, False])
        original = OpenTransfer.held

        def held(self: OpenTransfer, timestamp_ns: int) -> None:
            if next(crashes, False):
                raise Poisonous
            original(self, timestamp_ns)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OpenTransfer, "held", held)
            told = await world.ask(engine, "funding", "trading")
        assert told.outcome.status is TransferStatus.COMMITTED
        assert engine.statistics().users.crashes == 1
    await world.check()


async def test_those_before_the_one_that_crashed_are_not_handled_again(world: World) -> None:
    async with world.engine() as engine:
        crashes = iter([False, False, True])
        original = OpenTransfer.held

        def held(self: OpenTransfer, timestamp_ns: int) -> None:
            if next(crashes, False):
                raise Poisonous
            original(self, timestamp_ns)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OpenTransfer, "held", held)
            async with trio.open_nursery() as nursery:
                stop = world.wire.stop("intent")
                for amount in (1, 2, 3, 4):
                    nursery.start_soon(lambda amount=amount: world.ask(engine, "funding", "trading", amount=amount))
                    await trio.testing.wait_all_tasks_blocked()
                stop.released.set()
        assert {told.outcome.status for told in world.told} == {TransferStatus.COMMITTED}
        asked = {told.asked["amount"]: world.wire.names(told.outcome.req_id).count("hold") for told in world.told}
        assert asked == {1: 1, 2: 1, 3: 2, 4: 2}
        assert engine.statistics().ended == {"committed": 4}
    await world.check()
