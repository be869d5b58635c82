"""The journal: buckets by the logical clock, a mark that never passes an unsettled intent, and what a restart reads."""

from uuid import UUID

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from support.engines import BORN_MS, FREEZING, World
from transfer_engine.engine.journal import CARRY_AFTER_BUCKETS, INTENTS_IN_BLOB_MOST, Journal
from transfer_engine.engine.open_transfers import OpenTransfer
from transfer_engine.engine.records.protocol import BUCKET_MS, JOURNAL_BLOB_BYTES_MAX, Life
from transfer_engine.engine.services.registry import Service, ServiceKind
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.ids import SnowflakeGenerator
from transfer_engine.schema.transfers import Intent, TransferState, TransferStatus, decode_intents

WALLET = Service("a_service_with_thirty_two_letters", 2, ServiceKind.WALLET)
OTHER = Service("another_one_of_thirty_two_letter", 3, ServiceKind.WALLET)


class Clock:
    """A wall clock, and a generator far below its ceiling."""

    def __init__(self) -> None:
        self.now_ms = BORN_MS
        self.identifiers = SnowflakeGenerator(node=0, clock_ms=lambda: self.now_ms, after_ms=BORN_MS - 1)
        self.identifiers.raise_ceiling(BORN_MS + 10**9)
        self.journal = Journal(Life(node=7, epoch=3, owner="me", after_ms=BORN_MS - 1), self.identifiers)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def transfer(number: int) -> OpenTransfer:
    most = (1 << 63) - 1
    intent = Intent(
        req_id=(number << 4).to_bytes(16),
        source=WALLET.name,
        target=OTHER.name,
        user_id=most,
        target_user_id=most,
        asset_id=0xFFFF_FFFE,
        amount=most,
        accepted_at=BORN_MS,
        fingerprint=(1 << 64) - 1,
    )
    return OpenTransfer(req_id=number << 4, intent=intent, source=WALLET, target=OTHER)


def bucket_after(buckets: int) -> int:
    return BORN_MS // BUCKET_MS + buckets


def test_a_blob_holds_the_intents_in_order_and_names_its_life(clock: Clock) -> None:
    transfers = [transfer(number) for number in range(1, 4)]
    [blob] = clock.journal.enter(transfers)
    assert (blob.shard, blob.bucket) == (7, bucket_after(0))
    assert blob.sequence >> 40 == 3, "blobs of two lives never have one name"
    assert decode_intents(blob.body) == [one.intent for one in transfers]
    [another] = clock.journal.enter(transfers)
    assert another.sequence > blob.sequence


def test_blobs_stay_below_their_bound(clock: Clock) -> None:
    blobs = clock.journal.enter([transfer(number) for number in range(1, 2 * INTENTS_IN_BLOB_MOST + 2)])
    assert [len(decode_intents(blob.body)) for blob in blobs] == [INTENTS_IN_BLOB_MOST, INTENTS_IN_BLOB_MOST, 1]
    assert all(len(blob.body) < JOURNAL_BLOB_BYTES_MAX for blob in blobs)
    assert len({blob.sequence for blob in blobs}) == 3


def test_an_intent_counts_from_before_its_append_until_it_is_settled(clock: Clock) -> None:
    one = transfer(1)
    clock.journal.enter([one])
    clock.now_ms += 3 * BUCKET_MS
    assert (clock.journal.low_water_mark, clock.journal.unsettled) == (bucket_after(0), 1)
    clock.journal.settle(one)
    assert (clock.journal.low_water_mark, clock.journal.unsettled) == (bucket_after(3), 0)
    clock.journal.settle(one)
    assert clock.journal.unsettled == 0


def test_an_append_that_is_tried_again_counts_where_it_was_tried_first(clock: Clock) -> None:
    one = transfer(1)
    clock.journal.enter([one])
    clock.now_ms += 3 * BUCKET_MS
    [blob] = clock.journal.enter([one])
    assert blob.bucket == bucket_after(3)
    assert (clock.journal.low_water_mark, clock.journal.unsettled) == (bucket_after(0), 1)


def test_the_mark_waits_at_the_ceiling_with_the_identifiers(clock: Clock) -> None:
    """No wall clock decides it: what another life may still write lies below that life's ceiling."""
    generator = SnowflakeGenerator(node=0, clock_ms=lambda: clock.now_ms, after_ms=BORN_MS)
    generator.raise_ceiling(BORN_MS + BUCKET_MS)
    journal = Journal(Life(node=0, epoch=1, owner="me", after_ms=BORN_MS), generator)
    clock.now_ms += 100 * BUCKET_MS
    assert journal.low_water_mark == bucket_after(1)
    clock.now_ms -= 200 * BUCKET_MS
    assert journal.low_water_mark == bucket_after(1), "a clock that steps back takes nothing back"


def test_what_is_carried_forward_pins_no_old_bucket(clock: Clock) -> None:
    one = transfer(1)
    clock.journal.enter([one])
    one.is_journaled = True
    clock.now_ms += (CARRY_AFTER_BUCKETS + 1) * BUCKET_MS
    assert clock.journal.is_overdue(one)
    bucket = clock.journal.current_bucket
    clock.journal.enter([one])
    assert clock.journal.low_water_mark == bucket_after(0), "until the append is certain"
    clock.journal.moved(one, bucket)
    assert (clock.journal.low_water_mark, clock.journal.unsettled) == (bucket, 1)
    assert not clock.journal.is_overdue(one)


def test_what_ends_while_it_is_carried_forward_is_not_counted_again(clock: Clock) -> None:
    one = transfer(1)
    clock.journal.enter([one])
    one.is_journaled = True
    clock.journal.settle(one)
    clock.journal.enter([one])
    clock.journal.moved(one, clock.journal.current_bucket)
    assert clock.journal.unsettled == 0, "nobody would ever settle it: the mark would stand still for good"


STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "enter again", "carry", "settle", "wait"]), st.integers(0, 7)), max_size=60
)


@given(steps=STEPS)
def test_the_mark_never_passes_an_unsettled_intent_and_never_goes_back(steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    transfers = [transfer(number) for number in range(1, 9)]
    written: dict[int, set[int]] = {}
    unsettled: set[int] = set()
    mark = 0
    for step, number in steps:
        one = transfers[number]
        if step == "wait":
            clock.now_ms += (number + 1) * BUCKET_MS * 3 // 2
        elif step == "settle" and number in unsettled:
            clock.journal.settle(one)
            unsettled.discard(number)
        elif (step == "enter" and number not in written) or (step == "enter again" and number in unsettled):
            [blob] = clock.journal.enter([one])
            written.setdefault(number, set()).add(blob.bucket)
            unsettled.add(number)
        elif step == "carry" and number in written:
            one.is_journaled = True
            bucket = clock.journal.current_bucket
            [blob] = clock.journal.enter([one])
            written[number].add(blob.bucket)
            clock.journal.moved(one, bucket)
        assert clock.journal.low_water_mark >= mark
        mark = clock.journal.low_water_mark
        assert clock.journal.unsettled == len(unsettled)
        for one_unsettled in unsettled:
            assert max(written[one_unsettled]) >= mark, "its intent would be dropped"


async def test_the_mark_advances_behind_what_is_settled_and_the_journal_is_emptied(world: World) -> None:
    async with world.engine() as engine:
        for _ in range(5):
            await world.ask(engine, "funding", "trading", amount=1)
            await trio.sleep(12)
        assert engine.statistics().unsettled_intents == 0
        assert world.records.marks[0] >= (BORN_MS + 40_000) // BUCKET_MS
        assert len(world.records.blobs) <= 2, "what lies below the mark is dropped"


async def test_an_intent_that_waits_pins_its_bucket_and_is_read_after_a_restart(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine() as engine:
        told = await world.ask(engine, "funding", FREEZING)
        [blob] = [blob for blob in world.records.blobs.values() if told.outcome.req_id.bytes in blob]
        bucket = next(key[1] for key, body in world.records.blobs.items() if body == blob)
        for _ in range(6):
            await world.ask(engine, "funding", "trading", amount=1)
            await trio.sleep(10)
        assert world.records.marks[0] <= bucket
        assert engine.statistics().low_water_mark == bucket
    async with world.engine() as engine:
        await trio.sleep(15)
        assert engine.statistics().low_water_mark == bucket, "found again, it pins what it is written in"
        assert (0, bucket) in {key[:2] for key in world.records.blobs}
    world.cores[FREEZING].behave(Behaviour())
    async with world.engine() as engine:
        assert engine.statistics().recovered == 1
        await world.heal(engine)
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


async def test_an_intent_that_waits_for_long_is_carried_forward(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), crash_before=999_999))
    async with world.engine() as engine:
        told = await world.ask(engine, "funding", FREEZING)
        await trio.sleep(2 * CARRY_AFTER_BUCKETS * BUCKET_MS / 1000)
        assert engine.statistics().low_water_mark > (BORN_MS // BUCKET_MS) + CARRY_AFTER_BUCKETS
        assert engine.statistics().unsettled_intents == 1
        assert len(world.records.blobs) <= 2
    world.cores[FREEZING].behave(Behaviour())
    async with world.engine() as engine:
        await world.heal(engine)
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


async def test_more_intents_than_fit_one_flush_are_journaled(world: World) -> None:
    """A core that is down for minutes under load leaves as many to be carried forward at once."""
    many = [transfer(number) for number in range(1, 4 * INTENTS_IN_BLOB_MOST)]
    async with world.engine() as engine:
        await engine._parts.recorder.journal(many)
        assert all(one.is_journaled for one in many)
        assert engine.statistics().unsettled_intents == len(many)


async def test_a_restart_reads_from_the_mark_on(world: World) -> None:
    async with world.engine() as engine:
        for _ in range(3):
            await world.ask(engine, "funding", "trading", amount=1)
            await trio.sleep(15)
    async with world.engine() as engine:
        assert "get" not in world.wire.names(), "nothing was left to look at"
        assert engine.statistics().recovered == 0


async def test_a_foreign_bodys_intent_is_settled_without_a_row(world: World) -> None:
    async with world.engine() as engine:
        first = await world.ask(engine, "funding", "trading", key="key")
        await world.ask(engine, "funding", "trading", key="key", amount=5)
        assert engine.statistics().unsettled_intents == 0
    async with world.engine() as engine:
        assert engine.statistics().recovered == 0
    assert world.row(first.outcome.req_id).amount == 100


async def test_an_intent_of_an_unknown_service_pins_the_mark_and_nothing_else(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine() as engine:
        told = await world.ask(engine, "funding", FREEZING)
        mark = engine.statistics().low_water_mark
    without = tuple(service for service in world.settings.services if service.name != FREEZING)
    settings, world.settings = world.settings, world.settings.model_copy(update={"services": without})
    async with world.engine() as engine:
        assert engine.statistics().alerts["unknown_service"] == 1
        assert (await world.ask(engine, "funding", "trading")).outcome.status is TransferStatus.COMMITTED
        await trio.sleep(30)
        assert engine.statistics().low_water_mark == mark
    world.settings = settings
    world.cores[FREEZING].behave(Behaviour())
    async with world.engine() as engine:
        await world.heal(engine)
    assert world.row(UUID(int=told.outcome.req_id.int)).state is TransferState.COMMITTED
    await world.check()
