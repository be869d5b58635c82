"""The tables on the terminal."""

import io

import msgspec
import pytest
from rich.console import Console

from support.benchmark_reports import FLOORS, broken, faulty, report, result, sweep, whole_report
from transfer_engine.benchmarks.report_text import print_report
from transfer_engine.benchmarks.result import Report


def _lines(of: Report) -> list[str]:
    file = io.StringIO()
    print_report(of, Console(file=file, highlight=False))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_one_run() -> None:
    assert _lines(report()) == [
        "transfer-engine bench engine --seconds 5",
        "2026-11-21T21:00:00Z; 2 cores, Some CPU @ 2.50GHz; 7,950 MiB; Linux 6.1.0; load average before 0.42 0.31 0.20",
        "Python 3.11.2; commit 0123abc; transfer-engine 0.1.0, trio 0.35.0, tigerbeetle 0.17.9",
        "",
        "engine, embedded + sqlite, 1,000 users",
        "  load         closed loop, 2,000 in flight, 5 s after 1 s of warm-up, 1,000 users alike, keyed, seed 1",
        "  achieved     15,000 transfers/s of 15,000 offered, over 5.0 s",
        "  outcomes     75,000 committed",
        "  latency ms   P50 12.0   P90 18.0   P99 24.0   P99.9 36.0   max 48.0   mean 13.2",
        "  µs CPU each  63 of the engine's process (trio loop 51, Trio thread 12); 11 of the servers; 80 of the whole",
        "               machine",
        f"  by stage     engine core          16.8 {'█' * 40}",
        f"               trio, outcome        10.9 {'█' * 26}",
        f"               ledger, its events    7.2 {'█' * 17}",
        "  flushes      ledger 120 of 1,250 entries (625 transfers)",
        "               records 130 of 577 entries (577 transfers)",
        "  writes       1.02 a transfer",
        "  memory       156 MiB resident; loop lag in ms: P50 0.20, P99 0.40, max 0.80",
        "  books        hold: every account, every record",
        "",
        "Floors",
        "  floor                                                  does  µs each  this run",
        "  ledger client, full batches  120,000 events/s, 2 a transfer      5.1      0.25",
        "  record store, groups of 500                   60,000 rows/s       14      0.25",
        "",
        "achieved: transfers a second that were committed (or replayed); latencies in ms, of an open loop from the",
        "moment a transfer was due; µs: CPU of the engine's process for each transfer; floors: what the same machine",
        "does without an engine.",
    ]


def test_an_open_loop_with_faults_and_every_outcome() -> None:
    text = "\n".join(_lines(report(faulty(), floors=())))
    for part in (
        "open loop, 6,000/s (by chance)",
        "Zipf 1.1, 2% replays, 1%",
        "24,000 committed, 500 replayed, 250 refused: insufficient_funds, 200 pending, 40 fault:",
        "20 sent more than 1 ms late (< 0.1%); 3,000 dropped, because too many were under way",
        "ledger killed at 2 s for 1 s: back after 1.3 s",
        "records paused at 3.5 s for 0.5 s: not back before the end",
    ):
        assert part in text


def test_runs_are_numbered_and_told_apart_in_every_table() -> None:
    lines = _lines(report(result("many"), result("hot", achieved=16_000)))
    assert "1  many" in lines
    assert "2  hot" in lines
    assert [line for line in lines if "run 1  run 2" in line]
    assert next(line.split() for line in lines if line.startswith("  ledger client"))[-2:] == ["0.25", "0.27"]
    assert next(line for line in lines if line.startswith("  2  hot")).split()[2:4] == ["16,000", "12.0"]


def test_a_sweep_has_a_row_for_each_value_and_marks_the_knee() -> None:
    lines = _lines(msgspec.structs.replace(report(), results=(), floors=(), sweeps=(sweep(),)))
    rows = [line for line in lines if line.strip()[:1].isdigit() and "/s " in line]
    assert [row.split()[0] for row in rows] == ["1,000/s", "2,000/s", "4,000/s", "8,000/s", "16,000/s"]
    assert ["knee" in row for row in rows] == [False, False, True, False, False]


def test_a_sweep_without_a_knee_says_so() -> None:
    flat = msgspec.structs.replace(sweep(), knee=None)
    text = " ".join(_lines(msgspec.structs.replace(report(), results=(), sweeps=(flat,))))
    assert "No knee" in text


def test_a_door_s_floor_is_no_measure_of_the_engine_alone() -> None:
    door = msgspec.structs.replace(FLOORS[0], name="empty POST", kind="http", door="express")
    lines = _lines(report(result("in process"), faulty(), floors=[FLOORS[0], door]))
    (line,) = (line for line in lines if line.startswith("  empty POST"))
    assert line.split()[-2:] == ["-", "0.08"]


def test_small_stages_are_summed_up() -> None:
    stages = {"core": 90.0, "trio": 8.0, "crumb": 1.5, "speck": 0.5}
    run = msgspec.structs.replace(result(), cpu=msgspec.structs.replace(result().cpu, stages_us=stages))
    lines = _lines(report(run))
    (begin,) = (number for number, line in enumerate(lines) if line.startswith("  by stage"))
    assert [line.split("█")[0][15:].split()[-1] for line in lines[begin : begin + 3]] == ["90.0", "8.0", "2.0"]
    assert lines[begin + 2].strip().startswith("all others")


def test_others_are_told_with_how_much_more_we_do() -> None:
    (line,) = (line for line in _lines(whole_report()) if line.startswith("  FastAPI + TigerBeetle"))
    assert line.split()[-6:] == ["3.33", "x", "3.56", "x", "1.09", "x"]


def test_broken_books_are_told_in_block_and_table() -> None:
    text = "\n".join(_lines(report(broken(result("bad")), result("good"))))
    assert "BROKEN: every account: asset 1 sums to 7, not to 0" in text
    assert "BOOKS BROKEN" in text


def test_names_are_no_markup() -> None:
    lines = _lines(report(result("[bold]x[/bold] [link=http://x]y[/link]")))
    assert "[bold]x[/bold] [link=http://x]y[/link]" in lines


@pytest.mark.parametrize("terminal_width", [40, 80, 100, 300])
def test_no_line_is_wider_than_a_terminal_or_than_110_columns(terminal_width: int) -> None:
    file = io.StringIO()
    print_report(
        whole_report(),
        Console(file=file, width=terminal_width, force_terminal=True, color_system=None, highlight=False),
    )
    widest = max(len(line) for line in file.getvalue().splitlines())
    assert widest <= min(max(terminal_width, 80), 110)
