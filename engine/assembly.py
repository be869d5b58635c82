"""`open_engine`: assembles an engine from its parts, recovers what was unfinished, and takes it apart again."""

import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from filelock import FileLock, Timeout

from transfer_engine.actors import ActorPool, Backoff, ChildSpec, PoolClosed, Scanner, Supervisor, bounded_cleanup
from transfer_engine.engine import crash_points
from transfer_engine.engine.admission import Admission
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.completion import Completion
from transfer_engine.engine.coordinator import Coordinator
from transfer_engine.engine.deadlines import Deadlines
from transfer_engine.engine.drives import Drives
from transfer_engine.engine.endings import Endings
from transfer_engine.engine.engine import Engine, Parts
from transfer_engine.engine.journal import Journal
from transfer_engine.engine.ledger.embedded import open_embedded_ledger
from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.lives import Heartbeat, Lease, begin_life
from transfer_engine.engine.open_transfers import Custody, OpenTransfer, OpenTransfers
from transfer_engine.engine.recorder import Recorder
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.records.sqlite import open_sqlite_records
from transfer_engine.engine.recovery import Replays, find_unfinished
from transfer_engine.engine.resolution import Resolver
from transfer_engine.engine.services.protocol import Core
from transfer_engine.engine.services.registry import EXTERNAL, Service, ServiceKind, ServiceRegistry
from transfer_engine.engine.services.simulated import open_simulated_core
from transfer_engine.engine.settings import EXTERNAL_CODE, Settings
from transfer_engine.engine.submitter import Submitter

_LAST_WORDS_MS = 2_000
"""How long the last heartbeat of a graceful stop may take."""


class DataDirUnusable(Exception):
    """The data directory can't be used: not writable, or in use by another engine. The message says which."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def open_engine(settings: Settings, *, cores: Sequence[Core] = ()) -> AsyncIterator[Engine]:
    """Run an engine for as long as the context lasts.

    What former lives left unfinished is taken up before anything new of the same users. On leaving, the engine takes
    no more transfers, drains what is under way for ``settings.shutdown_ms`` and stops; what is left then is taken up
    by the next life. Cancellation stops it at once, as a crash would: nothing is lost.

    Args:
        settings: see :class:`~transfer_engine.engine.settings.Settings`.
        cores: the objects of the services of kind ``core``, by their ``name``.

    Raises:
        DataDirUnusable: the data directory is not writable, or in use.
        LedgerDamaged, RecordsDamaged: a file in it can't be read.
        ValueError: ``cores`` and ``settings.services`` don't fit.
    """
    crash_points.arm(settings.crash_at)
    async with AsyncExitStack() as stack:
        stack.enter_context(_locked(settings))
        registry = await _open_services(stack, settings, cores)
        ledger = await stack.enter_async_context(open_embedded_ledger(settings.data_dir / "ledger.db"))
        records = await stack.enter_async_context(open_sqlite_records(settings.data_dir / "records.db"))
        async with engine_on(settings, registry, ledger, records) as engine:
            yield engine


class _locked:  # noqa: N801  a context manager, used like a function
    """Holds the data directory: made if it is missing, locked against other engines."""

    def __init__(self, settings: Settings) -> None:
        self._data_dir = settings.data_dir
        self._lock = FileLock(self._data_dir / "lock", blocking=False)

    def __enter__(self) -> None:
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise DataDirUnusable(
                f"data_dir {self._data_dir} is in use by another engine: stop it, or name another directory"
            ) from None
        except OSError as error:
            raise DataDirUnusable(f"data_dir {self._data_dir} can't be written: {error.strerror}") from None
        if not os.access(self._data_dir, os.W_OK | os.X_OK):
            self._lock.release()
            raise DataDirUnusable(f"data_dir {self._data_dir} can't be written: permission denied")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


async def _open_services(stack: AsyncExitStack, settings: Settings, cores: Sequence[Core]) -> ServiceRegistry:
    given = {core.name: core for core in cores}
    services = [Service(EXTERNAL, EXTERNAL_CODE, ServiceKind.EXTERNAL)]
    for service in settings.services:
        if service.kind == "wallet":
            services.append(Service(service.name, service.code, ServiceKind.WALLET))
            continue
        if service.kind == "simulated_core":
            path = settings.data_dir / f"core-{service.name}.db"
            core: Core = await stack.enter_async_context(
                open_simulated_core(name=service.name, path=path, freezes=service.freezes)
            )
        elif service.name in given:
            core = given.pop(service.name)
        else:
            raise ValueError(
                f"services: {service.name!r} is a core, and no core of this name was handed to open_engine"
            )
        services.append(Service(service.name, service.code, ServiceKind.CORE, core))
    if given:
        raise ValueError(f"cores: {', '.join(given)} not named in settings.services with kind 'core'")
    aliases = {alias: service.name for service in settings.services for alias in service.aliases}
    return ServiceRegistry(services, aliases)


@asynccontextmanager
async def engine_on(
    settings: Settings, registry: ServiceRegistry, ledger: Ledger, records: RecordStore
) -> AsyncIterator[Engine]:
    """Run an engine on backends that are open; see :func:`open_engine`."""
    alerts = Alerts()
    lease = Lease()
    life, identifiers = await begin_life(
        records, node=settings.node, clock_ms=_now_ms, ahead_ms=settings.ceiling_ahead_ms
    )
    journal = Journal(life, identifiers)
    open_transfers = OpenTransfers()
    drives = Drives(alerts, crashes_most=settings.poison_crashes_most)
    waiting_most = 2 * settings.open_transfers_most
    submitter = Submitter(ledger, alerts, waiting_most=waiting_most, known_accounts_most=settings.known_accounts_most)

    def requeue(transfer: OpenTransfer) -> None:
        try:
            pool.tell_nowait(transfer.intent.user_id, transfer, admitted=True)
        except PoolClosed:
            transfer.leave()  # the next life finds its intent

    completion = Completion(open_transfers, journal, requeue)
    recorder = Recorder(records, journal, alerts, ended=completion.ended, clock_ms=_now_ms, waiting_most=waiting_most)
    endings = Endings(
        submitter=submitter, recorder=recorder, ledger=ledger, records=records, alerts=alerts, close=completion.close
    )
    coordinator = Coordinator(
        submitter=submitter,
        recorder=recorder,
        endings=endings,
        lease=lease,
        alerts=alerts,
        service_timeout_ms=settings.service_timeout_ms,
        replay_gap_ms=settings.replay_gap_ms,
        drive_soon=drives.start,
    )

    async def set_aside(_user_id: int, transfer: OpenTransfer, error: BaseException) -> None:
        drives.set_aside(transfer, error)
        if transfer.custody is Custody.QUEUED:
            transfer.leave()
            transfer.release()

    pool: ActorPool[int, OpenTransfer] = ActorPool(
        "users",
        coordinator.handle,
        mailbox_capacity=settings.mailbox_capacity,
        batch_most=settings.user_batch_most,
        idle_ms=settings.idle_ms,
        poison=set_aside,
        crashes_most=settings.poison_crashes_most,
    )
    replays = Replays(
        open_transfers=open_transfers,
        coordinator=coordinator,
        drives=drives,
        recorder=recorder,
        journal=journal,
        alerts=alerts,
        settings=settings,
        clock_ms=_now_ms,
    )
    deadlines = Deadlines(settings.deadline_ms)
    scanner = Scanner("scanner", replays.scan, settings.scan_interval_ms)
    heartbeat = Heartbeat(
        store=records,
        life=life,
        generator=identifiers,
        journal=journal,
        lease=lease,
        alerts=alerts,
        clock_ms=_now_ms,
        ahead_ms=settings.ceiling_ahead_ms,
    )
    supervisor = Supervisor(
        "engine",
        [
            ChildSpec("heartbeat", heartbeat.run),
            ChildSpec("deadlines", deadlines.run),
            ChildSpec("recorder", recorder.commits.run, drain=recorder.commits.wait_drained),
            ChildSpec("submitter", submitter.transfers.run, drain=submitter.transfers.wait_drained),
            ChildSpec("account opener", submitter.accounts.run, drain=submitter.accounts.wait_drained),
            ChildSpec("drives", drives.run, drain=drives.wait_drained),
            ChildSpec("scanner", scanner.run),
            ChildSpec("users", pool.run, drain=pool.wait_drained),
        ],
        backoff=Backoff(first_ms=10, most_ms=1_000),
        on_crash=lambda name, error: alerts.critical("actor_crashed", actor=name, error=repr(error)),
    )
    engine = Engine(
        Parts(
            settings=settings,
            assets={asset.asset_id: asset.asset() for asset in settings.assets},
            registry=registry,
            ledger=ledger,
            records=records,
            open_transfers=open_transfers,
            journal=journal,
            submitter=submitter,
            recorder=recorder,
            drives=drives,
            pool=pool,
            scanner=scanner,
            resolver=Resolver(coordinator=coordinator, endings=endings, submitter=submitter, ledger=ledger),
            admission=Admission(
                registry=registry,
                assets={asset.asset_id: asset.asset() for asset in settings.assets},
                open_transfers=open_transfers,
                open_transfers_most=settings.open_transfers_most,
                pool=pool,
                identifiers=identifiers,
                backends={"ledger": submitter.health, "record store": recorder.health},
                clock_ms=_now_ms,
            ),
            completion=completion,
            deadlines=deadlines,
            supervisor=supervisor,
            alerts=alerts,
        )
    )
    unfinished = await find_unfinished(
        store=records, shard=life.node, journal=journal, registry=registry, alerts=alerts
    )
    completion.recovered = len(unfinished.transfers)
    completion.wait_behind(unfinished.behind)
    for transfer in unfinished.transfers:
        open_transfers.add(transfer)
        if transfer.custody is Custody.QUEUED:
            requeue(transfer)
    if unfinished.transfers:
        scanner.kick()

    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        try:
            yield engine
            engine.begin_shutdown()
            pool.close()
            await supervisor.shutdown(deadline_ms=settings.shutdown_ms)
        finally:
            engine.begin_shutdown()
            for transfer in open_transfers:
                transfer.release()
            nursery.cancel_scope.cancel()
            with bounded_cleanup(_LAST_WORDS_MS):
                await heartbeat.beat()
