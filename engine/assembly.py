"""`open_engine`: opens the backends, takes up what was unfinished, runs the engine, and takes it all apart again."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from transfer_engine.actors import bounded_cleanup
from transfer_engine.engine import crash_points
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.backends import Opening, open_backends
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.former_lives import Alone, FormerLives, LifeFile, Strangers
from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.lives import begin_life
from transfer_engine.engine.open_transfers import Custody
from transfer_engine.engine.outbox_limits import OutboxLimits
from transfer_engine.engine.parts import Parts
from transfer_engine.engine.patience import Patience
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.recovery import find_unfinished
from transfer_engine.engine.services.protocol import Core
from transfer_engine.engine.services.registry import ServiceRegistry
from transfer_engine.engine.settings import Settings
from transfer_engine.engine.wiring import now_ms, wire

_LAST_WORDS_MS = 2_000
"""How long the outbox's last write of a stop may take; and so long may the last heartbeat, and giving up the node."""

_LAST_ANSWERS_MS = 500
"""How long the doors have to write their last answers once the claim is lost."""


@asynccontextmanager
async def open_engine(
    settings: Settings,
    *,
    cores: Sequence[Core] = (),
    opening: Opening | None = None,
    outbox: OutboxLimits | None = None,
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
        outbox: bounds of ``engine.outbox``, where users are to be told of their transfers' ends; whoever opens the
            engine delivers what is in it.

    Raises:
        DataDirUnusable: the data directory is not writable, or in use.
        LedgerDamaged, RecordsDamaged: a file in it can't be read.
        RecordsMisconfigured: the record store answers, and can't be used so; the message says what mends it.
        NodeInUse: another engine runs under ``settings.node`` on the same record store.
        ClaimLost: this engine was taken for stopped, and another one has its node; also from within the context,
            whose body is then cancelled. Start it again.
        ValueError: ``cores`` and ``settings.services`` don't fit.
    """
    crash_points.arm(settings.crash_at)
    opening = opening or Opening()
    async with open_backends(settings, cores=cores, opening=opening) as (registry, ledger, records):
        former_lives = Alone() if settings.records == "sqlite" else LifeFile(settings.data_dir)
        async with engine_on(
            settings, registry, ledger, records, former_lives=former_lives, opening=opening, outbox=outbox
        ) as engine:
            yield engine


@asynccontextmanager
async def engine_on(
    settings: Settings,
    registry: ServiceRegistry,
    ledger: Ledger,
    records: RecordStore,
    *,
    former_lives: FormerLives | None = None,
    opening: Opening | None = None,
    clock_ms: Callable[[], int] = now_ms,
    outbox: OutboxLimits | None = None,
) -> AsyncIterator[Engine]:
    """Run an engine on backends that are open; see :func:`open_engine`.

    Args:
        settings: what it runs with.
        registry: the services that transfers may name.
        ledger: where the money is.
        records: where transfers are written down.
        former_lives: proves that the node's former owner is dead; without it, its lease is waited for.
        opening: told what is waited for before the context is entered.
        clock_ms: the wall clock (Unix ms).
        outbox: see :func:`open_engine`.

    Raises:
        NodeInUse: another engine runs under ``settings.node``.
        ClaimLost: this engine was taken for stopped, and another one has its node. What it was asked to do is done
            by others; it asks nothing more.
    """
    alerts = Alerts()
    patience = Patience(alerts, opening)
    former_lives = former_lives or Strangers()
    begun = await begin_life(
        records,
        node=settings.node,
        clock_ms=clock_ms,
        ahead_ms=settings.ceiling_ahead_ms,
        heartbeat_ms=settings.heartbeat_ms,
        lease_ms=settings.lease_ms,
        former_lives=former_lives,
        patience=patience,
    )
    parts = wire(settings, registry, ledger, records, begun, former_lives, alerts, clock_ms, outbox)
    await _beating(parts, partial(_take_up_unfinished, parts, begun.life.node, patience))
    parts.heartbeat.may_raise_mark = True
    engine = Engine(parts)
    fault: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(parts.supervisor.run)
            body = trio.CancelScope()
            nursery.start_soon(_stop_when_lost, engine, parts, body)
            try:
                with body:
                    yield engine
                fault = parts.lease.loss
                if fault is None:
                    engine.begin_shutdown()
                    parts.pool.close()
                    await parts.supervisor.shutdown(deadline_ms=settings.shutdown_ms)
            except Exception as error:  # noqa: BLE001  the embedder's own, and not for the nursery to wrap
                fault = error
            finally:
                _let_callers_go(engine, parts)
                nursery.cancel_scope.cancel()
    finally:
        # Nothing is under way any more: whoever wants the node may have it.
        if parts.outbox is not None:
            with bounded_cleanup(_LAST_WORDS_MS):
                await parts.outbox.close()
        with bounded_cleanup(_LAST_WORDS_MS):
            await parts.heartbeat.release()
    if fault is not None:
        raise fault


async def _beating(parts: Parts, work: Callable[[], Awaitable[None]]) -> None:
    """Do some work before the engine runs, however long it takes, and keep the claim meanwhile.

    Raises:
        ClaimLost: another engine took the node over.
    """
    fault: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.heartbeat.run)

        async def give_up() -> None:
            await parts.lease.lost.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        try:
            await work()
        except Exception as error:  # noqa: BLE001  not for the nursery to wrap
            fault = error
        nursery.cancel_scope.cancel()
    fault = fault or parts.lease.loss
    if fault is not None:
        raise fault


async def _stop_when_lost(engine: Engine, parts: Parts, body: trio.CancelScope) -> None:
    """End the engine's context once its claim is lost: its callers are answered first, as far as they can be."""
    await parts.lease.lost.wait()
    _let_callers_go(engine, parts)
    await trio.sleep(_LAST_ANSWERS_MS / 1000)
    body.cancel()


def _let_callers_go(engine: Engine, parts: Parts) -> None:
    engine.begin_shutdown()
    parts.deadlines.close()
    for transfer in parts.open_transfers:
        transfer.release()


async def _take_up_unfinished(parts: Parts, shard: int, patience: Patience) -> None:
    """Put what former lives left into the backlog, which comes before anything new of its users."""
    if parts.outbox is not None:
        await parts.outbox.endpoints.load(patience)
    unfinished = await find_unfinished(
        store=parts.records,
        shard=shard,
        journal=parts.journal,
        registry=parts.registry,
        alerts=parts.alerts,
        patience=patience,
    )
    parts.completion.recovered = len(unfinished.transfers)
    parts.completion.wait_behind(unfinished.behind)
    for transfer in unfinished.transfers:
        parts.open_transfers.add(transfer)
        if transfer.custody is Custody.QUEUED:
            parts.backlog.add(transfer)
    if unfinished.transfers:
        parts.scanner.kick()
