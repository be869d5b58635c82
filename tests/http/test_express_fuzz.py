"""Whatever is sent to the express door: answers that are HTTP, or the end; no traceback, and the server lives."""

import json
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.server import PATIENCE_S, Server

from .test_doors import get, post, read_answer, transfer

WHOLE = [
    get(b"/health"),
    get(b"/api/v1/balances/1"),
    get(b"/api/v1/ws", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13"),
    post(transfer(amount=0)),
    post(transfer(amount=0), b"Expect: 100-continue", b"Idempotency-Key: fuzz"),
    b"POST /api/v1/transfer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}x\r\n0\r\n\r\n",
]
INSERTED = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\0",
            b": ",
            b"Content-Length: 1\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Upgrade: x\r\n",
            b"Connection: close\r\n",
            b"Connection: Upgrade\r\n",
            b"Host: elsewhere\r\n",
            b"HTTP/1.0",
            b"Expect: 100-continue\r\n",
        ]
    ),
)


@pytest.fixture(scope="module", autouse=True)
def alive(served: Server) -> Iterator[None]:
    """The server has no fault in its log, and answers, after all that."""
    yield
    with socket.create_connection(("127.0.0.1", served.express_port), timeout=PATIENCE_S) as connection:
        connection.sendall(get(b"/health"))
        with connection.makefile("rb") as stream:
            assert read_answer(stream).status == 200
    assert served.faults == []


def tell(port: int, data: bytes) -> None:
    """Send bytes, end, and read whole answers until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            return
        with connection.makefile("rb") as stream:
            while start := stream.peek(12)[:12]:
                if start in {b"HTTP/1.1 100", b"HTTP/1.1 101"}:
                    stream.readline()
                    stream.readline()
                    if start.endswith(b"101"):
                        return
                    continue
                answer = read_answer(stream, is_head=data.startswith(b"HEAD"))
                assert 200 <= answer.status < 500, answer
                assert json.loads(answer.body)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=3_000))
def test_random_bytes(served: Server, data: bytes) -> None:
    tell(served.express_port, data)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(st.sampled_from(WHOLE), min_size=1, max_size=4),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 6), INSERTED), min_size=1, max_size=6),
)
def test_mutated_requests(served: Server, requests: list[bytes], changes: list[tuple[float, int, bytes]]) -> None:
    data = bytearray(b"".join(requests))
    for where, removed, inserted in changes:
        index = int(where * len(data))
        data[index : index + removed] = inserted
    tell(served.express_port, bytes(data))
