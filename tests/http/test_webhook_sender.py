"""One message to one endpoint over real sockets: what each answer comes to, what is signed, and by what bounds."""

import base64
import datetime as dt
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from standardwebhooks import Webhook, WebhookVerificationError

from support.endpoint_server import EndpointServer, Received, Reply, endpoint_server
from transfer_engine.engine.endpoints import new_secret
from transfer_engine.http.webhook_network import GuardedNetwork
from transfer_engine.http.webhook_sender import Delivery, WebhookSender, signed_headers
from transfer_engine.schema.webhooks import Endpoint

SECRET = new_secret()


async def loopback(_host: str, _port: int) -> Sequence[str]:
    await trio.lowlevel.checkpoint()
    return ["127.0.0.1"]


@asynccontextmanager
async def sender(*, allow: bool = True, **changes: Any) -> AsyncIterator[WebhookSender]:
    fields: dict[str, Any] = {"timeout_ms": 5_000, "connections_most": 4, "user_agent": "transfer-engine/test"}
    network = GuardedNetwork(loopback, allow_private_addresses=allow)
    opened = WebhookSender(network, allow_private_addresses=allow, **fields | changes)
    try:
        yield opened
    finally:
        await opened.aclose()


async def send(url: str, body: bytes = b"{}", **changes: Any) -> Delivery:
    """Send one message by a sender of its own."""
    async with sender(**changes) as one:
        return await one.send(endpoint(url), "msg_1", body)


def endpoint(url: str, **changes: Any) -> Endpoint:
    return Endpoint(user_id=1, version=1, url=url, secret=SECRET, **changes)


async def test_a_message_arrives_signed_and_is_delivered() -> None:
    async with endpoint_server() as server:
        delivery = await send(server.url("/a?b=c"), b'{"n": "\xc3\xa4"}')
    [received] = server.received
    assert (delivery.is_delivered, delivery.status, delivery.detail) == (True, 204, "it answered 204")
    assert received.path == "/a?b=c"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["host"] == f"127.0.0.1:{server.port}"
    assert received.headers["user-agent"] == "transfer-engine/test"
    assert Webhook(SECRET).verify(received.body, received.headers) == {"n": "ä"}
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(received.body, received.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(received.body + b" ", received.headers)


def test_the_signature_is_what_the_specification_says() -> None:
    headers = dict(signed_headers(endpoint("https://a.example/"), "msg_7", b"{}", 1_700_000_000))
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, b"msg_7.1700000000.{}", hashlib.sha256).digest())
    assert headers == {
        b"webhook-id": b"msg_7",
        b"webhook-timestamp": b"1700000000",
        b"webhook-signature": b"v1," + expected,
    }


def test_while_a_secret_is_changed_over_both_verify() -> None:
    former, now_s = new_secret(), int(time.time())
    changing = endpoint("https://a.example/", former_secret=former, former_until=now_s * 1000 + 1_000)
    headers = {name.decode(): value.decode() for name, value in signed_headers(changing, "msg_1", b"{}", now_s)}
    for secret in (SECRET, former):
        assert Webhook(secret).verify(b"{}", headers) == {}
    later = {name.decode(): value.decode() for name, value in signed_headers(changing, "msg_1", b"{}", now_s + 1)}
    with pytest.raises(WebhookVerificationError):
        Webhook(former).verify(b"{}", later)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_delivered(status: int) -> None:
    async with endpoint_server() as server:
        server.replies = [Reply(status)]
        assert (await send(server.url(), b"{}")).is_delivered


@pytest.mark.parametrize("status", [300, 400, 401, 404, 409, 500, 503])
async def test_nothing_else_is(status: int) -> None:
    async with endpoint_server() as server:
        server.replies = [Reply(status, (("retry-after", "7"),))]
        delivery = await send(server.url(), b"{}")
    assert (delivery.is_delivered, delivery.is_gone, delivery.status) == (False, False, status)
    assert delivery.retry_after_s == (7.0 if status == 503 else None)


async def test_410_says_that_it_wants_no_more() -> None:
    async with endpoint_server() as server:
        server.replies = [Reply(410)]
        assert (await send(server.url(), b"{}")).is_gone


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("0", 0, 0),
        ("3600", 3600, 3600),
        ("9" * 400, 999_999_999, 999_999_999),
        ("-1", None, None),
        ("soon", None, None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
)
async def test_retry_after_is_read_as_seconds_or_as_a_date(value: str, least: float | None, most: float | None) -> None:
    async with endpoint_server() as server:
        server.replies = [Reply(429, (("retry-after", value),))]
        delivery = await send(server.url(), b"{}")
    if least is None or most is None:
        assert delivery.retry_after_s is None
    else:
        assert delivery.retry_after_s is not None
        assert least <= delivery.retry_after_s <= most


async def test_retry_after_may_be_a_date_to_come() -> None:
    soon = format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
    async with endpoint_server() as server:
        server.replies = [Reply(429, (("retry-after", soon),))]
        delivery = await send(server.url(), b"{}")
    assert delivery.retry_after_s is not None
    assert 3000 <= delivery.retry_after_s <= 3600


async def test_a_redirect_is_not_followed() -> None:
    async with endpoint_server() as inner, endpoint_server() as server:
        server.replies = [Reply(307, (("location", inner.url("/secret")),))]
        delivery = await send(server.url(), b"{}")
        assert inner.received == []
    assert delivery.detail == "it answered 307, and redirects are not followed"
    assert not delivery.is_delivered


async def test_connections_are_used_again() -> None:
    async with endpoint_server() as server:
        server.replies = [Reply(200, chunks=[b"thank you"]), Reply(204), Reply(500, chunks=[b"no"])]
        async with sender() as one:
            for _ in range(4):
                await one.send(endpoint(server.url()), "msg_1", b"{}")
        assert len({received.peer_port for received in server.received}) == 1


async def test_of_a_huge_answer_little_is_read() -> None:
    sent = 0

    def flood():  # type: ignore[no-untyped-def]
        nonlocal sent
        for _ in range(100_000):
            sent += 65_536
            yield bytes(65_536)

    async with endpoint_server() as server:
        server.replies = [Reply(200, chunks=flood()), Reply()]
        async with sender() as one:
            assert (await one.send(endpoint(server.url()), "msg_1", b"{}")).is_delivered
            assert (await one.send(endpoint(server.url()), "msg_2", b"{}")).is_delivered
    assert sent < 64 << 20
    assert len({received.peer_port for received in server.received}) == 2


async def test_an_endpoint_that_hangs_is_given_up() -> None:
    async def hang(_received: Received) -> Reply:
        await trio.sleep_forever()
        raise AssertionError

    async with endpoint_server() as server:
        server.answer = hang
        began = time.monotonic()
        delivery = await send(server.url(), b"{}", timeout_ms=200)
    assert time.monotonic() - began < 3
    assert (delivery.is_delivered, delivery.detail) == (False, "no answer within 0.2 s")


async def test_an_answer_that_trickles_counts_by_its_status_and_holds_nobody_up() -> None:
    async with endpoint_server() as server:
        server.replies = [Reply(200, chunks=[b"x"] * 1000, pause_s=0.1)]
        began = time.monotonic()
        delivery = await send(server.url(), b"{}", timeout_ms=300)
    assert time.monotonic() - began < 3
    assert delivery.is_delivered


async def test_a_name_server_that_hangs_counts_as_well() -> None:
    async def hang(_host: str, _port: int) -> Sequence[str]:
        await trio.sleep_forever()
        raise AssertionError

    network = GuardedNetwork(hang, allow_private_addresses=False)
    one = WebhookSender(
        network, allow_private_addresses=False, timeout_ms=200, connections_most=1, user_agent="transfer-engine"
    )
    delivery = await one.send(endpoint("https://slow.example/"), "msg_1", b"{}")
    assert delivery.detail == "no answer within 0.2 s"


async def test_what_answers_no_http_is_no_delivery() -> None:
    async def babble(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mail.example ESMTP\r\n")
        await stream.receive_some()
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, babble, [listener])
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        delivery = await send(url, b"{}")
        nursery.cancel_scope.cancel()
    assert not delivery.is_delivered
    assert "Error" in delivery.detail


async def test_nobody_there_is_no_delivery() -> None:
    async with endpoint_server() as server:
        url = server.url()
    delivery = await send(url, b"{}")
    assert (delivery.is_delivered, delivery.status) == (False, None)


async def test_a_private_address_is_not_sent_to_whatever_was_registered() -> None:
    async with endpoint_server() as server:
        by_address = await send(server.url(), b"{}", allow=False)
        by_name = await send(f"https://rebound.example:{server.port}/", b"{}", allow=False)
        assert server.received == []
    assert "not allowed any more" in by_address.detail
    assert by_name.detail.startswith("AddressRefused: rebound.example has no public address")


async def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint_server() as proxy, endpoint_server() as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url(""))
        assert (await send(server.url(), b"{}")).is_delivered
        assert proxy.received == []


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the context of a server that is called so, and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.create_default_context(cafile=str(file))
    return server, client


async def test_tls_is_verified_against_the_name_though_the_address_is_connected_to(tmp_path: Path) -> None:
    at_server, at_client = certificate(tmp_path, "hooks.example")
    async with endpoint_server(at_server) as server:
        good = await send(server.url(host="hooks.example"), ssl_context=at_client)
        wrong_name = await send(server.url(host="other.example"), ssl_context=at_client)
        unknown = await send(server.url(host="hooks.example"), b"{}")
        assert [received.headers["host"] for received in server.received] == [f"hooks.example:{server.port}"]
    assert good.is_delivered, good
    assert "CERTIFICATE_VERIFY_FAILED" in wrong_name.detail
    assert "CERTIFICATE_VERIFY_FAILED" in unknown.detail


async def test_the_page_for_receivers_verifies_what_arrives() -> None:
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    program = page.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(program, "docs/webhooks.md", "exec"), names)  # noqa: S102
    body = json.dumps({"type": "transfer.finished", "data": {"request_id": "1", "status": "success"}}).encode()
    server: EndpointServer
    async with endpoint_server() as server:
        await send(server.url(), body)
    [received] = server.received
    seen: set[str] = set()
    for _ in range(2):
        assert names["receive"](SECRET, received.headers, received.body, seen) == 200
    assert seen == {"msg_1"}
    assert names["receive"](new_secret(), received.headers, received.body, seen) == 400
