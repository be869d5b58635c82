"""What `transfer-engine bench` does by itself: a look at the engine and its doors, on this machine, in under a minute.

Everything is embedded: no server is needed. Every load has books of its own kind, which are looked at; the floors come
last, so that nothing of theirs is under way while a load is measured.
"""

from typing import Final

import click
import msgspec

from transfer_engine.benchmarks.engine_command import floors_of
from transfer_engine.benchmarks.floors import Sizes, floors_for
from transfer_engine.benchmarks.output import Output, output_options
from transfer_engine.benchmarks.plan import Closed, Length, Open, Plan, Target, Traffic
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.reporting import report_on
from transfer_engine.benchmarks.result import Books, Floor, Report, Result
from transfer_engine.benchmarks.running import Bench, open_bench, run
from transfer_engine.benchmarks.sources import Sources
from transfer_engine.benchmarks.stage_profile import NoProfile
from transfer_engine.benchmarks.wrk import why_not_wrk

_WARM_UP_SHARE: Final = 0.25
_FLOOR_SHARE: Final = 0.3
"""Of a load's seconds; and of what a floor usually does, at the default length."""
_USUAL_S: Final = 3.0
_WEBSOCKET_IN_FLIGHT: Final = 1_024


@click.command()
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=_USUAL_S, show_default=True, help="Of each load.")
@click.option("--users", type=click.IntRange(1, 100_000), default=1_000, show_default=True)
@output_options
def overview(seconds: float, users: int, output: Output) -> None:
    """Look at everything in under a minute, on the embedded backends; what `bench` does by itself."""

    async def work(progress: Progress, report: Report) -> Report:
        return await look_around(seconds, Traffic(users=users), progress, report)

    report_on(work, output)


async def look_around(seconds: float, traffic: Traffic, progress: Progress, report: Report) -> Report:
    """Measure the engine in process, both kinds of doors, and their floors; return the report with all of it."""
    sources = Sources()
    length = Length(seconds=seconds, warm_up_s=seconds * _WARM_UP_SHARE)
    async with open_bench(Target(), traffic, sources, progress) as bench:
        in_process, notes = await _in_process(bench, traffic, length)
        books = await bench.books()
    results = [_with_books(result, books, progress) for result in in_process]
    single = Plan(target=Target(kind="http", door="express"), traffic=traffic, loop=Closed(in_flight=32), length=length)
    if why_not_wrk(single) is None:
        single = msgspec.structs.replace(single, target=msgspec.structs.replace(single.target, generator="wrk"))
    pipelined = Plan(
        target=Target(kind="websocket", door="express", connections=16),
        traffic=traffic,
        loop=Closed(in_flight=_WEBSOCKET_IN_FLIGHT),
        length=length,
    )
    results += [await run(single, sources, progress), await run(pipelined, sources, progress)]
    sizes = _sizes(seconds / _USUAL_S * _FLOOR_SHARE)
    floors: tuple[Floor, ...] = await floors_of(results[0], sources, progress, sizes)
    for plan in (single, pipelined):
        progress.step(f"floor of the {plan.target.kind} door")
        floors += await floors_for(plan.target, in_flight=_in_flight(plan), sizes=sizes)
    return msgspec.structs.replace(report, results=tuple(results), floors=floors, notes=(*report.notes, *notes))


async def _in_process(bench: Bench, traffic: Traffic, length: Length) -> tuple[list[Result], tuple[str, ...]]:
    """Run the loads of the engine in process: many users, one hot user, and an open loop at half the rate."""
    many = Plan(traffic=traffic, length=length)
    notes: tuple[str, ...] = ()
    try:
        measured = await bench.measure(many, is_profiled=True)
    except NoProfile as reason:
        measured, notes = await bench.measure(many), (str(reason),)
    one = msgspec.structs.replace(traffic, pick="hot")
    hot = await bench.measure(Plan(traffic=one, loop=Closed(in_flight=1_000), length=length))
    half = Open(rate=max(measured.achieved / 2, 1.0))
    opened = await bench.measure(Plan(traffic=traffic, loop=half, length=length))
    return [measured, hot, opened], notes


def _with_books(result: Result, books: Books, progress: Progress) -> Result:
    result = msgspec.structs.replace(result, books=books)
    progress.result(result)
    return result


def _in_flight(plan: Plan) -> int:
    return plan.loop.in_flight if isinstance(plan.loop, Closed) else plan.loop.in_flight_most


def _sizes(share: float) -> Sizes:
    """Return how much the floors do, as a share of what they usually do."""
    usual = Sizes()
    return Sizes(
        ledger_transfers=max(round(usual.ledger_transfers * share), 1),
        records_transfers=max(round(usual.records_transfers * share), 1),
        sqlite_events=max(round(usual.sqlite_events * share), 1),
        hops=max(round(usual.hops * share), 1),
        door_seconds=max(usual.door_seconds * share, 0.1),
    )
