"""A server process's life: where it refuses to start, how it stops, and what it says."""

import json
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from support.server import READY, run_command, running_server, start_server

from .conftest import CONFIG


def serve(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a server that can't start; return its exit code and what it said on stderr."""
    ended = run_command("serve", *arguments, environment=environment)
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = serve("--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert code == 1
    assert f"port {port} of 127.0.0.1 is in use" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.0.2.1", "8.8.8.8", "169.254.169.254", "::ffff:8.8.8.8"],  # noqa: S104
)
def test_only_loopback_is_served(tmp_path: Path, host: str) -> None:
    code, said = serve("--host", host, "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert code == 1
    assert f"host {host}" in said
    assert "is not loopback" in said
    assert "127.0.0.1" in said


def test_a_name_of_another_machine_is_not_served(tmp_path: Path) -> None:
    name = socket.gethostname()
    try:
        addresses = {address[0] for *_, address in socket.getaddrinfo(name, None)}
    except OSError:
        pytest.skip("this machine's own name does not resolve")
    if all(str(address).startswith("127.") or address == "::1" for address in addresses):
        pytest.skip("this machine's own name is a loopback one")
    code, said = serve("--host", name, "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert code == 1
    assert "is not loopback" in said


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "x" * 300, "1.2.3", "-"])
def test_hosts_that_are_none(tmp_path: Path, host: str) -> None:
    code, said = serve("--host", host, "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert code == 1
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2"])
def test_names_of_loopback_are_served(tmp_path: Path, host: str) -> None:
    with running_server(tmp_path, flags=["--host", host]) as server:
        assert server.client.get("/health").json()["status"] == "healthy"
        assert server.stop() == 0


@pytest.mark.parametrize(("flag", "value"), [("--port", "70000"), ("--port", "x"), ("--prot", "1")])
def test_wrong_flags(flag: str, value: str) -> None:
    code, said = serve(flag, value)
    assert code == 2
    assert flag in said
    assert len(said.splitlines()) == 1


def test_a_bad_configuration(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text("host: localhost\nprot: 8080\n")
    code, said = serve("--config", str(path))
    assert code == 1
    assert f"{path}:2: unknown key prot: did you mean port?" in said
    assert serve(environment={"TRANSFER_ENGINE_CONFIG": str(path)}) == (code, said)


def test_a_bad_environment() -> None:
    code, said = serve(environment={"TRANSFER_ENGINE_PROT": "8080"})
    assert code == 1
    assert "TRANSFER_ENGINE_PROT: unknown setting: did you mean TRANSFER_ENGINE_PORT?" in said


def test_a_data_directory_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, said = serve("--port", "0", "--data-dir", str(tmp_path / "file" / "data"))
    assert code == 1
    assert "can't be written" in said
    assert len(said.splitlines()) == 1


def test_a_data_directory_in_use(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        code, said = serve("--port", "0", "--data-dir", str(tmp_path / "data"))
        assert code == 1
        assert "in use by another engine" in said
        assert server.client.get("/health").status_code == 200


@pytest.mark.parametrize("name", ["ledger.db", "records.db"])
def test_a_damaged_data_directory(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / name).write_bytes(b"this is no database" * 1_000)
    code, said = serve("--port", "0", "--data-dir", str(data))
    assert code == 1
    assert name in said
    assert len(said.splitlines()) == 1


def test_the_first_line_on_stdout_is_the_address(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.port > 0
        assert server.stop() == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == b""


def test_logs_are_json_lines_where_no_one_watches(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        server.stop()
        events = [json.loads(line) for line in server.logged.splitlines()]
    assert {"stopping", "draining"} <= {event["event"] for event in events}
    assert all({"level", "timestamp", "logger"} <= event.keys() for event in events)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_answers_under_way_out(tmp_path: Path, number: int) -> None:
    """A transfer waits for a slow core; the stop comes meanwhile; the client still gets its answer."""
    config = {**CONFIG, "deadline_ms": 5_000, "service_timeout_ms": 5_000}
    answers: list[httpx.Response] = []
    with running_server(tmp_path, config=config) as server:
        server.credit(1, 1_000)
        server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={"ops": ["deposit"], "latency_ms": 700})
        body = {"from": "funding", "to": "core", "user_id": 1, "asset_id": 1, "amount": 1_000}

        def ask() -> None:
            answers.append(httpx.post(f"{server.url}/api/v1/transfer", json=body, timeout=20, trust_env=False))

        client = threading.Thread(target=ask)
        client.start()
        while server.client.get("/api/v1/admin/statistics").json()["open_transfers"] == 0:
            pass
        server.signal(number)
        assert server.wait() == 0
        client.join()
        assert answers[0].status_code == 200
        assert answers[0].json()["status"] == "committed"
        assert server.faults == []


def test_no_new_connection_is_taken_while_it_stops(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        assert server.client.get("/health").status_code == 200  # and the connection stays open, idle
        assert server.stop() == 0
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port)):
            pass


def test_a_request_that_waits_behind_the_last_answer_does_not_delay_the_stop(tmp_path: Path) -> None:
    config = {**CONFIG, "deadline_ms": 20_000, "service_timeout_ms": 20_000}
    with running_server(tmp_path, config=config) as server:
        server.credit(1, 1_000)
        server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={"ops": ["deposit"], "latency_ms": 500})
        body = json.dumps({"from": "funding", "to": "core", "user_id": 1, "asset_id": 1, "amount": 1_000}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as stream:
            stream.sendall(
                b"POST /api/v1/transfer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body) + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            while server.client.get("/api/v1/admin/statistics").json()["open_transfers"] == 0:
                pass
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 10, "it waited for its deadline"
            assert stream.recv(12) == b"HTTP/1.1 200"


def test_a_second_signal_ends_it_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    config = {**CONFIG, "deadline_ms": 60_000, "service_timeout_ms": 60_000, "shutdown_ms": 60_000}
    with running_server(tmp_path, config=config) as server:
        server.credit(1, 1_000)
        server.client.put(
            "/api/v1/admin/simulated-cores/core/behaviour", json={"ops": ["deposit"], "latency_ms": 50_000}
        )
        body = json.dumps({"from": "funding", "to": "core", "user_id": 1, "asset_id": 1, "amount": 1_000}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as stream:
            stream.sendall(
                b"POST /api/v1/transfer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Idempotency-Key: slow\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            while server.client.get("/api/v1/admin/statistics").json()["open_transfers"] == 0:
                pass
            server.signal(signal.SIGTERM)
            while '"stopping"' not in server.logged:
                pass
            server.signal(signal.SIGTERM)
            assert server.wait() == -signal.SIGTERM
    with running_server(tmp_path, config=CONFIG) as server:
        answer = server.client.post(
            "/api/v1/transfer",
            content=body,
            headers={"Idempotency-Key": "slow", "Content-Type": "application/json"},
        )
        assert answer.json()["status"] in {"committed", "pending"}
        assert server.stop() == 0


def test_two_servers_side_by_side(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with running_server(tmp_path / "one") as one, running_server(tmp_path / "two") as two:
        one.credit(1, 5)
        assert two.balance(1, "funding") == (0, 0)
        assert one.url != two.url


def test_a_server_that_can_not_start_is_told_to_whoever_waits(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not loopback"):
        start_server(tmp_path, flags=["--host", "192.0.2.1"])
    assert READY not in (tmp_path / "server.log").read_text()
