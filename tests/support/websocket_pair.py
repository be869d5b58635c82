"""A websocket without a socket: what a session and its client say to each other, in memory."""

import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from support.engines import World
from transfer_engine.engine.backends import Opening
from transfer_engine.engine.engine import Engine
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.gate import Gate
from transfer_engine.http.identity import Caller, NoTokens
from transfer_engine.http.messages import Request
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.rate_limits import RateLimits
from transfer_engine.http.websocket_connection import ConnectionEnded, Message, MessageRefused
from transfer_engine.http.websocket_sessions import PATH, Admitted, WebSockets
from transfer_engine.http.websocket_settings import WebSocketSettings

PEER = "192.0.2.7"
"""The client's address."""


class PairedConnection:
    """The server's end."""

    def __init__(self) -> None:
        self.last_heard_at = trio.current_time()
        self.closed_by_server: tuple[int, str] | None = None
        self.pings = 0
        self.on_control: Callable[[], None] = lambda: None
        self.is_reading = True
        """Whether the client takes what it is sent."""
        self.answers = True
        """Whether the client answers pings."""
        self._to_server, self._from_client = trio.open_memory_channel[Message | Exception](math.inf)
        self._to_client, self.from_server = trio.open_memory_channel[Message](math.inf)
        self._may_send = trio.Event()
        self._may_send.set()

    async def receive(self) -> Sequence[Message]:
        message = await self._from_client.receive()
        if isinstance(message, Exception):
            raise message
        self.last_heard_at = trio.current_time()
        return [message]

    async def send(self, messages: Sequence[Message]) -> None:
        await trio.lowlevel.checkpoint()
        await self._may_send.wait()
        for message in messages:
            self._to_client.send_nowait(message)

    def ping(self) -> None:
        self.pings += 1
        if self.answers:
            self.last_heard_at = trio.current_time()

    async def close(self, code: int, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        self.closed_by_server = (code, reason)
        self._to_client.close()

    def say(self, message: Message | Exception) -> None:
        self._to_server.send_nowait(message)

    def stop_reading(self) -> None:
        self._may_send = trio.Event()

    def read_on(self) -> None:
        self._may_send.set()


class Tokens:
    """An authenticator whose tokens are names."""

    def __init__(self, **callers: Caller) -> None:
        self.callers = callers
        self.generation = 0
        self.skew_s = 0.0
        """How far the wall clock is ahead."""

    def expires_in(self, name: str, seconds: float) -> None:
        """Have a token expire, by trio's clock."""
        expires_at = trio.current_time() + seconds
        self.callers[name] = msgspec.structs.replace(self.callers[name], expires_at=expires_at)

    def revoke(self, name: str) -> None:
        """Have a token's key taken away."""
        del self.callers[name]
        self.generation += 1

    def known(self, authorization: Sequence[bytes]) -> Caller | None:
        return None

    async def authenticate(self, authorization: Sequence[bytes]) -> Caller:
        await trio.lowlevel.checkpoint()
        name = authorization[0].decode().removeprefix("Bearer ") if authorization else ""
        caller = self.callers.get(name)
        if caller is None:
            raise Rejected(ProblemCode.UNAUTHENTICATED, "no such token")
        return caller

    async def run(self) -> None:
        await trio.sleep_forever()


def websockets_of(
    engine: Engine | None,
    *,
    tokens: Tokens | None = None,
    limits: RateLimits | None = None,
    send_timeout_ms: int = 10_000,
    **settings: Any,
) -> WebSockets:
    """Return the sessions of a server that has this engine."""
    slot = EngineSlot(Opening())
    slot.running = engine
    return WebSockets(
        slot,
        Gate(tokens or NoTokens(), limits),
        WebSocketSettings(**settings),
        deadline_ms=2_000,
        send_timeout_ms=send_timeout_ms,
        now_s=lambda: trio.current_time() + (tokens.skew_s if tokens is not None else 0),
    )


class Client:
    """The client's end: asks, and gathers what it is told."""

    world: World

    def __init__(self, websockets: WebSockets, admitted: Admitted) -> None:
        self.websockets = websockets
        self.admitted = admitted
        self.connection = PairedConnection()
        self.is_binary = False
        self.told: list[Any] = []
        self.raw: list[Message] = []
        self.ended = trio.Event()

    @property
    def engine(self) -> Engine:
        return self.websockets._parts.slot.engine

    def ask(self, op: str, **members: Any) -> None:
        """Send a request; ``from_`` is sent as ``from``."""
        body = {"op": op, **{name.rstrip("_"): value for name, value in members.items()}}
        self.connection.say(msgspec.msgpack.encode(body) if self.is_binary else json.dumps(body))

    def transfer(self, call_id: Any, **other: Any) -> None:
        """Ask for a transfer of user 1."""
        body = {"from_": "funding", "to": "trading", "user_id": 1, "asset_id": 1, "amount": 10, **other}
        self.ask("transfer", id=call_id, **body)

    async def hear(self) -> Any:
        """Return the next message."""
        message = await self.connection.from_server.receive()
        self.raw.append(message)
        heard = json.loads(message) if isinstance(message, str) else msgspec.msgpack.decode(message)
        self.told.append(heard)
        return heard

    async def hear_all(self) -> list[Any]:
        """Return all messages up to the end."""
        heard = []
        try:
            while True:
                heard.append(await self.hear())
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return heard

    async def request(self, op: str, **members: Any) -> Any:
        """Send a request and return the next message."""
        self.ask(op, **members)
        return await self.hear()

    async def authenticate(self, call_id: Any, name: str) -> Any:
        """Say who asks."""
        return await self.request("auth", id=call_id, token=name)

    def leave(self) -> None:
        self.connection.say(ConnectionEnded())

    def break_rules(self, refused: MessageRefused) -> None:
        self.connection.say(refused)


@asynccontextmanager
async def client_of(websockets: WebSockets, *, bearer: str | None = None) -> AsyncIterator[Client]:
    """Connect to the sessions of a server, in memory; leaving the context leaves the connection."""
    authorization = () if bearer is None else (f"Bearer {bearer}".encode(),)
    client = Client(websockets, await websockets.admit(Request("GET", PATH, authorization=authorization, peer=PEER)))

    async def serve() -> None:
        await websockets.serve(client.connection, client.admitted)
        client.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(websockets.run)
        nursery.start_soon(serve)
        yield client
        client.leave()
        with trio.move_on_after(5):
            await client.ended.wait()
        nursery.cancel_scope.cancel()
