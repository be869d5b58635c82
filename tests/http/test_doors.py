"""One conformance suite for both doors: the same bytes sent to each get the same status, headers and body.

The modules on bad input, the first API, single connections and the wire below it (`test_main_door.py`) run at both
doors too; what is asked there of an answer's content is not repeated here.
"""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from support.server import PATIENCE_S, Server

HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
TRANSFER = b"POST /api/v1/transfer"
NOBODY = b"00000000-0000-0000-0000-000000000000"
IGNORED = {b"date", b"connection"}
"""Headers that are about the moment or the connection, not about the request."""


class Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


def read_answer(stream: Any, *, is_head: bool = False) -> Answer:
    """Read one answer from a buffered reader of a socket."""
    status_line = stream.readline()
    assert status_line.startswith(b"HTTP/1.1 "), status_line
    headers: dict[bytes, bytes] = {}
    while (line := stream.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        name = name.lower()
        assert name not in headers, f"{name!r} twice"
        headers[name] = value.strip()
    body = b"" if is_head else stream.read(int(headers[b"content-length"]))
    return Answer(int(status_line.split()[1]), headers, body)


def ask(port: int, data: bytes) -> Answer:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(data)
        with connection.makefile("rb") as stream:
            return read_answer(stream, is_head=data.startswith(b"HEAD "))


def both(server: Server, data: bytes) -> Answer:
    """Ask both doors, and return what both have answered."""
    main, express = ask(server.port, data), ask(server.express_port, data)
    assert express.status == main.status, (main, express)
    assert express.body == main.body
    kept = [
        {name: value for name, value in answer.headers.items() if name not in IGNORED} for answer in (main, express)
    ]
    assert kept[0] == kept[1]
    assert b"date" in express.headers
    return main


def post(body: bytes, *headers: bytes, path: bytes = b"/api/v1/transfer", content_type: bytes = JSON) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST %b HTTP/1.1\r\n%b%b%bContent-Length: %d\r\n\r\n%b" % (
        path,
        HOST,
        content_type,
        lines,
        len(body),
        body,
    )


def transfer(**changes: Any) -> bytes:
    body = {"from": "funding", "to": "trading", "user_id": 1, "asset_id": 1, "amount": 1_000_000, **changes}
    return json.dumps(body).encode()


def get(target: bytes, *headers: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"%b %b HTTP/%b\r\n%b%b\r\n" % (method, target, version, HOST, lines)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get(b"/health"), 200),
        (get(b"/ready"), 200),
        (get(b"/api/v1/assets"), 200),
        (get(b"/api/v1/balances/424242"), 200),
        (get(b"/api/v1/balances/x"), 400),
        (get(b"/api/v1/transfer/x"), 400),
        (get(b"/api/v1/transfer/" + NOBODY), 404),
        (get(b"/api/v1/transfer"), 405),
        (get(b"/nothing"), 404),
        (get(b"/health", method=b"HEAD"), 200),
        (get(b"/nothing", method=b"HEAD"), 404),
        (get(b"/api/v1/transfer", method=b"HEAD"), 405),
        (get(b"/health", method=b"OPTIONS"), 405),
        (get(b"/health", method=b"DELETE"), 405),
        (get(b"/health", method=b"PURGE"), 405),
        (get(b"/health", b"Host2: x", b"X-A:", b"X-B:  spaced  "), 200),
        (get(b"/health", version=b"1.0"), 200),
        (get(b"/health", b"Connection: close"), 200),
        (get(b"/health", b"Connection: keep-alive"), 200),
        (get(b"/health").replace(b"localhost", b"rebound.example"), 421),
        (get(b"/health", b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-xx"), 200),
        (post(transfer(amount=0)), 422),
        (post(transfer(amount=-1)), 422),
        (post(transfer(amount="1")), 422),
        (post(transfer(amount=1.5)), 422),
        (post(transfer(amount=2**64)), 422),
        (post(transfer(asset_id=99)), 422),
        (post(transfer(user_id=0)), 422),
        (post(transfer(**{"from": "nowhere"})), 422),
        (post(transfer(to="funding")), 422),
        (post(transfer(fee=1)), 422),
        (post(transfer()[:-1] + b', "amount": 2}'), 422),
        (post(b"{}"), 422),
        (post(b"[]"), 422),
        (post(b""), 400),
        (post(b"{"), 400),
        (post(b"\xff"), 400),
        (post(b"[" * 30_000), 400),
        (post(transfer(), content_type=b""), 415),
        (post(transfer(), content_type=b"Content-Type: text/plain\r\n"), 415),
        (post(transfer(amount=0), content_type=b"content-type: text/plain\r\nContent-Type: application/json\r\n"), 422),
        (post(transfer(amount=0), content_type=b"CONTENT-TYPE: application/json \t\r\n"), 422),
        (post(transfer(), b"Idempotency-Key:"), 400),
        (post(transfer(), b"Idempotency-Key: a", b"idempotency-key: a"), 400),
        (post(transfer(), b"Idempotency-Key: " + b"k" * 256), 400),
        (post(transfer(), b"Idempotency-Key: caf\xe9"), 400),
        (post(transfer(amount=0), b"IDEMPOTENCY-KEY: upper"), 422),
        (post(b" " * 65_537), 413),
        (post(b" " * 65_537, path=b"/nothing"), 413),
        (post(b" " * 65_537, path=b"/api/v1/transfer/x"), 413),
        (post(transfer(), path=b"/api/v1/balances/1"), 405),
        (post(transfer(), path=b"/api/v1/admin/credits"), 422),
    ],
)
def test_the_same_bytes_get_the_same_answer(served: Server, request_bytes: bytes, status: int) -> None:
    answer = both(served, request_bytes)
    assert answer.status == status, answer


@pytest.mark.parametrize(
    "target",
    [
        b"/%68ealth",
        b"/health%3F",
        b"/health%3f?x=1",
        b"/health?x=%ff&y",
        b"/health?",
        b"/health??",
        b"/health%23",
        b"/health%00",
        b"/health%",
        b"/health%zz",
        b"/%ff",
        b"/%2Fhealth",
        b"//health",
        b"/health/",
        b"/./health",
        b"/health;v=1",
        b"/api/v1/balances/%31",
        b"/api/v1/balances/1%2F2",
        b"/api/v1/balances/1+1",
        b"/api/v1/transfer/%E2%82%AC",
        b"/api/v1/transfer/" + NOBODY + b"?x=/y",
        b"http://localhost/health",
        b"http://localhost:80/health?x=1",
        b"http://elsewhere.example/health",
        b"http://localhost/%68ealth",
        b"http://localhost",
        b"HTTP://LOCALHOST/health",
        b"/" + b"a" * 8_000,
    ],
)
def test_targets_mean_the_same(served: Server, target: bytes) -> None:
    both(served, get(target))


def test_an_asterisk_is_no_path(served: Server) -> None:
    assert both(served, get(b"*", method=b"OPTIONS")).status == 404


def test_a_trace_is_taken_over(served: Server) -> None:
    trace = b"0af7651916cd43dd8448eb211c80319c"
    request = get(b"/health", b"traceparent: 00-" + trace + b"-b7ad6b7169203331-01")
    for port in (served.port, served.express_port):
        assert ask(port, request).headers[b"traceparent"].split(b"-")[1] == trace


def test_verdicts_replays_and_misuse_of_keys(served: Server) -> None:
    served.credit(8_001, 10_000_000)
    keyed = post(transfer(user_id=8_001), b"Idempotency-Key: doors 1")
    first = ask(served.express_port, keyed)
    assert (first.status, json.loads(first.body)["status"]) == (200, "committed")
    again = both(served, keyed)
    assert again.body == first.body
    assert again.headers[b"idempotent-replayed"] == b"true"
    other = both(served, post(transfer(user_id=8_001, amount=2_000_000), b"Idempotency-Key: doors 1"))
    assert (other.status, json.loads(other.body)["code"]) == (422, "key_reused")
    found = both(served, get(b"/api/v1/transfer/" + json.loads(first.body)["req_id"].encode()))
    assert json.loads(found.body)["state"] == "committed"
    assert both(served, get(b"/api/v1/balances/8001")).status == 200


def chunked(body: bytes, size: int) -> bytes:
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_chunked_bodies(served: Server, size: int) -> None:
    head = TRANSFER + b" HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
    assert both(served, head + chunked(transfer(amount=0), size)).status == 422
    assert both(served, head + chunked(transfer() + b" " * 65_536, 1_000)).status == 413


def test_what_stands_in_a_trailer_is_left_out(served: Server) -> None:
    head = TRANSFER + b" HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
    body = chunked(transfer(amount=0), 10)[:-2] + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n"
    assert json.loads(both(served, head + body).body)["code"] == "amount_not_positive"


@pytest.fixture
def connection(door: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", door.port), timeout=PATIENCE_S) as stream:
        yield stream


def test_a_connection_serves_many(connection: socket.socket) -> None:
    with connection.makefile("rb") as stream:
        for _ in range(50):
            connection.sendall(post(transfer(amount=0)))
            assert read_answer(stream).status == 422
            connection.sendall(get(b"/health", method=b"HEAD"))
            assert read_answer(stream, is_head=True).status == 200


def test_requests_that_come_byte_by_byte(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection.makefile("rb") as stream:
        for request in (post(transfer(amount=0)), get(b"/health?x=1")):
            for index in range(len(request)):
                connection.sendall(request[index : index + 1])
            assert read_answer(stream).status in {200, 422}


def test_a_half_closed_client_gets_its_answers(connection: socket.socket) -> None:
    connection.sendall(post(transfer(amount=0)) + get(b"/health"))
    connection.shutdown(socket.SHUT_WR)
    with connection.makefile("rb") as stream:
        assert read_answer(stream).status == 422
        assert read_answer(stream).status == 200
        assert stream.read() == b""


@pytest.mark.parametrize("request_bytes", [get(b"/health", b"Connection: close"), get(b"/health", version=b"1.0")])
def test_the_last_answer_is_followed_by_the_end(connection: socket.socket, request_bytes: bytes) -> None:
    connection.sendall(request_bytes)
    with connection.makefile("rb") as stream:
        answer = read_answer(stream)
        assert answer.headers[b"connection"] == b"close"
        assert stream.read() == b""


def test_clients_that_reset_their_connections_are_no_news(door: Server) -> None:
    abort = struct.pack("ii", 1, 0)
    whole = post(transfer(amount=0)) + get(b"/health") * 100
    for sent in (0, 1, 30, len(whole) // 2, len(whole)):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", door.port), timeout=PATIENCE_S) as connection:
                connection.sendall(whole[:sent])
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
    assert door.client.get("/health").status_code == 200
    assert door.faults == []


def test_many_connections_with_one_key(door: Server) -> None:
    """One transfer; every caller is told of it, and callers with another body are refused."""
    user_id = door.users_from + 8_002
    door.credit(user_id, 100_000_000)
    barrier = threading.Barrier(64)
    answers: list[Answer] = []

    def call(index: int) -> None:
        amount = 1_000_000 if index % 2 == 0 else 2_000_000
        request = post(transfer(user_id=user_id, amount=amount), b"Idempotency-Key: crowd %d" % user_id)
        with socket.create_connection(("127.0.0.1", door.port), timeout=PATIENCE_S) as connection:
            barrier.wait()
            connection.sendall(request)
            with connection.makefile("rb") as stream:
                answers.append(read_answer(stream))

    threads = [threading.Thread(target=call, args=(index,)) for index in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [json.loads(answer.body) for answer in answers]
    taken = [body for body in told if body["status"] == "committed"]
    refused = [body for body in told if body.get("code") == "key_reused"]
    assert (len(taken), len(refused)) == (32, 32)
    assert len({body["req_id"] for body in taken}) == 1
    assert door.balance(user_id, "trading")[0] in {1_000_000, 2_000_000}
