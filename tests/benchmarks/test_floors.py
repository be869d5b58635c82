"""Every floor is measured for the target that it belongs to: small ones, through the same call as a run's."""

import re

import pytest
from click.testing import CliRunner

from support.tigerbeetle_server import find_binary
from transfer_engine.benchmarks.floors import Sizes, floors_for
from transfer_engine.benchmarks.floors_command import floors
from transfer_engine.benchmarks.plan import Target
from transfer_engine.benchmarks.private_tigerbeetle import CLUSTER_ID, private_tigerbeetle
from transfer_engine.benchmarks.result import Floor
from transfer_engine.engine import Settings

SMALL = Sizes(ledger_transfers=40, records_transfers=40, sqlite_events=100, hops=200, door_seconds=0.2)


def are_measured(measured: tuple[Floor, ...]) -> None:
    for floor in measured:
        assert floor.rate > 0, floor
        assert floor.cpu_us >= 0, floor


async def test_of_an_engine_with_embedded_backends() -> None:
    measured = await floors_for(Target(), in_flight=20, flush_transfers=7.4, sizes=SMALL)
    are_measured(measured)
    assert [(floor.name, floor.unit, floor.things_a_transfer) for floor in measured] == [
        ("ledger client, batches of 80", "events", 2),
        ("ledger client, batches of 14", "events", 2),
        ("record store with intents, groups of 7", "rows", 1),
        ("both in order, groups of 7", "transfers", 1),
        ("bare SQLite, groups of 1,000", "events", 2),
        ("actor hop, message and answer", "messages", 1),
        ("trio memory channels, round trip", "messages", 1),
    ]


async def test_of_an_engine_on_a_tigerbeetle_that_runs() -> None:
    binary = find_binary()
    if binary is None:
        pytest.skip("NOT TESTED against a real TigerBeetle: put `tigerbeetle` on PATH or set TIGERBEETLE_BINARY")
    with private_tigerbeetle(binary) as server:
        settings = Settings.model_validate(
            {"ledger": "tigerbeetle", "tigerbeetle": {"addresses": (server.address,), "cluster_id": CLUSTER_ID}}
        )
        measured = await floors_for(Target(), settings=settings, in_flight=20, sizes=SMALL)
    are_measured(measured)
    assert "ledger client, batches of 80" in [floor.name for floor in measured]
    assert not any("SQLite" in floor.name for floor in measured)


@pytest.mark.parametrize(
    ("target", "name", "things"),
    [
        (Target(kind="http", connections=2, batch=10), "bare trio + httptools POST", 0.1),
        (Target(kind="http", connections=2, door="main"), "empty quart-trio POST", 1),
        (Target(kind="websocket", connections=2, batch=10), "trio-websocket echo", 0.1),
    ],
)
async def test_of_a_door(target: Target, name: str, things: float) -> None:
    measured = await floors_for(target, in_flight=20, sizes=SMALL)
    are_measured(measured)
    assert [(floor.name, floor.things_a_transfer) for floor in measured] == [(name, things)]


def test_the_command_prints_all() -> None:
    result = CliRunner().invoke(floors, ["--share", "0.002", "--connections", "2", "--in-flight", "20"])
    assert result.exit_code == 0, result.output
    for name in ("ledger client", "record store", "both in order", "bare SQLite", "actor hop", "memory channels",
                 "httptools POST", "quart-trio POST", "websocket echo"):  # fmt: skip
        assert re.search(rf"{name}.*\d", result.output), name
