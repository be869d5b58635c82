"""What answers over a websocket are taken for, and who gets which: by a server that says what it is told to."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from transfer_engine.benchmarks.http_wire import Address
from transfer_engine.benchmarks.sending import Order
from transfer_engine.benchmarks.websocket_sender import WebsocketSender, websocket_sender

Answerer = Callable[[WebSocketConnection, dict[str, Any]], Awaitable[None]]
REQ_ID = "e3521be8-1cea-8cf1-8c8a-153eb5d94a30"


def order(number: int = 0) -> Order:
    return Order(number=number, user_id=7, source="funding", target="trading", amount=5, key=f"key-{number}")


def taken(status: str, *, replayed: bool = False) -> dict[str, Any]:
    return {"ok": True, "data": {"req_id": REQ_ID, "status": status, "message": None, "replayed": replayed}}


def error(code: str, status: str | None = None) -> dict[str, Any]:
    told = {"code": code, "detail": "no", "retryable": False} | ({"status": status} if status else {})
    return {"ok": False, "error": told}


@asynccontextmanager
async def answering(answerer: Answerer, **options: Any) -> AsyncIterator[WebsocketSender]:
    async def serve(request: WebSocketRequest) -> None:
        websocket = await request.accept()
        try:
            while True:
                await answerer(websocket, msgspec.msgpack.decode(await websocket.get_message()))
        except ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(lambda task_status: _listen(serve, task_status))
        async with websocket_sender(Address("127.0.0.1", server.port), **options) as sender:
            yield sender
        nursery.cancel_scope.cancel()


async def _listen(serve: Any, task_status: Any) -> None:
    await serve_websocket(serve, "127.0.0.1", 0, ssl_context=None, task_status=task_status)


def always(said: dict[str, Any]) -> Answerer:
    async def answer(websocket: WebSocketConnection, request: dict[str, Any]) -> None:
        await websocket.send_message(msgspec.msgpack.encode({"id": request["id"], "op": request["op"], **said}))

    return answer


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (taken("committed"), "committed"),
        (taken("committed", replayed=True), "replayed"),
        (taken("failed"), "failed"),
        (taken("failed", replayed=True), "failed"),
        (taken("rolled_back"), "failed"),
        (taken("pending"), "pending"),
        (error("overloaded", "failed"), "refused: overloaded"),
        (error("unauthenticated"), "refused: unauthenticated"),
        (error("internal", "pending"), "fault: internal"),
        ({"ok": True, "data": {}}, "fault: unreadable"),
        ({"ok": True}, "fault: unreadable"),
    ],
)
async def test_what_an_answer_is_taken_for(said: dict[str, Any], outcome: str) -> None:
    async with answering(always(said), connections=1) as sender, sender.caller(0) as caller:
        assert list(await caller.send([order()])) == [outcome]


async def test_what_is_asked() -> None:
    asked = []

    async def answer(websocket: WebSocketConnection, request: dict[str, Any]) -> None:
        asked.append(request)
        await always(taken("committed"))(websocket, request)

    async with answering(answer, connections=1) as sender, sender.caller(0) as caller:
        await caller.send([order()])
    item = {"from": "funding", "to": "trading", "user_id": 7, "asset_id": 1, "amount": 5, "idempotency_key": "key-0"}
    [request] = asked
    assert {name: value for name, value in request.items() if value is not None} == item | {"op": "transfer", "id": 1}


async def test_a_batch_has_an_outcome_for_each_in_order() -> None:
    results = [taken("committed"), taken("committed", replayed=True), error("overloaded", "failed"), taken("pending")]
    said = {"ok": True, "data": {"results": results}}
    async with answering(always(said), connections=1, batch=4) as sender, sender.caller(0) as caller:
        outcomes = await caller.send([order(number) for number in range(4)])
        assert list(outcomes) == ["committed", "replayed", "refused: overloaded", "pending"]
        assert list(await caller.send([order()])) == ["fault: unreadable"]


async def test_answers_go_to_whom_they_belong() -> None:
    waiting: list[dict[str, Any]] = []

    async def answer(websocket: WebSocketConnection, request: dict[str, Any]) -> None:
        waiting.append(request)
        if len(waiting) == 8:
            for each in reversed(waiting):
                number = int(each["idempotency_key"].removeprefix("key-"))
                await always(taken("committed", replayed=number % 2 == 1))(websocket, each)

    outcomes: dict[int, str] = {}

    async def call(number: int) -> None:
        async with sender.caller(number) as caller:
            [outcomes[number]] = await caller.send([order(number)])

    async with answering(answer, connections=1) as sender, trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(call, number)
    assert outcomes == {number: "replayed" if number % 2 else "committed" for number in range(8)}


async def test_what_a_lost_connection_leaves_unanswered_is_a_fault_and_others_go_on() -> None:
    told = 0

    async def answer(websocket: WebSocketConnection, request: dict[str, Any]) -> None:
        nonlocal told
        told += 1
        if told == 2:
            await websocket.aclose()
        else:
            await always(taken("committed"))(websocket, request)

    async with answering(answer, connections=1) as sender, sender.caller(0) as caller:
        outcomes = [(await caller.send([order()]))[0] for _ in range(3)]
    assert outcomes == ["committed", "fault: cut", "committed"]


async def test_an_answer_that_does_not_come_is_a_time_out() -> None:
    async def answer(_websocket: WebSocketConnection, _request: dict[str, Any]) -> None:
        pass

    async with answering(answer, connections=1, answer_s=0.01) as sender, sender.caller(0) as caller:
        assert list(await caller.send([order()])) == ["fault: timeout"]


async def test_a_cancelled_call_leaves_the_connection_to_the_others() -> None:
    held: list[dict[str, Any]] = []

    async def answer(websocket: WebSocketConnection, request: dict[str, Any]) -> None:
        if held:
            await always(taken("failed"))(websocket, held[0])
            await always(taken("committed"))(websocket, request)
        else:
            held.append(request)

    async with answering(answer, connections=1) as sender, sender.caller(0) as caller:
        with trio.CancelScope() as scope:
            scope.cancel()
            await caller.send([order()])
        assert scope.cancelled_caught
        assert list(await caller.send([order()])) == ["committed"]


async def test_nobody_is_there() -> None:
    async with websocket_sender(Address("127.0.0.1", 1), connections=1, reached_s=0.01) as sender:
        with pytest.raises(OSError, match="opens no websocket"):
            async with sender.caller(0):
                pass


async def test_there_is_room_for_what_a_server_takes_unanswered() -> None:
    assert WebsocketSender(Address("a", 1), connections=2).callers_most == 2_048
    assert WebsocketSender(Address("a", 1), connections=2, batch=100).callers_most == 20
    assert WebsocketSender(Address("a", 1), connections=1, batch=1_000).callers_most == 1
