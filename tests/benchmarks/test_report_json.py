"""Reports as files: what is written is read again, and what is no report is refused."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.benchmark_reports import report, whole_report
from transfer_engine.benchmarks.plan import Backends, Closed, Fault, Length, Open, Plan, Target, Traffic
from transfer_engine.benchmarks.report_json import ReportUnreadable, read_report, write_json
from transfer_engine.benchmarks.result import Books, Cpu, Floor, Machine, Percentiles, Report, Result, Second

_floats = st.floats(0, 1e12)
_counts = st.integers(0, 2**53)
_names = st.text(max_size=8)


def _tuples(of: st.SearchStrategy[object]) -> st.SearchStrategy[Sequence[object]]:
    return st.lists(of, max_size=2).map(tuple)


_percentiles = st.builds(Percentiles, _floats, _floats, _floats, _floats, _floats, _floats, _counts)
_plans = st.builds(
    Plan,
    target=st.builds(Target, batch=_counts, url=st.none() | _names, backends=st.builds(Backends)),
    traffic=st.builds(Traffic, users=_counts, replays=_floats, is_keyed=st.booleans(), seed=_counts),
    loop=st.builds(Closed, in_flight=_counts) | st.builds(Open, rate=_floats),
    length=st.builds(Length, seconds=_floats, transfers=st.none() | _counts),
    faults=_tuples(st.builds(Fault, at_s=_floats, what=st.sampled_from(["kill-server", "pause-ledger"]))),
    name=_names,
)
_results = st.builds(
    Result,
    plan=_plans,
    name=_names,
    offered=_floats,
    achieved=_floats,
    seconds=_floats,
    outcomes=st.dictionaries(_names, _counts, max_size=3),
    latencies=_percentiles,
    histogram=_names,
    late=_counts,
    dropped=_counts,
    series=_tuples(st.builds(Second, _floats, _counts, _counts, _floats, _floats, _floats)),
    flushes=st.just(()),
    writes_a_transfer=st.none() | _floats,
    cpu=st.builds(Cpu, _floats, st.dictionaries(_names, _floats, max_size=2), _floats, _floats, _floats),
    rss_mib=_floats,
    loop_lag_ms=st.none() | _percentiles,
    books=st.builds(Books, _names, _tuples(_names)),
)
_machines = st.builds(
    Machine,
    at=_names,
    cores=_counts,
    cpu=_names,
    memory_mib=_counts,
    load_before=st.tuples(_floats, _floats, _floats),
    system=_names,
    python=_names,
    commit=st.none() | _names,
    versions=st.dictionaries(_names, _names, max_size=2),
)
_reports = st.builds(
    Report,
    command=_names,
    machine=_machines,
    results=_tuples(_results),
    floors=_tuples(st.builds(Floor, _names, _floats, _names, _floats, _floats)),
    sweeps=st.just(()),
    baselines=_tuples(_results),
    recoveries=st.just(()),
    growths=st.just(()),
    notes=_tuples(_names),
    format=st.just(1),
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(written=_reports)
def test_what_is_written_is_read_again(tmp_path: Path, written: Report) -> None:
    write_json(written, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == written


def test_a_report_with_one_of_everything(tmp_path: Path) -> None:
    write_json(whole_report(), tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == whole_report()


def test_a_file_is_indented_and_ends_with_a_line(tmp_path: Path) -> None:
    write_json(report(), tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text()
    assert '\n  "machine": {\n    "at": "2026-11-21T21:00:00Z",\n' in text
    assert text.endswith("}\n")


def test_a_dash_is_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(report(), Path("-"))
    (tmp_path / "caught.json").write_text(capsys.readouterr().out)
    assert read_report(Path("caught.json")) == report()
    assert not Path("-").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "is no report of this suite"),
        (b"\xff\xfe", "is no report of this suite"),
        (b'{"hello": 1}', "is no report of this suite: Object missing required field `format`"),
        (b"[1, 2]", "is no report of this suite"),
        (b'{"format": 99, "what": "is in there"}', "is a report of format 99; this version reads format 1"),
        (b'{"format": 1, "command": "x"}', "is a damaged report: Object missing required field `machine`"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReportUnreadable, match=says) as refusal:
        read_report(path)
    assert str(path) in str(refusal.value)
