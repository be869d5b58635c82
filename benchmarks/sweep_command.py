"""`transfer-engine bench sweep`: the same run over and over, with one thing that differs."""

from typing import Final, Literal, get_args

import click
import msgspec

from transfer_engine.benchmarks.door_commands import AskedDoor, door_options
from transfer_engine.benchmarks.options import load_options, source_options
from transfer_engine.benchmarks.output import Output, output_options
from transfer_engine.benchmarks.plan import Closed, Kind, Length, Open, Plan, Traffic
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.reporting import report_on
from transfer_engine.benchmarks.result import Report
from transfer_engine.benchmarks.sweep import measure_sweep, parse_values

SweptOver = Literal["rate", "users", "batch", "in-flight", "hot-share"]
_VALUES: Final = {
    "rate": "1000:10000:10",
    "users": "10:100000:5",
    "batch": "1,10,100",
    "in-flight": "1:4096:7",
    "hot-share": "0:1:5",
}


@click.command()
@click.option("--over", type=click.Choice(get_args(SweptOver)), required=True, help="What differs between the runs.")
@click.option(
    "--values",
    help="As in 1000,2000,4000; or from:to:steps, evenly for rates and shares, by equal factors for the others.  "
    "[" + "; ".join(f"{over} {values}" for over, values in _VALUES.items()) + "]",
)
@click.option("--target", "kind", type=click.Choice(get_args(Kind)), default="engine", show_default=True)
@click.option("--connections", type=click.IntRange(1, 10_000), help="Of http and websocket.  [32; 16]")
@source_options
@door_options
@load_options
@output_options
def sweep(
    over: SweptOver,
    values: str | None,
    kind: Kind,
    connections: int | None,
    asked: AskedDoor,
    traffic: Traffic,
    loop: Closed | Open,
    length: Length,
    output: Output,
) -> None:
    """Run the same load at each of some values: rates to find the knee, users, batches, in flight, one user's share."""
    try:
        parsed = parse_values(values or _VALUES[over], over)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--values") from None
    _check(over, kind, connections, asked, traffic)
    connections = connections or {"websocket": 16}.get(kind, 32)
    target = msgspec.structs.replace(asked.target, kind=kind, connections=connections)
    plan = Plan(target=target, traffic=traffic, loop=loop, length=length)

    async def work(progress: Progress, report: Report) -> Report:
        found = await measure_sweep(plan, over, parsed, asked.sources, progress)
        return msgspec.structs.replace(report, sweeps=(found,))

    report_on(work, output)


def _check(over: SweptOver, kind: Kind, connections: int | None, asked: AskedDoor, traffic: Traffic) -> None:
    if asked.faults:
        raise click.UsageError("--fault is for one run: a sweep's differ in one thing alone")
    if kind == "engine" and (connections is not None or asked.target.url is not None or asked.target.has_token):
        raise click.UsageError("--connections, --url and --token are of --target http or websocket")
    if kind == "http" and connections is not None and over in {"batch", "in-flight"}:
        raise click.UsageError(f"over {over} http has as many connections as it needs: leave out --connections")
    if over == "hot-share" and traffic.pick == "hot":
        raise click.UsageError("--pick hot is a share of 1: a sweep over hot-share needs another pick")
