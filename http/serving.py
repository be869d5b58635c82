"""A server process's life: listen, open the engine, serve, and stop gracefully on SIGTERM or SIGINT."""

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from importlib.metadata import version
from typing import Final

import structlog
import trio
from hypercorn.config import Config

from transfer_engine.engine import Engine, Opening, open_engine
from transfer_engine.http.connections import Limits, serve_connections
from transfer_engine.http.handlers import Api
from transfer_engine.http.listeners import address_of, open_listeners
from transfer_engine.http.logs import access_log_of
from transfer_engine.http.main_door import MainDoor
from transfer_engine.http.settings import ServerSettings

_log: Final = structlog.stdlib.get_logger("transfer_engine.http")

_ANSWERS_MS: Final = 500
"""Beyond the engine's deadline: what writing the last answers to their clients may take."""

_KEEP_ALIVE_REQUESTS_MOST: Final = 1_000_000
"""Requests on one connection; a client that opens connections all the time costs more than one that stays."""

VERSION: Final = version("transfer-engine")


class _Life:
    """What the signals have done to the process, and how to end it."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.stopping = trio.Event()
        self.engine: Engine | None = None

    def stop(self) -> None:
        """End gracefully; while the engine is still opening there is nothing to drain."""
        self.stopping.set()
        if self.engine is None:
            self.scope.cancel()
        else:
            self.engine.begin_shutdown()


async def run_server(settings: ServerSettings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal ends the process at once.

    A stop first lets the answers under way out (bounded by ``deadline_ms``), while new transfers are refused with a
    503, and then drains the engine for ``shutdown_ms``. What is left, also after a second signal or a cancellation, is
    recovered at the next start.

    While the engine opens, which may wait for clusters that are not there yet, the door answers 503 and says why.

    Args:
        settings: see :class:`~transfer_engine.http.settings.ServerSettings`.
        announce: called with the main door's URL once the engine takes transfers.

    Raises:
        CannotListen: the address can't be listened on.
        DataDirUnusable, LedgerDamaged, RecordsDamaged: the engine can't be opened.
    """
    sockets = open_listeners(settings.host, settings.port, backlog=settings.backlog)
    url = f"http://{address_of(sockets[0])}"
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener)) for listener in sockets]
    life = _Life()
    opening = Opening()
    access_log = access_log_of(settings)
    api = Api(settings, version=VERSION, opening=opening, access_log=access_log)
    try:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                nursery.start_soon(_obey, signals, life)
                with life.scope:
                    async with (
                        access_log.running() if access_log is not None else nullcontext(),
                        _open_door(api, settings, listeners, life.stopping) as closed,
                        open_engine(settings, opening=opening) as engine,
                    ):
                        life.engine = engine
                        api.serve(engine)
                        announce(url)
                        await closed.wait()
                        _log.info("draining", shutdown_ms=settings.shutdown_ms)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _only_cause(group) from None
    finally:
        for listener in listeners:
            listener.socket.close()


@asynccontextmanager
async def _open_door(
    api: Api, settings: ServerSettings, listeners: list[trio.SocketListener], stopping: trio.Event
) -> AsyncIterator[trio.Event]:
    """Serve until ``stopping``; yield what tells that the last answer is out. Leaving the context cuts the rest off."""
    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.keep_alive_timeout = settings.keep_alive_ms / 1_000
    config.keep_alive_max_requests = _KEEP_ALIVE_REQUESTS_MOST
    limits = Limits(
        connections_most=settings.connections_most,
        send_timeout_s=settings.send_timeout_ms / 1_000,
        graceful_s=(settings.deadline_ms + _ANSWERS_MS) / 1_000,
    )
    door = MainDoor(api, settings)
    closed = trio.Event()

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await serve_connections(door, config, listeners, limits, stopping, task_status=task_status)
        closed.set()

    async with trio.open_nursery(strict_exception_groups=True) as nursery:
        await nursery.start(serve)
        yield closed
        nursery.cancel_scope.cancel()


async def _obey(signals: AsyncIterator[int], life: _Life) -> None:
    async for number in signals:
        name = signal.Signals(number).name
        if life.stopping.is_set():
            _log.warning("forced to stop", signal=name)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        _log.info("stopping", signal=name)
        life.stop()


def _only_cause(error: BaseException) -> BaseException:
    """Return what a group of one is about: nurseries wrap it, and whoever started the server wants its reason."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
