"""Streams of a user's transfers and balances: what is told, in which order, and how it is resumed."""

from typing import Any

import pytest
import trio

from support.engines import DIRECT, FREEZING, World
from support.streams import Reader, settle, wallets_of
from transfer_engine.engine import InvalidTransfer, Overloaded, TransferOrder
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.outcomes import Balance, TransferOutcome
from transfer_engine.engine.stream_rings import StreamEvent, StreamSnapshot
from transfer_engine.engine.stream_settings import StreamSettings
from transfer_engine.schema.transfers import TransferState, TransferStatus


async def test_a_snapshot_comes_first_then_ends_and_balances(world: World) -> None:
    async with world.engine() as engine:
        reader = Reader(engine, 1).subscribe()
        await settle(engine)
        [snapshot] = reader.told
        assert snapshot == StreamSnapshot(
            reader.stream, 0, 1, [Balance(account="funding", asset_id=1, available=1_000, frozen=0)], []
        )
        told = await world.ask(engine, "funding", "trading", amount=100)
        await settle(engine)
        end, *balances = reader.told[1:]
        assert isinstance(end, StreamEvent)
        assert end.req_id == told.outcome.req_id
        assert reader.states == ["committed"]
        assert [(one.seq, one.req_id, one.what) for one in balances if isinstance(one, StreamEvent)] == [
            (2, told.outcome.req_id, Balance(account="funding", asset_id=1, available=900, frozen=0)),
            (3, told.outcome.req_id, Balance(account="trading", asset_id=1, available=100, frozen=0)),
        ]


async def test_both_users_of_a_transfer_are_told(world: World) -> None:
    async with world.engine() as engine:
        readers = [Reader(engine, user_id).subscribe() for user_id in (1, 2, 3)]
        await settle(engine)
        await world.ask(engine, "funding", "funding", amount=7, target_user_id=2)
        await settle(engine)
        assert [reader.states for reader in readers] == [["committed"], ["committed"], []]
        assert [reader.balances["funding", 1] for reader in readers] == [(993, 0), (1_007, 0), (1_000, 0)]


@pytest.mark.parametrize(
    ("source", "target", "states"),
    [
        ("funding", FREEZING, ["target_pending", "committed"]),
        (FREEZING, "funding", ["source_pending", "committed"]),
        (DIRECT, FREEZING, ["source_pending", "target_pending", "committed"]),
    ],
)
async def test_states_before_cores_are_called_are_told(
    world: World, source: str, target: str, states: list[str]
) -> None:
    async with world.engine() as engine:
        reader = Reader(engine, 1).subscribe()
        await settle(engine)
        await world.ask(engine, source, target)
        await settle(engine)
        assert reader.states == states
        assert reader.balances == await wallets_of(world, 1)


async def test_a_refusal_by_the_ledger_is_an_end(world: World) -> None:
    async with world.engine() as engine:
        reader = Reader(engine, 1).subscribe()
        await settle(engine)
        await world.ask(engine, "funding", "trading", amount=10_000)
        await settle(engine)
        assert reader.states == ["failed"]
        assert reader.transfers[0].error
        assert len(reader.told) == 2, "no balance has changed"


async def test_the_same_key_again_is_no_second_end(world: World) -> None:
    async with world.engine() as engine:
        reader = Reader(engine, 1).subscribe()
        await settle(engine)
        for _ in range(3):
            await world.ask(engine, "funding", "trading", key="k")
        await world.ask(engine, "funding", "trading", key="k", amount=5)
        await settle(engine)
        assert reader.states == ["committed"]


async def test_many_transfers_of_a_busy_user_make_few_balance_events(world: World) -> None:
    async with world.engine() as engine:
        reader = Reader(engine, 1).subscribe()
        await settle(engine)
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(lambda: world.ask(engine, "funding", "trading", amount=1))
        await settle(engine)
        assert len(reader.ends) == 200
        assert len(reader.told) < 220
        assert reader.balances == {("funding", 1): (800, 0), ("trading", 1): (200, 0)} == await wallets_of(world, 1)


async def test_a_stream_is_resumed_after_any_number(world: World) -> None:
    async with world.engine() as engine:
        reader = Reader(engine, 1).subscribe()
        await settle(engine)
        for _ in range(4):
            await world.ask(engine, "funding", "trading", amount=1)
        await settle(engine)
        events = reader.told[1:]
        for after in range(len(events) + 1):
            back = Reader(engine, 1).subscribe(stream=reader.stream, after=after)
            assert back.told == events[after:]
        for wrong in (-1, len(events) + 1):
            other = Reader(engine, 1).subscribe(stream=reader.stream, after=wrong)
            await settle(engine)
            assert isinstance(other.told[0], StreamSnapshot)


async def test_what_happens_while_nobody_listens_is_there_for_who_comes_back(world: World) -> None:
    async with world.engine() as engine:
        reader = Reader(engine, 1).subscribe()
        await settle(engine)
        reader.leave()
        reader.leave()
        await world.ask(engine, "funding", "trading", amount=1)
        await settle(engine)
        assert len(reader.told) == 1
        back = Reader(engine, 1).resume(reader)
        assert back.states == ["committed"]
        assert back.balances == await wallets_of(world, 1)
        back.leave()
        assert engine.statistics().streams.retained == 1
        await trio.sleep(61)
        assert engine.statistics().streams.streams == 0
        later = Reader(engine, 1).subscribe(stream=back.stream, after=back.seq)
        assert later.stream != back.stream
        await settle(engine)
        assert isinstance(later.told[0], StreamSnapshot)


async def test_who_is_too_far_behind_gets_a_snapshot_of_the_same_stream() -> None:
    world = World(streams=StreamSettings(events_most=5))
    await world.fund(1)
    async with world.engine() as engine:
        reader = Reader(engine, 1).subscribe()
        await settle(engine)
        reader.leave()
        for _ in range(4):
            await world.ask(engine, "funding", "trading", amount=1)
            await settle(engine)
        back = Reader(engine, 1).subscribe(stream=reader.stream, after=reader.seq)
        await settle(engine)
        [snapshot] = back.told
        assert isinstance(snapshot, StreamSnapshot)
        assert (snapshot.stream, snapshot.seq) == (reader.stream, 12)


async def test_open_transfers_are_in_the_snapshot_and_their_ends_follow(world: World) -> None:
    async with world.engine() as engine:
        world.wire.down.add(FREEZING)
        told = await world.ask(engine, "funding", FREEZING, amount=10)
        assert told.outcome.status.value == "pending"
        reader = Reader(engine, 1).subscribe()
        await settle(engine)
        [snapshot] = reader.told
        assert isinstance(snapshot, StreamSnapshot)
        assert [(one.req_id, one.state.value) for one in snapshot.transfers] == [
            (told.outcome.req_id, "target_pending")
        ]
        assert reader.balances["funding", 1] == (990, 10)
        world.wire.down.clear()
        await world.heal(engine)
        await settle(engine)
        assert reader.states[-1] == "committed"
        assert reader.balances == await wallets_of(world, 1)


async def test_transfers_are_told_while_the_ledger_does_not_answer_who_reads(world: World) -> None:
    """The look-ups fail, as they do when a cluster changes its primary; transfers had their answers before."""
    async with world.engine() as engine:
        reader = Reader(engine, 1).subscribe()
        await settle(engine)
        ledger = engine._parts.streams._ledger
        is_down = True

        class Deaf:
            async def lookup_accounts(self, account_ids: list[int]) -> list[Any]:
                if is_down:
                    await trio.sleep(0.01)
                    raise LedgerUnavailable("nobody there")
                return await ledger.lookup_accounts(account_ids)

        engine._parts.streams._ledger = Deaf()  # type: ignore[assignment]
        for _ in range(3):
            await world.ask(engine, "funding", "trading", amount=1)
            await trio.sleep(1)
        assert reader.states == ["committed"] * 3
        assert len(reader.told) == 4
        late = Reader(engine, 1).subscribe()
        await trio.sleep(1)
        assert late.told == []
        is_down = False
        await settle(engine)
        assert reader.balances == late.balances == {("funding", 1): (997, 0), ("trading", 1): (3, 0)}
        assert isinstance(late.told[0], StreamSnapshot)
        assert engine.statistics().streams.failed_reads > 3


async def test_who_comes_while_the_balances_are_read_gets_all_of_them(world: World) -> None:
    async with world.engine() as engine:
        first = Reader(engine, 1).subscribe()
        await settle(engine)
        ledger = engine._parts.streams._ledger
        asked = trio.Event()

        class Slow:
            async def lookup_accounts(self, account_ids: list[int]) -> list[Any]:
                found = await ledger.lookup_accounts(account_ids)
                asked.set()
                await trio.sleep(1)
                return found

        engine._parts.streams._ledger = Slow()  # type: ignore[assignment]
        await world.ask(engine, "funding", "trading", amount=1)
        await asked.wait()
        second = Reader(engine, 1).subscribe()
        await world.ask(engine, "funding", "trading", amount=1)
        await trio.sleep(10)
        assert second.balances == first.balances == {("funding", 1): (998, 0), ("trading", 1): (2, 0)}


async def test_recovered_transfers_are_told(world: World) -> None:
    async with world.engine() as engine:
        world.wire.down.add(FREEZING)
        await world.ask(engine, "funding", FREEZING, amount=10)
    async with world.engine() as engine:
        reader = Reader(engine, 1).subscribe()
        await world.heal(engine)
        await settle(engine)
        assert [state.value for _, state in reader.ends] == ["committed"] or reader.told[0].transfers == []  # type: ignore[union-attr]
        assert reader.balances == await wallets_of(world, 1)


async def test_a_stream_ends_with_its_engine(world: World) -> None:
    async with world.engine() as engine:
        reader = Reader(engine, 1).subscribe()
        await world.ask(engine, "funding", "trading", amount=1)
        await settle(engine)
    async with world.engine() as engine:
        back = Reader(engine, 1).subscribe(stream=reader.stream, after=reader.seq)
        assert back.stream != reader.stream
        await settle(engine)
        [snapshot] = back.told
        assert isinstance(snapshot, StreamSnapshot)
        assert (snapshot.seq, back.balances) == (0, reader.balances)


async def test_a_subscriber_that_fails_is_left_out(world: World) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no")

    async with world.engine() as engine:
        engine.subscribe(1, fail)
        reader = Reader(engine, 1).subscribe()
        await settle(engine)
        await world.ask(engine, "funding", "trading", amount=1)
        await settle(engine)
        assert reader.states == ["committed"]
        statistics = engine.statistics()
        assert statistics.streams.subscriptions == 1
        assert statistics.alerts["subscriber_failed"] == 1


async def test_streams_and_their_subscriptions_are_bounded() -> None:
    world = World(streams=StreamSettings(streams_most=2, subscriptions_most=2))
    async with world.engine() as engine:
        first = Reader(engine, 1).subscribe()
        Reader(engine, 1).subscribe()
        with pytest.raises(Overloaded, match="user 1"):
            Reader(engine, 1).subscribe()
        Reader(engine, 2).subscribe()
        with pytest.raises(Overloaded, match="2 users"):
            Reader(engine, 3).subscribe()
        await settle(engine)
        first.leave()
        assert engine.statistics().streams.retained == 0
        for subscription in list(engine._parts.streams._by_user[1].live):
            engine.unsubscribe(subscription)
        assert engine.statistics().streams.retained == 1
        Reader(engine, 3).subscribe()
        assert set(engine._parts.streams._by_user) == {2, 3}


@pytest.mark.parametrize("user_id", [0, -1, 1 << 63, True, "1", None])
async def test_only_users_are_subscribed_to(world: World, user_id: Any) -> None:
    async with world.engine() as engine:
        with pytest.raises(InvalidTransfer, match="user_id"):
            engine.subscribe(user_id, print)


@pytest.mark.parametrize("is_told", [False, True])
async def test_an_end_that_another_engine_wrote_is_told_to_who_saw_the_transfer_open(
    world: World, is_told: bool
) -> None:
    async with world.engine() as engine:
        world.wire.down.add(FREEZING)
        reader = Reader(engine, 1)
        told = await world.ask(engine, "funding", FREEZING, amount=10)
        world.told.clear()  # what this client was told is not what this test makes of it
        transfer = engine._parts.open_transfers.find(told.outcome.req_id.int)
        assert transfer is not None
        if is_told:
            reader.subscribe()
            await settle(engine)
        outcome = TransferOutcome(
            req_id=transfer.uuid, status=TransferStatus.FAILED, state=TransferState.FAILED, message="no", replayed=True
        )
        if not is_told:
            reader.subscribe()  # its snapshot comes when the transfer is gone
        engine._parts.completion.close(transfer, outcome)
        await settle(engine)
        assert reader.states == (["failed"] if is_told else [])
        if is_told:
            assert reader.transfers[0].error == "no"


async def test_what_all_streams_keep_is_bounded_and_shared_by_those_that_go_on(autojump_clock: object) -> None:
    world = World(streams=StreamSettings(all_bytes_most=1 << 20, bytes_most=1 << 20, events_most=10_000))
    await world.fund(1, 2, amount=10_000)
    async with world.engine() as engine:
        readers = {user_id: Reader(engine, user_id).subscribe() for user_id in (1, 2)}
        await settle(engine)
        streams = engine._parts.streams
        for user_id in (1, 2, 1):
            for _ in range(2_000):
                engine.submit(
                    TransferOrder(source="funding", target="trading", user_id=user_id, asset_id=1, amount=1),
                    lambda _: None,
                )
                if not engine.statistics().open_transfers % 100:
                    await trio.sleep(0.1)
            await settle(engine)
            assert streams._bytes <= 2 << 20
        assert [len(reader.ends) for reader in readers.values()] == [4_000, 2_000]
        assert streams._by_user[2].ring.bytes >= 500 << 10
        for reader in readers.values():
            reader.leave()
        await trio.sleep(61)
        assert (streams._by_user, streams._bytes) == ({}, 0)
