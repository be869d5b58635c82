"""The keys' URL, asked over real sockets: servers that are down, slow, huge, redirecting, or not to be trusted."""

import gzip
import ssl
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from support.certificates import self_signed
from support.key_servers import Misbehaviour, key_server
from support.tokens import Clock, bearer, jwks, refusal, signer
from transfer_engine.http.problems import ProblemCode
from transfer_engine.http.token_keys import KeysUnusable
from transfer_engine.http.token_settings import TokenSettings
from transfer_engine.http.token_sources import URL_ASK_PAUSE_S, URL_TIMEOUT_S, fetch_key_set
from transfer_engine.http.tokens import open_authenticator

FIRST = signer("EdDSA", "first")
SECOND = signer("EdDSA", "second")


async def test_rotation_over_http(autojump_clock: MockClock) -> None:
    async with key_server() as server, trio.open_nursery() as nursery:
        server.body = jwks(FIRST)
        gatekeeper = open_authenticator(TokenSettings(jwks_url=server.url), clock=Clock())
        nursery.start_soon(gatekeeper.run)
        old = bearer(FIRST.token())
        assert (await gatekeeper.authenticate(old)).user_id == 3001
        await trio.sleep(URL_ASK_PAUSE_S)
        server.body = jwks(SECOND)
        assert await gatekeeper.authenticate(bearer(SECOND.token()))
        assert len(server.requests) == 2
        assert (await refusal(gatekeeper, old)).code is ProblemCode.UNAUTHENTICATED
        nursery.cancel_scope.cancel()


async def test_a_server_that_comes_and_goes(autojump_clock: MockClock) -> None:
    async with key_server() as gone:
        url = gone.url
    async with trio.open_nursery() as nursery:
        gatekeeper = open_authenticator(TokenSettings(jwks_url=url), clock=Clock())
        nursery.start_soon(gatekeeper.run)
        for _ in range(3):
            assert (await refusal(gatekeeper, FIRST.token())).code is ProblemCode.UNAVAILABLE
            await trio.sleep(10)
        nursery.cancel_scope.cancel()


async def test_what_is_asked_carries_nothing_of_ours() -> None:
    async with key_server() as server:
        server.body = jwks(FIRST)
        assert await fetch_key_set(server.url) == server.body
        [request] = server.requests
        names = {name.lower() for name, _ in request.headers}
        assert names == {b"host", b"accept", b"accept-encoding", b"connection", b"user-agent"}


async def forever(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def dribble(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for _ in range(1_000):
        await stream.send_all(b" ")
        await trio.sleep(1)


async def flood(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
    while True:
        await stream.send_all(b" " * 65_536)


async def flood_of_headers(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"x: " + b"y" * 8_000 + b"\r\n")


async def half(stream: trio.abc.Stream) -> None:
    await stream.send_all(b'HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"keys": [')
    await stream.aclose()


async def hang_up(stream: trio.abc.Stream) -> None:
    await stream.aclose()


async def noise(stream: trio.abc.Stream) -> None:
    await stream.send_all(bytes(range(256)) * 10)
    await stream.aclose()


@pytest.mark.parametrize("misbehaviour", [forever, dribble, flood, flood_of_headers, half, hang_up, noise])
async def test_servers_that_misbehave(autojump_clock: MockClock, misbehaviour: Misbehaviour) -> None:
    async with key_server() as server, trio.open_nursery() as nursery:
        server.misbehave = misbehaviour
        gatekeeper = open_authenticator(TokenSettings(jwks_url=server.url), clock=Clock())
        nursery.start_soon(gatekeeper.run)
        began = trio.current_time()
        assert (await refusal(gatekeeper, FIRST.token())).code is ProblemCode.UNAVAILABLE
        assert trio.current_time() - began <= URL_TIMEOUT_S + 1
        server.misbehave, server.body = None, jwks(FIRST)
        await trio.sleep(URL_ASK_PAUSE_S)
        assert await gatekeeper.authenticate(bearer(FIRST.token()))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("status", [204, 301, 302, 307, 401, 404, 500, 503])
async def test_other_statuses(status: int) -> None:
    async with key_server() as server, key_server() as elsewhere:
        elsewhere.body = jwks(FIRST)
        server.status = status
        server.body = b"" if status == 204 else jwks(FIRST)
        server.headers = [("location", elsewhere.url)]
        with pytest.raises(KeysUnusable, match=f"answers with status {status}"):
            await fetch_key_set(server.url)
        assert elsewhere.requests == [], "redirects are not followed"


async def test_answers_that_are_too_large_or_compressed() -> None:
    async with key_server() as server:
        server.body = b" " * (256 << 10) + b" "
        with pytest.raises(KeysUnusable, match="larger than 256 KiB"):
            await fetch_key_set(server.url)
        server.body = gzip.compress(jwks(FIRST))
        server.headers = [("content-encoding", "gzip")]
        with pytest.raises(KeysUnusable, match="compressed"):
            await fetch_key_set(server.url)


async def test_loopback_is_asked_past_the_environments_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with key_server() as server, key_server() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        server.body = jwks(FIRST)
        assert await fetch_key_set(server.url)
        assert proxy.requests == []


async def test_https_asks_only_whom_it_can_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with key_server(context) as server:
        server.body = jwks(FIRST)
        with pytest.raises(KeysUnusable, match="certificate verify failed"):
            await fetch_key_set(server.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert await fetch_key_set(server.url) == server.body
