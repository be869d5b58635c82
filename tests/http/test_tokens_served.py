"""A real server with tokens: where it listens, what it refuses to start with, and that no token is ever in its log."""

import json
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import open_websocket_url

from support.server import PATIENCE_S, Server, eventually, run_command, running_server
from support.tokens import base64url, claims_of, hs256, jwks, new_secret, signer

SECRET = new_secret()
KEY = signer("EdDSA")
CREDIT = {"user_id": 3001, "account": "funding", "asset_id": 1, "amount": 100_000_000}
TRANSFER = {"from": "funding", "to": "trading", "user_id": 3001, "asset_id": 1, "amount": 1_000_000}
LATER = 4_000_000_000
"""The server's clock is the real one."""


def header(subject: str = "3001", *, secret: bytes = SECRET, **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {hs256(claims_of(subject, **{'exp': LATER, **claims}), secret)}"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokens")
    (directory / "secret").write_bytes(SECRET)
    (directory / "jwks.json").write_bytes(jwks(KEY))
    return directory


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[Server]:
    tokens = {"secret_file": str(directory / "secret"), "jwks_file": str(directory / "jwks.json")}
    with running_server(directory, config={"tokens": tokens}, flags=["--host", "0.0.0.0"]) as running:  # noqa: S104
        for url in (running.url, running.express_url):
            assert url.startswith("http://0.0.0.0:")
        running.client.base_url = f"http://127.0.0.1:{running.port}"
        admin = header("root", scope="admin")
        assert running.client.post("/api/v1/admin/credits", json=CREDIT, headers=admin).status_code == 201
        yield running
        assert running.faults == []
        assert running.stop() == 0


def test_it_listens_everywhere_and_serves_any_host(server: Server) -> None:
    assert server.url.startswith("http://0.0.0.0:")
    assert server.client.get("/health", headers={"Host": "exchange.example"}).status_code == 200
    name = socket.gethostname()
    addresses = {str(address[0]) for *_, address in socket.getaddrinfo(name, None, socket.AF_INET)}
    for address in addresses:
        assert httpx.get(f"http://{address}:{server.port}/health", trust_env=False).status_code == 200


@pytest.fixture(params=["main", "express"])
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """Asks one door and then the other."""
    port = server.port if request.param == "main" else server.express_port
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, trust_env=False) as client:
        yield client


def test_a_token_moves_its_own_money_only(client: httpx.Client) -> None:
    moved = client.post("/api/v1/transfer", json=TRANSFER, headers=header())
    assert (moved.status_code, moved.json()["status"]) == (200, "committed")
    look_up = f"/api/v1/transfer/{moved.json()['req_id']}"
    assert client.get(look_up, headers=header()).status_code == 200
    assert client.get(look_up, headers=header("3002")).status_code == 404
    assert client.post("/api/v1/transfer", json=TRANSFER, headers=header("3002")).status_code == 403
    by_key = {"Authorization": f"Bearer {KEY.token(claims_of(exp=LATER))}"}
    assert client.get(look_up, headers=by_key).status_code == 200


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ([], "Bearer"),
        ([("Authorization", "Basic dTpw")], "Bearer"),
        ([("Authorization", "Bearer nonsense")], "malformed"),
        (list(header(exp=1_000).items()), "the token has expired"),
        (list(header(secret=new_secret()).items()), "signature is wrong"),
        (list(header().items()) * 2, "more than one Authorization header"),
    ],
)
def test_a_refusal_is_a_problem_with_a_challenge(
    client: httpx.Client, headers: list[tuple[str, str]], challenge: str
) -> None:
    answer = client.post("/api/v1/transfer", json=TRANSFER, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["req_id"], problem["status"]) == ("unauthenticated", "", "failed")
    said = answer.headers["www-authenticate"]
    assert said == "Bearer" if challenge == "Bearer" else challenge in said


@pytest.mark.parametrize("length", [b"Content-Length: 60000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize(
    ("target", "bearer", "status"),
    [
        (b"POST /api/v1/transfer", None, 401),
        (b"POST /api/v1/transfers/batch", hs256(claims_of(exp=LATER), new_secret()), 401),
        (b"POST /nowhere", None, 404),
        (b"PUT /api/v1/transfer", None, 405),
        (b"POST /api/v1/transfer", hs256(claims_of(exp=LATER), SECRET), 100),
    ],
)
@pytest.mark.parametrize("has_begun", [False, True])
def test_nobodys_body_is_waited_for(
    server: Server, has_begun: bool, target: bytes, bearer: str | None, status: int, length: bytes
) -> None:
    lines = [target + b" HTTP/1.1", b"Host: localhost", b"Content-Type: application/json", length]
    if bearer is not None:
        lines.append(f"Authorization: Bearer {bearer}".encode())
    if status == 100 or not has_begun:
        lines.append(b"Expect: 100-continue")
    body = (b"" if status == 100 else b"3\r\n{  \r\n" if length.endswith(b"chunked") else b"{") if has_begun else b""
    with socket.create_connection(("127.0.0.1", server.express_port), timeout=5) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        heard = connection.recv(65_536)
        assert heard.startswith(b"HTTP/1.1 %d " % status)
        if status != 100:
            while data := connection.recv(65_536):
                heard += data
            assert b"\r\nconnection: close\r\n" in heard


def test_a_connection_is_closed_when_its_secret_is_replaced(server: Server, directory: Path) -> None:
    path, other = directory / "secret", new_secret()
    ports = (server.port, server.express_port)

    async def program() -> None:
        with trio.fail_after(PATIENCE_S):
            async with AsyncExitStack() as stack:
                open_ones = []
                for port in ports:
                    bearer = header()["Authorization"].encode()
                    opening = open_websocket_url(
                        f"ws://127.0.0.1:{port}/api/v1/ws", extra_headers=[(b"Authorization", bearer)]
                    )
                    websocket = await stack.enter_async_context(opening)
                    # Where the server is the first to close, trio-websocket leaves its socket open.
                    stack.push_async_callback(trio.aclose_forcefully, websocket._stream)
                    open_ones.append(websocket)
                replace(path, other)
                for websocket in open_ones:
                    assert json.loads(await websocket.get_message())["code"] == 4001

    try:
        trio.run(program)
    finally:
        replace(path, SECRET)
        eventually(
            lambda: server.client.get("/api/v1/balances/3001", headers=header()).status_code, lambda seen: seen == 200
        )


def replace(path: Path, secret: bytes) -> None:
    path.with_suffix(".other").write_bytes(secret)
    path.with_suffix(".other").rename(path)


def test_a_secret_is_replaced_while_it_serves(server: Server, directory: Path) -> None:
    path, other = directory / "secret", new_secret()

    def status(secret: bytes) -> int:
        return server.client.get("/api/v1/balances/3001", headers=header(secret=secret)).status_code

    assert (status(SECRET), status(other)) == (200, 401)
    for current, former in ((other, SECRET), (SECRET, other)):
        replace(path, current)
        eventually(lambda secret=former: status(secret), lambda seen: seen == 401)
        assert status(current) == 200


def test_no_token_or_secret_is_in_the_log(server: Server, client: httpx.Client) -> None:
    tokens = [header()["Authorization"].split()[1], KEY.token(claims_of(exp=LATER))]
    for token in tokens:
        for target in ("/api/v1/balances/3001", "/api/v1/transfer/x", "/nothing"):
            client.get(target, headers={"Authorization": f"Bearer {token}"})
            client.get(target, headers={"Authorization": f"Bearer {token[:-2]}"})
        client.post("/api/v1/transfer", json=TRANSFER, headers={"Authorization": f"Bearer {token}"})
    logged = server.logged
    assert logged
    for token in tokens:
        for part in token.split("."):
            assert part not in logged
    assert SECRET.decode() not in logged
    assert base64url(SECRET) not in logged


# What it does not start with


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ({}, "needs one of secret_file, jwks_file and jwks_url"),
        ({"secret_file": "missing"}, "tokens.secret_file missing: it can't be read: No such file or directory"),
        ({"jwks_file": "missing"}, "tokens.jwks_file missing: it can't be read: No such file or directory"),
        ({"jwks_url": "http://id.example/keys"}, "must begin with https://"),
        ({"jwks_url": "https://user:hunter2@id.example/keys"}, "must not carry a user name or password"),
        ({"secret": "x"}, "unknown key tokens.secret"),
        ({"secret_file": "x", "leeway_ms": -1}, "tokens.leeway_ms"),
    ],
)
def test_settings_that_can_not_be_used(tmp_path: Path, tokens: dict[str, Any], said: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"tokens": tokens}))
    ended = run_command("serve", "--config", str(config), "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert ended.returncode == 1
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "hunter2" not in ended.stderr
    assert not (tmp_path / "data").exists()


def test_a_url_that_does_not_answer_stops_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/keys"
    with running_server(tmp_path, config={"tokens": {"jwks_url": url}}) as server:
        token = {"Authorization": f"Bearer {KEY.token(claims_of(exp=LATER))}"}
        answer = server.client.get("/api/v1/balances/3001", headers=token)
        assert answer.status_code == 503
        assert (answer.json()["code"], answer.json()["retryable"]) == ("unavailable", True)
        assert answer.headers["retry-after"] == "1"
        assert server.client.get("/health").status_code == 200
        assert '"keys can\'t be fetched: the former ones go on"' in server.logged
        assert server.faults == []
        assert server.stop() == 0


def test_without_tokens_another_host_is_refused(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        for target in ("/health", "/api/v1/balances/1", f"{server.express_url}/health"):
            assert server.client.get(target).status_code == 200
            assert server.client.get(target, headers={"Host": "localhost:1"}).status_code == 200
            refused = server.client.get(target, headers={"Host": "evil.example"})
            assert (refused.status_code, refused.json()["code"]) == (421, "wrong_host")
        assert server.stop() == 0
