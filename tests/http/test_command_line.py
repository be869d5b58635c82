"""The commands that talk to a running engine, against a real one."""

import re
import socket
from pathlib import Path

import pytest

from support.server import Server, run_command
from transfer_engine.http.command_line import run

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


class Terminal:
    """Runs commands against a server; remembers what they said."""

    def __init__(self, server: Server, capture: pytest.CaptureFixture[str]) -> None:
        self._server = server
        self._capture = capture
        self.out = ""
        self.err = ""

    def run(self, *arguments: str) -> int:
        code = run([*arguments, "--url", self._server.url])
        self.out, self.err = self._capture.readouterr()
        return code

    @property
    def req_id(self) -> str:
        found = UUID.search(self.out + self.err)
        assert found is not None
        return found[0]


@pytest.fixture
def terminal(server: Server, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(server, capsys)


def transfer(user: int, amount: str, *more: str) -> list[str]:
    return [
        *("transfer", "--from", "funding", "--to", "trading", "--user", str(user)),
        *("--asset", "USDT", "--amount", amount, *more),
    ]


def credit(user: int, amount: str, *more: str) -> list[str]:
    return ["credit", "--user", str(user), "--account", "funding", "--asset", "USDT", "--amount", amount, *more]


def test_a_first_transfer(terminal: Terminal) -> None:
    assert terminal.run(*credit(1, "100.5")) == 0
    assert "committed: 100.5 USDT → funding" in terminal.out
    assert terminal.run(*transfer(1, "0.00000001")) == 0
    assert "committed" in terminal.out
    assert terminal.run("show", terminal.req_id) == 0
    assert "0.00000001 USDT" in terminal.out
    assert "committed" in terminal.out
    for arguments in (["--user", "1"], ["1"]):
        assert terminal.run("balances", *arguments) == 0
        lines = [line.split() for line in terminal.out.splitlines()]
        assert ["funding", "USDT", "100.49999999", "0.00000000"] in lines
        assert ["trading", "USDT", "0.00000001", "0.00000000"] in lines


def test_an_asset_by_its_number_or_in_small_letters(terminal: Terminal) -> None:
    assert terminal.run("credit", "--user", "2", "--account", "funding", "--asset", "2", "--amount", "1") == 0
    assert terminal.run("credit", "--user", "2", "--account", "funding", "--asset", "btc", "--amount", "1") == 0
    terminal.run("balances", "2")
    assert "2.00000000" in terminal.out


def test_a_key_moves_once(terminal: Terminal) -> None:
    for _ in range(2):
        assert terminal.run(*credit(3, "5", "--key", "monday")) == 0
    terminal.run("balances", "3")
    assert "5.00000000" in terminal.out
    assert terminal.run(*credit(3, "6", "--key", "monday")) == 1
    assert "key_reused" in terminal.err


def test_a_refusal_is_told_on_stderr_with_exit_code_1(terminal: Terminal) -> None:
    assert terminal.run(*transfer(4, "1")) == 1
    assert terminal.out == ""
    assert "failed" in terminal.err
    assert len(terminal.err.splitlines()) == 1
    assert terminal.run("show", terminal.req_id) == 0
    assert "failed" in terminal.out


def test_a_pending_transfer_is_no_failure_and_an_operator_ends_it(terminal: Terminal, server: Server) -> None:
    server.credit(5, 1_000)
    behaviour = {"ops": ["deposit"], "crash_before": 1_000_000}
    server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json=behaviour)
    arguments = ["--from", "funding", "--to", "core", "--user", "5", "--asset", "USDT", "--amount", "0.00001"]
    assert terminal.run("transfer", *arguments) == 0
    assert "pending" in terminal.out
    req_id = terminal.req_id
    asked = run_command("resolve", req_id, "--void", "--url", server.url, text_in="n\n")
    assert asked.returncode == 1
    assert "0.00001000 USDT of user 5" in asked.stderr
    assert server.balance(5, "funding") == (0, 1_000)
    assert terminal.run("resolve", req_id, "--void", "--yes") == 0, terminal.err
    assert "fenced the deposit" in terminal.out
    assert f"{req_id} is rolled_back" in terminal.out
    assert server.balance(5, "funding") == (1_000, 0)
    server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={})


def test_a_confirmed_resolution(terminal: Terminal, server: Server) -> None:
    server.credit(6, 1_000)
    terminal.run(*transfer(6, "0.00001"))
    confirmed = run_command("resolve", terminal.req_id, "--post", "--url", server.url, text_in="y\n")
    assert confirmed.returncode == 0
    assert f"{terminal.req_id} is committed" in confirmed.stdout


def test_a_history(terminal: Terminal) -> None:
    terminal.run(*credit(10, "5"))
    for amount in ("1", "2"):
        terminal.run(*transfer(10, amount))
    assert terminal.run("history", "--user", "10") == 0
    lines = terminal.out.splitlines()
    assert len(lines) == 3
    assert "2.00000000 USDT funding → trading" in lines[0]
    assert "committed" in lines[0]
    assert terminal.run("history", "--user", "10", "--limit", "1", "--asset", "USDT") == 0
    assert terminal.out.splitlines() == lines[:1]
    assert terminal.run("history", "--user", "778") == 0
    assert terminal.out == "no transfers\n"
    assert terminal.run("history", "--user", "10", "--asset", "DOGE") == 1
    assert "DOGE" in terminal.err


def test_limits(terminal: Terminal) -> None:
    assert terminal.run("limits", "--user", "11") == 0
    lines = [line.split() for line in terminal.out.splitlines()]
    assert ["USDT", "0.00000001", "92233720368.54775807", "-"] in lines
    assert terminal.run("limits") == 1
    assert "user_id" in terminal.err


def test_a_token_by_file_or_variable(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("a.b.c\n")
    assert terminal.run("balances", "1", "--token-file", str(path)) == 0
    assert terminal.run("balances", "1", "--token-file", str(tmp_path / "none")) == 2
    assert "--token-file" in terminal.err
    monkeypatch.setenv("TRANSFER_ENGINE_TOKEN", "line\nbreak")
    assert terminal.run("balances", "1") == 2
    assert "token" in terminal.err
    assert "break" not in terminal.err


def test_no_accounts(terminal: Terminal) -> None:
    assert terminal.run("balances", "777") == 0
    assert terminal.out == "no accounts\n"


@pytest.mark.parametrize("command", [["show"], ["resolve", "--void", "--yes"]])
def test_a_transfer_that_nobody_knows(terminal: Terminal, command: list[str]) -> None:
    assert terminal.run(*command, "00000000-0000-0000-0000-000000000000") == 1
    assert "Transfer not found" in terminal.err
    assert terminal.run(*command, "a/b") == 1
    assert terminal.run(*command, "x") == 1
    assert "Invalid req_id format" in terminal.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (transfer(9, "0"), ["--amount", "must be positive"]),
        (transfer(9, "-1"), ["--amount", "plain decimal"]),
        (transfer(9, "1e3"), ["--amount", "plain decimal"]),
        (transfer(9, "0.000000001"), ["--amount", "more decimals", "USDT has 8"]),
        (transfer(9, "92233720368547758.08"), ["--amount", "2^63"]),
        (["transfer", "--from", "funding"], ["--to"]),
        (["balances"], ["--user"]),
        (["balances", "1", "--user", "1"], ["--user"]),
        (["balances", "one"], ["one"]),
        (["resolve", "x"], ["--post", "--void"]),
        (["show"], ["REQ_ID"]),
        (["shwo"], ["shwo"]),
        (credit(9, "1", "--key", "caf\u00e9"), ["--key", "ASCII"]),
        (["credit", "--user", "9", "--account", "funding", "--asset", "DOGE", "--amount", "1"], ["--asset", "USDT"]),
    ],
)
def test_wrong_usage(terminal: Terminal, arguments: list[str], words: list[str]) -> None:
    assert terminal.run(*arguments) == 2
    for word in words:
        assert word in terminal.err
    assert len(terminal.err.splitlines()) == 1


@pytest.mark.parametrize("user", ["0", "-5", str(2**63)])
def test_users_that_can_not_be(terminal: Terminal, user: str) -> None:
    assert terminal.run("balances", f"--user={user}") == 1
    assert "user_id" in terminal.err


def test_no_engine_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for arguments in (["show", "x"], ["balances", "1"], credit(1, "1")):
        assert run([*arguments, "--url", f"http://127.0.0.1:{port}"]) == 3
        said = capsys.readouterr().err
        assert "is the engine running?" in said
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize("url", ["", "ftp://x", "http://[", "localhost:8080", "http://a b"])
def test_urls_that_are_none(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["balances", "1", "--url", url]) in {2, 3}
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_version_and_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("transfer-engine 0.")
    assert run(["--help"]) == 0
    for command in ("serve", "transfer", "show", "resolve", "balances", "credit"):
        assert command in capsys.readouterr().out or run([command, "--help"]) == 0
