"""`transfer-engine bench growth`: what a transfer costs while the books grow."""

import click
import msgspec

from transfer_engine.benchmarks.growth import Sizes, measure_growth
from transfer_engine.benchmarks.options import source_options
from transfer_engine.benchmarks.output import Output, output_options
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.reporting import report_on
from transfer_engine.benchmarks.result import Report
from transfer_engine.benchmarks.sources import Sources


@click.command()
@click.option("--transfers-most", type=click.IntRange(1), default=300_000, show_default=True, help="How far they grow.")
@click.option("--users-most", type=click.IntRange(1), default=100_000, show_default=True, help="In the end.")
@click.option("--window", type=click.IntRange(1), default=20_000, show_default=True, help="Transfers in each load.")
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Loads of a step, on either books."
)
@source_options
@output_options
def growth(transfers_most: int, users_most: int, window: int, rounds: int, sources: Sources, output: Output) -> None:
    """Measure a transfer's CPU and this process's memory while transfers and users grow.

    Each step runs the same load on the growing books and, in turn, on small ones of its own: their ratio is what growth
    costs, whatever else the machine does.
    """
    given = sources.settings
    named = {
        "data_dir": "data_dir" in given.model_fields_set,
        "--tigerbeetle-address": "addresses" in given.tigerbeetle.model_fields_set,
        "--keyspace": "keyspace" in given.cassandra.model_fields_set,
    }
    if any(named.values()):
        names = ", ".join(name for name, is_named in named.items() if is_named)
        raise click.UsageError(f"growth needs books of its own, large and small ones: leave out {names}")
    sizes = Sizes(transfers_most=transfers_most, users_most=users_most, window=window, rounds=rounds)

    async def work(progress: Progress, report: Report) -> Report:
        return msgspec.structs.replace(report, growths=(await measure_growth(sources, sizes, progress),))

    report_on(work, output)
