"""What a look-up says while a key is sent again: what was told stays true."""

import pytest
import trio

from support.engines import World
from transfer_engine.engine import Engine, KeyReused
from transfer_engine.schema.transfers import TransferState, TransferStatus


async def send(engine: Engine, amount: int) -> TransferStatus:
    outcome = await engine.transfer(
        source="funding", target="trading", user_id=1, asset_id=1, amount=amount, idempotency_key="one"
    )
    return outcome.status


@pytest.mark.parametrize("amount", [100, 101])
async def test_a_look_up_beside_a_replay_or_a_foreign_body_sees_the_committed_transfer(
    world: World, autojump_clock: trio.testing.MockClock, amount: int
) -> None:
    async with world.engine() as engine:
        assert await send(engine, 100) is TransferStatus.COMMITTED
        req_id = (await engine.history(1, limit=1)).records[0].req_id
        seen = []

        async def again() -> None:
            if amount == 100:
                assert await send(engine, amount) is TransferStatus.COMMITTED
            else:
                with pytest.raises(KeyReused):
                    await send(engine, amount)
            scope.cancel()

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(again)
                while True:
                    record = await engine.get(req_id)
                    assert record is not None
                    seen.append((record.state, record.amount))
        assert len(seen) > 3
        assert set(seen) == {(TransferState.COMMITTED, 100)}
