"""What is told while a command runs."""

import io

import pytest
from rich.console import Console

from support.benchmark_reports import broken, result
from transfer_engine.benchmarks.progress import Progress, live_progress
from transfer_engine.benchmarks.result import Second


def _tell(progress: Progress) -> None:
    progress.step("starting TigerBeetle")
    progress.load(result().plan)
    progress.second(Second(at_s=-1.0, answered=10, committed=10, p50_ms=1.0, p99_ms=2.0, max_ms=3.0))
    progress.second(Second(at_s=0.0, answered=12_000, committed=11_000, p50_ms=1.0, p99_ms=20.0, max_ms=300.0))
    progress.step("[looking] at the books")
    progress.result(result("many"))
    progress.result(broken(result("bad")))


def test_plain_lines_where_there_is_no_terminal() -> None:
    file = io.StringIO()
    with live_progress(Console(file=file)) as progress:
        _tell(progress)
    assert file.getvalue().splitlines() == [
        "starting TigerBeetle …",
        "engine, embedded + sqlite, 1,000 users: load …",
        "       warm-up  10/s  P50 1.00  P99 2.00  max 3.00 ms",
        "      1 of 5 s  11,000/s  P50 1.00  P99 20.0  max 300 ms",
        "[looking] at the books …",
        "many: 15,000/s  P50 12.0  P99 24.0 ms  books hold",
        "bad: 15,000/s  P50 12.0  P99 24.0 ms  BOOKS ARE BROKEN",
    ]


def test_a_terminal_has_one_line_that_goes_in_the_end() -> None:
    file = io.StringIO()
    with live_progress(Console(file=file, force_terminal=True, width=60, color_system=None)) as progress:
        _tell(progress)
    written = file.getvalue()
    assert "1 of 5 s" in written
    assert "\x1b[2K" in written
    assert written.rstrip().endswith("\x1b[2K")
    assert "many: 15,000/s" in written


def test_it_is_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with live_progress() as progress:
        progress.step("starting")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "starting …\n"
