"""Daily sums by themselves: what counts once although it was read and is under way."""

from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio

from support.engines import World, now_ms
from support.keyed_transfers import transfer_of
from transfer_engine.engine.daily_sums import DailySums
from transfer_engine.engine.open_transfers import OpenTransfers
from transfer_engine.schema.transfers import TransferState

AMOUNT = 70


@pytest.mark.parametrize("is_replay", [True, False])
async def test_what_is_under_way_and_has_a_committed_row_counts_once_and_is_no_repetition_to_wait_for(
    autojump_clock: object, is_replay: bool
) -> None:
    """So it is where an adopted transfer was committed by the engine that had it, which wrote its row meanwhile."""
    world = World()
    open_transfers = OpenTransfers()
    transfer, other = transfer_of(world, "read", AMOUNT), transfer_of(world, "unread", 9)
    row = msgspec.structs.replace(transfer.record(), state=TransferState.COMMITTED)
    await world.records.write((), [row])
    async with trio.open_nursery() as nursery:

        def host(work: Callable[[], Awaitable[None]]) -> bool:
            nursery.start_soon(work)
            return True

        [asset, *_] = [one.model_copy(update={"daily_most": 100}).asset() for one in world.settings.assets]
        sums = DailySums(
            records=world.records,
            open_transfers=open_transfers,
            assets=[asset],
            clock_ms=now_ms,
            users_most=10,
            host=host,
        )
        open_transfers.add(transfer)
        open_transfers.add(other)
        await sums.load(1)
    assert sums.used(1, 1) == AMOUNT + 9
    assert sums.perhaps_repeated(1, 1) == [other]
    if not is_replay:
        transfer.adopt(row)
    open_transfers.remove(transfer)
    assert sums.used(1, 1) == AMOUNT + 9
    open_transfers.remove(other)
    assert sums.used(1, 1) == AMOUNT
