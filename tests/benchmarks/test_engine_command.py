"""`bench engine` as its user runs it: small, on the embedded backends."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from support.tigerbeetle_server import find_binary
from transfer_engine.benchmarks.command_line import bench

SMALL = ("--users", "5", "--in-flight", "10", "--warm-up", "0.05", "--no-floors")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(bench, ["engine", *SMALL, *arguments])


def measured(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    page = tmp_path / "report.json"
    result = run(*arguments, "--json", str(page))
    assert result.exit_code == 0, result.output
    [found] = json.loads(page.read_text())["results"]
    assert found["books"]["findings"] == []
    assert found["books"]["how"].startswith("audit (I1, I2, I3, I7)")
    return dict(found)


def test_a_closed_loop_for_some_time(tmp_path: Path) -> None:
    found = measured(tmp_path, "--seconds", "0.3")
    assert set(found["outcomes"]) == {"committed"}
    assert found["achieved"] > 0
    assert found["seconds"] >= 0.3
    assert found["latencies"]["count"] == found["outcomes"]["committed"]
    assert {flushes["name"] for flushes in found["flushes"]} >= {"submitter", "journal", "recorder"}
    assert found["writes_a_transfer"] >= 0.9
    assert found["loop_lag_ms"]["count"] > 0
    assert found["cpu"]["threads_us"]["trio loop"] > 0
    assert found["rss_mib"] > 10


def test_an_open_loop_until_so_many_are_sent(tmp_path: Path) -> None:
    found = measured(tmp_path, "--rate", "300", "--arrivals", "even", "--transfers", "60", "--in-flight", "500")
    assert found["outcomes"] == {"committed": 60}
    assert found["dropped"] == 0


def test_batches_of_one_hot_user(tmp_path: Path) -> None:
    found = measured(tmp_path, "--pick", "hot", "--batch", "5", "--transfers", "100")
    assert found["outcomes"] == {"committed": 100}


def test_replays_refusals_and_a_slow_service(tmp_path: Path) -> None:
    found = measured(
        tmp_path, "--transfers", "200", "--replays", "0.2", "--refusals", "0.2", "--slow", "0.05", "--slow-ms", "20"
    )
    outcomes = found["outcomes"]
    assert set(outcomes) == {"committed", "replayed", "failed"}
    assert sum(outcomes.values()) == 200
    assert found["latencies"]["max_ms"] >= 20


def test_zipf_and_names_by_the_engine(tmp_path: Path) -> None:
    found = measured(tmp_path, "--pick", "zipf", "--zipf-exponent", "1.5", "--issued", "--seconds", "0.1")
    assert set(found["outcomes"]) == {"committed"}


def test_books_that_are_not_all_its_own_are_compared(tmp_path: Path) -> None:
    folder = tmp_path / "config.yaml"
    folder.write_text(f"data_dir: {tmp_path / 'data'}\n")
    assert run("--config", str(folder), "--transfers", "30").exit_code == 0
    again = run("--config", str(folder), "--transfers", "30")
    assert again.exit_code == 0, again.output
    assert re.search(r"hold: balances of 5 users, and every tenth row", again.output)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--arrivals", "even"], "--arrivals"),
        (["--seconds", "1", "--transfers", "10"], "--transfers"),
        (["--zipf-exponent", "2"], "--zipf-exponent"),
        (["--pick", "hot", "--hot-share", "0.5"], "--hot-share"),
        (["--slow-ms", "5"], "--slow-ms"),
        (["--replays", "0.1", "--issued"], "--replays"),
        (["--replays", "0.5", "--refusals", "0.6"], "--refusals"),
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "--rate"),
        (["--refusals", "1.5"], "--refusals"),
        (["--contact-point", "127.0.0.1"], "--contact-point"),
        (["--cluster-id", "3"], "--cluster-id"),
    ],
)
def test_combinations_that_mean_nothing(arguments: list[str], option: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert option in result.output.splitlines()[-1]


def test_a_tigerbeetle_of_its_own(tmp_path: Path) -> None:
    if find_binary() is None:
        pytest.skip("NOT TESTED against a real TigerBeetle: put `tigerbeetle` on PATH or set TIGERBEETLE_BINARY")
    found = measured(tmp_path, "--ledger", "tigerbeetle", "--transfers", "50")
    assert found["outcomes"] == {"committed": 50}
    assert found["plan"]["target"]["backends"]["ledger"] == "tigerbeetle"


def test_a_wrong_setting_is_named() -> None:
    result = run("--records", "cassandra", "--keyspace", "Not-One")
    assert result.exit_code == 1
    assert "cassandra.keyspace" in result.output


def test_a_record_store_that_is_not_there() -> None:
    result = run("--records", "cassandra", "--contact-point", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.output


def test_a_threshold_sets_the_exit_code() -> None:
    assert run("--seconds", "0.05", "--fail-if", "achieved>0").exit_code == 4
