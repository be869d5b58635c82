"""Recovery: finds what former lives left unfinished, and replays what stays unfinished in this one.

It resubmits; it never looks up and concludes. What a transfer's end is, the ledger and the cores answer again.
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

import msgspec
import trio

from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.coordinator import Coordinator
from transfer_engine.engine.drives import Drives
from transfer_engine.engine.journal import Journal
from transfer_engine.engine.open_transfers import Custody, OpenTransfer, OpenTransfers
from transfer_engine.engine.recorder import Recorder
from transfer_engine.engine.records.protocol import JournalBlob, RecordsDamaged, RecordStore
from transfer_engine.engine.services.registry import ServiceRegistry
from transfer_engine.engine.settings import Settings
from transfer_engine.schema.transfers import Intent, TransferRecord, TransferState, decode_intents

_BEFORE_SOURCE = frozenset({TransferState.INIT, TransferState.SOURCE_PENDING})


class Unfinished(msgspec.Struct):
    """What former lives left: the transfers to go on with, in order, and those behind another body of their key."""

    transfers: list[OpenTransfer]
    behind: dict[int, list[OpenTransfer]]


async def find_unfinished(
    *, store: RecordStore, shard: int, journal: Journal, registry: ServiceRegistry, alerts: Alerts
) -> Unfinished:
    """Read the journal from its low-water mark on and return the transfers that have no terminal row.

    An intent that can't be understood (an unknown service), or whose row can't be (an unknown state), is alerted and
    pins its bucket: nothing is guessed.
    Cancellation leaves nothing behind.

    Raises:
        RecordsDamaged: a blob can't be decoded.
    """
    found: dict[tuple[int, int], OpenTransfer] = {}
    by_key: defaultdict[int, list[OpenTransfer]] = defaultdict(list)
    mark = await store.low_water_mark(shard)
    async with aclosing(store.read_journal(shard, from_bucket=mark)) as blobs:
        async for blob in blobs:
            intents = _intents(blob)
            records, damaged = await _rows(store, [int.from_bytes(intent.req_id) for intent in intents])
            for intent in intents:
                req_id = int.from_bytes(intent.req_id)
                if req_id in damaged:
                    journal.pin(blob.bucket)
                    alerts.critical("row_damaged", req_id=f"{req_id:#x}", error=damaged[req_id])
                    continue
                record = records.get(req_id)
                if (record is not None and record.state.is_terminal) or (req_id, intent.fingerprint) in found:
                    continue
                transfer = _reopen(req_id, intent, record, registry)
                if transfer is None:
                    journal.pin(blob.bucket)
                    alerts.critical(
                        "unknown_service", req_id=f"{req_id:#x}", source=intent.source, target=intent.target
                    )
                    continue
                journal.found(transfer, blob.bucket)
                found[req_id, intent.fingerprint] = transfer
                by_key[req_id].append(transfer)
    return Unfinished(
        transfers=[transfers[0] for transfers in by_key.values()],
        behind={req_id: transfers[1:] for req_id, transfers in by_key.items() if len(transfers) > 1},
    )


async def _rows(store: RecordStore, req_ids: list[int]) -> tuple[dict[int, TransferRecord], dict[int, str]]:
    """Return the rows that exist, and what is wrong with those that can't be understood."""
    try:
        return await store.get_many(req_ids), {}
    except RecordsDamaged:
        rows: dict[int, TransferRecord] = {}
        damaged: dict[int, str] = {}
        for req_id in req_ids:
            try:
                rows |= await store.get_many([req_id])
            except RecordsDamaged as error:
                damaged[req_id] = str(error)
        return rows, damaged


def _intents(blob: JournalBlob) -> list[Intent]:
    try:
        return decode_intents(blob.body)
    except msgspec.MsgspecError as error:
        raise RecordsDamaged(
            f"journal blob (shard {blob.shard}, bucket {blob.bucket}, sequence {blob.sequence}) is damaged: {error}"
        ) from error


def _reopen(
    req_id: int, intent: Intent, record: TransferRecord | None, registry: ServiceRegistry
) -> OpenTransfer | None:
    source, target = registry.find(intent.source), registry.find(intent.target)
    if source is None or target is None:
        return None
    transfer = OpenTransfer(req_id=req_id, intent=intent, source=source, target=target)
    transfer.is_journaled = True
    transfer.is_recovered = True
    if record is None:
        transfer.is_record_known = True
    elif record.fingerprint == intent.fingerprint:
        transfer.adopt(record)
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
        alerts: Alerts,
        settings: Settings,
        clock_ms: Callable[[], int],
    ) -> None:
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
        overdue = []
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
            if transfer.custody is Custody.WAITING:
                await self._replay(transfer)
            elif transfer.custody is Custody.ENDING and self._recorder.has_passed(transfer):
                self._end_again(transfer)
        if overdue:
            bucket = self._journal.current_bucket
            await self._recorder.journal(overdue)
            for transfer in overdue:
                self._journal.moved(transfer, bucket)
        self._alerted = {req_id: name for req_id, name in self._alerted.items() if self._open.find(req_id)}

    async def _replay(self, transfer: OpenTransfer) -> None:
        transfer.retry_count += 1
        if transfer.retry_count % self._settings.alert_retries == 0:
            self._alerts.critical("transfer_stuck", transfer=repr(transfer), error=transfer.error)
        self._drives.start(transfer, partial(self._coordinator.drive, transfer))
        if not transfer.is_wallet_pair:
            await trio.sleep(self._settings.replay_gap_ms / 1000)

    def _end_again(self, transfer: OpenTransfer) -> None:
        """Write a last row again that crashed the recorder, and was set aside there."""
        transfer.touched_at = trio.current_time()
        transfer.crashes += 1
        self._alerts.critical("last_row_missing", transfer=repr(transfer), crashes=transfer.crashes)
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
            alert(name, transfer=repr(transfer), pending_ms=pending_ms, error=transfer.error)
