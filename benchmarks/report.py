"""What a run measured, for people to read: every figure beside its floor."""

import os
from collections.abc import Iterator

from transfer_engine.actors import GroupCommitStatistics
from transfer_engine.benchmarks.in_process import BooksCheck, Run
from transfer_engine.benchmarks.loops import Loop
from transfer_engine.benchmarks.result import Floor
from transfer_engine.engine import EngineStatistics


def machine_line() -> str:
    """Return how busy this machine is before anything is measured."""
    load = " ".join(f"{average:.2f}" for average in os.getloadavg())
    return f"machine: {os.cpu_count()} CPUs, load average {load}"


def run_lines(run: Run) -> Iterator[str]:
    """Yield what is told after the loops: the floors, and whether the books hold."""
    if run.hot is not None:
        yield f"{run.hot.name} / {run.many.name}: {run.hot.rate / run.many.rate:.2f} of the rate"
    yield from _floor_lines(run.floors, run.many)
    yield _books_line(run.books)


def loop_lines(loop: Loop) -> Iterator[str]:
    """Yield what a loop measured."""
    asked = f" of {loop.asked_rate:,.0f} asked" if loop.asked_rate else ""
    yield (
        f"{loop.name}: {loop.rate:,.0f} transfers/s{asked}  {loop.cpu_us:.0f} µs CPU each  "
        f"{loop.latencies}  {loop.rss_mib:.0f} MiB"
    )
    if loop.asked_rate:
        yield f"    late starts: {loop.late_starts:,} of {loop.transfers:,}, the latest {loop.latest_start_ms:.0f} ms"
    others = {name: count for name, count in loop.outcomes.items() if name != "committed"}
    yield f"    {loop.committed:,} committed" + (f"; NOT COMMITTED: {others}" if others else "")
    usage = loop.usage
    threads = ", ".join(
        f"{name} {cpu_s / loop.transfers * 1e6:.1f}"
        for name, cpu_s in usage.threads_s.items()
        if cpu_s / loop.transfers * 1e6 >= 0.1
    )
    servers = f"; servers {usage.servers_s / loop.transfers * 1e6:.0f}" if usage.servers_s else ""
    busy = f"; the machine {usage.machine_s / loop.transfers * 1e6:.0f}" if usage.machine_s else ""
    yield f"    µs CPU a transfer: {threads}{servers}{busy}"
    yield f"    flushes: {'; '.join(_flushes(loop))}"


def _flushes(loop: Loop) -> Iterator[str]:
    for before, after in zip(_commits(loop.before), _commits(loop.after), strict=True):
        flushes = after.flushes - before.flushes
        if flushes:
            entries = (after.entries_flushed - before.entries_flushed) / flushes
            yield f"{after.name} {flushes:,} of {entries:,.0f} entries ({loop.transfers / flushes:,.0f} transfers)"


def _commits(statistics: EngineStatistics) -> list[GroupCommitStatistics]:
    parts = (getattr(statistics, field) for field in statistics.__struct_fields__)
    return [part for part in parts if isinstance(part, GroupCommitStatistics)]


def _floor_lines(floors: tuple[Floor, ...], many: Loop) -> Iterator[str]:
    for floor in floors:
        share = many.rate * floor.things_a_transfer / floor.rate
        yield (
            f"floor, {floor.name}: {floor.rate:,.0f} {floor.unit}/s  {floor.cpu_us:.1f} µs CPU each; "
            f"the engine: {share:.2f} of that"
        )


def _books_line(books: BooksCheck) -> str:
    if not books.wrong:
        return f"books hold: {books.how}"
    return "\n  ".join([f"BOOKS ARE BROKEN: {books.how}", *books.wrong])
