"""A server process's life: listen, open the engine, serve, and stop gracefully on SIGTERM or SIGINT."""

import ipaddress
import logging
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from typing import Final

import msgspec
import structlog
import trio
from hypercorn.config import Config

from transfer_engine.engine import Engine, Opening, open_engine
from transfer_engine.http.connections import Limits, serve_connections
from transfer_engine.http.express import ExpressDoor
from transfer_engine.http.gate import Gate
from transfer_engine.http.handlers import Api
from transfer_engine.http.identity import NoTokens
from transfer_engine.http.listeners import CannotListen, address_of, open_listeners
from transfer_engine.http.logs import access_log_of
from transfer_engine.http.main_door import MainDoor
from transfer_engine.http.rate_limits import rate_limits_of
from transfer_engine.http.refusal_pace import RefusalPace
from transfer_engine.http.settings import ServerSettings
from transfer_engine.http.tls_settings import open_tls
from transfer_engine.http.tokens import open_authenticator
from transfer_engine.http.user_names import UserNames
from transfer_engine.http.webhooks import running_webhooks
from transfer_engine.http.websocket_asgi import install as install_frames
from transfer_engine.http.websocket_sessions import WebSockets
from transfer_engine.http.websocket_upgrade import serve_websocket

_log: Final = structlog.stdlib.get_logger("transfer_engine.http")

_ANSWERS_MS: Final = 500
"""Beyond the engine's deadline: what writing the last answers to their clients may take."""

_KEEP_ALIVE_REQUESTS_MOST: Final = 1_000_000
"""Requests on one connection; a client that opens connections all the time costs more than one that stays."""

_PORT_MOST: Final = 65_535

VERSION: Final = version("transfer-engine")


class Addresses(msgspec.Struct, frozen=True):
    """The URLs of the doors that are open."""

    main: str
    express: str | None


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


async def run_server(settings: ServerSettings, announce: Callable[[Addresses], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal ends the process at once.

    A stop first lets the answers under way out (bounded by ``deadline_ms``), while new transfers are refused with a
    503, and then drains the engine for ``shutdown_ms``. What is left, also after a second signal or a cancellation, is
    recovered at the next start.

    While the engine opens, which may wait for clusters that are not there yet, the doors answer 503 and say why.

    Args:
        settings: see :class:`~transfer_engine.http.settings.ServerSettings`.
        announce: called with the doors' URLs once the engine takes transfers.

    Raises:
        CannotListen: an address can't be listened on.
        ConfigurationError: the tokens' keys, or the certificate, can't be read.
        DataDirUnusable, LedgerDamaged, RecordsDamaged: the engine can't be opened.
    """
    authenticator = open_authenticator(settings.tokens) if settings.tokens is not None else NoTokens()
    tls = open_tls(settings.tls) if settings.tls is not None else None
    main, express = _open_ports(settings)
    if tls is not None:
        _warn_of_plain(express)
    life = _Life()
    opening = Opening()
    access_log = access_log_of(settings)
    gate = Gate(authenticator, rate_limits_of(settings))
    api = Api(
        settings,
        version=VERSION,
        opening=opening,
        gate=gate,
        access_log=access_log,
        webhooks=settings.webhooks,
        pace=RefusalPace(settings.refusals_most),
    )
    try:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                nursery.start_soon(_obey, signals, life)
                nursery.start_soon(authenticator.run)
                with life.scope:
                    async with (
                        access_log.running() if access_log is not None else nullcontext(),
                        _open_doors(api, settings, main, express, life.stopping, tls) as closed,
                        open_engine(settings, opening=opening, outbox=settings.webhooks.limits()) as engine,
                        _telling(api, settings, engine),
                    ):
                        life.engine = engine
                        api.serve(engine)
                        scheme = "http" if tls is None else "https"
                        announce(Addresses(_url(main[0], scheme), _url(express[0]) if express else None))
                        await closed.wait()
                        _log.info("draining", shutdown_ms=settings.shutdown_ms)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _only_cause(group) from None
    finally:
        for listener in (*main, *express):
            listener.close()


@asynccontextmanager
async def _telling(api: Api, settings: ServerSettings, engine: Engine) -> AsyncIterator[None]:
    """Tell users' endpoints of what has ended, if they are to be told, for as long as the context lasts."""
    if engine.outbox is None:
        yield
        return
    async with running_webhooks(engine.outbox, settings.webhooks, UserNames(settings), VERSION) as webhooks:
        api.webhooks.running = webhooks
        yield


def _open_ports(settings: ServerSettings) -> tuple[list[socket.socket], list[socket.socket]]:
    """Return what the main door listens on, and the express door where it is to be open."""
    port = settings.express_port
    if port is None:
        port = settings.port and settings.port + 1
    if settings.express and port > _PORT_MOST:
        raise CannotListen(f"no port comes after {settings.port}: set express_port, or express to false")
    loopback_only = settings.tokens is None
    main = open_listeners(settings.host, settings.port, backlog=settings.backlog, loopback_only=loopback_only)
    if not settings.express:
        return main, []
    try:
        express = open_listeners(
            settings.host, port, backlog=settings.backlog, setting="express_port", loopback_only=loopback_only
        )
    except BaseException:
        for listener in main:
            listener.close()
        raise
    return main, express


def _warn_of_plain(express: Sequence[socket.socket]) -> None:
    """Say so where the main door is under TLS, and the express door sends tokens in the clear over a network."""
    for listener in express:
        if not ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback:
            _log.warning(
                "the express door speaks plain HTTP: put TLS before it, or set express to false",
                address=address_of(listener),
            )


def _url(listener: socket.socket, scheme: str = "http") -> str:
    return f"{scheme}://{address_of(listener)}"


@asynccontextmanager
async def _open_doors(
    api: Api,
    settings: ServerSettings,
    main: Sequence[socket.socket],
    express: Sequence[socket.socket],
    stopping: trio.Event,
    tls: ssl.SSLContext | None,
) -> AsyncIterator[trio.Event]:
    """Serve until ``stopping``; yield what tells that the last answer is out. Leaving the context cuts the rest off."""
    graceful_s = (settings.deadline_ms + _ANSWERS_MS) / 1_000
    closed = trio.Event()
    is_open = 0

    async def serve(door: Callable[..., Awaitable[None]], task_status: trio.TaskStatus[None]) -> None:
        nonlocal is_open
        is_open += 1
        await door(task_status=task_status)
        is_open -= 1
        if not is_open:
            closed.set()

    websockets = WebSockets(
        api.slot,
        api.gate,
        settings.websocket,
        deadline_ms=settings.deadline_ms,
        send_timeout_ms=settings.send_timeout_ms,
        access_log=api.access_log,
        pace=api.pace,
    )
    async with trio.open_nursery(strict_exception_groups=True) as nursery:
        nursery.start_soon(websockets.run, stopping)
        main_door = MainDoor(api, settings, websockets)
        serve_main = partial(_serve_main, main_door, settings, _listeners(main), stopping, graceful_s, tls)
        await nursery.start(serve, serve_main)
        if express:
            door = ExpressDoor(api, settings, partial(serve_websocket, websockets))
            serve_express = partial(door.serve, _listeners(express), stopping, graceful_s=graceful_s)
            await nursery.start(serve, serve_express)
        yield closed
        nursery.cancel_scope.cancel()


def _listeners(sockets: Sequence[socket.socket]) -> list[trio.SocketListener]:
    return [trio.SocketListener(trio.socket.from_stdlib_socket(listener)) for listener in sockets]


async def _serve_main(
    door: MainDoor,
    settings: ServerSettings,
    listeners: Sequence[trio.SocketListener],
    stopping: trio.Event,
    graceful_s: float,
    tls: ssl.SSLContext | None,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    install_frames()
    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.ssl_handshake_timeout = settings.body_timeout_ms / 1_000
    config.keep_alive_timeout = settings.keep_alive_ms / 1_000
    config.keep_alive_max_requests = _KEEP_ALIVE_REQUESTS_MOST
    limits = Limits(
        connections_most=settings.connections_most,
        send_timeout_s=settings.send_timeout_ms / 1_000,
        graceful_s=graceful_s,
    )
    config.websocket_max_message_size = settings.websocket.message_bytes_most
    await serve_connections(door, config, listeners, limits, stopping, tls=tls, task_status=task_status)


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
