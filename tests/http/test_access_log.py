"""The access log: which requests have a line, what is in it, and that it never holds anybody up."""

import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio_websocket import open_websocket_url

from support.server import Server, eventually, running_server
from transfer_engine.http.access_log import AccessLog
from transfer_engine.http.identity import ANYBODY, Caller, Scope
from transfer_engine.http.messages import About, Response
from transfer_engine.http.trace_context import begin_trace

BODY = {"from": "funding", "to": "trading", "user_id": 1, "asset_id": 1, "amount": 5_000_000}
USER_BODY = {
    "from_account": {"account_type": "funding", "user_id": 1, "asset": "USDT"},
    "to_account": {"account_type": "spot", "asset": "USDT", "user_id": 1},
    "amount": "0.01",
}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
REQ_ID = UUID("e3521be8-1cea-8cf1-8c8a-153eb5d94a30")
MOVED = Response(200, b"{}", about=About(REQ_ID, 7, "committed"))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def record(log: AccessLog, response: Response = MOVED, caller: Caller | None = ANYBODY) -> None:
    log.record("POST", "/api/v1/transfer", response, begin_trace(), 0.0, caller, "192.0.2.1")


def lines_of(text: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in text.splitlines()]


def read_what_is_there(reading: int, most: int = 1 << 16) -> bytes:
    os.set_blocking(reading, False)
    try:
        return os.read(reading, most)
    except BlockingIOError:
        return b""


async def test_lines_are_written_together_after_a_while(
    pipe: tuple[int, int], autojump_clock: trio.testing.MockClock
) -> None:
    reading, writing = pipe
    log = AccessLog(descriptor=writing)
    async with log.running():
        record(log)
        record(log)
        await trio.sleep(0.09)
        assert log.statistics().written == 0
        await trio.sleep(0.02)
        first, second = lines_of(os.read(reading, 1 << 16))
    assert first["req_id"] == second["req_id"] == str(REQ_ID)
    assert list(first)[:7] == ["timestamp", "level", "logger", "event", "method", "path", "status"]
    assert first["timestamp"].endswith("Z")
    assert (
        (first["user"], first["outcome"], first["peer"]) == (7, "committed", "192.0.2.1") if "peer" in first else True
    )


async def test_the_last_lines_are_written_at_the_end(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    log = AccessLog(descriptor=writing)
    async with log.running():
        for _ in range(100):
            record(log)
    assert len(lines_of(os.read(reading, 1 << 20))) == 100


async def test_what_is_looked_at_has_no_line(pipe: tuple[int, int]) -> None:
    log = AccessLog(descriptor=pipe[1])
    record(log, Response(200, b"{}"))
    assert log.statistics().waiting == 0


async def test_a_reader_who_does_not_read_costs_lines_and_nobody_s_time(
    pipe: tuple[int, int], autojump_clock: trio.testing.MockClock
) -> None:
    reading, writing = pipe
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    log = AccessLog(descriptor=writing)
    kept = b""
    async with log.running():
        for _ in range(200):
            for _ in range(100):
                record(log)
            await trio.sleep(0.001)
        assert log.statistics().waiting == 10_000
        dropped = log.statistics().dropped
        assert dropped > 9_000
        while log.statistics().waiting:
            kept += read_what_is_there(reading)
            await trio.sleep(0.1)
        kept += read_what_is_there(reading)
    lines = lines_of(kept)
    told = [line for line in lines if line["event"] == "access lines dropped"]
    assert sum(line["count"] for line in told) == dropped
    assert [line["level"] for line in told] == ["warning"] * len(told)
    assert len(lines) - len(told) == log.statistics().written == 20_000 - dropped


async def test_a_descriptor_that_does_not_block_loses_nothing(
    pipe: tuple[int, int], autojump_clock: trio.testing.MockClock
) -> None:
    reading, writing = pipe
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    os.set_blocking(writing, False)
    log = AccessLog(descriptor=writing)
    kept = b""
    async with log.running():
        for _ in range(1_000):
            record(log)
        for _ in range(200):
            await trio.sleep(0.1)
            kept += read_what_is_there(reading, 1_000)
        while log.statistics().waiting:
            kept += read_what_is_there(reading)
            await trio.sleep(0.1)
        kept += read_what_is_there(reading)
    assert len(lines_of(kept)) == 1_000


async def test_the_end_waits_a_second_for_a_reader_who_does_not_read(
    pipe: tuple[int, int], autojump_clock: trio.testing.MockClock
) -> None:
    writing = pipe[1]
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    log = AccessLog(descriptor=writing)
    async with log.running():
        for _ in range(1_000):
            record(log)
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(1.0)
    assert log.statistics().waiting > 900


async def test_a_reader_who_has_gone_is_no_fault(pipe: tuple[int, int]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = AccessLog(descriptor=writing)
    async with log.running():
        record(log)
    assert log.statistics().waiting == 0
    os.close(writing)


@pytest.mark.parametrize(
    ("level", "statuses"), [(logging.DEBUG, [200, 503]), (logging.WARNING, [503]), (logging.ERROR, [])]
)
async def test_lines_have_levels(pipe: tuple[int, int], level: int, statuses: list[int]) -> None:
    log = AccessLog(level=level, descriptor=pipe[1])
    async with log.running():
        record(log)
        record(log, Response(503, b"{}", about=About(code="overloaded")))
    os.write(pipe[1], b"\n")
    assert [line["status"] for line in lines_of(os.read(pipe[0], 1 << 16).strip())] == statuses


async def test_on_a_terminal_lines_go_the_way_of_all_others() -> None:
    log = AccessLog(is_json=False)
    with capture_logs() as told:
        async with log.running():
            record(log, caller=Caller("billing", None, frozenset({Scope.ANY})))
    [line] = told
    assert (line["event"], line["log_level"], line["req_id"], line["user"]) == ("request", "info", str(REQ_ID), 7)
    assert line["subject"] == "billing"


def access_lines(server: Server, count: int) -> list[dict[str, Any]]:
    """Return the access lines of a server, once there are so many."""

    def look() -> list[dict[str, Any]]:
        lines = lines_of(server.log.read_bytes())
        return [line for line in lines if line["logger"] == "transfer_engine.access"]

    return eventually(look, lambda lines: len(lines) >= count)


@pytest.mark.parametrize("door", ["main", "express"])
def test_a_server_s_lines(tmp_path: Path, door: str) -> None:
    with running_server(tmp_path, config={"body_bytes_most": 2_000}) as server:
        server.credit(1, 50_000_000)
        client = server.through(door).client
        key = {"Idempotency-Key": "a-key-that-nobody-may-read"}
        moved = client.post("/api/v1/transfer", json=BODY, headers={**key, "traceparent": TRACEPARENT})
        req_id = moved.json()["req_id"]
        client.post("/api/v1/transfer", json=BODY, headers=key)
        client.post("/api/v1/transfer", json={**BODY, "amount": 900_000_000})
        client.post("/api/v1/transfer", json={**BODY, "amount": 0})
        client.get(f"/api/v1/transfer/{req_id}?secret=secret-query")
        client.get("/api/v1/balances/1")
        client.get("/secret-path?secret=secret-query")
        client.delete("/api/v1/transfer")
        client.post("/api/v1/transfer", content=b"secret-body" * 300)
        client.post("/api/v1/user/internal_transfer", json=USER_BODY)
        client.post("/api/v1/transfers/batch", json={"transfers": [BODY, {}]})
        client.post(f"/api/v1/admin/transfers/{req_id}/resolve", json={"action": "void"})
        lines = access_lines(server, 11)
        assert server.stop() == 0
        assert not any(word in server.logged for word in ("secret", "a-key-that-nobody-may-read"))
    told = [(line["method"], line["path"], line["status"], line.get("outcome"), line.get("code")) for line in lines]
    assert told == [
        ("POST", "/api/v1/admin/credits", 201, "committed", None),
        ("POST", "/api/v1/transfer", 200, "committed", None),
        ("POST", "/api/v1/transfer", 200, "committed", None),
        ("POST", "/api/v1/transfer", 200, "failed", None),
        ("POST", "/api/v1/transfer", 422, None, "amount_not_positive"),
        ("GET", "*", 404, None, "no_such_path"),
        ("DELETE", "/api/v1/transfer", 405, None, "method_not_allowed"),
        ("POST", "/api/v1/transfer", 413, None, "body_too_large"),
        ("POST", "/api/v1/user/internal_transfer", 200, "committed", None),
        ("POST", "/api/v1/transfers/batch", 200, None, None),
        ("POST", "/api/v1/admin/transfers/{req_id}/resolve", 200, "committed", None),
    ]
    assert [line["req_id"] == req_id for line in lines[1:3]] == [True, True]
    assert [line.get("replayed", False) for line in lines[1:3]] == [False, True]
    assert [line["user"] for line in lines[:4]] == [1] * 4
    assert lines[1]["trace_id"] == TRACEPARENT[3:35]
    assert moved.headers["traceparent"] == f"00-{TRACEPARENT[3:35]}-{lines[1]['span_id']}-01"
    assert len({line["trace_id"] for line in lines}) == len(lines)
    assert all(line["duration_ms"] >= 0 for line in lines)
    assert lines[5]["peer"] == "127.0.0.1"
    assert (lines[9]["count"], lines[9]["refused"]) == (2, 1)
    assert lines[10]["req_id"] == req_id


@pytest.mark.parametrize("door", ["main", "express"])
async def test_a_websocket_s_lines(tmp_path: Path, door: str) -> None:
    with running_server(tmp_path) as server:
        server.credit(1, 50_000_000)
        url = server.through(door).url.replace("http://", "ws://") + "/api/v1/ws"
        headers = [("traceparent", TRACEPARENT)]
        item = {**BODY, "idempotency_key": "a-key-that-nobody-may-read"}
        async with open_websocket_url(url, extra_headers=headers) as websocket:
            for message in (
                {"op": "transfer", "id": 1, **item},
                {"op": "transfer", "id": 2, **BODY, "amount": 0},
                {"op": "batch", "id": 3, "transfers": [item, BODY]},
                {"op": "balances", "id": 4, "user_id": 1},
                {"op": "auth", "id": 5, "token": "secret"},
                {"op": "nothing", "id": 6},
            ):
                await websocket.send_message(msgspec.json.encode(message).decode())
                await websocket.get_message()
        refused = server.through(door).client.get("/api/v1/wss", headers=HANDSHAKE)
        assert refused.status_code == 404
        lines = access_lines(server, 6)
        assert server.stop() == 0
        assert not any(word in server.logged for word in ("secret", "a-key-that-nobody-may-read"))
    told = [
        (line["method"], line.get("op"), line["status"], line.get("user"), line.get("count"), line.get("code"))
        for line in lines[1:]
    ]
    assert told[:3] == [
        ("WS", "transfer", 200, 1, None, None),
        ("WS", "transfer", 422, 1, None, "amount_not_positive"),
        ("WS", "batch", 200, None, 2, None),
    ]
    assert told[-2:] == [
        ("WS", None, 422, None, None, "unknown_op"),
        ("GET", None, 404, None, None, "no_such_path"),
    ]
    assert {line["trace_id"] for line in lines[1:-1]} == {TRACEPARENT[3:35]}
    assert len({line["span_id"] for line in lines}) == len(lines)
    assert lines[1]["req_id"]
    assert [line["path"] for line in lines[1:]] == ["/api/v1/ws"] * (len(lines) - 2) + ["*"]


def test_no_lines_where_none_are_wanted(tmp_path: Path) -> None:
    with running_server(tmp_path, config={"access_log": False}) as server:
        server.credit(1, 50_000_000)
        assert server.client.get("/nothing").status_code == 404
        assert server.stop() == 0
        assert "transfer_engine.access" not in server.logged
