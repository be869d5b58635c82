"""Work that is due on a clock, such as recovery: the interval is counted from the end of one scan to the next."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio


@dataclass(frozen=True, slots=True)
class ScannerStatistics:
    """What a scanner is doing and has done. Times are trio's clock."""

    name: str
    running: bool
    scanning: bool
    scans: int
    """Scans that returned."""
    crashes: int
    """Scans that raised."""
    last_began_at_s: float | None
    last_took_ms: float | None
    """How long the last scan that returned took."""


class Scanner:
    """Awaits ``scan()`` every ``interval_ms``, and soon after :meth:`kick`; never twice at a time.

    The first scan is one interval after the start. A scan that raises makes :meth:`run` raise to its supervisor; the
    next run then waits for an interval, too.
    """

    def __init__(self, name: str, scan: Callable[[], Awaitable[None]], interval_ms: int) -> None:
        if interval_ms < 1:
            raise ValueError(f"interval_ms of scanner {name!r} must be at least 1, not {interval_ms}")
        self.name = name
        self._scan = scan
        self._interval_s = interval_ms / 1000
        self._kicks = 0
        self._kicks_served = 0
        self._wake: trio.Event | None = None
        self._running = False
        self._scanning = False
        self._scans = 0
        self._crashes = 0
        self._last_began_at_s: float | None = None
        self._last_took_ms: float | None = None

    def __repr__(self) -> str:
        state = "scanning" if self._scanning else "waiting" if self._running else "not running"
        return f"<Scanner {self.name!r} {state}: {self._scans} scans, {self._crashes} crashes>"

    def statistics(self) -> ScannerStatistics:
        """Return what it is doing and has done."""
        return ScannerStatistics(
            name=self.name,
            running=self._running,
            scanning=self._scanning,
            scans=self._scans,
            crashes=self._crashes,
            last_began_at_s=self._last_began_at_s,
            last_took_ms=self._last_took_ms,
        )

    def kick(self) -> None:
        """Ask for a scan soon: one that begins after this call. Several kicks before it begins are one.

        A kick outlives a scan that was cancelled or crashed: it is served when a scan has returned.
        """
        self._kicks += 1
        if self._wake is not None:
            self._wake.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Scan until cancelled. Meant as a supervisor's permanent child; it may be run again after it ended.

        Cancellation cuts a scan short where the scan allows it. Raises what the scan raised, and
        :class:`RuntimeError` if it is running already.
        """
        if self._running:
            raise RuntimeError(f"the scanner {self.name!r} is running already")
        self._running = True
        try:
            task_status.started()
            while True:
                await self._wait()
                await self._scan_once()
        finally:
            self._running = False

    async def _wait(self) -> None:
        """Wait for the end of the interval or for a kick."""
        await trio.lowlevel.checkpoint()
        if self._kicks == self._kicks_served:
            self._wake = trio.Event()
            with trio.move_on_after(self._interval_s):
                await self._wake.wait()
            self._wake = None

    async def _scan_once(self) -> None:
        kicks = self._kicks
        self._last_began_at_s = trio.current_time()
        self._scanning = True
        try:
            await self._scan()
        except Exception:
            self._crashes += 1
            raise
        finally:
            self._scanning = False
        self._kicks_served = kicks
        self._scans += 1
        self._last_took_ms = (trio.current_time() - self._last_began_at_s) * 1000
