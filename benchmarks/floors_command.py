"""`transfer-engine bench floors`: what this machine does without an engine, all floors at once."""

from typing import Final

import click
import msgspec

from transfer_engine.benchmarks.floors import Sizes, engine_floors, floors_for
from transfer_engine.benchmarks.options import source_options
from transfer_engine.benchmarks.output import Output, output_options
from transfer_engine.benchmarks.plan import Target, Traffic
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.reporting import report_on
from transfer_engine.benchmarks.result import Report
from transfer_engine.benchmarks.sources import Sources, open_ground

_DOORS: Final = (
    Target(kind="http", door="express"),
    Target(kind="http", door="main"),
    Target(kind="websocket", door="express"),
)


@click.command()
@click.option("--connections", default=32, show_default=True, type=click.IntRange(min=1), help="Of the doors' floors.")
@click.option("--in-flight", default=2_000, show_default=True, type=click.IntRange(min=1), help="Of the others.")
@click.option(
    "--share",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.001, 100),
    help="How much each does, of what takes a second or two on a small machine.",
)
@source_options
@output_options
def floors(connections: int, in_flight: int, share: float, sources: Sources, output: Output) -> None:
    """Measure ledger, records, an actor's hop and empty doors without an engine."""
    usual = Sizes()
    sizes = Sizes(
        ledger_transfers=max(round(usual.ledger_transfers * share), 1),
        records_transfers=max(round(usual.records_transfers * share), 1),
        sqlite_events=max(round(usual.sqlite_events * share), 1),
        hops=max(round(usual.hops * share), 1),
        door_seconds=max(usual.door_seconds * share, 0.1),
    )

    async def work(progress: Progress, report: Report) -> Report:
        with open_ground(sources, Traffic()) as ground:
            progress.step(f"floors of an engine on {sources.backends.name}")
            measured = await engine_floors(ground.settings, in_flight=in_flight, sizes=sizes)
        for door in _DOORS:
            progress.step(f"floor of {door.kind} on the {door.door} door")
            target = msgspec.structs.replace(door, connections=connections)
            measured += await floors_for(target, in_flight=in_flight, sizes=sizes)
        return msgspec.structs.replace(report, floors=measured)

    report_on(work, output)
