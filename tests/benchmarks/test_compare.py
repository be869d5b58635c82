"""Two reports side by side: runs by name, what differs said first, thresholds on changes."""

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from support.benchmark_reports import FLOORS, MACHINE, broken, recovery, report, result, sweep
from transfer_engine.benchmarks.command_line import bench
from transfer_engine.benchmarks.compare import compare
from transfer_engine.benchmarks.plan import Plan, Traffic
from transfer_engine.benchmarks.report_json import write_json
from transfer_engine.benchmarks.result import Report

BEFORE = report(result("many", achieved=10_000), result("only here"))
AFTER = msgspec.structs.replace(
    report(result("many", achieved=11_000, p50_ms=15.0), result("only there")),
    machine=msgspec.structs.replace(MACHINE, commit="4567def", at="2026-11-22T08:00:00Z"),
)


def _compared(folder: Path, before: Report, after: Report, *options: str) -> Result:
    write_json(before, folder / "a.json")
    write_json(after, folder / "b.json")
    return CliRunner().invoke(bench, ["compare", str(folder / "a.json"), str(folder / "b.json"), *options])


def test_figures_side_by_side_with_their_change(tmp_path: Path) -> None:
    outcome = _compared(tmp_path, BEFORE, AFTER)
    assert outcome.exit_code == 0
    rows = [line.split() for line in outcome.output.splitlines()]
    assert ["achieved", "10,000", "11,000", "+10.0%"] in rows
    assert ["p50_ms", "12.0", "15.0", "+25.0%"] in rows
    assert ["cpu_us", "63", "63", "="] in rows
    assert ["of", "ledger", "client,", "full", "batches", "0.17", "0.18", "+10.0%"] in rows


def test_what_differs_comes_before_the_figures(tmp_path: Path) -> None:
    output = _compared(tmp_path, BEFORE, AFTER).output
    assert "differs: commit: 0123abc → 4567def" in output
    assert "warning" not in output
    assert output.index("differs: commit") < output.index("p50_ms")
    assert "only in before: only here" in output
    assert "only in after: only there" in output


def test_one_report_with_itself(tmp_path: Path) -> None:
    output = _compared(tmp_path, BEFORE, BEFORE).output
    assert "the same machine, commit and versions" in output
    assert "%" not in output.replace("committed_percent", "").replace("late_percent", "").replace("100%", "").replace(
        "0%", ""
    )


def test_a_warning_where_machines_differ() -> None:
    other = msgspec.structs.replace(AFTER, machine=msgspec.structs.replace(MACHINE, cores=64, cpu="Another CPU"))
    compared = compare(BEFORE, other)
    assert compared.warnings == ("the machines differ (cores, cpu): read the ratios to floors, not the rates",)
    assert compared.differences == ("cores: 2 → 64", "cpu: Some CPU @ 2.50GHz → Another CPU")


def test_a_warning_of_busy_machines_and_broken_books() -> None:
    busy = msgspec.structs.replace(BEFORE, machine=msgspec.structs.replace(MACHINE, load_before=(3.0, 2.0, 1.0)))
    compared = compare(busy, report(broken(result("many"))))
    assert compared.warnings == (
        "the first report: the machine was busy before (load average 3.0 on 2 cores): read CPU and ratios",
        "the books are broken in the second report: many",
    )


def test_a_plan_that_differs_is_told_with_its_run() -> None:
    (pair,) = compare(report(result("many")), report(result("many", plan=Plan(traffic=Traffic(users=7, seed=2))))).pairs
    assert pair.plan_differences == ("traffic users: 1000 → 7", "traffic seed: 1 → 2")


def test_sweeps_baselines_and_recoveries_are_matched_too() -> None:
    more = msgspec.structs.replace(
        report(), sweeps=(sweep(),), baselines=(result("FastAPI"),), recoveries=(recovery(),), floors=FLOORS
    )
    compared = compare(more, more)
    names = [pair.name for pair in compared.pairs]
    assert names[1] == "FastAPI"
    assert names[2] == "rate 1000: engine at 1,000/s"
    assert names[-1] == "recovery: embedded + sqlite"
    assert not [change for change in compared.pairs[1].changes if change.name.startswith("of ")]
    assert [change.before for change in compared.pairs[-1].changes if change.name == "settled_s"] == [12.5]
    assert compared.only_before == compared.only_after == ()


def test_the_only_run_of_each_is_compared_whatever_its_name() -> None:
    (pair,) = compare(report(result("a", p50_ms=2.0)), report(result("b", p50_ms=3.0))).pairs
    assert pair.name == "a → b"
    assert [change.percent for change in pair.changes if change.name == "p50_ms"] == [50.0]


def test_an_open_loop_is_matched_at_another_rate() -> None:
    before = report(result("engine, 1,000 users"), result("engine, 1,000 users, 7,504/s"), result("engine, 7 users"))
    after = report(result("engine, 1,000 users"), result("engine, 1,000 users, 804/s"), result("engine, 9 users, 5/s"))
    compared = compare(before, after)
    assert [pair.name for pair in compared.pairs] == [
        "engine, 1,000 users",
        "engine, 1,000 users, 7,504/s → engine, 1,000 users, 804/s",
    ]
    assert (compared.only_before, compared.only_after) == (("engine, 7 users",), ("engine, 9 users, 5/s",))


def test_a_floor_is_the_same_one_whatever_the_size_of_its_groups() -> None:
    before, after = (
        report(
            result("many"),
            floors=[msgspec.structs.replace(FLOORS[0], name=f"ledger, groups of {size}") for size in sizes],
        )
        for sizes in (("8,188", "22"), ("8,188", "1,000"))
    )
    (pair,) = compare(before, after).pairs
    names = [change.name for change in pair.changes if change.name.startswith("of ")]
    assert names == ["of ledger, groups of 8,188", "of ledger, groups of 22 → 1,000"]


def test_two_runs_of_one_name_are_matched_in_order() -> None:
    twice = report(result("many", p50_ms=1.0), result("many", p50_ms=2.0))
    assert [pair.name for pair in compare(twice, twice).pairs] == ["many", "many (2)"]


@pytest.mark.parametrize(
    ("condition", "code", "says"),
    [
        ("achieved_change_percent<-10", 0, ""),
        ("achieved_change_percent>5", 4, "achieved_change_percent>5: 10 in many"),
        ("p99_ms_change_percent{many}>20", 4, "25 in many"),
        ("p99_ms>29", 4, "p99_ms>29: 30 in many"),
        ("floor_ratio[ledger]_change_percent>5", 2, "is no threshold"),
        ("floor_ratio_change_percent[ledger]>5", 4, "10 in many"),
        ("late_percent_change_percent>5", 0, ""),
        ("dropped_change_percent{nobody}>5", 4, "no run of both reports measured it"),
    ],
)
def test_a_threshold_on_a_change(tmp_path: Path, condition: str, code: int, says: str) -> None:
    outcome = _compared(tmp_path, BEFORE, AFTER, "--fail-if", condition)
    assert outcome.exit_code == code
    assert says in outcome.output
    assert ("threshold crossed: " in outcome.output) == (code == 4)


def test_what_is_no_report_is_wrong_usage(tmp_path: Path) -> None:
    write_json(BEFORE, tmp_path / "a.json")
    outcome = CliRunner().invoke(bench, ["compare", str(tmp_path / "a.json"), str(tmp_path / "none.json")])
    assert outcome.exit_code == 2
    assert "none.json: No such file" in outcome.output
