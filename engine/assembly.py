"""`open_engine`: opens the backends, takes up what was unfinished, runs the engine, and takes it all apart again."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from filelock import FileLock, Timeout

from transfer_engine.actors import bounded_cleanup
from transfer_engine.engine import crash_points
from transfer_engine.engine.engine import Engine, Parts
from transfer_engine.engine.ledger.embedded import open_embedded_ledger
from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.lives import begin_life
from transfer_engine.engine.open_transfers import Custody
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.records.sqlite import open_sqlite_records
from transfer_engine.engine.recovery import find_unfinished
from transfer_engine.engine.services.protocol import Core
from transfer_engine.engine.services.registry import EXTERNAL, Service, ServiceKind, ServiceRegistry
from transfer_engine.engine.services.simulated import open_simulated_core
from transfer_engine.engine.settings import EXTERNAL_CODE, Settings
from transfer_engine.engine.wiring import now_ms, wire

_LAST_WORDS_MS = 2_000
"""How long the last heartbeat of a graceful stop may take."""


class DataDirUnusable(Exception):
    """The data directory can't be used: not writable, or in use by another engine. The message says which."""


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
    async with (
        open_backends(settings, cores=cores) as (registry, ledger, records),
        engine_on(settings, registry, ledger, records) as engine,
    ):
        yield engine


@asynccontextmanager
async def open_backends(
    settings: Settings, *, cores: Sequence[Core] = ()
) -> AsyncIterator[tuple[ServiceRegistry, Ledger, RecordStore]]:
    """Open what an engine runs on, without an engine: its services, ledger and records, for audits and repairs.

    The directory stays locked against engines for as long as the context lasts. Cancellation leaves nothing behind.

    Raises:
        DataDirUnusable: the data directory is not writable, or in use.
        LedgerDamaged, RecordsDamaged: a file in it can't be read.
        ValueError: ``cores`` and ``settings.services`` don't fit.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(_locked(settings))
        registry = await _open_services(stack, settings, cores)
        ledger = await stack.enter_async_context(open_embedded_ledger(settings.data_dir / "ledger.db"))
        records = await stack.enter_async_context(open_sqlite_records(settings.data_dir / "records.db"))
        yield registry, ledger, records


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
    settings: Settings,
    registry: ServiceRegistry,
    ledger: Ledger,
    records: RecordStore,
    *,
    clock_ms: Callable[[], int] = now_ms,
) -> AsyncIterator[Engine]:
    """Run an engine on backends that are open; see :func:`open_engine`. ``clock_ms`` is the wall clock (Unix ms)."""
    life, identifiers = await begin_life(
        records, node=settings.node, clock_ms=clock_ms, ahead_ms=settings.ceiling_ahead_ms
    )
    parts = wire(settings, registry, ledger, records, life, identifiers, clock_ms)
    await _take_up_unfinished(parts, life.node)
    engine = Engine(parts)
    fault: Exception | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(parts.supervisor.run)
        try:
            yield engine
            engine.begin_shutdown()
            parts.pool.close()
            await parts.supervisor.shutdown(deadline_ms=settings.shutdown_ms)
        except Exception as error:  # noqa: BLE001  the embedder's own, and not for the nursery to wrap
            fault = error
        finally:
            engine.begin_shutdown()
            for transfer in parts.open_transfers:
                transfer.release()
            nursery.cancel_scope.cancel()
            with bounded_cleanup(_LAST_WORDS_MS):
                await parts.heartbeat.try_beat()
    if fault is not None:
        raise fault


async def _take_up_unfinished(parts: Parts, shard: int) -> None:
    """Put what former lives left into its users' mailboxes, before anything new can be."""
    unfinished = await find_unfinished(
        store=parts.records, shard=shard, journal=parts.journal, registry=parts.registry, alerts=parts.alerts
    )
    parts.completion.recovered = len(unfinished.transfers)
    parts.completion.wait_behind(unfinished.behind)
    for transfer in unfinished.transfers:
        parts.open_transfers.add(transfer)
        if transfer.custody is Custody.QUEUED:
            parts.pool.tell_nowait(transfer.intent.user_id, transfer, admitted=True)
    if unfinished.transfers:
        parts.scanner.kick()
