"""The scanner beside everybody else: what is let go while it looks is no longer its matter."""

import trio
import trio.testing

from support.engines import FREEZING, World
from transfer_engine.schema.transfers import TransferStatus


async def test_a_transfer_that_is_let_go_while_the_scanner_looks_is_left_alone(world: World) -> None:
    async with (
        world.engine(stale_after_ms=0, scan_interval_ms=60_000, service_timeout_ms=1) as engine,
        trio.open_nursery() as nursery,
    ):
        await world.ask(engine, "funding", "trading", key="done")
        world.wire.down.add(FREEZING)
        for _ in range(3):
            told = await world.ask(engine, "funding", FREEZING)
            assert told.outcome.status is TransferStatus.PENDING
        world.wire.down.remove(FREEZING)
        row = world.wire.stop("get")
        nursery.start_soon(lambda: world.ask(engine, "funding", "trading", key="done"))
        await trio.testing.wait_all_tasks_blocked()
        assert engine.statistics().open_transfers == 4
        engine._parts.scanner.kick()
        await trio.testing.wait_all_tasks_blocked()  # it pauses behind the first core's replay
        row.released.set()
        await world.heal(engine)
        assert engine.statistics().replayed == 1
        assert "last_row_missing" not in engine.statistics().alerts
    await world.check()


async def test_a_last_row_that_only_takes_long_is_not_taken_for_lost(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with (
        world.engine(stale_after_ms=100, scan_interval_ms=50, poison_crashes_most=1) as engine,
        trio.open_nursery() as nursery,
    ):
        slow = world.wire.stop("row committed")
        nursery.start_soon(lambda: world.ask(engine, "funding", "trading", key="slow"))
        await slow.reached.wait()
        await trio.sleep(10)
        slow.released.set()
        await world.heal(engine)
        assert "last_row_missing" not in engine.statistics().alerts
        assert "transfer_set_aside" not in engine.statistics().alerts
        assert world.told[-1].answer is not None
    await world.check()
