"""`transfer-engine bench`: the group of the suite's commands. Each is made in a module of its own, and added here."""

import sys

import click

from transfer_engine.benchmarks.baselines_command import baselines
from transfer_engine.benchmarks.compare_command import compare_reports
from transfer_engine.benchmarks.door_commands import http, websocket
from transfer_engine.benchmarks.engine_command import engine
from transfer_engine.benchmarks.floors_command import floors
from transfer_engine.benchmarks.growth_command import growth
from transfer_engine.benchmarks.idle_websockets import idle_websockets
from transfer_engine.benchmarks.overload_command import overload
from transfer_engine.benchmarks.overview import overview
from transfer_engine.benchmarks.recovery_command import recovery
from transfer_engine.benchmarks.sweep_command import sweep


@click.group(
    invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.pass_context
def bench(context: click.Context) -> None:
    """Measure the engine and its doors.

    Without a command: a short look at all of it, on the embedded backends.
    """
    if context.invoked_subcommand is None:
        context.invoke(overview)


for _command in (
    overview,
    engine,
    http,
    websocket,
    idle_websockets,
    floors,
    baselines,
    sweep,
    overload,
    recovery,
    growth,
    compare_reports,
):
    bench.add_command(_command)


def main() -> None:
    """Run the command that the process was started with, and exit."""
    sys.exit(bench.main(prog_name="transfer-engine bench"))
