"""A report on the terminal: a block for each run, then tables, in at most 110 columns."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from transfer_engine.benchmarks.descriptions import (
    GROWTH_COLUMNS,
    LEGEND,
    books_line,
    busy_line,
    cpu_line,
    fault_line,
    floor_line,
    flushes_line,
    growth_row,
    idle_facts,
    latencies_line,
    load_line,
    machine_lines,
    memory_line,
    outcomes_line,
    recovery_facts,
    schedule_line,
    stages,
    sweep_note,
    sweep_value,
    trouble,
)
from transfer_engine.benchmarks.figures import floor_ratio, microseconds, milliseconds, ratio, whole
from transfer_engine.benchmarks.result import Books, Floor, Growth, Report, Result, Sweep

WIDTH_LEAST: Final = 80
WIDTH_MOST: Final = 110
BAR_MOST: Final = 40
RATIOS_MOST: Final = 6
"""Columns of ratios in one table; more runs than that make another table."""
BAD: Final = "bold red"
"""How what no reader may miss is written."""


def print_report(report: Report, console: Console) -> None:
    """Print a report.

    Args:
        report: What was measured.
        console: Where to; its width counts between 80 and 110 columns, and 110 where it is no terminal.
    """
    fitted(console)
    for part in _parts(report):
        console.print(part, highlight=False, markup=False)


def fitted(console: Console) -> Console:
    """Make a console as wide as tables are: between 80 and 110 columns, and 110 where it is no terminal."""
    console.width = min(max(console.width, WIDTH_LEAST), WIDTH_MOST) if console.is_terminal else WIDTH_MOST
    return console


_Part = Text | Table | Padding


def _parts(report: Report) -> Iterator[_Part]:
    yield Text(report.command, style="bold")
    for line in machine_lines(report.machine):
        yield Text(line, style="dim")
    busy = busy_line(report.machine)
    if busy is not None:
        yield Text(busy, style="yellow")
    yield from _run_parts(report.results)
    for sweep in report.sweeps:
        yield from _section(f"Sweep over {sweep.over}", _sweep_table(sweep))
        note = sweep_note(sweep)
        if note is not None:
            yield _indented(Text(note))
    yield from _life_parts(report)
    for some in _pages(report.results):
        if report.floors:
            yield from _section("Floors", _floors_table(report.floors, some))
        if report.baselines:
            yield from _section("Others, under the same load", _baselines_table(report.baselines, some))
    if report.notes:
        yield Text("")
    for note in report.notes:
        yield Text(f"note: {note}")
    if report.results or report.sweeps:
        yield Text("")
        yield Text(LEGEND, style="dim")


def _run_parts(results: Sequence[Result]) -> Iterator[_Part]:
    for number, result in enumerate(results, 1):
        title = f"{number}  {result.name}" if len(results) > 1 else result.name
        yield from _section(title, _block(_block_lines(result)))
    if len(results) > 1:
        yield from _section("Runs", _runs_table(results))


def _life_parts(report: Report) -> Iterator[_Part]:
    for recovery in report.recoveries:
        facts: list[tuple[str, str | Text]] = [*recovery_facts(recovery), ("books", _books(recovery.books))]
        yield from _section(f"Recovery, {recovery.name}", _block(facts))
    for idle in report.idle_websockets:
        costs: list[tuple[str, str | Text]] = [*idle_facts(idle), ("books", _books(idle.books))]
        yield from _section(idle.name, _block(costs))
    for growth in report.growths:
        yield from _section(f"Growth, {growth.name}", _growth_table(growth))
        yield _indented(Text("books ").append_text(_books(growth.books)))


def _indented(part: Text | Table) -> Padding:
    return Padding(part, (0, 0, 0, 2), expand=False)


def _section(title: str, table: Table) -> Iterator[_Part]:
    yield Text("")
    yield Text(title, style="bold cyan")
    yield _indented(table)


def _block(lines: Iterable[tuple[str, str | Text]]) -> Table:
    block = Table.grid(padding=(0, 2))
    block.add_column(style="dim", no_wrap=True)
    block.add_column(overflow="fold")
    for label, text in lines:
        block.add_row(Text(label), text if isinstance(text, Text) else Text(text))
    return block


def _block_lines(result: Result) -> Iterator[tuple[str, str | Text]]:
    yield "load", load_line(result.plan)
    rate = Text(f"{whole(result.achieved)} transfers/s", style="bold")
    rate.append(f" of {whole(result.offered)} offered, over {result.seconds:.1f} s", style="not bold")
    yield "achieved", rate
    yield "outcomes", outcomes_line(result.outcomes)
    yield "latency ms", latencies_line(result.latencies)
    schedule = schedule_line(result)
    if schedule is not None:
        yield "schedule", schedule
    for marked in result.faults:
        yield "fault", Text(fault_line(marked), style=BAD if marked.back_s is None else "")
    yield "µs CPU each", cpu_line(result)
    yield from _stage_lines(result)
    for index, flushes in enumerate(result.flushes):
        yield "" if index else "flushes", flushes_line(flushes)
    if result.writes_a_transfer is not None:
        yield "writes", f"{result.writes_a_transfer:.2f} a transfer"
    yield "memory", memory_line(result)
    yield "books", _books(result.books)


def _books(books: Books) -> Text:
    return Text(books_line(books), style="green" if books.hold else BAD)


def _stage_lines(result: Result) -> Iterator[tuple[str, str]]:
    shown = stages(result)
    if not shown:
        return
    longest = max(len(name) for name, _ in shown)
    most = max(used for _, used in shown) or 1
    for index, (name, used) in enumerate(shown):
        bar = "█" * round(BAR_MOST * used / most)
        yield "" if index else "by stage", f"{name:<{longest}}  {used:5.1f} {bar}"


def _table(*columns: str) -> Table:
    """Return a table whose first column is text and whose others are figures."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim", pad_edge=False)
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


_FIGURES: Final = ("offered/s", "achieved/s", "P50 ms", "P90", "P99", "P99.9", "max", "CPU µs")


def _figures(result: Result) -> list[str]:
    latencies = result.latencies
    return [
        whole(result.offered),
        whole(result.achieved),
        *(
            milliseconds(value)
            for value in (latencies.p50_ms, latencies.p90_ms, latencies.p99_ms, latencies.p999_ms, latencies.max_ms)
        ),
        microseconds(result.cpu.total_us),
    ]


def _brief(figures: Sequence[str]) -> list[str]:
    """Leave out what each run's own block says, and names need the room of: what was offered, and P90."""
    return [figure for index, figure in enumerate(figures) if index not in {0, 3}]


def _state(result: Result) -> Text:
    return Text(trouble(result), style="" if result.books.hold else BAD)


def _runs_table(results: Sequence[Result]) -> Table:
    table = _table("run", *_brief(_FIGURES))
    table.add_column("", overflow="fold")
    for number, result in enumerate(results, 1):
        table.add_row(Text(f"{number}  {result.name}"), *_brief(_figures(result)), _state(result))
    return table


def _sweep_table(sweep: Sweep) -> Table:
    table = _table(sweep.over, *_FIGURES)
    table.add_column("", overflow="fold")
    for value, result in zip(sweep.values, sweep.results, strict=True):
        is_knee = value == sweep.knee
        state = _state(result)
        if is_knee:
            state = Text("◀ knee  ", style="bold").append_text(state)
        table.add_row(Text(sweep_value(sweep, value)), *_figures(result), state, style="bold" if is_knee else None)
    return table


def _floors_table(floors: Sequence[Floor], numbered: Sequence[tuple[int, Result]]) -> Table:
    table = _table("floor", "does", "µs each", *_run_columns(numbered))
    for floor in floors:
        table.add_row(
            Text(floor.name),
            Text(floor_line(floor)),
            microseconds(floor.cpu_us),
            *(ratio(floor_ratio(result, floor)) for _, result in numbered),
        )
    return table


def _growth_table(growth: Growth) -> Table:
    table = _table(*GROWTH_COLUMNS)
    for step in growth.steps:
        table.add_row(*growth_row(step))
    return table


def _baselines_table(baselines: Sequence[Result], numbered: Sequence[tuple[int, Result]]) -> Table:
    table = _table("what", *_FIGURES[1:], *_run_columns(numbered))
    for other in baselines:
        table.add_row(
            Text(other.name) if other.books.hold else Text(f"{other.name}: BOOKS BROKEN", style=BAD),
            *_figures(other)[1:],
            *(f"{ratio(result.achieved / other.achieved if other.achieved > 0 else None)} x" for _, result in numbered),
        )
    return table


def _pages(results: Sequence[Result]) -> list[list[tuple[int, Result]]]:
    numbered = list(enumerate(results, 1))
    return [numbered[begin : begin + RATIOS_MOST] for begin in range(0, max(1, len(numbered)), RATIOS_MOST)]


def _run_columns(numbered: Sequence[tuple[int, Result]]) -> list[str]:
    return [f"run {number}" if len(numbered) > 1 else "this run" for number, _ in numbered]
