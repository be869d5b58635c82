"""Lines by themselves: a fault at one place is his who stands there."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from support.engines import World, now_ms
from support.keyed_transfers import transfer_of
from transfer_engine.engine.daily_sums import DailySums
from transfer_engine.engine.lines import Lines, Place, Wanted
from transfer_engine.engine.open_transfers import OpenTransfer, OpenTransfers


async def test_a_fault_at_one_place_is_no_other_places_matter(autojump_clock: object) -> None:
    world = World()
    transfers = [transfer_of(world, key, 1) for key in "abc"]
    async with trio.open_nursery() as nursery:

        def host(work: Callable[[], Awaitable[None]]) -> bool:
            nursery.start_soon(work)
            return True

        def admit(place: Place) -> tuple[OpenTransfer, bool]:
            [transfer] = [one for one in transfers if one.req_id == place.wanted.req_id]
            if transfer is transfers[1]:
                raise RuntimeError("a defect")
            return transfer, False

        sums = DailySums(
            records=world.records,
            open_transfers=OpenTransfers(),
            assets=[],
            clock_ms=now_ms,
            users_most=10,
            host=host,
        )
        lines = Lines(sums=sums, records=world.records, line_most=10, waiting_most=10, host=host)
        places = [
            lines.join(Wanted(one.req_id, one.intent, one.source, one.target, is_keyed=True), admit)
            for one in transfers
        ]
        assert await places[0].taken(1_000) == (transfers[0], False)
        with pytest.raises(RuntimeError, match="a defect"):
            await places[1].taken(1_000)
        assert await places[2].taken(1_000) == (transfers[2], False)
    assert not lines.of_user
