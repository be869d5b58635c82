"""Growth: the ladder of its steps, and one that is over soon."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from transfer_engine.benchmarks.command_line import bench
from transfer_engine.benchmarks.growth import Sizes, ladder


def test_steps_go_up_by_powers_of_ten_to_what_was_asked_for() -> None:
    assert ladder(10_000, 5_000_000, (1, 3)) == (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 5_000_000)
    assert ladder(10, 100_000, (1,)) == (10, 100, 1_000, 10_000, 100_000)
    assert ladder(10_000, 200, (1, 3)) == (200,)
    assert Sizes(transfers_most=30_000, users_most=10).transfers == (10_000, 30_000)


def test_the_same_load_on_growing_and_on_small_books(tmp_path: Path) -> None:
    page = tmp_path / "report.json"
    options = ("--window", "60", "--rounds", "1", "--quiet", "--json", str(page))
    ran = CliRunner().invoke(bench, ["growth", "--transfers-most", "300", "--users-most", "20", *options])
    assert ran.exit_code == 0, ran.output
    [growth] = json.loads(page.read_text())["growths"]
    assert growth["books"]["findings"] == []
    sizes = [(step["transfers"], step["users"]) for step in growth["steps"]]
    assert [users for _, users in sizes] == [20, 10, 20]
    assert sizes[0][0] >= 300
    assert sizes == sorted(sizes, key=lambda size: size[0])
    for step in growth["steps"]:
        assert min(step["cpu_us"], step["small_us"], step["rate"], step["small_rate"], step["files_mib"]) > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--ledger", "tigerbeetle", "--tigerbeetle-address", "127.0.0.1:1"),
        ("--records", "cassandra", "--keyspace", "k"),
    ],
)
def test_books_of_somebody_else_do_not_grow(arguments: tuple[str, ...]) -> None:
    ran = CliRunner().invoke(bench, ["growth", *arguments])
    assert ran.exit_code == 2
    assert f"leave out {arguments[2]}" in ran.output
