"""Sessions over a connection in memory: requests, answers, tokens, bounds, ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.engines import World
from support.websocket_pair import Client, client_of
from transfer_engine.engine.backends import Opening
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.gate import Gate
from transfer_engine.http.identity import ANYBODY, NoTokens
from transfer_engine.http.websocket_sessions import WebSockets
from transfer_engine.http.websocket_settings import WebSocketSettings

pytestmark = pytest.mark.usefixtures("autojump_clock")


def websockets_of(
    engine: Any, *, gate: Gate | None = None, send_timeout_ms: int = 10_000, **settings: Any
) -> WebSockets:
    slot = EngineSlot(Opening())
    slot.running = engine
    return WebSockets(
        slot,
        gate or Gate(NoTokens()),
        WebSocketSettings(**settings),
        deadline_ms=2_000,
        send_timeout_ms=send_timeout_ms,
    )


@asynccontextmanager
async def connected(**settings: Any) -> AsyncIterator[Client]:
    world = World()
    await world.fund(1, 2, amount=1_000)
    async with world.engine() as engine, client_of(websockets_of(engine, **settings), ANYBODY) as client:
        yield client


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with connected() as client:
        yield client


@pytest.mark.parametrize("is_binary", [False, True])
async def test_a_transfer_is_answered_in_the_kind_of_its_frame(client: Client, is_binary: bool) -> None:
    client.is_binary = is_binary
    client.transfer("a")
    answer = await client.hear()
    data = answer.pop("data")
    assert answer == {"id": "a", "op": "transfer", "ok": True}
    assert (data["status"], data["message"], data["replayed"]) == ("committed", None, False)
    found = await client.request("get", id=2, req_id=data["req_id"])
    assert found["data"]["state"] == "committed"
    assert found["data"]["source"] == "funding"
    balances = await client.request("balances", id=3, user_id=1)
    assert balances["data"]["balances"][:2] == [
        {"account": "funding", "asset_id": 1, "available": 990, "frozen": 0},
        {"account": "trading", "asset_id": 1, "available": 10, "frozen": 0},
    ]
    assert await client.request("ping", id=-4) == {"id": -4, "op": "ping", "ok": True}
