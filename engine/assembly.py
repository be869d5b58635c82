"""`open_engine`: opens the backends, takes up what was unfinished, runs the engine, and takes it all apart again."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from transfer_engine.actors import bounded_cleanup
from transfer_engine.engine import crash_points
from transfer_engine.engine.backends import Opening, open_backends
from transfer_engine.engine.engine import Engine, Parts
from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.lives import begin_life
from transfer_engine.engine.open_transfers import Custody
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.recovery import find_unfinished
from transfer_engine.engine.services.protocol import Core
from transfer_engine.engine.services.registry import ServiceRegistry
from transfer_engine.engine.settings import Settings
from transfer_engine.engine.wiring import now_ms, wire

_LAST_WORDS_MS = 2_000
"""How long the last heartbeat of a graceful stop may take."""


@asynccontextmanager
async def open_engine(
    settings: Settings, *, cores: Sequence[Core] = (), opening: Opening | None = None
) -> AsyncIterator[Engine]:
    """Run an engine for as long as the context lasts.

    What former lives left unfinished is taken up before anything new of the same users. On leaving, the engine takes
    no more transfers, drains what is under way for ``settings.shutdown_ms`` and stops; what is left then is taken up
    by the next life. Cancellation stops it at once, as a crash would: nothing is lost.

    Clusters that do not answer are waited for: the log says so, and so does ``opening``. Bound it by a deadline of
    your own, if there is to be one.

    Args:
        settings: see :class:`~transfer_engine.engine.settings.Settings`.
        cores: the objects of the services of kind ``core``, by their ``name``.
        opening: told what is waited for before the context is entered.

    Raises:
        DataDirUnusable: the data directory is not writable, or in use.
        LedgerDamaged, RecordsDamaged: a file in it can't be read.
        RecordsMisconfigured: the record store answers, and can't be used so; the message says what mends it.
        ValueError: ``cores`` and ``settings.services`` don't fit.
    """
    crash_points.arm(settings.crash_at)
    async with (
        open_backends(settings, cores=cores, opening=opening or Opening()) as (registry, ledger, records),
        engine_on(settings, registry, ledger, records) as engine,
    ):
        yield engine


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
