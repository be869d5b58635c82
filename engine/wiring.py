"""How the parts of an engine are connected: who is handed what. No part looks for another one."""

import time
from collections.abc import Callable

import trio

from transfer_engine.actors import ActorPool, Backoff, ChildSpec, PoolClosed, Scanner, Supervisor
from transfer_engine.engine.admission import Admission
from transfer_engine.engine.adoption import Adoption
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.backlog import Backlog, room_of
from transfer_engine.engine.callers import Callers
from transfer_engine.engine.comparison import Comparison
from transfer_engine.engine.completion import Completion
from transfer_engine.engine.congestion import Congestion
from transfer_engine.engine.coordinator import Coordinator
from transfer_engine.engine.core_calls import CoreCalls
from transfer_engine.engine.daily_sums import DailySums
from transfer_engine.engine.deadlines import Deadlines
from transfer_engine.engine.drives import Drives
from transfer_engine.engine.endings import Endings
from transfer_engine.engine.endpoints import Endpoints
from transfer_engine.engine.former_lives import FormerLives
from transfer_engine.engine.heartbeat import Heartbeat
from transfer_engine.engine.journal import Journal
from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.lines import Lines
from transfer_engine.engine.lives import Begun
from transfer_engine.engine.open_transfers import Custody, OpenTransfer, OpenTransfers
from transfer_engine.engine.outbox import Outbox
from transfer_engine.engine.outbox_adoption import OutboxAdoption
from transfer_engine.engine.outbox_limits import OutboxLimits
from transfer_engine.engine.parts import Parts
from transfer_engine.engine.reconciler import Reconciler
from transfer_engine.engine.reconciliation import Rules
from transfer_engine.engine.recorder import Recorder
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.recovery import Replays
from transfer_engine.engine.resolution import Resolver
from transfer_engine.engine.services.registry import ServiceRegistry
from transfer_engine.engine.settings import Settings
from transfer_engine.engine.streams import Streams
from transfer_engine.engine.submitter import Submitter
from transfer_engine.engine.waves import Waves

_RESTARTS_MOST = 100
"""Restarts of all actors in a minute before the engine gives up.

A poisonous transfer costs some nine of them before it is set aside: a few at once, or a next life that starts with
them, must not end the engine. With a second's backoff, actors that crash whatever they are given get there within one
to two minutes.
"""


def now_ms() -> int:
    """Return the wall clock, Unix ms."""
    return time.time_ns() // 1_000_000


def wire(
    settings: Settings,
    registry: ServiceRegistry,
    ledger: Ledger,
    records: RecordStore,
    begun: Begun,
    former_lives: FormerLives,
    alerts: Alerts,
    clock_ms: Callable[[], int],
    outbox_limits: OutboxLimits | None = None,
) -> Parts:
    """Return the parts of an engine, connected; nothing runs yet."""
    outbox = None if outbox_limits is None else _outbox(outbox_limits, records, begun, alerts, clock_ms)
    lease, open_transfers = begun.lease, OpenTransfers()
    journal = Journal(begun.life, begun.identifiers)
    waiting_most = 2 * settings.open_transfers_most
    drives = Drives(alerts, crashes_most=settings.poison_crashes_most)
    submitter = Submitter(
        ledger,
        alerts,
        waiting_most=waiting_most,
        known_accounts_most=settings.known_accounts_most,
        flushes_most=settings.tigerbeetle.flushes_most if settings.ledger == "tigerbeetle" else 1,
    )

    def requeue(transfer: OpenTransfer) -> None:
        try:
            pool.tell_nowait(transfer.intent.user_id, transfer, admitted=True)
        except PoolClosed:
            transfer.leave()  # the next life finds its intent

    streams = Streams(
        ledger=ledger,
        registry=registry,
        asset_ids=[asset.asset_id for asset in settings.assets],
        open_transfers=open_transfers,
        alerts=alerts,
        settings=settings.streams,
    )
    completion = Completion(open_transfers, journal, requeue, streams)
    recorder = Recorder(
        records,
        journal,
        alerts,
        ended=completion.ended,
        note=streams.note,
        clock_ms=clock_ms,
        waiting_most=waiting_most,
        flushes_most=settings.cassandra.flushes_most if settings.records == "cassandra" else 1,
        outbox=outbox,
    )
    recorder.gather = Waves(submitter, recorder).gather
    endings = Endings(submitter=submitter, recorder=recorder, lease=lease, alerts=alerts, close=completion.close)
    calls = CoreCalls(
        lease=lease,
        alerts=alerts,
        service_timeout_ms=settings.service_timeout_ms,
        replay_gap_ms=settings.replay_gap_ms,
    )
    coordinator = Coordinator(
        submitter=submitter,
        recorder=recorder,
        endings=endings,
        lease=lease,
        alerts=alerts,
        calls=calls,
        drive_soon=drives.start,
    )
    pool = _users(settings, coordinator, drives)
    replays = Replays(
        open_transfers=open_transfers,
        coordinator=coordinator,
        drives=drives,
        recorder=recorder,
        journal=journal,
        completion=completion,
        lease=lease,
        alerts=alerts,
        settings=settings,
        clock_ms=clock_ms,
    )
    heartbeat = Heartbeat(
        store=records,
        begun=begun,
        journal=journal,
        alerts=alerts,
        clock_ms=clock_ms,
        ahead_ms=settings.ceiling_ahead_ms,
        heartbeat_ms=settings.heartbeat_ms,
    )
    assets = {asset.asset_id: asset.asset() for asset in settings.assets}
    callers = Callers(alerts)
    sums = DailySums(
        records=records,
        open_transfers=open_transfers,
        assets=assets.values(),
        clock_ms=clock_ms,
        users_most=settings.limited_users_most,
        host=callers.host,
    )
    lines = Lines(
        sums=sums,
        records=records,
        line_most=settings.mailbox_capacity,
        waiting_most=settings.open_transfers_most,
        host=callers.host,
    )
    congestion = _congestion(settings, pool, recorder, coordinator)
    backlog = _backlog(settings, requeue, congestion, drives)
    admission = Admission(
        registry=registry,
        assets=assets,
        open_transfers=open_transfers,
        open_transfers_most=settings.open_transfers_most,
        congestion=congestion,
        backlog=backlog,
        pool=pool,
        identifiers=begun.identifiers,
        backends={"ledger": submitter.health, "record store": recorder.health},
        lease=lease,
        clock_ms=clock_ms,
        sums=sums,
        lines=lines,
    )
    scanner = Scanner("scanner", replays.scan, settings.scan_interval_ms)
    adoption = Adoption(
        store=records,
        life=begun.life,
        lease=lease,
        former_lives=former_lives,
        journal=journal,
        recorder=recorder,
        open_transfers=open_transfers,
        completion=completion,
        registry=registry,
        enqueue=requeue,
        kick=scanner.kick,
        alerts=alerts,
        settings=settings,
        outbox=None if outbox is None else OutboxAdoption(records, outbox),
    )
    deadlines = Deadlines(settings.deadline_ms, on_sweep=congestion.look)
    reconciler = Reconciler(
        Comparison(ledger, records, Rules(registry, assets)),
        alerts,
        is_open=lambda req_id: open_transfers.find(req_id) is not None,
        clock_ms=clock_ms,
        settings=settings,
    )
    children = _children(heartbeat, deadlines, callers, recorder, submitter, drives, scanner, pool)
    children.append(ChildSpec("backlog", backlog.run))
    children.append(ChildSpec("adoption", Scanner("adoption", adoption.look, settings.heartbeat_ms).run))
    if outbox is not None:
        sweeper = Scanner("outbox", outbox.sweep, outbox.limits.sweep_ms)
        outbox.kick = sweeper.kick
        sweeper.kick()
        children.append(ChildSpec("outbox", sweeper.run))
    children.append(ChildSpec("streams", streams.run))
    if settings.reconcile:
        children.append(ChildSpec("reconciler", reconciler.run))
    return Parts(
        settings=settings,
        assets=assets,
        registry=registry,
        ledger=ledger,
        records=records,
        open_transfers=open_transfers,
        backlog=backlog,
        journal=journal,
        submitter=submitter,
        recorder=recorder,
        streams=streams,
        drives=drives,
        pool=pool,
        scanner=scanner,
        reconciler=reconciler,
        adoption=adoption,
        outbox=outbox,
        resolver=Resolver(coordinator=coordinator, calls=calls, endings=endings, submitter=submitter, lease=lease),
        admission=admission,
        completion=completion,
        callers=callers,
        deadlines=deadlines,
        lease=lease,
        heartbeat=heartbeat,
        supervisor=_supervisor(children, alerts),
        alerts=alerts,
    )


def _outbox(
    limits: OutboxLimits, records: RecordStore, begun: Begun, alerts: Alerts, clock_ms: Callable[[], int]
) -> Outbox:
    endpoints = Endpoints(records, alerts, clock_ms, most=limits.endpoints_most)
    return Outbox(begun.life, begun.identifiers, records, endpoints, begun.lease, alerts, clock_ms, limits)


def _users(settings: Settings, coordinator: Coordinator, drives: Drives) -> ActorPool[int, OpenTransfer]:
    """Return the users' actors; a transfer that crashes its handler too often is set aside, its callers answered."""

    async def set_aside(_user_id: int, transfer: OpenTransfer, error: BaseException) -> None:
        drives.set_aside(transfer, error)
        if transfer.custody is Custody.QUEUED:
            transfer.leave()

    return ActorPool(
        "users",
        coordinator.handle,
        begin=coordinator.trips.begin,
        mailbox_capacity=settings.mailbox_capacity,
        batch_most=settings.user_batch_most,
        idle_ms=settings.idle_ms,
        poison=set_aside,
        crashes_most=settings.poison_crashes_most,
    )


def _congestion(
    settings: Settings, pool: ActorPool[int, OpenTransfer], recorder: Recorder, coordinator: Coordinator
) -> Congestion:
    return Congestion(
        waiting=lambda: (pool.messages_waiting, recorder.rows.entries_waiting),
        held_up=lambda: sum(map(pool.messages_of, coordinator.held_up)),
        left=lambda: pool.messages_gone,
        clock=trio.current_time,
        deadline_ms=settings.deadline_ms,
        waiting_least=settings.waiting_least,
    )


def _backlog(
    settings: Settings, requeue: Callable[[OpenTransfer], None], congestion: Congestion, drives: Drives
) -> Backlog:
    """Return the backlog: half of what may wait is for newcomers."""

    def room() -> int:
        # Until it was seen how fast the backends are, no more than what they can do at their slowest.
        most = congestion.waiting_most if congestion.rate else settings.waiting_least
        # Which drives wait for cores, and which for the ledger, nobody can tell: half of the backlog's room is safe.
        return room_of(congestion.waiting + min(drives.under_way, most // 4), most)

    return Backlog(requeue, room)


def _children(
    heartbeat: Heartbeat,
    deadlines: Deadlines,
    callers: Callers,
    recorder: Recorder,
    submitter: Submitter,
    drives: Drives,
    scanner: Scanner,
    pool: ActorPool[int, OpenTransfer],
) -> list[ChildSpec]:
    """Return what must run; they stop in reverse, each drained before those that it hands work to."""
    return [
        ChildSpec("heartbeat", heartbeat.run),
        ChildSpec("deadlines", deadlines.run),
        ChildSpec("callers", callers.run),
        ChildSpec("recorder", recorder.rows.run, drain=recorder.rows.wait_drained),
        ChildSpec("journal", recorder.intents.run, drain=recorder.intents.wait_drained),
        ChildSpec("look-ups", recorder.look_ups.run, drain=recorder.look_ups.wait_drained),
        ChildSpec("submitter", submitter.transfers.run, drain=submitter.transfers.wait_drained),
        ChildSpec("account opener", submitter.accounts.run, drain=submitter.accounts.wait_drained),
        ChildSpec("drives", drives.run, drain=drives.wait_drained),
        ChildSpec("scanner", scanner.run),
        ChildSpec("users", pool.run, drain=pool.wait_drained),
    ]


def _supervisor(children: list[ChildSpec], alerts: Alerts) -> Supervisor:
    return Supervisor(
        "engine",
        children,
        restarts_most=_RESTARTS_MOST,
        backoff=Backoff(first_ms=10, most_ms=1_000),
        on_crash=lambda name, error: alerts.critical("actor_crashed", actor=name, error=repr(error)),
    )
