"""The recorder: gathers intents and rows into group commits, and writes them again until they are certain.

It owns the only way of writes to the record store. A write whose answer was lost may have landed; nothing is
concluded from that: the same blobs and rows are written again (both are idempotent) until the store says so.

Intents and rows go their own ways: a transfer that has not reached its source yet waits for no other one's end. Rows
may be written in any order, since each carries its version.

Rows that are looked for at one time are read together: after a restart, or when clients ask for all again, that is
thousands, and a question each would cost three times as much as the transfers themselves.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from transfer_engine.actors import Backoff, GroupCommit, GroupCommitStatistics, OnAnswer
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.journal import INTENTS_IN_BLOB_MOST, Journal, Journaled
from transfer_engine.engine.open_transfers import OpenTransfer
from transfer_engine.engine.outbox import Outbox
from transfer_engine.engine.records.protocol import RecordsDamaged, RecordStore, RecordsUnavailable
from transfer_engine.engine.submitter import Health, until_answered
from transfer_engine.schema.transfers import TransferRecord

Result = TypeVar("Result")

ROWS_IN_FLUSH_MOST: Final = 4_096
"""Bounds how long the first row of a flush waits for the last one's, and a flush's memory: about 2 MiB."""

ROWS_IN_LOOK_UP_MOST: Final = 1_024
"""Rows that are read together: SQLite's answer takes some 5 ms, and holds the loop up for as long."""

SHARE_LEAST: Final = 1_024
"""What waits is shared out among the flushes that may start, in parts no smaller than this; why, the submitter says."""


class _Row:
    """A row to be made durable, and whose end it is."""

    __slots__ = ("ended", "record")

    def __init__(self, record: TransferRecord, ended: OpenTransfer | None = None) -> None:
        self.record = record
        self.ended = ended


class Recorder:
    """Group commits over the record store: of intents, of rows, and of look-ups.

    Args:
        store: where to write.
        journal: numbers the blobs.
        alerts: told of faults.
        ended: called for each transfer whose last row is durable, synchronously; between flushes in any order.
        note: called for each whose row of a state in between is, likewise.
        clock_ms: the wall clock (Unix ms), for the times of states in between.
        waiting_most: intents, and rows, that may wait.
        flushes_most: writes of rows in flight at a time; of intents it is one, see
            :mod:`transfer_engine.engine.waves`.
        outbox: who is to be told of transfers' ends, if anybody is.
    """

    def __init__(
        self,
        store: RecordStore,
        journal: Journal,
        alerts: Alerts,
        *,
        ended: Callable[[OpenTransfer], None],
        note: Callable[[OpenTransfer], None],
        clock_ms: Callable[[], int],
        waiting_most: int,
        flushes_most: int,
        outbox: Outbox | None = None,
    ) -> None:
        self.health = Health()
        self._store = store
        self._journal = journal
        self._alerts = alerts
        self._ended = ended
        self._note = note
        self._clock_ms = clock_ms
        self._outbox = outbox
        self._backoff = Backoff()
        self.gather: Callable[[], Awaitable[None]] | None = None
        """Awaited before intents are journaled, see :mod:`transfer_engine.engine.waves`."""
        self.intents: GroupCommit[Sequence[Journaled], None] = GroupCommit(
            "journal",
            self._flush_intents,
            weigh=len,
            batch_weight_most=INTENTS_IN_BLOB_MOST,
            waiting_weight_most=max(waiting_most, INTENTS_IN_BLOB_MOST),
            gather=self._gather,
        )
        self.rows: GroupCommit[_Row, None] = GroupCommit(
            "recorder",
            self._flush_rows,
            batch_weight_most=ROWS_IN_FLUSH_MOST,
            batch_weight_least=SHARE_LEAST,
            waiting_weight_most=max(waiting_most, ROWS_IN_FLUSH_MOST),
            flushes_most=flushes_most,
        )
        self.look_ups: GroupCommit[int, TransferRecord | RecordsDamaged | None] = GroupCommit(
            "look-ups",
            self._flush_look_ups,
            batch_weight_most=ROWS_IN_LOOK_UP_MOST,
            waiting_weight_most=max(waiting_most, ROWS_IN_LOOK_UP_MOST),
            flushes_most=flushes_most,
        )

    async def journal(self, transfers: Sequence[Journaled]) -> None:
        """Make the intents of transfers durable.

        Cancellation while waiting leaves them on their way: they may become durable, and count as unsettled.
        """
        for start in range(0, len(transfers), INTENTS_IN_BLOB_MOST):
            part = transfers[start : start + INTENTS_IN_BLOB_MOST]
            await self.intents.submit(part, admitted=True)
            for transfer in part:
                transfer.is_journaled = True

    def journal_nowait(self, transfers: Sequence[Journaled], on_answer: OnAnswer[None]) -> None:
        """Have the intents of at most one blob's transfers made durable; the caller notes that they are.

        See :meth:`transfer_engine.actors.GroupCommit.submit_nowait`.
        """
        self.intents.submit_nowait(transfers, on_answer=on_answer, admitted=True)

    async def persist(self, transfer: OpenTransfer) -> None:
        """Make a row of the transfer's present state durable, before the call that it announces.

        Cancellation while waiting leaves the row on its way.
        """
        transfer.updated_at = self._clock_ms()
        await self.rows.submit(_Row(transfer.record()), admitted=True)
        self._note(transfer)

    def end(self, transfer: OpenTransfer) -> None:
        """Write a transfer's last row; ``ended`` is called once it is durable."""
        transfer.last_entry = self.rows.submit_nowait(_Row(transfer.record(), transfer), admitted=True)

    def tells(self, record: TransferRecord) -> bool:
        """Whether somebody is to be told that this transfer has ended, if it has."""
        return self._outbox is not None and self._outbox.tells(record)

    def has_passed(self, transfer: OpenTransfer) -> bool:
        """Tell whether a transfer's last row has left the queue: written, or set aside."""
        return self.rows.has_passed(transfer.last_entry)

    async def find(self, req_id: int) -> TransferRecord | None:
        """Return the row of a transfer, once the store has answered. Cancellation leaves nothing behind.

        Raises:
            RecordsDamaged: the row can't be understood.
        """
        found = await self.look_ups.submit(req_id, admitted=True)
        if isinstance(found, RecordsDamaged):
            raise found
        return found

    def statistics(self) -> tuple[GroupCommitStatistics, GroupCommitStatistics]:
        """Return the statistics of the intents' and of the rows' group commit."""
        return self.intents.statistics(), self.rows.statistics()

    async def _gather(self) -> None:
        if self.gather is not None:
            await self.gather()

    async def _flush_intents(self, parts: list[Sequence[Journaled]]) -> list[None]:
        blobs = self._journal.enter([transfer for part in parts for transfer in part])
        await self._until_answered(lambda: self._store.write(blobs, ()))
        return [None] * len(parts)

    async def _flush_rows(self, rows: list[_Row]) -> list[None]:
        records = [row.record for row in rows]
        outbox = self._outbox
        told = outbox.enter(row.record for row in rows if row.ended is not None) if outbox is not None else None
        if outbox is None or told is None:
            await self._until_answered(lambda: self._store.write((), records))
        else:
            try:
                await self._until_answered(lambda: self._store.write(told.blobs, records))
            except BaseException:
                outbox.abandoned(told)
                raise
            outbox.entered(told)
        for row in rows:
            if row.ended is not None:
                self._ended(row.ended)
                row.ended = None  # should the rest of the flush crash, nobody is ended twice
        return [None] * len(rows)

    async def _flush_look_ups(self, req_ids: list[int]) -> list[TransferRecord | RecordsDamaged | None]:
        try:
            found = await self._until_answered(lambda: self._store.get_many(req_ids))
        except RecordsDamaged as error:
            if len(req_ids) == 1:
                return [error]
            # One of them: those who look for the others are to have their answers.
            return [part for req_id in req_ids for part in await self._flush_look_ups([req_id])]
        return [found.get(req_id) for req_id in req_ids]

    async def _until_answered(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        return await until_answered(
            ask, RecordsUnavailable, health=self.health, alerts=self._alerts, backoff=self._backoff, name="records"
        )
