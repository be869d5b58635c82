"""`transfer-engine bench engine`: the engine in process, on any backends, against its floors."""

import click
import msgspec

from transfer_engine.benchmarks.faults import check_faults, fault_option
from transfer_engine.benchmarks.floors import GROUP, Sizes, engine_floors
from transfer_engine.benchmarks.options import load_options, source_options
from transfer_engine.benchmarks.output import Output, output_options
from transfer_engine.benchmarks.plan import Closed, Fault, Length, Open, Plan, Target, Traffic
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.reporting import report_on
from transfer_engine.benchmarks.result import Floor, Report, Result
from transfer_engine.benchmarks.running import open_bench
from transfer_engine.benchmarks.sources import Sources, open_ground


@click.command()
@click.option("--batch", type=click.IntRange(1, 2_000), default=1, show_default=True, help="Transfers in one call.")
@fault_option
@load_options
@source_options
@click.option("--floors/--no-floors", "has_floors", default=True, help="Also measure the backends without an engine.")
@click.option("--profile", "has_profile", is_flag=True, help="Also sample where the CPU goes, with py-spy.")
@output_options
def engine(
    batch: int,
    faults: tuple[Fault, ...],
    traffic: Traffic,
    loop: Closed | Open,
    length: Length,
    sources: Sources,
    has_floors: bool,
    has_profile: bool,
    output: Output,
) -> None:
    """Load the engine in process, as a program that embeds it does."""
    target = Target(kind="engine", batch=batch, backends=sources.backends)
    check_faults(faults, sources.backends, has_server=False)
    plan = Plan(target=target, traffic=traffic, loop=loop, length=length, faults=faults)

    async def work(progress: Progress, report: Report) -> Report:
        async with open_bench(target, traffic, sources, progress) as bench:
            result = await bench.measure(plan, is_profiled=has_profile)
            result = msgspec.structs.replace(result, books=await bench.books())
        progress.result(result)
        floors = await floors_of(result, sources, progress) if has_floors else ()
        return msgspec.structs.replace(report, results=(result,), floors=floors)

    report_on(work, output)


async def floors_of(
    result: Result, sources: Sources, progress: Progress, sizes: Sizes | None = None
) -> tuple[Floor, ...]:
    """Measure what is below an engine on such backends, in groups of the size that the run's flushes had."""
    progress.step(f"floors of an engine on {sources.backends.name}")
    loop = result.plan.loop
    flush = next((flushes.transfers for flushes in result.flushes if flushes.name == "recorder"), float(GROUP))
    with open_ground(sources, Traffic()) as ground:
        return await engine_floors(
            ground.settings,
            in_flight=loop.in_flight if isinstance(loop, Closed) else round(flush),
            flush_transfers=flush,
            sizes=sizes,
        )
