"""The recorder: gathers intents and rows into group commits, and writes them again until they are certain.

It owns the only way of writes to the record store. A write whose answer was lost may have landed; nothing is
concluded from that: the same blobs and rows are written again (both are idempotent) until the store says so.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from transfer_engine.actors import Backoff, GroupCommit, GroupCommitStatistics
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.journal import INTENTS_IN_BLOB_MOST, Journal
from transfer_engine.engine.open_transfers import OpenTransfer
from transfer_engine.engine.records.protocol import RecordStore, RecordsUnavailable
from transfer_engine.engine.submitter import Health, until_answered
from transfer_engine.schema.transfers import TransferRecord

Result = TypeVar("Result")


class _Entry:
    """What is to be made durable together: intents to journal, a row, and whose end that row is."""

    __slots__ = ("ended", "record", "to_journal")

    def __init__(
        self,
        *,
        to_journal: Sequence[OpenTransfer] = (),
        record: TransferRecord | None = None,
        ended: OpenTransfer | None = None,
    ) -> None:
        self.to_journal = to_journal
        self.record = record
        self.ended = ended


def _weigh(entry: _Entry) -> int:
    return len(entry.to_journal) or 1


class Recorder:
    """Group commit over the record store.

    Args:
        store: where to write.
        journal: numbers the blobs.
        alerts: told of faults.
        ended: called for each transfer whose last row is durable, synchronously, in order.
        clock_ms: the wall clock (Unix ms), for the times of states in between.
        waiting_most: intents and rows that may wait.
    """

    def __init__(
        self,
        store: RecordStore,
        journal: Journal,
        alerts: Alerts,
        *,
        ended: Callable[[OpenTransfer], None],
        clock_ms: Callable[[], int],
        waiting_most: int,
    ) -> None:
        self.health = Health()
        self._store = store
        self._journal = journal
        self._alerts = alerts
        self._ended = ended
        self._clock_ms = clock_ms
        self._backoff = Backoff()
        self.commits: GroupCommit[_Entry, None] = GroupCommit(
            "recorder",
            self._flush,
            weigh=_weigh,
            batch_weight_most=2 * INTENTS_IN_BLOB_MOST,
            waiting_weight_most=max(waiting_most, 2 * INTENTS_IN_BLOB_MOST),
        )

    async def journal(self, transfers: Sequence[OpenTransfer]) -> None:
        """Make the intents of transfers durable.

        Cancellation while waiting leaves them on their way: they may become durable, and count as unsettled.
        """
        for start in range(0, len(transfers), INTENTS_IN_BLOB_MOST):
            part = transfers[start : start + INTENTS_IN_BLOB_MOST]
            await self.commits.submit(_Entry(to_journal=part), admitted=True)
            for transfer in part:
                transfer.is_journaled = True

    async def persist(self, transfer: OpenTransfer) -> None:
        """Make a row of the transfer's present state durable, before the call that it announces.

        Cancellation while waiting leaves the row on its way.
        """
        transfer.updated_at = self._clock_ms()
        await self.commits.submit(_Entry(record=transfer.record()), admitted=True)

    def end(self, transfer: OpenTransfer) -> None:
        """Write a transfer's last row; ``ended`` is called once it is durable."""
        entry = _Entry(record=transfer.record(), ended=transfer)
        transfer.last_entry = self.commits.submit_nowait(entry, admitted=True)

    def has_passed(self, transfer: OpenTransfer) -> bool:
        """Tell whether a transfer's last row has left the queue: written, or set aside."""
        return self.commits.has_passed(transfer.last_entry)

    async def find(self, req_id: int) -> TransferRecord | None:
        """Return the row of a transfer, once the store has answered. Cancellation leaves nothing behind."""
        return await self._until_answered(lambda: self._store.get(req_id))

    def statistics(self) -> GroupCommitStatistics:
        """Return the statistics of the group commit."""
        return self.commits.statistics()

    async def _flush(self, entries: list[_Entry]) -> list[None]:
        to_journal = [transfer for entry in entries for transfer in entry.to_journal]
        records = [entry.record for entry in entries if entry.record is not None]
        blobs = self._journal.enter(to_journal) if to_journal else []
        await self._until_answered(lambda: self._store.write(blobs, records))
        for entry in entries:
            if entry.ended is not None:
                self._ended(entry.ended)
                entry.ended = None  # should the rest of the flush crash, nobody is ended twice
        return [None] * len(entries)

    async def _until_answered(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        return await until_answered(
            ask, RecordsUnavailable, health=self.health, alerts=self._alerts, backoff=self._backoff, name="records"
        )
