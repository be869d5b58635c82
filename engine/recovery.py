"""Recovery: finds what former lives left unfinished, and replays what stays unfinished in this one.

It resubmits; it never looks up and concludes. What a transfer's end is, the ledger and the cores answer again.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TypeVar
from uuid import UUID

import msgspec
import trio

from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.completion import Completion
from transfer_engine.engine.coordinator import Coordinator
from transfer_engine.engine.drives import Drives
from transfer_engine.engine.journal import Journal, Journaled
from transfer_engine.engine.leases import Lease
from transfer_engine.engine.open_transfers import Custody, OpenTransfer, OpenTransfers
from transfer_engine.engine.patience import Patience
from transfer_engine.engine.recorder import Recorder
from transfer_engine.engine.records.protocol import JournalBlob, RecordsDamaged, RecordStore, RecordsUnavailable
from transfer_engine.engine.services.registry import ServiceRegistry
from transfer_engine.engine.settings import Settings
from transfer_engine.schema.transfers import Intent, TransferRecord, TransferState, decode_intents

Answer = TypeVar("Answer")

Row = TransferRecord | str | None
"""A transfer's row, what is wrong with one that can't be understood, or None where there is none."""

_BEFORE_SOURCE = frozenset({TransferState.INIT, TransferState.SOURCE_PENDING})


class Unfinished(msgspec.Struct):
    """What former lives left: the transfers to go on with, in order, and those behind another body of their key."""

    transfers: list[OpenTransfer]
    behind: dict[int, list[OpenTransfer]]


async def find_unfinished(
    *,
    store: RecordStore,
    shard: int,
    journal: Journal,
    registry: ServiceRegistry,
    alerts: Alerts,
    patience: Patience,
) -> Unfinished:
    """Read the journal from its low-water mark on and return the transfers that have no terminal row.

    An intent that can't be understood (an unknown service), or whose row can't be (an unknown state), is alerted and
    kept unsettled: nothing is guessed. A store that does not answer is asked again and again. Cancellation leaves
    nothing behind.

    Raises:
        RecordsDamaged: a blob can't be decoded.
    """
    found: dict[tuple[int, int], OpenTransfer] = {}
    by_key: defaultdict[int, list[OpenTransfer]] = defaultdict(list)
    async with aclosing(unfinished_intents(store, shard, patience)) as blobs:
        async for bucket, intents in blobs:
            for intent, record in intents:
                req_id = int.from_bytes(intent.req_id)
                if (req_id, intent.fingerprint) in found:
                    continue
                transfer = reopen(intent, record, registry, alerts)
                if transfer is None:
                    stranded = journal.strand(intent)
                    if stranded.bucket is None:
                        journal.found(stranded, bucket)
                    continue
                journal.found(transfer, bucket)
                found[req_id, intent.fingerprint] = transfer
                by_key[req_id].append(transfer)
    return Unfinished(
        transfers=[transfers[0] for transfers in by_key.values()],
        behind={req_id: transfers[1:] for req_id, transfers in by_key.items() if len(transfers) > 1},
    )


async def unfinished_intents(
    store: RecordStore, shard: int, patience: Patience | None = None
) -> AsyncGenerator[tuple[int, list[tuple[Intent, Row]]], None]:
    """Yield, blob by blob from a shard's low-water mark on, a bucket and its intents that have no terminal row.

    Without ``patience`` a store that does not answer raises RecordsUnavailable. Close it (``aclosing``) when done.

    Raises:
        RecordsDamaged: a blob can't be decoded.
    """
    ask = _ask_once if patience is None else patience.ask
    mark = await ask(lambda: store.low_water_mark(shard))
    async with aclosing(_blobs(store, shard, mark, patience)) as blobs:
        async for blob in blobs:
            intents = _intents(blob)
            rows = await ask(lambda intents=intents: _rows(store, intents))  # type: ignore[misc]
            unfinished = [
                (intent, row)
                for intent, row in zip(intents, rows, strict=True)
                if not (isinstance(row, TransferRecord) and row.state.is_terminal)
            ]
            if unfinished:
                yield blob.bucket, unfinished


async def _ask_once(question: Callable[[], Awaitable[Answer]]) -> Answer:
    return await question()


async def _blobs(
    store: RecordStore, shard: int, from_bucket: int, patience: Patience | None
) -> AsyncGenerator[JournalBlob, None]:
    """Yield a shard's blobs; after a failure, go on behind the last one."""
    after = (from_bucket, -1)
    while True:
        try:
            async with aclosing(store.read_journal(shard, from_bucket=after[0])) as blobs:
                async for blob in blobs:
                    if (blob.bucket, blob.sequence) > after:
                        after = (blob.bucket, blob.sequence)
                        yield blob
        except RecordsUnavailable as error:
            if patience is None:
                raise
            await patience.failed(error)
        else:
            return


async def _rows(store: RecordStore, intents: list[Intent]) -> list[Row]:
    """Return the intents' rows; of one that can't be understood, what is wrong with it."""
    req_ids = [int.from_bytes(intent.req_id) for intent in intents]
    try:
        found: dict[int, Row] = {**await store.get_many(req_ids)}
    except RecordsDamaged:
        found = {}
        for req_id in req_ids:
            try:
                found |= await store.get_many([req_id])
            except RecordsDamaged as error:
                found[req_id] = str(error)
    return [found.get(req_id) for req_id in req_ids]


def _intents(blob: JournalBlob) -> list[Intent]:
    try:
        return decode_intents(blob.body)
    except msgspec.MsgspecError as error:
        raise RecordsDamaged(
            f"journal blob (shard {blob.shard}, bucket {blob.bucket}, sequence {blob.sequence}) is damaged: {error}"
        ) from error


def reopen(intent: Intent, row: Row, registry: ServiceRegistry, alerts: Alerts) -> OpenTransfer | None:
    """Return an unfinished transfer as its former life left it; None, with an alert, where it can't be driven."""
    req_id = int.from_bytes(intent.req_id)
    if isinstance(row, str):
        alerts.critical("row_damaged", req_id=str(UUID(int=req_id)), user=intent.user_id, error=row)
        return None
    source, target = registry.find(intent.source), registry.find(intent.target)
    if source is None or target is None:
        alerts.critical(
            "unknown_service",
            req_id=str(UUID(int=req_id)),
            user=intent.user_id,
            source=intent.source,
            target=intent.target,
        )
        return None
    transfer = OpenTransfer(req_id=req_id, intent=intent, source=source, target=target)
    transfer.is_recovered = True
    if row is None:
        transfer.is_record_known = True
    elif row.fingerprint == intent.fingerprint:
        transfer.adopt(row)
    if transfer.state not in _BEFORE_SOURCE:
        # Its source was reached, in order, in its former life: the rest is the scanner's, at once.
        transfer.custody = Custody.WAITING
        transfer.touched_at = -float("inf")
    return transfer


class Replays:
    """One scan: replays what nobody works on, alerts what takes too long, carries old intents forward."""

    def __init__(
        self,
        *,
        open_transfers: OpenTransfers,
        coordinator: Coordinator,
        drives: Drives,
        recorder: Recorder,
        journal: Journal,
        completion: Completion,
        lease: Lease,
        alerts: Alerts,
        settings: Settings,
        clock_ms: Callable[[], int],
    ) -> None:
        self._completion = completion
        self._lease = lease
        self._open = open_transfers
        self._coordinator = coordinator
        self._drives = drives
        self._recorder = recorder
        self._journal = journal
        self._alerts = alerts
        self._settings = settings
        self._clock_ms = clock_ms
        self._alerted: dict[int, str] = {}

    async def scan(self) -> None:
        """Look at every open transfer once. Cancellation leaves the rest to the next scan."""
        stale_before = trio.current_time() - self._settings.stale_after_ms / 1000
        overdue: list[Journaled] = []
        for position, transfer in enumerate(self._open):
            if position % 1_000 == 0:
                await trio.lowlevel.checkpoint()
            if self._open.find(transfer.req_id) is not transfer:
                continue  # let go while this scan was pausing
            self._watch(transfer)
            if self._journal.is_overdue(transfer) and transfer.is_journaled:
                overdue.append(transfer)
            if transfer.is_quarantined or transfer.touched_at > stale_before:
                continue
            if transfer.custody is Custody.WAITING and self._lease.is_held:
                await self._replay(transfer)
            elif transfer.custody is Custody.ENDING and self._recorder.has_passed(transfer):
                self._end_again(transfer)
        overdue += filter(self._journal.is_overdue, self._completion.behind)
        overdue += filter(self._journal.is_overdue, self._journal.stranded)
        await self._carry_forward(overdue)
        self._alerted = {req_id: name for req_id, name in self._alerted.items() if self._open.find(req_id)}

    async def _carry_forward(self, overdue: list[Journaled]) -> None:
        """Journal old intents again, so that they pin no old bucket."""
        if not overdue or not self._lease.is_held:
            return  # whoever adopts this shard would not look for them where they are not yet
        bucket = self._journal.current_bucket
        await self._recorder.journal(overdue)
        if self._lease.is_held:
            for transfer in overdue:
                self._journal.moved(transfer, bucket)

    async def _replay(self, transfer: OpenTransfer) -> None:
        transfer.retry_count += 1
        if transfer.retry_count % self._settings.alert_retries == 0:
            self._alerts.critical("transfer_stuck", transfer=transfer, error=transfer.error)
        self._drives.start(transfer, partial(self._coordinator.drive, transfer))
        if not transfer.is_wallet_pair:
            await trio.sleep(self._settings.replay_gap_ms / 1000)

    def _end_again(self, transfer: OpenTransfer) -> None:
        """Write a last row again that crashed the recorder, and was set aside there."""
        transfer.touched_at = trio.current_time()
        transfer.crashes += 1
        self._alerts.critical("last_row_missing", transfer=transfer, crashes=transfer.crashes)
        if transfer.crashes <= self._settings.poison_crashes_most:
            self._recorder.end(transfer)
        else:
            transfer.is_quarantined = True
            transfer.leave()

    def _watch(self, transfer: OpenTransfer) -> None:
        """Alert, once each, a transfer that is pending for too long."""
        pending_ms = self._clock_ms() - transfer.intent.accepted_at
        if pending_ms >= self._settings.pending_critical_ms:
            name, alert = "pending_critical", self._alerts.critical
        elif pending_ms >= self._settings.pending_warning_ms:
            name, alert = "pending_warning", self._alerts.warn
        else:
            return
        if self._alerted.get(transfer.req_id) != name:
            self._alerted[transfer.req_id] = name
            alert(name, transfer=transfer, pending_ms=pending_ms, error=transfer.error)
