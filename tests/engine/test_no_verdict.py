"""What the ledger answers that is no verdict: alert, stay pending, ask again, conclude nothing."""

from collections.abc import Callable

import pytest
import trio
from tigerbeetle import Account, CreateTransferStatus, Transfer, TransferFlags

from support.engines import DIRECT, FREEZING, PAIRS, World
from transfer_engine.engine.legs import account_id
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.engine.verdicts import END_VERDICTS, HOLD_VERDICTS
from transfer_engine.schema.transfers import TransferState, TransferStatus

TRADING = 3

UNKNOWN_TO_HOLDS = [status for status in CreateTransferStatus if status not in HOLD_VERDICTS]
UNKNOWN_TO_ENDS = [status for status in CreateTransferStatus if status not in END_VERDICTS]
UNKNOWN_TO_ENDS.append(CreateTransferStatus.EXISTS_WITH_DIFFERENT_USER_DATA_64)  # … of a leg that is not to be found


def on(flag: TransferFlags, status: CreateTransferStatus) -> Callable[[Transfer], CreateTransferStatus | None]:
    return lambda transfer: status if int(transfer.flags) & flag else None


async def test_what_is_no_verdict_about_a_hold_leaves_the_transfer_pending(world: World) -> None:
    async with world.engine() as engine:
        for number, status in enumerate(UNKNOWN_TO_HOLDS):
            alerts = engine.statistics().alerts.get("hold_undecided", 0)
            pair = list(PAIRS.values())[number % len(PAIRS)]
            world.ledger.forge = on(TransferFlags.PENDING, status)
            told = await world.ask(engine, *pair, amount=1, deadline_ms=200)
            assert told.outcome.status is TransferStatus.PENDING, status
            assert engine.statistics().alerts["hold_undecided"] == alerts + 1
            world.ledger.forge = lambda _: None
            await world.heal(engine)
            assert world.row(told.outcome.req_id).state is TransferState.COMMITTED, status
    await world.check()


@pytest.mark.parametrize("end", ["post", "void"])
async def test_what_is_no_verdict_about_an_end_leaves_the_transfer_pending(world: World, end: str) -> None:
    flag = TransferFlags.POST_PENDING_TRANSFER if end == "post" else TransferFlags.VOID_PENDING_TRANSFER
    if end == "void":
        world.cores[DIRECT].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
    async with world.engine() as engine:
        for status in UNKNOWN_TO_ENDS:
            alerts = engine.statistics().alerts.get("end_undecided", 0)
            world.ledger.forge = on(flag, status)
            told = await world.ask(engine, FREEZING, DIRECT, amount=1, deadline_ms=200)
            assert told.outcome.status is TransferStatus.PENDING, status
            assert engine.statistics().alerts["end_undecided"] == alerts + 1
            world.ledger.forge = lambda _: None
            await world.heal(engine)
            assert world.row(told.outcome.req_id).state == ("committed" if end == "post" else "rolled_back"), status
            assert world.row(told.outcome.req_id).error == ("" if end == "post" else "closed for today"), status
    await world.check()


async def test_a_hold_that_exists_and_is_not_to_be_found_is_no_verdict(world: World) -> None:
    async with world.engine() as engine:
        world.ledger.forge = on(TransferFlags.PENDING, CreateTransferStatus.EXISTS_WITH_DIFFERENT_AMOUNT)
        told = await world.ask(engine, "funding", "trading", key="key")
        assert told.outcome.status is TransferStatus.PENDING
        assert engine.statistics().alerts["hold_vanished"] == 1
        world.ledger.forge = lambda _: None
        await world.heal(engine)
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


async def test_when_every_leg_is_burnt_a_person_is_called_and_nothing_is_concluded(world: World) -> None:
    async with world.engine() as engine:
        world.ledger.forge = on(TransferFlags.POST_PENDING_TRANSFER, CreateTransferStatus.ID_ALREADY_FAILED)
        told = await world.ask(engine, "funding", FREEZING)
        assert told.outcome.status is TransferStatus.PENDING
        assert engine.statistics().alerts["legs_used_up"] == 1
        world.ledger.forge = lambda _: None
        await world.heal(engine)
    await world.check()


# An account that exists with other flags stops that account, loudly.


async def test_an_account_with_other_properties_stops_its_transfers_and_no_others(world: World) -> None:
    await world.ledger.open_accounts(Account(id=account_id(1, 1, TRADING), ledger=1, code=TRADING))
    async with world.engine() as engine:
        told = await world.ask(engine, "funding", "trading", key="key")
        assert told.outcome.status is TransferStatus.PENDING
        assert engine.statistics().alerts["account_conflict"] == 1
        assert told.outcome.message is not None
        assert "exists with other properties" in told.outcome.message
        assert "hold" not in world.wire.names()
        other = await world.ask(engine, "funding", FREEZING)
        assert other.outcome.status is TransferStatus.COMMITTED
        await trio.sleep(10)
        assert engine.statistics().open_transfers == 1
