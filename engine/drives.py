"""Work on transfers that left their user's queue: a task each, none of which can take the others down."""

from collections.abc import Awaitable, Callable

import trio

from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.leases import LeaseLapsed
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.open_transfers import Custody, OpenTransfer
from transfer_engine.engine.records.protocol import RecordsUnavailable


class Drives:
    """Runs drives. A transfer whose drives crash too often is set aside: neither it nor the scanner dies of it."""

    def __init__(self, alerts: Alerts, *, crashes_most: int) -> None:
        self._alerts = alerts
        self._crashes_most = crashes_most
        self._nursery: trio.Nursery | None = None
        self._under_way = 0
        self._drained = trio.Event()

    def __repr__(self) -> str:
        return f"<Drives {self._under_way} under way>"

    @property
    def under_way(self) -> int:
        """How many drives run now."""
        return self._under_way

    def start(self, transfer: OpenTransfer, work: Callable[[], Awaitable[None]]) -> bool:
        """Start ``work`` on a transfer in a task of its own; without a running nursery it is left to the scanner.

        Returns whether it was started.
        """
        if self._nursery is None:
            transfer.leave()
            return False
        transfer.custody = Custody.DRIVEN
        self._under_way += 1
        self._nursery.start_soon(self._drive, transfer, work)
        return True

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Host the drives until cancelled; cancellation leaves their transfers to the scanner, or the next life."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def wait_drained(self) -> None:
        """Wait until no drive is under way. Cancellation leaves nothing behind."""
        await trio.lowlevel.checkpoint()
        while self._under_way:
            self._drained = trio.Event()
            await self._drained.wait()

    async def _drive(self, transfer: OpenTransfer, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (LedgerUnavailable, RecordsUnavailable, LeaseLapsed) as fault:
            # No crash of the transfer's: an outage would set everything aside that is replayed while it lasts.
            self._alerts.warn("drive_interrupted", transfer=transfer, error=str(fault))
            transfer.trouble(str(fault))
        except Exception as error:  # noqa: BLE001  one transfer's trouble, whatever it is, is not the engine's
            self.crashed(transfer, error)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._drained.set()
            if transfer.custody is Custody.DRIVEN:
                transfer.leave()

    def crashed(self, transfer: OpenTransfer, error: BaseException) -> None:
        """Count a crash of a transfer's drive or handler; set the transfer aside when they are too many."""
        transfer.crashes += 1
        self._alerts.critical("drive_crashed", transfer=transfer, error=repr(error), exc_info=error)
        if transfer.crashes >= self._crashes_most:
            self.set_aside(transfer, error)

    def set_aside(self, transfer: OpenTransfer, error: BaseException) -> None:
        """Stop trying a transfer in this life; an operator's resolve, or the next life, takes it up again."""
        transfer.is_quarantined = True
        transfer.trouble(f"set aside after repeated crashes: {type(error).__name__}")
        self._alerts.critical("transfer_set_aside", transfer=transfer, error=repr(error))
