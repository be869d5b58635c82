"""What former lives left is handed over bit by bit: newcomers come in between, and nobody overtakes himself."""

import pytest
import trio

from support.engines import BORN_MS, World, now_ms
from transfer_engine.engine.backlog import room_of
from transfer_engine.engine.records.protocol import BUCKET_MS
from transfer_engine.schema.ids import fingerprint, issued_req_id
from transfer_engine.schema.transfers import Intent, TransferStatus, encode_intents

LEFT = 600
"""Many times what may be under way in these tests."""


def leave(world: World, *users: int) -> list[bytes]:
    """Leave unfinished transfers of some users in turn; return their names."""
    intents = []
    for number in range(LEFT):
        user_id = users[number % len(users)]
        body = {
            "source": "funding", "target": "trading", "user_id": user_id, "target_user_id": user_id,
            "asset_id": 1, "amount": 1,
        }  # fmt: skip
        req_id = issued_req_id(number).to_bytes(16)
        intents.append(Intent(req_id=req_id, accepted_at=now_ms(), fingerprint=fingerprint(**body), **body))
    world.records.blobs[0, BORN_MS // BUCKET_MS + 5, 1] = encode_intents(intents)
    return [intent.req_id for intent in intents]


def holds(world: World) -> list[int]:
    """Return whose holds the ledger was sent in this life, in order."""
    return [entry.req_id for entry in world.wire.log if entry.name == "hold"]


@pytest.mark.parametrize(
    ("waiting", "room"), [(0, 1_024), (1_000, 24), (1_024, 0), (1_535, 0), (1_536, 8), (4_095, 8), (4_096, 0)]
)
def test_half_of_what_may_wait_is_for_newcomers_and_too_many_of_them_stop_nothing(waiting: int, room: int) -> None:
    assert room_of(waiting, 2_048) == room


async def test_who_comes_after_a_restart_does_not_wait_for_all_that_was_left(world: World) -> None:
    left = {int.from_bytes(req_id) for req_id in leave(world, 1, 2)}
    async with world.engine(waiting_least=16) as engine:
        told = await world.ask(engine, "funding", "trading", user_id=3, amount=5)
        assert told.outcome.status is TransferStatus.COMMITTED
        place = holds(world).index(told.outcome.req_id.int)
        assert place < LEFT / 2, "most of what was left comes later"
        await world.heal(engine)
        assert left < set(holds(world))
        assert engine.statistics().ended == {"committed": LEFT + 1}
    await world.check()


async def test_nobody_overtakes_what_he_left(world: World) -> None:
    left = [int.from_bytes(req_id) for req_id in leave(world, 1, 2)]
    async with world.engine(waiting_least=16) as engine:
        told = await world.ask(engine, "funding", "trading", user_id=2, amount=5, deadline_ms=60_000)
        assert told.outcome.status is TransferStatus.COMMITTED
        sent = holds(world)
        own = [req_id for req_id in sent[: sent.index(told.outcome.req_id.int)] if req_id in left[1::2]]
        assert own == left[1::2]
        await world.heal(engine)
    await world.check()


async def test_what_was_left_takes_nobody_s_room(world: World) -> None:
    leave(world, 1, 2)
    async with world.engine(waiting_least=8, open_transfers_most=20) as engine:
        told = await world.ask(engine, "funding", "trading", user_id=3, amount=5)
        assert told.outcome.status is TransferStatus.COMMITTED
        await world.heal(engine)


async def test_an_engine_that_stops_amid_it_leaves_the_rest_to_the_next_life(world: World) -> None:
    leave(world, 1, 2)
    async with world.engine(waiting_least=16, shutdown_ms=0) as engine:
        await trio.sleep(0.01)
        assert 0 < engine.statistics().open_transfers < LEFT
    async with world.engine(waiting_least=16, shutdown_ms=0) as engine:
        assert 0 < engine.statistics().recovered < LEFT
        await world.heal(engine)
    await world.check()
