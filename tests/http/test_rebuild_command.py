"""`transfer-engine rebuild` on the directory of an engine that ran, was killed, and lost rows."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.server import eventually, run_command, running_server
from transfer_engine.http.command_line import run

CONFIG = {
    "services": [
        {"name": "funding", "code": 2},
        {"name": "trading", "code": 3},
        {"name": "core", "code": 100, "kind": "simulated_core"},
    ]
}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an engine that committed, refused and rolled back, and was killed."""
    directory = tmp_path_factory.mktemp("lived")
    with running_server(directory, config=CONFIG) as server:
        server.credit(1, 1_000_000)
        for number in range(20):
            body = {"from": "funding", "to": "trading", "user_id": 1, "asset_id": 1, "amount": 1 + number}
            assert server.client.post("/api/v1/transfer", json=body).json()["status"] == "committed"
        refused = {"from": "funding", "to": "trading", "user_id": 1, "asset_id": 1, "amount": 10**12}
        assert server.client.post("/api/v1/transfer", json=refused).json()["status"] == "failed"
        server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={"ops": ["deposit"], "refuse": "no"})
        body = {"from": "funding", "to": "core", "user_id": 1, "asset_id": 1, "amount": 5}
        assert server.client.post("/api/v1/transfer", json=body).json()["status"] == "rolled_back"
        server.kill()
    return directory


@pytest.fixture
def directory(lived: Path, tmp_path: Path) -> Path:
    """A copy of it, as it is when its journal has been settled long ago."""
    for file in (lived / "data").iterdir():
        if file.is_file():
            (tmp_path / "data").mkdir(exist_ok=True)
            (tmp_path / "data" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.yaml").write_bytes((lived / "config.yaml").read_bytes())
    sql(tmp_path, "DELETE FROM intents")
    return tmp_path


def sql(directory: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(directory / "data" / "records.db")) as connection, connection:
        return connection.execute(statement).fetchall()


def rows(directory: Path) -> list[Any]:
    """All rows, but for the numbers of their arrival."""
    return sorted((row[1:] for row in sql(directory, "SELECT * FROM transfers")), key=repr)


def rebuild(directory: Path, *arguments: str) -> int:
    return run(
        ["rebuild", "--config", str(directory / "config.yaml"), "--data-dir", str(directory / "data"), *arguments]
    )


def test_honest_books_agree(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rebuild(directory) == 0
    out, err = capsys.readouterr()
    assert "22 of ours compared" in out
    assert "23 rows compared" in out
    assert out.endswith("books and records agree\n")
    assert err == ""


def test_missing_rows_are_written_once_and_as_they_were(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run first: it counts, and writes nothing."""
    whole = rows(directory)
    sql(directory, "DELETE FROM transfers WHERE state = 'committed' AND amount < 10")
    damaged = rows(directory)
    assert len(damaged) < len(whole)
    assert rebuild(directory) == 1
    out = capsys.readouterr().out
    assert f"{len(whole) - len(damaged)} rows to be written: --write does it" in out
    assert "missing_row" in out
    assert "books and records differ" in out
    assert rows(directory) == damaged
    assert rebuild(directory, "--write") == 0
    assert f"{len(whole) - len(damaged)} rows written" in capsys.readouterr().out
    assert rows(directory) == whole
    assert rebuild(directory, "--write", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rebuilt"], report["found"], report["left"]) == (0, {}, {})


def test_a_lost_file_of_records_is_made_again(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All that moved: only the refusal is gone, and why a rollback was one."""
    for file in (directory / "data").glob("records.db*"):
        file.unlink()
    assert rebuild(directory, "--write", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rebuilt"], report["uncertain"]) == (22, 0)
    states = sorted(state for (state,) in sql(directory, "SELECT state FROM transfers"))
    assert states == ["committed"] * 21 + ["rolled_back"]
    with running_server(directory, config=CONFIG) as server:
        assert server.balance(1, "trading") == (210, 0)
        assert server.stop() == 0


def test_a_forged_row_stays_and_is_told(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql(directory, "UPDATE transfers SET state = 'failed' WHERE amount = 7")
    forged = rows(directory)
    assert rebuild(directory, "--write") == 1
    out = capsys.readouterr().out
    assert "other_end                 1 found, 1 left" in out
    assert "its row says failed, and the ledger that it was posted" in out
    assert rows(directory) == forged
    assert rebuild(directory, "--write", "--examples", "0") == 1
    assert "its row says" not in capsys.readouterr().out


def test_a_running_engine_is_not_disturbed(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(directory, config=CONFIG):
        assert rebuild(directory, "--write") == 1
        assert "is in use by another engine: stop it" in capsys.readouterr().err


def test_the_engine_itself_calls(directory: Path) -> None:
    sql(directory, "UPDATE transfers SET state = 'failed' WHERE amount = 7")
    fast = {**CONFIG, "reconcile_interval_ms": 20, "reconcile_margin_ms": 1_000, "log_format": "json"}
    with running_server(directory, config=fast) as server:
        eventually(lambda: server.logged, lambda logged: "books_mismatch" in logged)
        [line] = [line for line in server.logged.splitlines() if "books_mismatch" in line]
        told = json.loads(line)
        assert (told["level"], told["difference"]) == ("critical", "other_end")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data-dir", "nowhere"], 1, "nowhere has no ledger"),
        (["--config", "nowhere.yaml"], 1, "nowhere.yaml"),
        (["--examples", "-1"], 2, "--examples"),
        (["--margin-ms", "soon"], 2, "--margin-ms"),
        (["now"], 2, "now"),
    ],
)
def test_wrong_usage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["rebuild", *arguments]) == code
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_as_a_process_with_a_damaged_file(directory: Path) -> None:
    (directory / "data" / "records.db").write_bytes(b"no database at all, but long enough to be read as one" * 100)
    for leftover in (directory / "data").glob("records.db-*"):
        leftover.unlink()
    done = run_command("rebuild", "--data-dir", str(directory / "data"), "--config", str(directory / "config.yaml"))
    assert done.returncode == 1
    assert "records.db" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
