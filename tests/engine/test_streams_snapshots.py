"""Snapshots of streams beside events: whoever comes, at whatever moment, knows in the end what the ledger says."""

from functools import partial

import trio

from support.engines import FREEZING, World
from support.streams import Reader, settle, wallets_of
from transfer_engine.engine import Overloaded
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.engine.stream_rings import StreamSnapshot
from transfer_engine.engine.stream_settings import StreamSettings

REFUSING = Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today")


async def test_a_snapshot_in_the_midst_of_a_transfer_that_is_undone_is_put_right(autojump_clock: object) -> None:
    """One who came before knows the balance as it was, and is again; one who came between saw it held."""
    world = World(streams=StreamSettings(read_interval_ms=1_000))
    await world.fund(1)
    world.cores[FREEZING].behave(REFUSING)
    async with world.engine() as engine, trio.open_nursery() as nursery:
        first = Reader(engine, 1).subscribe()
        await settle(engine)
        await trio.sleep(2)
        persisted = world.wire.stop("row target_pending")
        nursery.start_soon(partial(world.ask, engine, "funding", FREEZING))
        await persisted.reached.wait()
        second = Reader(engine, 1).subscribe()
        await settle(engine)
        assert isinstance(second.told[0], StreamSnapshot)
        assert second.balances["funding", 1] == (900, 100)
        persisted.released.set()
        await world.heal(engine)
        await trio.sleep(5)
        await settle(engine)
        assert first.balances == second.balances == await wallets_of(world, 1)


async def test_what_is_turned_away_without_a_trace_is_in_no_snapshot(autojump_clock: object) -> None:
    """It has no end that could be told: its client was told that nothing was taken."""
    world = World(lease_ms=6_000, heartbeat_ms=2_000, deadline_ms=60_000)
    await world.fund(1)
    async with world.engine() as engine, trio.open_nursery() as nursery:
        hold = world.wire.stop("hold")
        nursery.start_soon(partial(world.ask, engine, "funding", "trading"))
        await hold.reached.wait()
        nursery.start_soon(partial(world.ask, engine, "funding", "trading"))
        await trio.sleep(0.1)
        reader = Reader(engine, 1).subscribe()
        await settle(engine)
        [snapshot] = reader.told
        assert isinstance(snapshot, StreamSnapshot)
        world.wire.down = {"records"}
        await trio.sleep(20)
        hold.released.set()
        await trio.sleep(1)
        world.wire.down = set()
        await world.heal(engine)
        await settle(engine)
        assert any(isinstance(told.answer, Overloaded) for told in world.told)
        under_way = {record.req_id for record in snapshot.transfers}
        assert under_way == {record.req_id for record in reader.transfers} & under_way
