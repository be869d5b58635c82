"""`bench http` and `bench websocket` as their user runs them: small, against real server processes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from transfer_engine.benchmarks.command_line import bench
from transfer_engine.benchmarks.served_engine import ServedEngine, served_engine
from transfer_engine.benchmarks.wrk import find_wrk
from transfer_engine.engine import Settings

SMALL = ("--users", "20", "--seconds", "0.3", "--warm-up", "0.05", "--no-floors", "--quiet")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(bench, [*arguments])


def report_of(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    page = tmp_path / "report.json"
    result = run(*arguments, "--json", str(page))
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(page.read_text())
    [measured] = found["results"]
    assert measured["books"]["findings"] == []
    assert sum(measured["outcomes"].values()) > 0
    return found


def measured(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    [found] = report_of(tmp_path, *arguments)["results"]
    return dict(found)


def test_singles_over_the_express_door(tmp_path: Path) -> None:
    found = measured(tmp_path, "http", *SMALL, "--connections", "4")
    assert set(found["outcomes"]) == {"committed"}
    assert found["books"]["how"].startswith("audit (I1, I2, I3, I7)")
    assert "balances of 20 users against what was told" in found["books"]["how"]
    assert found["plan"]["target"]["generator"] == "python"
    assert found["plan"]["loop"]["in_flight"] == 4
    assert found["cpu"]["total_us"] > 0
    assert found["cpu"]["load_us"] > 0
    assert found["cpu"]["threads_us"]["trio loop"] > 0
    assert found["rss_mib"] > 10
    assert {flushes["name"] for flushes in found["flushes"]} >= {"submitter", "journal", "recorder"}
    assert found["writes_a_transfer"] >= 0.9


def test_batches_over_the_main_door_with_all_that_can_be_asked_of_it(tmp_path: Path) -> None:
    options = ("--door", "main", "--token", "--limits", "--access-log", "--batch", "10", "--connections", "2")
    shares = ("--replays", "0.2", "--refusals", "0.2", "--slow", "0.05", "--slow-ms", "5")
    found = measured(tmp_path, "http", *SMALL, *options, *shares)
    assert set(found["outcomes"]) == {"committed", "replayed", "failed"}


def test_an_open_loop_and_the_floor_of_the_door(tmp_path: Path) -> None:
    small = [option for option in SMALL if option != "--no-floors"]
    report = report_of(tmp_path, "http", *small, "--batch", "5", "--connections", "2", "--rate", "200")
    assert set(report["results"][0]["outcomes"]) == {"committed"}
    [floor] = report["floors"]
    assert floor["unit"] == "requests"
    assert floor["things_a_transfer"] == 0.2
    assert floor["rate"] > 0


def test_batches_over_websockets(tmp_path: Path) -> None:
    report = report_of(tmp_path, "websocket", *SMALL, "--connections", "2", "--batch", "10", "--in-flight", "40")
    [found] = report["results"]
    assert set(found["outcomes"]) == {"committed"}
    assert found["plan"]["loop"]["in_flight"] == 40
    assert any("40 transfers unanswered" in note for note in report["notes"])


@pytest.mark.skipif(find_wrk() is None, reason="wrk is not on PATH")
def test_wrk_sends_where_it_can(tmp_path: Path) -> None:
    options = ("--users", "20", "--warm-up", "0", "--no-floors", "--quiet", "--connections", "4", "--seconds", "1")
    found = measured(tmp_path, "http", *options)
    assert found["plan"]["target"]["generator"] == "wrk"
    assert set(found["outcomes"]) == {"committed"}
    latencies = found["latencies"]
    assert latencies["count"] >= found["outcomes"]["committed"]  # wrk adds what a stall would have hidden
    assert 0 < latencies["p50_ms"] <= latencies["p99_ms"] <= latencies["max_ms"]


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_server_that_is_killed_amid_the_load(tmp_path: Path, kind: str) -> None:
    options = ("--users", "20", "--warm-up", "0.05", "--no-floors", "--quiet", "--connections", "4", "--in-flight", "8")
    report = report_of(tmp_path, kind, *options, "--seconds", "0.7", "--fault", "kill-server@0.3s:0.05s")
    [found] = report["results"]
    assert found["outcomes"]["fault: cut"] > 0
    assert found["outcomes"]["committed"] > 0
    assert "unknown outcomes asked for again" in found["books"]["how"]
    assert "told before a fault asked for again" in found["books"]["how"]
    [fault] = found["faults"]
    assert fault["fault"]["what"] == "kill-server"
    assert found["cpu"]["total_us"] > 0


async def ask(server: ServedEngine, door: str, *arguments: str) -> Result:
    url = f"http://{server.address('main' if door == 'main' else 'express').authority}"
    return await trio.to_thread.run_sync(partial(run, door_command(door), "--url", url, *SMALL, *arguments))


def door_command(door: str) -> str:
    return "websocket" if door == "websocket" else "http"


async def test_a_server_that_runs_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, token_file = tmp_path / "report.json", tmp_path / "token"
    async with served_engine(Settings(), has_token=True) as server:
        assert server.token is not None
        token_file.write_text(f"{server.token}\n")
        for door in ("main", "websocket"):
            result = await ask(server, door, "--token-file", str(token_file), "--json", str(page))
            assert result.exit_code == 0, result.output
            [found] = json.loads(page.read_text())["results"]
            assert set(found["outcomes"]) == {"committed"}
            assert found["books"] == {"how": "balances of 20 users against what was told", "findings": []}
            assert server.token not in result.output + page.read_text()
        without = await ask(server, "express")
        assert without.exit_code == 1
        assert "does not let us credit the users: 401" in without.output
        assert "admin" in without.output
        monkeypatch.setenv("TRANSFER_ENGINE_TOKEN", server.token)
        by_variable = await ask(server, "express")
        assert by_variable.exit_code == 0, by_variable.output
        assert server.pid is not None


def test_nobody_is_at_the_url() -> None:
    result = run("http", "--url", "http://127.0.0.1:1", *SMALL)
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("http", "--url", "ftp://a"), "no http:// or https:// address"),
        (("http", "--url", "http://a", "--fault", "kill-server@1s"), "--fault is for a server of the run's own"),
        (("http", "--url", "http://a", "--token"), "--token-file"),
        (("http", "--token", "a.b.c"), "for --url"),
        (("http", "--fault", "kill-ledger@1s", "--ledger", "tigerbeetle"), "pause-ledger"),
        (("http", "--fault", "pause-ledger@1s"), "in the engine's process"),
        (("websocket", "--fault", "kill@1s"), "is no fault"),
        (("http", "--generator", "wrk", "--replays", "0.1"), "--generator wrk"),
        (("http", "--generator", "wrk", "--rate", "100"), "closed loops"),
    ],
)
def test_what_means_nothing(arguments: tuple[str, ...], told: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert told in result.output


def test_idle_websockets(tmp_path: Path) -> None:
    page, plots = tmp_path / "report.json", tmp_path / "report.html"
    options = ("--connections", "70", "--watch", "0.2", "--subscribe", "--quiet", "--fail-if", "each_kib>1_000_000")
    result = run("idle-websockets", *options, "--json", str(page), "--html", str(plots))
    assert result.exit_code == 0, result.output
    [found] = json.loads(page.read_text())["idle_websockets"]
    assert found["after_mib"] > 10
    assert found["cpu_share"] >= 0
    assert found["books"]["findings"] == []
    for told in (result.output, plots.read_text()):
        assert "70 idle websockets, express door, subscribed" in told
        assert "KiB resident" in told
