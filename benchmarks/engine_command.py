"""`transfer-engine bench engine`: the engine in process, on any backends."""

import click
import msgspec

from transfer_engine.benchmarks.options import load_options, source_options
from transfer_engine.benchmarks.output import Output, output_options
from transfer_engine.benchmarks.plan import Closed, Length, Open, Plan, Target, Traffic
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.reporting import report_on
from transfer_engine.benchmarks.result import Report
from transfer_engine.benchmarks.running import run
from transfer_engine.benchmarks.sources import Sources


@click.command()
@click.option("--batch", type=click.IntRange(1, 2_000), default=1, show_default=True, help="Transfers in one call.")
@load_options
@source_options
@output_options
def engine(batch: int, traffic: Traffic, loop: Closed | Open, length: Length, sources: Sources, output: Output) -> None:
    """Load the engine in process, as a program that embeds it does."""
    target = Target(kind="engine", batch=batch, backends=sources.backends)
    plan = Plan(target=target, traffic=traffic, loop=loop, length=length)

    async def work(progress: Progress, report: Report) -> Report:
        return msgspec.structs.replace(report, results=(await run(plan, sources, progress),))

    report_on(work, output)
