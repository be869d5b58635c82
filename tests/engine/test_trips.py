"""Transfers that are carried by callbacks, and what is left to a task."""

import pytest
import trio
from tigerbeetle import Account, AccountFlags

from support.engines import FREEZING, World
from transfer_engine.engine.legs import account_id
from transfer_engine.schema.transfers import TransferStatus

TRADING = 3
"""The wallet's account code."""


async def test_a_transfer_between_wallets_takes_no_task_and_one_with_a_core_does(world: World) -> None:
    async with world.engine(idle_ms=600_000) as engine:
        for user_id in (1, 2, 3, 1):
            told = await world.ask(engine, "funding", "trading", user_id=user_id)
            assert told.outcome.status is TransferStatus.COMMITTED
        users = engine.statistics().users
        assert (users.messages_handled, users.tasks_spare) == (4, 0)
        told = await world.ask(engine, FREEZING, "funding")
        assert told.outcome.status is TransferStatus.COMMITTED
        assert engine.statistics().users.tasks_spare == 1
    await world.check()


@pytest.mark.parametrize("step", ["intent", "hold"])
async def test_a_users_transfers_that_come_meanwhile_go_behind_in_order_and_together(world: World, step: str) -> None:
    async with world.engine() as engine, trio.open_nursery() as nursery:
        stop = world.wire.stop(step)
        nursery.start_soon(lambda: world.ask(engine, "funding", "trading", amount=1))
        await stop.reached.wait()
        for amount in range(2, 6):
            nursery.start_soon(lambda amount=amount: world.ask(engine, "funding", "trading", amount=amount))
            await trio.sleep(0.01)
        stop.released.set()
        await world.heal(engine)
        assert engine.statistics().submitter.flushes == 2
    rows = sorted(world.records.rows.values(), key=lambda row: row.created_at)
    assert sorted(row.amount for row in rows if row.source == "funding") == [1, 2, 3, 4, 5]
    held = [event.amount for batch in world.ledger.batches for event in batch[::2] if event.debit_account_id]
    assert [amount for amount in held if amount < 6] == [1, 2, 3, 4, 5]
    await world.check()


async def test_an_account_with_other_properties_holds_up_its_own_transfers_alone(world: World) -> None:
    wrong = account_id(3, 1, TRADING)
    await world.ledger.open_accounts(Account(id=wrong, user_data_64=3, ledger=1, code=TRADING, flags=AccountFlags.NONE))
    async with world.engine() as engine, trio.open_nursery() as nursery:
        for user_id in (1, 2, 3):
            nursery.start_soon(lambda user_id=user_id: world.ask(engine, "funding", "trading", user_id=user_id))
        await trio.sleep(3)
        assert {told.asked["user_id"]: told.outcome.status for told in world.told} == {
            1: TransferStatus.COMMITTED,
            2: TransferStatus.COMMITTED,
            3: TransferStatus.PENDING,
        }
        assert engine.statistics().alerts["account_conflict"] >= 1
        nursery.cancel_scope.cancel()
