"""The parts that an engine is assembled from, and what they count."""

from collections.abc import Mapping

import msgspec

from transfer_engine.actors import (
    ActorPool,
    GroupCommitStatistics,
    PoolStatistics,
    Scanner,
    ScannerStatistics,
    Supervisor,
    SupervisorStatistics,
)
from transfer_engine.engine.admission import Admission
from transfer_engine.engine.adoption import Adoption, AdoptionStatistics
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.backlog import Backlog
from transfer_engine.engine.callers import Callers
from transfer_engine.engine.completion import Completion
from transfer_engine.engine.deadlines import Deadlines
from transfer_engine.engine.drives import Drives
from transfer_engine.engine.heartbeat import Heartbeat
from transfer_engine.engine.journal import Journal
from transfer_engine.engine.leases import Lease
from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.open_transfers import OpenTransfer, OpenTransfers
from transfer_engine.engine.outbox import Outbox
from transfer_engine.engine.outbox_limits import OutboxStatistics
from transfer_engine.engine.reconciler import Reconciler, ReconcilerStatistics
from transfer_engine.engine.recorder import Recorder
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.resolution import Resolver
from transfer_engine.engine.services.registry import ServiceRegistry
from transfer_engine.engine.settings import Settings
from transfer_engine.engine.streams import Streams, StreamsStatistics
from transfer_engine.engine.submitter import Submitter
from transfer_engine.schema.money import Asset


class EngineStatistics(msgspec.Struct, frozen=True):
    """What the engine is doing and has done in this run."""

    open_transfers: int
    unsettled_intents: int
    low_water_mark: int
    drives_under_way: int
    ended: dict[str, int]
    """Transfers that ended, by their last state."""
    replayed: int
    """Requests that were answered by an earlier one's outcome."""
    recovered: int
    """Unfinished transfers of former lives that this life took up."""
    adoption: AdoptionStatistics
    alerts: dict[str, int]
    users: PoolStatistics
    submitter: GroupCommitStatistics
    account_opener: GroupCommitStatistics
    journal: GroupCommitStatistics
    recorder: GroupCommitStatistics
    scanner: ScannerStatistics
    reconciler: ReconcilerStatistics
    streams: StreamsStatistics
    supervisor: SupervisorStatistics
    outbox: OutboxStatistics | None
    """None where nobody is told of transfers' ends."""


class Parts(msgspec.Struct, frozen=True):
    """The parts that an engine is assembled from, see :mod:`transfer_engine.engine.wiring`."""

    settings: Settings
    assets: Mapping[int, Asset]
    registry: ServiceRegistry
    ledger: Ledger
    records: RecordStore
    open_transfers: OpenTransfers
    backlog: Backlog
    journal: Journal
    submitter: Submitter
    recorder: Recorder
    streams: Streams
    drives: Drives
    pool: ActorPool[int, OpenTransfer]
    scanner: Scanner
    reconciler: Reconciler
    adoption: Adoption
    outbox: Outbox | None
    resolver: Resolver
    admission: Admission
    completion: Completion
    callers: Callers
    deadlines: Deadlines
    lease: Lease
    heartbeat: Heartbeat
    supervisor: Supervisor
    alerts: Alerts


def statistics_of(parts: Parts, *, replayed: int) -> EngineStatistics:
    """Return what an engine is doing and has done in this run; ``replayed`` is what its front has counted."""
    transfers, accounts = parts.submitter.statistics()
    intents, rows = parts.recorder.statistics()
    return EngineStatistics(
        open_transfers=len(parts.open_transfers),
        unsettled_intents=parts.journal.unsettled,
        low_water_mark=parts.journal.low_water_mark,
        drives_under_way=parts.drives.under_way,
        ended=parts.completion.ended_counts(),
        replayed=replayed,
        recovered=parts.completion.recovered,
        adoption=parts.adoption.statistics(),
        alerts=parts.alerts.counts(),
        users=parts.pool.statistics(),
        submitter=transfers,
        account_opener=accounts,
        journal=intents,
        recorder=rows,
        scanner=parts.scanner.statistics(),
        reconciler=parts.reconciler.statistics(),
        streams=parts.streams.statistics(),
        supervisor=parts.supervisor.statistics(),
        outbox=None if parts.outbox is None else parts.outbox.statistics(),
    )
