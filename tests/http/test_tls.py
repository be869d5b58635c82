"""TLS on the main door: real handshakes, both versions of HTTP, clients that dawdle, and files that are none."""

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio_websocket
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from support.certificates import self_signed
from support.server import PATIENCE_S, Server, run_command, running_server
from support.tokens import claims_of, hs256, new_secret

SECRET = new_secret()
LATER = 4_000_000_000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    self_signed(directory)
    (directory / "secret").write_bytes(SECRET)
    return directory


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[Server]:
    tls = {"certificate_file": str(directory / "certificate.pem"), "key_file": str(directory / "key.pem")}
    config = {"tls": tls, "tokens": {"secret_file": str(directory / "secret")}, "body_timeout_ms": 500}
    with running_server(directory, config=config) as running:
        yield running
        assert running.faults == []
        assert running.stop() == 0


@pytest.fixture
def trust(directory: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=directory / "certificate.pem")


def authorization(subject: str = "3001", **claims: object) -> dict[str, str]:
    return {"Authorization": f"Bearer {hs256(claims_of(subject, exp=LATER, **claims), SECRET)}"}


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
def test_transfers_under_tls(server: Server, trust: ssl.SSLContext, http2: bool, version: str) -> None:
    assert server.url.startswith("https://127.0.0.1:")
    user_id = 1 if http2 else 2
    credit = {"user_id": user_id, "account": "funding", "asset_id": 1, "amount": 100_000_000}
    transfer = {"from": "funding", "to": "trading", "user_id": user_id, "asset_id": 1, "amount": 1_000_000}
    with httpx.Client(base_url=server.url, verify=trust, http2=http2, trust_env=False) as client:
        admin = authorization("root", scope="admin")
        assert client.post("/api/v1/admin/credits", json=credit, headers=admin).status_code == 201
        for _ in range(20):
            moved = client.post("/api/v1/transfer", json=transfer, headers=authorization(str(user_id)))
            assert (moved.status_code, moved.json()["status"]) == (200, "committed")
            assert moved.http_version == version
        assert client.get("/api/v1/balances/1").status_code == 401


async def test_a_websocket_under_tls(server: Server, trust: ssl.SSLContext) -> None:
    url = server.url.replace("https", "wss") + "/api/v1/ws"
    headers = [(name.encode(), value.encode()) for name, value in authorization().items()]
    async with trio_websocket.open_websocket_url(url, ssl_context=trust, extra_headers=headers) as connection:
        await connection.send_message('{"op": "ping", "id": "1"}')
        assert '"ping"' in str(await connection.get_message())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(server: Server, trust: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    trust.minimum_version = trust.maximum_version = version
    assert httpx.get(f"{server.url}/health", verify=trust, trust_env=False).status_code == 200


def test_old_versions_are_refused(server: Server, trust: ssl.SSLContext) -> None:
    trust.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        trust.minimum_version = trust.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health", verify=trust, trust_env=False)


def test_plain_http_gets_no_answer(server: Server) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://127.0.0.1:{server.port}/health", trust_env=False)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"\x16\x03\x01\xff\xff" + bytes(100)])
def test_a_handshake_that_does_not_come_is_given_up(server: Server, trust: ssl.SSLContext, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as stream:
        stream.sendall(sent)
        began = time.monotonic()
        while stream.recv(4_096):
            pass
        assert time.monotonic() - began < PATIENCE_S / 2
    assert httpx.get(f"{server.url}/health", verify=trust, trust_env=False).status_code == 200


def test_clients_that_never_say_goodbye_do_not_hold_up_the_stop(directory: Path, tmp_path: Path) -> None:
    tls = {"certificate_file": str(directory / "certificate.pem"), "key_file": str(directory / "key.pem")}
    trust = ssl.create_default_context(cafile=directory / "certificate.pem")
    with running_server(tmp_path, config={"tls": tls}) as server:
        streams = []
        for _ in range(5):
            plain = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
            stream = trust.wrap_socket(plain, server_hostname="127.0.0.1")
            stream.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert stream.recv(4_096).startswith(b"HTTP/1.1 200")
            streams.append(stream)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
        assert server.faults == []
        for stream in streams:
            stream.close()


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("missing", "key.pem", "tls.certificate_file"),
        ("certificate.pem", "missing", "tls.key_file"),
        ("key.pem", "key.pem", "no certificate and its key"),
        ("certificate.pem", "certificate.pem", "no certificate and its key"),
        ("certificate.pem", "other.pem", "no certificate and its key"),
        ("certificate.pem", "encrypted.pem", "tls.key_file is encrypted"),
        ("certificate.pem", "secret", "no certificate and its key"),
    ],
)
def test_files_that_can_not_be_used(directory: Path, tmp_path: Path, certificate: str, key: str, said: str) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    encryption = BestAvailableEncryption(b"password")
    (directory / "encrypted.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    (tmp_path / "other").mkdir()
    (directory / "other.pem").write_bytes(self_signed(tmp_path / "other")[1].read_bytes())
    environment = {
        "TRANSFER_ENGINE_TLS__CERTIFICATE_FILE": str(directory / certificate),
        "TRANSFER_ENGINE_TLS__KEY_FILE": str(directory / key),
    }
    ended = run_command("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), environment=environment)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(("host", "is_told"), [("0.0.0.0", True), ("127.0.0.1", False)])  # noqa: S104
def test_an_express_door_without_tls_on_a_network_is_told(
    directory: Path, tmp_path: Path, host: str, is_told: bool
) -> None:
    tls = {"certificate_file": str(directory / "certificate.pem"), "key_file": str(directory / "key.pem")}
    config = {"host": host, "tls": tls, "tokens": {"secret_file": str(directory / "secret")}}
    with running_server(tmp_path, config=config) as server:
        assert ("the express door speaks plain HTTP" in server.log.read_text()) is is_told
