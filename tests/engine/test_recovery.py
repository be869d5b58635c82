"""What a new life finds in the journal, in which order it goes on, and how the scanner replays and alerts."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
import trio

from support.engines import BORN_MS, FREEZING, PAIRS, Told, World, now_ms
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.legs import LedgerBody
from transfer_engine.engine.outcomes import KeyReused
from transfer_engine.engine.records.protocol import BUCKET_MS, RecordsDamaged
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.ids import fingerprint, issued_req_id, keyed_req_id
from transfer_engine.schema.transfers import Intent, TransferRecord, TransferState, TransferStatus, encode_intents

KEY = keyed_req_id("", "transfer", "key")


def intent_of(req_id: int = KEY, **changes: Any) -> Intent:
    body = {"source": "funding", "target": "trading", "user_id": 1, "target_user_id": 1, "asset_id": 1, "amount": 100}
    body |= changes
    return Intent(req_id=req_id.to_bytes(16), accepted_at=now_ms(), fingerprint=fingerprint(**body), **body)


def write_down(world: World, *intents: Intent, sequence: int = 0) -> None:
    """Leave intents in the journal, as a life does that dies right after."""
    world.records.blobs[0, BORN_MS // BUCKET_MS + 5, 1 + sequence] = encode_intents(list(intents))


def body_of(world: World, intent: Intent) -> LedgerBody:
    registry = world.registry(dict(world.cores))
    return LedgerBody(
        req_id=int.from_bytes(intent.req_id),
        debit_account_id=registry[intent.source].account_id(intent.user_id, 1),
        credit_account_id=registry[intent.target].account_id(intent.target_user_id, 1),
        asset_id=1,
        amount=intent.amount,
        fingerprint=intent.fingerprint,
    )


async def recover(world: World) -> dict[str, int]:
    async with world.engine() as engine:
        await world.heal(engine)
        ended = engine.statistics().ended
    async with world.engine() as engine:
        assert engine.statistics().recovered == 0, "the next life has nothing to do"
    await world.check()
    return ended


async def test_an_intent_that_was_written_twice_is_driven_once(world: World) -> None:
    write_down(world, intent_of(), intent_of())
    write_down(world, intent_of(), sequence=1)
    assert await recover(world) == {"committed": 1}
    assert await world.spendable(1, "trading") == 100


async def test_of_two_bodies_under_one_key_the_first_one_owns_it(world: World) -> None:
    write_down(world, intent_of(), intent_of(amount=5), intent_of(target=FREEZING))
    assert await recover(world) == {"committed": 1}
    assert world.row(UUID(int=KEY)).amount == 100
    assert (await world.spendable(1, "funding"), await world.spendable(1, "trading")) == (900, 100)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("pair", ["wallet->wallet", "wallet->core", "core->wallet", "core->core"])
async def test_of_several_bodies_under_one_key_the_ledgers_one_owns_it(world: World, pair: str, position: int) -> None:
    """The owner's hold had reached the ledger, wherever its intent stands in the journal."""
    source, target = PAIRS[pair]
    others = [intent_of(amount=7), intent_of(target_user_id=2, target="funding")]
    owner = intent_of(source=source, target=target, amount=50)
    async with world.engine() as engine:
        await world.ask(engine, source, target, amount=1)
    await world.ledger.create_transfers([body_of(world, owner).hold()])
    write_down(world, *others[:position], owner, *others[position:])
    assert await recover(world) == {"committed": 1}
    assert world.row(UUID(int=KEY)).amount == 50


async def test_bodies_whose_key_is_another_engines_leave_nothing(world: World) -> None:
    owner = intent_of(amount=50)
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading", amount=1)
    await world.ledger.create_transfers([body_of(world, owner).hold()])
    write_down(world, intent_of(amount=7), intent_of(amount=8), intent_of(amount=9))
    async with world.engine() as engine:
        await world.heal(engine)
        assert engine.statistics().ended == {}
    assert KEY not in world.records.rows


async def test_a_key_whose_bodies_wait_in_line_is_asked_for(world: World) -> None:
    """A client of the second body asks while the first one is being recovered: it is told the truth."""
    write_down(world, intent_of(), intent_of(amount=5))
    async with world.engine() as engine:
        second = await world.ask(engine, "funding", "trading", key="key", amount=5)
        first = await world.ask(engine, "funding", "trading", key="key")
        await world.heal(engine)
    assert isinstance(second.answer, KeyReused)
    assert first.outcome.status is TransferStatus.COMMITTED
    await world.check()


async def test_a_damaged_blob_is_named(world: World) -> None:
    world.records.blobs[0, 179_000_099, 77] = b"\x93nonsense"
    with pytest.raises(RecordsDamaged, match=r"shard 0, bucket 179000099, sequence 77"):
        async with world.engine():
            pass


async def test_unfinished_wallet_pairs_are_recovered_in_batches(world: World) -> None:
    write_down(world, *(intent_of(issued_req_id(number), user_id=number % 50 + 1, amount=1) for number in range(500)))
    async with world.engine() as engine:
        assert engine.statistics().recovered == 500
        await world.heal(engine)
        assert engine.statistics().submitter.flushes < 20
        assert trio.current_time() < 2
    await world.check()


async def leave_without_rows(world: World, count: int) -> list[int]:
    """Leave transfers that the ledger has carried out in the journal, without rows; return their names."""
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading", amount=1)
    intents = [intent_of(issued_req_id(number), amount=1) for number in range(count)]
    bodies = [body_of(world, intent) for intent in intents]
    await world.ledger.create_transfers([event for body in bodies for event in (body.hold(), body.post(2))])
    write_down(world, *intents)
    return [body.req_id for body in bodies]


async def test_rows_that_the_ledger_was_ahead_of_are_looked_for_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = await leave_without_rows(world, 500)
    asked: list[int] = []
    get_many = world.records.get_many

    async def counting(req_ids: Sequence[int]) -> dict[int, TransferRecord]:
        asked.append(len(req_ids))
        return await get_many(req_ids)

    monkeypatch.setattr(world.records, "get_many", counting)
    assert await recover(world) == {"committed": 500}
    assert names[0] in world.records.rows
    assert sum(asked) >= 1_000, "at the start, and before each row is written"
    assert len(asked) < 20


async def test_a_row_that_cant_be_read_hides_none_of_those_looked_for_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = await leave_without_rows(world, 20)
    get_many = world.records.get_many

    async def damaged(req_ids: Sequence[int]) -> dict[int, TransferRecord]:
        if names[7] in req_ids:
            raise RecordsDamaged("row 7")
        return await get_many(req_ids)

    async with world.engine() as engine:
        monkeypatch.setattr(world.records, "get_many", damaged)
        await trio.sleep(60)
        assert engine.statistics().ended == {"committed": 19}
        assert engine.statistics().alerts["transfer_set_aside"] == 1
        assert "actor_crashed" not in engine.statistics().alerts
    monkeypatch.undo()
    assert await recover(world) == {"committed": 1}


async def test_a_core_that_comes_back_is_not_trampled(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), crash_before=9_999))
    async with world.engine(service_timeout_ms=1) as engine, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(lambda: world.ask(engine, "funding", FREEZING, amount=1))
    world.cores[FREEZING].behave(Behaviour())
    async with world.engine(replay_gap_ms=10) as engine:
        await world.heal(engine)
        calls = world.wire.times(f"{FREEZING}.deposit")
        assert len(calls) == 20
        assert all(later - earlier >= 0.009 for earlier, later in pairwise(calls))
    await world.check()


async def test_what_former_lives_left_is_taken_up_at_once(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine() as engine:
        await world.ask(engine, "funding", FREEZING)
    world.cores[FREEZING].behave(Behaviour())
    began = trio.current_time()
    async with world.engine(stale_after_ms=3_000_000, scan_interval_ms=3_000_000) as engine:
        await world.heal(engine)
    assert trio.current_time() - began < 2
    await world.check()


async def stuck(world: World, engine: Engine) -> Told:
    world.cores[FREEZING].behave(Behaviour(crash_before=99_999))
    told = await world.ask(engine, "funding", FREEZING)
    assert told.outcome.status is TransferStatus.PENDING
    return told


async def test_a_transfer_is_replayed_when_nothing_happened_to_it_for_a_while(world: World) -> None:
    async with world.engine(scan_interval_ms=5_000, stale_after_ms=30_000, service_timeout_ms=50) as engine:
        told = await stuck(world, engine)
        await trio.sleep(29)
        first = world.wire.names().count("hold")
        await trio.sleep(100)
        record = await engine.get(told.outcome.req_id)
        assert record is not None
        assert world.wire.names().count("hold") - first == record.retry_count == 3
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)


async def test_many_replays_raise_an_alert_in_this_life_and_the_next(world: World) -> None:
    async with world.engine(alert_retries=3, service_timeout_ms=50) as engine:
        told = await stuck(world, engine)
        await trio.sleep(8)
        assert "transfer_stuck" not in engine.statistics().alerts
        await trio.sleep(4)
        assert engine.statistics().alerts["transfer_stuck"] == 1
        await trio.sleep(30)
    async with world.engine(alert_retries=3, service_timeout_ms=50) as engine:
        await trio.sleep(20)
        assert engine.statistics().alerts["transfer_stuck"] >= 1
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


async def test_what_is_pending_for_long_warns_and_then_is_critical_once_each(world: World) -> None:
    async with world.engine(pending_warning_ms=10_000, pending_critical_ms=20_000, service_timeout_ms=50) as engine:
        await stuck(world, engine)
        await trio.sleep(9)
        assert not {"pending_warning", "pending_critical"} & set(engine.statistics().alerts)
        await trio.sleep(8)
        assert engine.statistics().alerts["pending_warning"] == 1
        assert "pending_critical" not in engine.statistics().alerts
        await trio.sleep(20)
        assert engine.statistics().alerts["pending_critical"] == 1
        assert engine.statistics().alerts["pending_warning"] == 1
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)
    await world.check()
