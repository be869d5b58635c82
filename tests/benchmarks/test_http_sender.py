"""What answers over HTTP are taken for: each by a server that says what it is told to."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from transfer_engine.benchmarks.http_sender import HttpSender, http_sender
from transfer_engine.benchmarks.http_wire import Address, parse_url
from transfer_engine.benchmarks.sending import Order

ORDER = Order(number=0, user_id=7, source="funding", target="trading", amount=5, key="key-0")
REQ_ID = "e3521be8-1cea-8cf1-8c8a-153eb5d94a30"
CUT = b""
"""A server that says no more, and closes the connection."""


def answer(status: int, body: Any, *headers: str) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Said", "Content-Type: application/json", f"Content-Length: {len(text)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + text


def taken(status: str) -> dict[str, Any]:
    return {"req_id": REQ_ID, "status": status, "message": None}


def problem(code: str, status: str) -> dict[str, Any]:
    return {"type": f"urn:…:{code}", "status": status, "code": code, "req_id": "", "message": "no", "retryable": True}


class Scripted:
    """A server that gives its answers in turn, one for each request; without any left it is silent."""

    def __init__(self, answers: Iterator[bytes]) -> None:
        self.asked: list[bytes] = []
        self._answers = answers

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            while True:
                request = b""
                while not _is_whole(request):
                    part = await stream.receive_some()
                    if not part:
                        return
                    request += part
                self.asked.append(request)
                said = next(self._answers, None)
                if said is None:
                    await trio.sleep_forever()
                elif said:
                    await stream.send_all(said)
                if not _is_whole(said or b""):
                    return


def _is_whole(message: bytes) -> bool:
    head, end, body = message.partition(b"\r\n\r\n")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":-1")
    return bool(end) and len(body) == int(length.partition(b":")[2])


@asynccontextmanager
async def scripted(*answers: bytes, **options: Any) -> AsyncIterator[tuple[HttpSender, Scripted]]:
    server = Scripted(iter(answers))
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(lambda task_status: _listen(server, task_status))
        address = Address("127.0.0.1", listener.socket.getsockname()[1])
        async with http_sender(address, **options) as sender:
            yield sender, server
        nursery.cancel_scope.cancel()


async def _listen(server: Scripted, task_status: Any) -> None:
    await trio.serve_tcp(server.serve, 0, host="127.0.0.1", task_status=task_status)


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (answer(200, taken("committed")), "committed"),
        (answer(200, taken("committed"), "Idempotent-Replayed: true"), "replayed"),
        (answer(200, taken("failed")), "failed"),
        (answer(200, taken("failed"), "Idempotent-Replayed: true"), "failed"),
        (answer(200, taken("rolled_back")), "failed"),
        (answer(202, taken("pending")), "pending"),
        (answer(422, problem("amount_not_positive", "failed")), "refused: amount_not_positive"),
        (answer(429, problem("rate_limited", "failed")), "refused: rate_limited"),
        (answer(401, {"code": "unauthenticated", "status": 401}), "refused: unauthenticated"),
        (answer(503, problem("overloaded", "failed")), "refused: overloaded"),
        (answer(503, problem("unavailable", "pending")), "fault: HTTP 503"),
        (answer(500, problem("internal", "pending")), "fault: HTTP 500"),
        (answer(502, b"<html>Bad Gateway</html>"), "fault: HTTP 502"),
        (answer(404, b"nothing here"), "fault: HTTP 404"),
        (answer(200, b"<html>Welcome</html>"), "fault: unreadable"),
        (answer(200, {"hello": "world"}), "fault: unreadable"),
        (answer(200, [1]), "fault: unreadable"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "fault: unreadable"),
        (CUT, "fault: cut"),
        (answer(200, taken("committed"))[:-5], "fault: cut"),
        (b"HTTP/1.1 20", "fault: cut"),
    ],
)
async def test_what_an_answer_is_taken_for(said: bytes, outcome: str) -> None:
    async with scripted(said) as (sender, _), sender.caller(0) as caller:
        assert list(await caller.send([ORDER])) == [outcome]


async def test_what_is_asked() -> None:
    token = "a.b.c"  # noqa: S105  of nobody
    async with scripted(answer(200, taken("committed")), token=token) as (sender, server), sender.caller(0) as caller:
        await caller.send([ORDER])
    [request] = server.asked
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/v1/transfer HTTP/1.1\r\n")
    assert b"\r\nIdempotency-Key: key-0\r\n" in head
    assert b"\r\nAuthorization: Bearer a.b.c\r\n" in head
    assert json.loads(body) == {"from": "funding", "to": "trading", "user_id": 7, "asset_id": 1, "amount": 5}


async def test_a_batch_has_an_outcome_for_each_in_order() -> None:
    results = [
        {"index": 0, "status": "committed", "req_id": REQ_ID, "message": None},
        {"index": 1, "status": "committed", "req_id": REQ_ID, "message": None, "replayed": True},
        {"index": 2, **problem("amount_not_positive", "failed")},
        {"index": 3, **problem("internal", "pending")},
        {"index": 4, **taken("pending")},
    ]
    async with scripted(answer(200, {"results": results}), batch=5) as (sender, server), sender.caller(0) as caller:
        outcomes = await caller.send([ORDER] * 5)
    assert list(outcomes) == ["committed", "replayed", "refused: amount_not_positive", "fault: internal", "pending"]
    [request] = server.asked
    assert request.startswith(b"POST /api/v1/transfers/batch HTTP/1.1\r\n")
    sent = json.loads(request.partition(b"\r\n\r\n")[2])["transfers"]
    assert [item["idempotency_key"] for item in sent] == ["key-0"] * 5


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (answer(200, {"results": [taken("committed")]}), "fault: unreadable"),
        (answer(503, problem("overloaded", "failed")), "refused: overloaded"),
        (answer(500, problem("internal", "pending")), "fault: HTTP 500"),
        (answer(400, {"code": "malformed_body", "status": "failed"}), "refused: malformed_body"),
        (CUT, "fault: cut"),
    ],
)
async def test_a_batch_that_is_answered_as_a_whole(said: bytes, outcome: str) -> None:
    async with scripted(said, batch=2) as (sender, _), sender.caller(0) as caller:
        assert list(await caller.send([ORDER, ORDER])) == [outcome] * 2


async def test_after_a_fault_a_caller_connects_again() -> None:
    committed = answer(200, taken("committed"))
    last = answer(200, taken("committed"), "Connection: close")
    async with scripted(committed, CUT, last, committed) as (sender, _), sender.caller(0) as caller:
        outcomes = [(await caller.send([ORDER]))[0] for _ in range(4)]
    assert outcomes == ["committed", "fault: cut", "committed", "committed"]


async def test_an_answer_that_does_not_come_is_a_time_out() -> None:
    async with scripted(answer_s=0.01) as (sender, _), sender.caller(0) as caller:
        assert list(await caller.send([ORDER])) == ["fault: timeout"]


async def test_nobody_is_there() -> None:
    async with http_sender(Address("127.0.0.1", 1), reached_s=0.01) as sender, sender.caller(0) as caller:
        assert list(await caller.send([ORDER])) == ["fault: unreachable"]


async def test_a_cancelled_call_leaves_a_caller_that_can_be_used() -> None:
    async with scripted(b"HTTP/1.1 200", answer(200, taken("committed"))) as (sender, _), sender.caller(0) as caller:
        with trio.CancelScope() as scope:
            scope.cancel()
            await caller.send([ORDER])
        assert scope.cancelled_caught
        assert list(await caller.send([ORDER])) == ["fault: cut"]
        assert list(await caller.send([ORDER])) == ["committed"]


@pytest.mark.parametrize("url", ["ftp://a", "localhost:80", "http://", "http://a?b", "http://user:word@a"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        parse_url(url)


def test_an_address() -> None:
    assert parse_url("http://a:81/sub/") == Address("a", 81, path="/sub")
    assert parse_url("https://[::1]") == Address("::1", 443, is_tls=True)
    assert parse_url("https://[::1]").authority == "[::1]:443"
