import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from transfer_engine.actors import Backoff, ChildSpec, Scanner, Supervisor


class Scans:
    """A scan that takes a while and remembers when it began."""

    def __init__(self, takes_s=0.0):
        self.began = []
        self.takes_s = takes_s
        self.crashes_left = 0
        self.inside = False

    async def scan(self):
        assert not self.inside
        self.inside = True
        try:
            self.began.append(trio.current_time())
            await trio.sleep(self.takes_s)
            if self.crashes_left > 0:
                self.crashes_left -= 1
                raise OSError("no records")
        finally:
            self.inside = False


async def test_it_scans_on_the_clock_one_interval_after_the_end_of_the_last(autojump_clock):
    scans = Scans(takes_s=0.5)
    scanner = Scanner("recovery", scans.scan, interval_ms=1_000)
    with trio.move_on_after(4.9):
        await scanner.run()
    assert scans.began == pytest.approx([1.0, 2.5, 4.0])
    statistics = scanner.statistics()
    assert (statistics.scans, statistics.crashes, statistics.running, statistics.scanning) == (3, 0, False, False)
    assert statistics.last_took_ms == pytest.approx(500)
    assert statistics.last_began_at_s == pytest.approx(4.0)


async def test_a_kick_runs_one_at_once_and_several_are_one(autojump_clock):
    scans = Scans()
    scanner = Scanner("recovery", scans.scan, interval_ms=1_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(scanner.run)
        await trio.sleep(0.25)
        scanner.kick()
        scanner.kick()
        await wait_all_tasks_blocked()
        assert scans.began == [0.25]
        await trio.sleep(1.5)
        assert scans.began == [0.25, 1.25]
        nursery.cancel_scope.cancel()


async def test_a_kick_amid_a_scan_is_served_by_another_scan(autojump_clock):
    scans = Scans(takes_s=1)
    scanner = Scanner("recovery", scans.scan, interval_ms=10_000)
    scanner.kick()
    async with trio.open_nursery() as nursery:
        await nursery.start(scanner.run)
        await trio.sleep(0.5)
        assert scanner.statistics().scanning
        assert "scanning" in repr(scanner)
        scanner.kick()
        await trio.sleep(5)
        assert scans.began == [0, 1]
        assert "'recovery' waiting: 2 scans" in repr(scanner)
        nursery.cancel_scope.cancel()


async def test_a_crash_is_the_supervisors_and_the_clock_goes_on(autojump_clock):
    scans = Scans()
    scans.crashes_left = 1
    scanner = Scanner("recovery", scans.scan, interval_ms=1_000)
    with pytest.raises(OSError, match="no records"):
        await scanner.run()
    assert scanner.statistics().crashes == 1
    supervisor = Supervisor("engine", [ChildSpec("recovery", scanner.run)], backoff=Backoff(first_ms=0, most_ms=0))
    scans.crashes_left = 1
    with trio.move_on_after(3.5):
        await supervisor.run()
    assert scans.began == pytest.approx([1, 2, 3, 4])
    assert supervisor.statistics().children[0].crashes == 1
    assert (scanner.statistics().scans, scanner.statistics().crashes) == (2, 2)


async def test_a_kick_outlives_a_crash_and_a_cancellation(autojump_clock):
    scans = Scans(takes_s=1)
    scans.crashes_left = 1
    scanner = Scanner("recovery", scans.scan, interval_ms=100_000)
    scanner.kick()
    with pytest.raises(OSError, match="no records"):
        await scanner.run()
    with trio.move_on_after(0.5):
        await scanner.run()
    with trio.move_on_after(10):
        await scanner.run()
    assert scans.began == pytest.approx([0, 1, 1.5])
    assert scanner.statistics().scans == 1


async def test_it_runs_once_at_a_time(autojump_clock):
    scanner = Scanner("recovery", Scans().scan, interval_ms=1_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(scanner.run)
        with pytest.raises(RuntimeError, match="running already"):
            await scanner.run()
        nursery.cancel_scope.cancel()


def test_cancelled_at_every_step_it_can_run_again(at_every_step, cancelled_after):
    async def program(steps):
        scans = Scans(takes_s=0.1)
        scanner = Scanner("recovery", scans.scan, interval_ms=1_000)
        with cancelled_after(steps) as scope:
            scanner.kick()
            with trio.move_on_after(2.5):
                await scanner.run()
            if steps > 1:
                scanner.kick()
        assert not scanner.statistics().running
        before = len(scans.began)
        with trio.move_on_after(2):
            await scanner.run()
        assert len(scans.began) > before
        return scope.cancelled_caught

    at_every_step(program, at_least=8)


def test_a_senseless_interval_is_refused():
    with pytest.raises(ValueError, match="interval_ms"):
        Scanner("recovery", Scans().scan, interval_ms=0)
