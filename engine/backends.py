"""Opens what an engine runs on, as its settings say: the services, the ledger, the record store.

It owns the data directory's lock and the backends' lives. A cluster that can't be found yet is looked for again
and again, and said to be. It never decides that one is gone for good.
"""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeVar

import structlog
from filelock import FileLock, Timeout

from transfer_engine.actors import Backoff
from transfer_engine.engine.ledger.embedded import open_embedded_ledger
from transfer_engine.engine.ledger.protocol import Ledger, LedgerUnavailable
from transfer_engine.engine.records.protocol import RecordStore, RecordsUnavailable
from transfer_engine.engine.records.sqlite import open_sqlite_records
from transfer_engine.engine.services.protocol import Core
from transfer_engine.engine.services.registry import EXTERNAL, Service, ServiceKind, ServiceRegistry
from transfer_engine.engine.services.simulated import open_simulated_core
from transfer_engine.engine.settings import EXTERNAL_CODE, Settings

Backend = TypeVar("Backend")

_log = structlog.stdlib.get_logger("transfer_engine.engine")


class DataDirUnusable(Exception):
    """The data directory can't be used: not writable, or in use by another engine. The message says which."""


class Opening:
    """How far an engine's opening has got, for those who ask meanwhile."""

    def __init__(self) -> None:
        self.waits_for = ""
        """What it waits for, and why; empty while it gets on."""

    def __repr__(self) -> str:
        return f"<Opening waits for {self.waits_for or 'nothing'}>"


@asynccontextmanager
async def open_backends(
    settings: Settings, *, cores: Sequence[Core] = (), opening: Opening | None = None
) -> AsyncIterator[tuple[ServiceRegistry, Ledger, RecordStore]]:
    """Open what an engine runs on, without an engine: its services, ledger and records, for audits and repairs.

    The directory stays locked against engines for as long as the context lasts. Cancellation leaves nothing behind.

    Args:
        settings: see :class:`~transfer_engine.engine.settings.Settings`.
        cores: the objects of the services of kind ``core``, by their ``name``.
        opening: told what is waited for, while a cluster that can't be found is looked for again and again; without it
            the first failure is raised.

    Raises:
        DataDirUnusable: the data directory is not writable, or in use.
        LedgerDamaged, RecordsDamaged: a file in it can't be read.
        RecordsMisconfigured: the record store answers, and can't be used so; the message says what mends it.
        LedgerUnavailable, RecordsUnavailable: a cluster can't be found, and nobody was to wait.
        ValueError: ``cores`` and ``settings.services`` don't fit.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(_locked(settings))
        registry = await _open_services(stack, settings, cores)
        # A file that can't be opened will not be by waiting; a cluster that is not there yet will.
        ledger = await _open(
            stack, "ledger", lambda: _ledger(settings), None if settings.ledger == "embedded" else opening
        )
        records = await _open(
            stack, "record store", lambda: _records(settings), None if settings.records == "sqlite" else opening
        )
        yield registry, ledger, records


def _ledger(settings: Settings) -> AbstractAsyncContextManager[Ledger]:
    if settings.ledger == "embedded":
        return open_embedded_ledger(settings.data_dir / "ledger.db")
    # What only a cluster needs is loaded only for one.
    from transfer_engine.engine.ledger.tigerbeetle_client import open_tigerbeetle_ledger  # noqa: PLC0415

    cluster = settings.tigerbeetle
    return open_tigerbeetle_ledger(
        cluster_id=cluster.cluster_id,
        addresses=cluster.addresses,
        timeout_ms=cluster.timeout_ms,
        concurrency=cluster.concurrency,
    )


def _records(settings: Settings) -> AbstractAsyncContextManager[RecordStore]:
    if settings.records == "sqlite":
        return open_sqlite_records(settings.data_dir / "records.db")
    from transfer_engine.engine.records.cassandra_store import open_cassandra_records  # noqa: PLC0415

    return open_cassandra_records(settings.cassandra)


async def _open(
    stack: AsyncExitStack,
    what: str,
    open_it: Callable[[], AbstractAsyncContextManager[Backend]],
    opening: Opening | None,
) -> Backend:
    """Open a backend; with ``opening``, again and again until it can be found."""
    backoff, attempt = Backoff(), 0
    while True:
        try:
            backend = await stack.enter_async_context(open_it())
        except (LedgerUnavailable, RecordsUnavailable) as error:
            if opening is None:
                raise
            attempt += 1
            opening.waits_for = f"the {what}: {error}"
            _log.warning("waiting_for_backend", backend=what, error=str(error), attempt=attempt)
            await backoff.sleep(attempt)
        else:
            if opening is not None:
                opening.waits_for = ""
            return backend


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
