"""The benchmarks of the doors as their user runs them: small, against real server processes."""

import re

from click.testing import CliRunner, Result

from transfer_engine.benchmarks.__main__ import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def holds(result: Result) -> None:
    assert result.exit_code == 0, result.output
    assert re.search(r"^books: audit .*: holds$", result.output, re.MULTILINE), result.output


def test_singles_over_the_main_door() -> None:
    result = run("http", "--connections", "4", "--seconds", "0.3", "--rounds", "1")
    holds(result)
    assert re.search(r"main door, single transfers: .*requests/s .*transfers/s .*µs CPU", result.output)
    assert "empty quart-trio POST" in result.output
    assert re.search(r"door / floor: \d", result.output)


def test_batches_over_the_express_door_with_token_and_limits() -> None:
    options = ["--door", "express", "--batch", "20", "--token", "--limits", "--access-log"]
    result = run("http", *options, "--connections", "4", "--seconds", "0.3", "--rounds", "1")
    holds(result)
    assert "express door, batches of 20" in result.output
    assert "bare trio + httptools" in result.output


def test_websockets() -> None:
    for batch in ("0", "10"):
        options = ["--batch", batch, "--connections", "2", "--token"]
        result = run("websocket", *options, "--seconds", "0.3", "--rounds", "1")
        holds(result)
        assert re.search(r"websocket, express door, .*frames/s .*transfers/s", result.output)
        assert "trio-websocket echo" in result.output


def test_idle_websockets() -> None:
    result = run("idle-websockets", "--connections", "70", "--watch", "0.2", "--subscribe")
    holds(result)
    assert re.search(r"with 70 idle websockets, subscribed: .* KiB each", result.output)


def test_overload() -> None:
    result = run("overload", "--factor", "1.5", "--connections", "2", "--seconds", "0.3")
    holds(result)
    assert "peak, closed loop" in result.output
    assert re.search(r"1\.5x: .*/s offered, .*/s committed", result.output)
