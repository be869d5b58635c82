"""Sweeps: their values, the knee, and small ones of each kind."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from support.benchmark_reports import result
from transfer_engine.benchmarks.command_line import bench
from transfer_engine.benchmarks.overload import measure_overload
from transfer_engine.benchmarks.overload_command import busy_notes
from transfer_engine.benchmarks.plan import Closed, Length, Open, Plan, Target, Traffic
from transfer_engine.benchmarks.progress import Silence
from transfer_engine.benchmarks.result import Result
from transfer_engine.benchmarks.sources import Sources
from transfer_engine.benchmarks.sweep import Over, knee_of, measure_sweep, parse_values, plan_at


def achieved(rate: float, p99_ms: float) -> Result:
    found = result(achieved=rate)
    return msgspec.structs.replace(found, latencies=msgspec.structs.replace(found.latencies, p99_ms=p99_ms))


@pytest.mark.parametrize(
    ("runs", "knee"),
    [
        ([(1_000, 1_000, 5), (2_000, 1_990, 9), (4_000, 3_000, 9)], 2_000),
        ([(1_000, 1_000, 5), (2_000, 2_000, 50), (4_000, 4_000, 51)], 2_000),
        ([(4_000, 3_900, 40), (1_000, 1_000, 5), (2_000, 2_000, 6)], 4_000),
        ([(1_000, 949, 5), (2_000, 1_000, 5)], None),
        ([(1_000, 950, 5)], 1_000),
        ([], None),
    ],
)
def test_the_knee_is_the_highest_rate_that_is_kept_at_a_bearable_latency(
    runs: list[tuple[float, float, float]], knee: float | None
) -> None:
    results = [achieved(rate, p99_ms) for _, rate, p99_ms in runs]
    assert knee_of([offered for offered, _, _ in runs], results) == knee


@pytest.mark.parametrize(
    ("text", "over", "values"),
    [
        ("1000,2000,4000", "rate", (1_000, 2_000, 4_000)),
        ("1000:4000:4", "rate", (1_000, 2_000, 3_000, 4_000)),
        ("0:1:3", "hot-share", (0, 0.5, 1)),
        ("10:1000:3", "users", (10, 100, 1_000)),
        ("1:3:5", "in-flight", (1, 2, 3)),
        ("1.5,3", "overload", (1.5, 3)),
    ],
)
def test_values_are_listed_or_ranged(text: str, over: Over, values: tuple[float, ...]) -> None:
    assert parse_values(text, over) == values


@pytest.mark.parametrize(
    ("text", "over", "complaint"),
    [
        ("1000,many", "rate", "'many' in '1000,many' is no number"),
        ("nan", "rate", "no number that can be"),
        ("1:2", "rate", "is no range"),
        ("1:2:1", "rate", "is no range"),
        ("0", "users", "0 is no users"),
        ("1.1", "hot-share", "1.1 is no hot-share"),
        (",".join(map(str, range(1, 102))), "users", "101 values are too many"),
    ],
)
def test_what_is_no_value_is_refused(text: str, over: Over, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_values(text, over)


@pytest.mark.parametrize(
    ("over", "value", "differs"),
    [
        ("rate", 500, {"loop": Open(rate=500)}),
        ("users", 1, {"traffic": Traffic(users=1), "loop": Closed(in_flight=1_000)}),
        ("hot-share", 0.5, {"traffic": Traffic(hot_share=0.5)}),
        ("batch", 10, {"target": Target(kind="http", batch=10, connections=200)}),
        ("in-flight", 7, {"target": Target(kind="http", connections=7), "loop": Closed(in_flight=7)}),
    ],
)
def test_one_thing_differs_and_what_hangs_on_it(over: Over, value: float, differs: dict[str, Any]) -> None:
    plan = Plan(target=Target(kind="http"))
    named = msgspec.structs.replace(plan, name=f"{over} {value:g}", **differs)
    assert plan_at(plan, over, value) == named


async def test_one_target_serves_all_runs_that_ask_it_alike() -> None:
    plan = Plan(traffic=Traffic(users=2), loop=Closed(in_flight=4), length=Length(transfers=20, warm_up_s=0))
    found = await measure_sweep(plan, "users", (2, 5), Sources(), Silence())
    assert [each.plan.traffic.users for each in found.results] == [2, 5]
    assert [each.outcomes for each in found.results] == [{"committed": 20}] * 2
    first, second = (each.books for each in found.results)
    assert first == second
    assert first.hold
    assert found.knee is None


def test_a_sweep_over_rates_by_its_command(tmp_path: Path) -> None:
    page = tmp_path / "report.json"
    options = ("--users", "5", "--transfers", "30", "--warm-up", "0", "--quiet", "--json", str(page))
    ran = CliRunner().invoke(bench, ["sweep", "--over", "rate", "--values", "100,300", *options])
    assert ran.exit_code == 0, ran.output
    assert "Sweep over rate" in ran.output
    [sweep] = json.loads(page.read_text())["sweeps"]
    assert sweep["values"] == [100, 300]
    assert [each["outcomes"] for each in sweep["results"]] == [{"committed": 30}] * 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--over", "rate", "--values", "0"), "0 is no rate"),
        (("--over", "rate", "--connections", "4"), "--connections, --url and --token"),
        (("--over", "in-flight", "--target", "http", "--connections", "4"), "leave out --connections"),
        (("--over", "hot-share", "--pick", "hot"), "needs another pick"),
        (("--over", "rate", "--target", "http", "--fault", "kill-server@1s"), "--fault is for one run"),
    ],
)
def test_sweeps_that_mean_nothing_are_refused(arguments: tuple[str, ...], complaint: str) -> None:
    ran = CliRunner().invoke(bench, ["sweep", *arguments])
    assert ran.exit_code == 2
    assert complaint in ran.output


async def test_overload_counts_what_is_committed_and_what_is_held_back() -> None:
    target = Target(kind="websocket", connections=2)
    found = await measure_overload(
        target, Traffic(users=5), (2,), seconds=0.3, in_flight=20, sources=Sources(), progress=Silence()
    )
    peak, (twice,) = found.peak, found.sweep.results
    assert found.sweep.values == (2,)
    assert isinstance(twice.plan.loop, Open)
    assert twice.plan.loop.rate == pytest.approx(2 * max(peak.achieved, 1))
    assert sum(twice.outcomes.values()) + twice.dropped == pytest.approx(twice.offered * twice.seconds)
    assert twice.outcomes["committed"] == twice.latencies.count > 0
    assert peak.books == twice.books
    assert twice.books.hold, twice.books
    assert "audit" in twice.books.how
    assert busy_notes((2,), (twice,))[0].startswith("at 2 times the peak the load computed")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--values", "0"), "0 is no overload"),
        (("--batch", "10"), "of single transfers"),
        (("--url", "http://h"), "own"),
    ],
)
def test_overloads_that_mean_nothing_are_refused(arguments: tuple[str, ...], complaint: str) -> None:
    ran = CliRunner().invoke(bench, ["overload", *arguments])
    assert ran.exit_code == 2
    assert complaint in ran.output
