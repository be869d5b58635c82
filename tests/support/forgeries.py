"""Worlds in which everything has happened, and every way in which their books and rows can come to differ."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import msgspec
import trio
from tigerbeetle import Transfer, TransferFlags

from support.engines import DIRECT, FREEZING, PAIRS, World
from transfer_engine.engine.legs import account_id
from transfer_engine.engine.reconciliation import Difference
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.engine.settings import DEFAULT_ASSETS
from transfer_engine.schema.ids import keyed_req_id
from transfer_engine.schema.transfers import TransferRecord, TransferState

FUNDING, TRADING = account_id(1, 1, 2), account_id(1, 1, 3)
LIES = keyed_req_id("", "transfer", "of nobody")


async def settle(world: World) -> None:
    """Live on until no journal has anything of what was done: it would be recovery's matter."""
    async with world.engine() as engine:
        await world.heal(engine)
        await trio.sleep(40)
    assert not world.records.blobs


async def be_busy(world: World) -> None:
    """Let everything happen once: transfers of all pairs, refused, rolled back and voided ones."""
    await world.fund(1, 2)
    async with world.engine() as engine:
        for number, pair in enumerate(PAIRS.values()):
            await world.ask(engine, *pair, key=f"taken {number}")
            await world.ask(engine, *pair, amount=5_000, key=f"refused {number}")
        world.cores[DIRECT].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="no"))
        for pair in (("funding", DIRECT), (FREEZING, DIRECT)):
            await world.ask(engine, *pair, key=f"rolled back {pair}")
        world.cores[DIRECT].behave(Behaviour())
    await settle(world)
    await world.check()


def a_row(world: World, state: TransferState, source: str | None = None) -> TransferRecord:
    return next(row for row in world.records.rows.values() if row.state is state and source in {None, row.source})


def replace(world: World, row: TransferRecord, **changes: object) -> None:
    world.records.rows[row.req_id.int] = msgspec.structs.replace(row, **changes)


async def send(world: World, *events: Transfer) -> None:
    for answer in await world.ledger.create_transfers(events):
        assert answer.status.name == "CREATED", answer


def leg(number: int, **fields: object) -> Transfer:
    return Transfer(
        **{"id": LIES | number, "user_data_128": LIES, "debit_account_id": FUNDING, "credit_account_id": TRADING,
           "amount": 10, "ledger": 1, "code": 1} | fields
    )  # fmt: skip


# One function for each way in which books and rows can differ, and how that is called.


async def a_row_is_lost(world: World) -> None:
    del world.records.rows[a_row(world, TransferState.COMMITTED).req_id.int]


async def a_row_of_a_rollback_is_lost(world: World) -> None:
    del world.records.rows[a_row(world, TransferState.ROLLED_BACK).req_id.int]


async def a_row_stays_in_between(world: World) -> None:
    replace(world, a_row(world, TransferState.COMMITTED), state=TransferState.TARGET_PENDING)


async def a_committed_row_turns_into_failed(world: World) -> None:
    replace(world, a_row(world, TransferState.COMMITTED), state=TransferState.FAILED)


async def a_rolled_back_row_turns_into_committed(world: World) -> None:
    replace(world, a_row(world, TransferState.ROLLED_BACK), state=TransferState.COMMITTED)


async def a_committed_row_turns_into_rolled_back(world: World) -> None:
    replace(world, a_row(world, TransferState.COMMITTED), state=TransferState.ROLLED_BACK)


async def a_refused_row_turns_into_committed(world: World) -> None:
    replace(world, a_row(world, TransferState.FAILED, "funding"), state=TransferState.COMMITTED)


async def a_refused_row_turns_into_rolled_back(world: World) -> None:
    replace(world, a_row(world, TransferState.FAILED, "funding"), state=TransferState.ROLLED_BACK)


async def a_refused_row_turns_into_pending(world: World) -> None:
    replace(world, a_row(world, TransferState.FAILED, "funding"), state=TransferState.SOURCE_PENDING)


async def a_row_of_nobody_is_committed(world: World) -> None:
    row = a_row(world, TransferState.COMMITTED)
    world.records.rows[LIES] = msgspec.structs.replace(row, req_id=UUID(int=LIES))


async def a_row_says_another_amount(world: World) -> None:
    row = a_row(world, TransferState.COMMITTED)
    replace(world, row, amount=row.amount + 1)


async def a_row_says_another_user(world: World) -> None:
    replace(world, a_row(world, TransferState.COMMITTED, "funding"), user_id=77)


async def a_row_between_cores_says_another_user(world: World) -> None:
    row = next(row for row in world.records.rows.values() if {row.source, row.target} == {FREEZING, DIRECT})
    replace(world, row, user_id=77)


async def a_row_says_another_asset(world: World) -> None:
    replace(world, a_row(world, TransferState.COMMITTED), asset_id=2)


async def a_row_says_another_target(world: World) -> None:
    replace(world, a_row(world, TransferState.COMMITTED, "funding"), target="funding")


async def a_row_says_an_unknown_service(world: World) -> None:
    replace(world, a_row(world, TransferState.COMMITTED), source="nowhere")


async def a_row_has_another_bodys_fingerprint(world: World) -> None:
    replace(world, a_row(world, TransferState.COMMITTED), fingerprint=1)


async def a_row_is_older_than_its_hold(world: World) -> None:
    row = a_row(world, TransferState.COMMITTED)
    replace(world, row, created_at=row.created_at - 1)


async def a_row_is_younger_than_its_end(world: World) -> None:
    row = a_row(world, TransferState.ROLLED_BACK)
    replace(world, row, updated_at=row.updated_at + 1)


async def a_part_is_posted(world: World) -> None:
    await send(
        world,
        leg(1, flags=TransferFlags.PENDING),
        leg(2, amount=4, pending_id=LIES | 1, flags=TransferFlags.POST_PENDING_TRANSFER),
    )


async def a_hold_is_stranded(world: World) -> None:
    await send(world, leg(1, flags=TransferFlags.PENDING))


async def a_hold_of_a_failed_row_is_open(world: World) -> None:
    row = a_row(world, TransferState.FAILED, "funding")
    world.records.rows[LIES] = msgspec.structs.replace(row, req_id=UUID(int=LIES))
    await send(world, leg(1, flags=TransferFlags.PENDING))


async def a_committed_row_stands_behind_a_tombstone(world: World) -> None:
    row = a_row(world, TransferState.COMMITTED)
    world.records.rows[LIES] = msgspec.structs.replace(row, req_id=UUID(int=LIES))
    await send(world, leg(1, code=2, amount=0))


async def a_row_of_a_tombstone_is_missing(world: World) -> None:
    await send(world, leg(1, code=2, amount=0))


async def a_row_of_a_tombstone_is_unfinished(world: World) -> None:
    row = a_row(world, TransferState.COMMITTED)
    pending = msgspec.structs.replace(row, req_id=UUID(int=LIES), state=TransferState.SOURCE_PENDING)
    world.records.rows[LIES] = pending
    await send(world, leg(1, code=2, amount=0))


async def somebody_moves_money_past_the_engine(world: World) -> None:
    await world.ledger.foreign(FUNDING, TRADING, amount=1)


async def a_transfer_has_an_unknown_code(world: World) -> None:
    await send(world, leg(1, code=7, flags=TransferFlags.PENDING))


async def an_id_is_no_engines(world: World) -> None:
    await send(world, leg(1, id=16 | 1, user_data_128=16, flags=TransferFlags.PENDING))


async def a_leg_is_not_of_the_transfer_that_it_names(world: World) -> None:
    await send(world, leg(1, user_data_128=LIES + 16, flags=TransferFlags.PENDING))


async def a_tombstone_moves_money(world: World) -> None:
    await send(world, leg(1, code=2))


async def a_hold_is_under_another_leg(world: World) -> None:
    await send(world, leg(5, flags=TransferFlags.PENDING))


async def an_asset_is_gone_from_the_settings(world: World) -> None:
    world.settings = world.settings.model_copy(update={"assets": DEFAULT_ASSETS[1:]})


async def a_service_is_gone_from_the_settings(world: World) -> None:
    world.settings = world.settings.model_copy(
        update={"services": tuple(service for service in world.settings.services if service.name != "trading")}
    )


Change = Callable[[World], Awaitable[None]]
CHANGES: list[tuple[Change, Difference]] = [
    (a_row_is_lost, Difference.MISSING_ROW),
    (a_row_of_a_rollback_is_lost, Difference.MISSING_ROW),
    (a_row_stays_in_between, Difference.UNFINISHED_ROW),
    (a_committed_row_turns_into_failed, Difference.OTHER_END),
    (a_rolled_back_row_turns_into_committed, Difference.OTHER_END),
    (a_committed_row_turns_into_rolled_back, Difference.OTHER_END),
    (a_refused_row_turns_into_committed, Difference.ROW_WITHOUT_END),
    (a_refused_row_turns_into_rolled_back, Difference.ROW_WITHOUT_END),
    (a_refused_row_turns_into_pending, Difference.ROW_WITHOUT_END),
    (a_row_of_nobody_is_committed, Difference.ROW_WITHOUT_END),
    (a_row_says_another_amount, Difference.OTHER_BODY),
    (a_row_says_another_user, Difference.OTHER_BODY),
    (a_row_between_cores_says_another_user, Difference.OTHER_BODY),
    (a_row_says_another_asset, Difference.OTHER_BODY),
    (a_row_says_another_target, Difference.OTHER_BODY),
    (a_row_says_an_unknown_service, Difference.OTHER_BODY),
    (a_row_has_another_bodys_fingerprint, Difference.OTHER_BODY),
    (a_part_is_posted, Difference.OTHER_BODY),
    (a_row_is_older_than_its_hold, Difference.OTHER_TIMES),
    (a_row_is_younger_than_its_end, Difference.OTHER_TIMES),
    (a_hold_is_stranded, Difference.STRANDED_HOLD),
    (a_hold_of_a_failed_row_is_open, Difference.OTHER_END),
    (a_committed_row_stands_behind_a_tombstone, Difference.OTHER_END),
    (a_row_of_a_tombstone_is_missing, Difference.MISSING_ROW),
    (a_row_of_a_tombstone_is_unfinished, Difference.UNFINISHED_ROW),
    (somebody_moves_money_past_the_engine, Difference.FOREIGN_TRANSFER),
    (a_transfer_has_an_unknown_code, Difference.FOREIGN_TRANSFER),
    (an_id_is_no_engines, Difference.FOREIGN_TRANSFER),
    (a_leg_is_not_of_the_transfer_that_it_names, Difference.FOREIGN_TRANSFER),
    (a_tombstone_moves_money, Difference.FOREIGN_TRANSFER),
    (a_hold_is_under_another_leg, Difference.FOREIGN_TRANSFER),
    (an_asset_is_gone_from_the_settings, Difference.UNKNOWN_ASSET),
    (a_service_is_gone_from_the_settings, Difference.UNKNOWN_SERVICE),
]
