"""Thresholds: what is read as one, what it is about, and when it is crossed."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.benchmark_reports import FLOORS, faulty, growth, idle, recovery, report, result, sweep
from transfer_engine.benchmarks.thresholds import (
    CHANGE,
    OPERATORS,
    NoThreshold,
    Threshold,
    crossed,
    known_names,
    parse_threshold,
)


@given(
    name=st.sampled_from(known_names()),
    operator=st.sampled_from(sorted(OPERATORS)),
    limit=st.floats(-1e12, 1e12),
    run=st.text("abc 1,+/", max_size=12).map(str.strip),
)
def test_what_is_written_is_read_again(name: str, operator: str, limit: float, run: str) -> None:
    threshold = Threshold(name, operator, float(f"{limit:.15g}"), run)
    assert parse_threshold(str(threshold)) == threshold
    assert parse_threshold(f"  {str(threshold).replace(operator, f' {operator} ')} ") == threshold


@given(st.text(max_size=30))
def test_any_other_text_is_refused_in_one_way(text: str) -> None:
    if any(sign in text for sign in OPERATORS):
        return
    with pytest.raises(NoThreshold) as refusal:
        parse_threshold(text)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("p99_ms", "write a figure"),
        ("p99_ms>", "write a figure"),
        ("p99_ms>fast", "write a figure"),
        ("p99_ms=50", "write a figure"),
        ("p99_ms>50ms", "write a figure"),
        ("p99>50", "there is no figure p99; there are offered, achieved, p50_ms"),
        ("p99_ms[ledger]>50", "only floor_ratio is of a floor"),
        ("achieved_change_percent<-10", "changes are known to 'bench compare' alone"),
    ],
)
def test_a_refusal_says_what_to_write(text: str, says: str) -> None:
    with pytest.raises(NoThreshold, match=says):
        parse_threshold(text)


def test_changes_are_known_to_comparisons() -> None:
    assert parse_threshold("achieved_change_percent<-10", of_changes=True) == Threshold(f"achieved{CHANGE}", "<", -10.0)
    with pytest.raises(NoThreshold, match="there is no figure knee"):
        parse_threshold("knee<1", of_changes=True)


@pytest.mark.parametrize(
    ("text", "is_crossed"),
    [
        ("p99_ms>50", True),
        ("p99_ms>80", False),
        ("p99_ms>=80", True),
        ("achieved<5_000", True),
        ("committed_percent < 99", True),
        ("refused_percent>1.1", False),
        ("fault_percent>0", True),
        ("pending != 200", False),
        ("failed == 10", True),
        ("late_percent>0.1", False),
        ("dropped>2999", True),
        ("rss_mib>1e3", False),
    ],
)
def test_a_figure_of_a_run(text: str, *, is_crossed: bool) -> None:
    lines = crossed(report(faulty()), [parse_threshold(text)])
    assert bool(lines) == is_crossed
    assert all(faulty().name in line for line in lines)


def test_a_line_has_the_threshold_the_value_and_the_run() -> None:
    assert crossed(report(result("slow one", p50_ms=40)), [parse_threshold("p99_ms>50")]) == [
        "p99_ms>50: 80 in slow one"
    ]


def test_a_name_in_braces_chooses_runs_and_baselines() -> None:
    many = msgspec.structs.replace(
        report(result("many users"), result("one Hot user", p50_ms=100)), baselines=(result("other", p50_ms=900),)
    )
    assert crossed(many, [parse_threshold("p50_ms{many}>50")]) == []
    assert crossed(many, [parse_threshold("p50_ms{hot}>50")]) == ["p50_ms{hot}>50: 100 in one Hot user"]
    assert crossed(many, [parse_threshold("p50_ms{other}>50")]) == ["p50_ms{other}>50: 900 in other"]
    assert crossed(many, [parse_threshold("p50_ms>500")]) == []


def test_a_ratio_is_the_least_one_or_that_to_a_named_floor() -> None:
    run = report(result(achieved=15_000))
    assert crossed(run, [parse_threshold("floor_ratio<0.26")]) == [f"floor_ratio<0.26: 0.25 in {run.results[0].name}"]
    assert crossed(msgspec.structs.replace(run, floors=FLOORS[:1]), [parse_threshold("floor_ratio[LEDGER]>=0.25")])
    assert crossed(run, [parse_threshold("floor_ratio[record store]>0.3")]) == []


def test_what_nobody_measured_is_crossed() -> None:
    no_lag = report(faulty())
    for text in ("loop_lag_p99_ms>50", "p99_ms{nobody}>50", "knee<1", "settled_s>60", "floor_ratio[moon]<1"):
        assert crossed(no_lag, [parse_threshold(text)]) == [f"{parse_threshold(text)}: no run measured it"]


def test_sweeps_recoveries_and_growths_have_figures() -> None:
    measured = msgspec.structs.replace(
        report(),
        results=(),
        sweeps=(sweep(),),
        recoveries=(recovery(),),
        growths=(growth(),),
        idle_websockets=(idle(),),
    )
    assert crossed(measured, [parse_threshold("knee<5000")]) == ["knee<5000: 4,000 in the sweep over rate"]
    assert crossed(measured, [parse_threshold("knee{users}<5000")]) == ["knee{users}<5000: no run measured it"]
    assert len(crossed(measured, [parse_threshold("p50_ms>100")])) == 2
    assert crossed(measured, [parse_threshold("settled_s>60")]) == []
    assert crossed(measured, [parse_threshold("growth_ratio>1.05")]) == ["growth_ratio>1.05: 1.08 in embedded + sqlite"]
    assert crossed(measured, [parse_threshold("each_kib>=30.7")]) == ["each_kib>=30.7: 30.72 in 5,000 idle websockets"]
