"""`transfer-engine bench recovery`: a restart with many unfinished transfers."""

import click
import msgspec

from transfer_engine.benchmarks.options import source_options
from transfer_engine.benchmarks.output import Output, output_options
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.recovery import measure_recovery
from transfer_engine.benchmarks.reporting import report_on
from transfer_engine.benchmarks.result import Report
from transfer_engine.benchmarks.sources import Sources


@click.command()
@click.option("--transfers", type=click.IntRange(1), default=100_000, show_default=True, help="Unfinished ones.")
@click.option("--users", type=click.IntRange(1), default=1_000, show_default=True, help="Whose they are, at least.")
@click.option(
    "--moved",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of them that the ledger had carried out, so that only their rows are missing.",
)
@source_options
@output_options
def recovery(transfers: int, users: int, moved: float, sources: Sources, output: Output) -> None:
    """Kill an engine that has many transfers unfinished, restart it as a server, and watch.

    How soon is anything answered, how soon is somebody else's transfer committed, how soon is all settled?
    """

    async def work(progress: Progress, report: Report) -> Report:
        found = await measure_recovery(sources, transfers=transfers, users=users, moved=moved, progress=progress)
        return msgspec.structs.replace(report, recoveries=(found,))

    report_on(work, output)
