"""A closed-loop HTTP load: one request at a time on each of a few kept-alive connections, bare trio streams."""

import socket
import time
from collections import Counter
from collections.abc import Callable

import msgspec
import trio

COMMITTED = b'"status":"committed"'


class LoadResult(msgspec.Struct, frozen=True):
    """What a load got: requests a second, answers by HTTP status, committed transfers, latencies in ms."""

    requests: int
    seconds: float
    rate: float
    statuses: dict[int, int]
    committed: int
    p50_ms: float
    p99_ms: float

    @property
    def transfers_rate(self) -> float:
        """Committed transfers a second."""
        return self.committed / self.seconds


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def request_bytes(path: str, body: bytes, headers: str = "") -> bytes:
    """Return a POST with a JSON body, ready to send; ``headers`` are lines that end with CRLF."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def http_load(port: int, *, build: Callable[[int], bytes | None], connections: int, seconds: float) -> LoadResult:
    """Send ``build(n)`` for n = 0, 1, 2, … over ``connections`` connections, for some seconds or until it is None.

    Raises:
        OSError: a connection broke.
    """
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    number = 0
    committed = 0
    began = time.perf_counter()
    end = began + seconds

    async def client() -> None:
        nonlocal number, committed
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            while time.perf_counter() < end:
                data = build(number)
                if data is None:
                    return
                number += 1
                sent = time.perf_counter()
                await stream.send_all(data)
                status, body = await _read_answer(stream)
                latencies.append(time.perf_counter() - sent)
                statuses[status] += 1
                committed += body.count(COMMITTED)

    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(client)
    took = time.perf_counter() - began
    latencies.sort()
    return LoadResult(
        requests=len(latencies),
        seconds=took,
        rate=len(latencies) / took,
        statuses=dict(statuses),
        committed=committed,
        p50_ms=latencies[len(latencies) // 2] * 1e3 if latencies else 0.0,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1e3 if latencies else 0.0,
    )


async def _read_answer(stream: trio.SocketStream) -> tuple[int, bytes]:
    """Read one answer with a Content-Length; return its status and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await _some(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    length = next((int(line.partition(b":")[2]) for line in lines if line.lower().startswith(b"content-length:")), 0)
    parts = [body]
    missing = length - len(body)
    while missing > 0:
        part = await _some(stream)
        parts.append(part)
        missing -= len(part)
    return int(lines[0].split(b" ")[1]), b"".join(parts)


async def _some(stream: trio.SocketStream) -> bytes:
    data = await stream.receive_some(65_536)
    if not data:
        raise OSError("the server closed the connection in the middle of an answer")
    return bytes(data)
