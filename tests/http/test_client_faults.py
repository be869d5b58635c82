"""The HTTP client where connections break, answers are lost, and servers say odd things: the same key, one effect."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from support.proxy import running_proxy
from support.server import Server, start_server
from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client import (
    Client,
    NotAnEngine,
    Outcome,
    OutcomeUnknown,
    Refused,
    ServerFault,
    TransferRefused,
    TransferStatus,
)

UNIT = 100_000_000
AT_ONCE = Backoff(first_ms=5, most_ms=50)
TAKEN = b'{"req_id":"e3521be8-1cea-8cf1-8c8a-153eb5d94a30","status":"committed","message":null}'


def answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def problem(code: str, *, status: str = "failed", retryable: bool = False) -> bytes:
    return (
        f'{{"type":"urn:transfer-engine:problem:{code}","title":"t","status":"{status}","detail":"d","code":"{code}",'
        f'"retryable":{"true" if retryable else "false"},"req_id":"","message":"d"}}'
    ).encode()


HALF = (b"", b"HTTP/1.1 200 OK\r\nContent-Le", answer(200, TAKEN)[:-20])
"""Answers after which the connection ends."""


class Scripted:
    """A server that reads a request and says what is next; remembers keys, bodies and tokens."""

    def __init__(self, *script: bytes) -> None:
        self._script = list(script)
        self.requests: list[bytes] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            buffer = b""
            while chunk := await stream.receive_some(65_536):
                buffer += chunk
                head, separator, body = buffer.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0) if separator else 0
                if not separator or len(body) < length:
                    continue
                self.requests.append(buffer)
                buffer = b""
                said = self._script.pop(0) if len(self._script) > 1 else self._script[0]
                await stream.send_all(said)
                if said in HALF:
                    return

    @property
    def keys(self) -> list[bytes]:
        return [request.partition(b"idempotency-key: ")[2].split(b"\r\n")[0] for request in self.requests]

    @property
    def tokens(self) -> list[bytes]:
        return [request.partition(b"authorization: ")[2].split(b"\r\n")[0] for request in self.requests]

    @property
    def bodies(self) -> set[bytes]:
        return {request.partition(b"\r\n\r\n")[2] for request in self.requests}


@asynccontextmanager
async def scripted(
    *script: bytes, token: str | Callable[[], str | Awaitable[str]] | None = None, deadline_s: float = 5.0
) -> AsyncIterator[tuple[Scripted, Client]]:
    server = Scripted(*script)
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with Client(url, token=token, backoff=AT_ONCE, deadline_s=deadline_s) as client:
            yield server, client
        nursery.cancel_scope.cancel()


async def move(client: Client, *, key: str | None = None, wait: bool = False) -> Outcome:
    return await client.transfer(
        source="funding", target="trading", user_id=1, asset_id=1, amount=UNIT, key=key, wait=wait
    )


@pytest.mark.parametrize(
    "first",
    [
        answer(503, problem("overloaded", retryable=True), "Retry-After: 0"),
        answer(503, problem("unavailable", status="pending", retryable=True)),
        answer(429, problem("rate_limited", retryable=True), "Retry-After: 0"),
        answer(429, b"slow down"),
        answer(500, problem("internal", status="pending", retryable=True)),
        answer(502, b"<html>bad gateway</html>"),
        *HALF,
    ],
)
async def test_one_bad_answer_then_a_good_one(first: bytes) -> None:
    async with scripted(first, answer(200, TAKEN)) as (server, client):
        outcome = await move(client)
    assert outcome.is_committed
    assert len(server.requests) == 2
    assert len(set(server.keys)) == 1
    assert len(server.bodies) == 1


async def test_a_refusal_until_the_deadline_is_a_refusal() -> None:
    async with scripted(answer(503, problem("overloaded", retryable=True)), deadline_s=0.5) as (server, client):
        with pytest.raises(TransferRefused) as refused:
            await move(client)
    assert refused.value.code == "overloaded"
    assert len(server.requests) > 1


async def test_a_wish_beyond_the_deadline_is_not_waited_for() -> None:
    said = answer(429, problem("rate_limited", retryable=True), "Retry-After: 60")
    async with scripted(said) as (server, client):
        with trio.fail_after(2), pytest.raises(TransferRefused) as refused:
            await move(client)
    assert refused.value.retry_after == 60
    assert len(server.requests) == 1


@pytest.mark.parametrize("lost", [b"", answer(500, problem("internal", status="pending")), answer(504, b"")])
async def test_a_refusal_after_a_lost_answer_is_unknown(lost: bytes) -> None:
    async with scripted(lost, answer(422, problem("asset_disabled"))) as (_, client):
        with pytest.raises(OutcomeUnknown) as unknown:
            await move(client, key="lost")
    assert unknown.value.key == "lost"
    assert "lost" in str(unknown.value)


async def test_faults_until_the_deadline_are_unknown_or_a_fault() -> None:
    async with scripted(answer(500, problem("internal", status="pending")), deadline_s=0.3) as (_, client):
        with pytest.raises(OutcomeUnknown):
            await move(client)
        with pytest.raises(ServerFault):
            await client.health()


@pytest.mark.parametrize("status", [200, 404, 301])
async def test_something_else_answers(status: int) -> None:
    async with scripted(answer(status, b"<html>")) as (server, client):
        with pytest.raises(NotAnEngine, match="not like a transfer engine"):
            await client.health()
        with pytest.raises(OutcomeUnknown):
            await move(client)
    assert len(server.requests) == 2


async def test_a_token_is_renewed_once_when_it_is_not_accepted() -> None:
    tokens = iter(["old", "fresh"])

    async def renew() -> str:
        return next(tokens)

    unauthenticated = answer(401, problem("unauthenticated"))
    async with scripted(unauthenticated, answer(200, TAKEN), token=renew) as (server, client):
        assert (await move(client)).is_committed
        assert (await move(client)).is_committed
    assert server.tokens == [b"Bearer old", b"Bearer fresh", b"Bearer fresh"]
    assert len(set(server.keys[:2])) == 1


@pytest.mark.parametrize("token", ["stale", lambda: "stale"])
async def test_a_token_that_is_not_accepted(token: str | Callable[[], str]) -> None:
    async with scripted(answer(401, problem("unauthenticated")), token=token) as (_, client):
        with pytest.raises(Refused) as refused:
            await client.get("e3521be8-1cea-8cf1-8c8a-153eb5d94a30")
    assert refused.value.code == "unauthenticated"
    assert "stale" not in str(refused.value) + repr(client)


async def test_replies_are_lost_and_nothing_moves_twice(server: Server) -> None:
    server.credit(9101, 1_000 * UNIT)
    async with (
        running_proxy(f"127.0.0.1:{server.port}") as proxy,
        Client(f"http://{proxy.address}", backoff=AT_ONCE) as client,
        trio.open_nursery() as nursery,
    ):
        outcomes: list[Outcome] = []

        async def send(number: int) -> None:
            outcomes.append(
                await client.transfer(
                    source="funding", target="trading", user_id=9101, asset_id=1, amount=UNIT, key=f"lost-{number}"
                )
            )

        for number in range(40):
            nursery.start_soon(send, number)
        proxy.drop_replies()
        with trio.fail_after(10):
            while not proxy.replies_dropped:  # noqa: ASYNC110  bytes through a real socket ring no bell
                await trio.sleep(0.01)
        proxy.heal()
        for _ in range(5):
            await trio.sleep(0.02)
            proxy.cut()
    assert {outcome.status for outcome in outcomes} == {TransferStatus.COMMITTED}
    assert len({outcome.req_id for outcome in outcomes}) == 40
    assert any(outcome.is_replay for outcome in outcomes)
    assert server.balance(9101, "funding") == (960 * UNIT, 0)
    assert server.balance(9101, "trading") == (40 * UNIT, 0)


async def test_cancelling_one_call_leaves_the_others(server: Server) -> None:
    server.credit(9102, 1_000 * UNIT)
    async with Client(server.url, connections_most=2) as client:
        for number in range(20):
            with trio.CancelScope(deadline=trio.current_time() + number / 4_000):
                await client.transfer(source="funding", target="trading", user_id=9102, asset_id=1, amount=UNIT)
        outcome = await client.transfer(source="funding", target="trading", user_id=9102, asset_id=1, amount=UNIT)
        assert outcome.is_committed


async def test_the_server_dies_and_comes_back(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    try:
        server.credit(1, 1_000 * UNIT)
        outcomes: list[Outcome] = []
        some_are_done = trio.Event()
        async with (
            running_proxy(f"127.0.0.1:{server.port}") as proxy,
            Client(f"http://{proxy.address}", backoff=AT_ONCE) as client,
        ):

            async def send(worker: int) -> None:
                for number in range(15):
                    outcome = await move(client, key=f"dies-{worker}-{number}", wait=True)
                    outcomes.append(outcome)
                    if len(outcomes) == 20:
                        some_are_done.set()

            async with trio.open_nursery() as nursery:
                for worker in range(8):
                    nursery.start_soon(send, worker)
                await some_are_done.wait()
                server.signal(signal.SIGKILL)
                await trio.to_thread.run_sync(server.wait)
                server.close()
                server = await trio.to_thread.run_sync(start_server, tmp_path)
                proxy.target = f"127.0.0.1:{server.port}"
        assert {outcome.status for outcome in outcomes} == {TransferStatus.COMMITTED}
        assert len({outcome.req_id for outcome in outcomes}) == 120
        assert server.balance(1, "funding") == (880 * UNIT, 0)
        assert server.balance(1, "trading") == (120 * UNIT, 0)
    finally:
        server.close()
