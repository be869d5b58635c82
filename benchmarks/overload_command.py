"""`transfer-engine bench overload`: multiples of the peak, and what becomes of them."""

from collections.abc import Sequence
from typing import Final, Literal

import click
import msgspec

from transfer_engine.benchmarks.door_commands import AskedDoor, door_options
from transfer_engine.benchmarks.options import source_options
from transfer_engine.benchmarks.output import Output, output_options
from transfer_engine.benchmarks.overload import measure_overload
from transfer_engine.benchmarks.plan import Traffic
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.reporting import report_on
from transfer_engine.benchmarks.result import Report, Result
from transfer_engine.benchmarks.sweep import parse_values

_CONNECTIONS: Final = {"http": 1_024, "websocket": 16}
_IN_FLIGHT: Final = {"http": 1_024, "websocket": 1_024}


@click.command()
@click.option("--values", default="1,2,3,5", show_default=True, help="Multiples of the peak, or from:to:steps.")
@click.option("--target", "kind", type=click.Choice(["websocket", "http"]), default="websocket", show_default=True)
@click.option(
    "--connections", type=click.IntRange(1, 10_000), help="HTTP: one request each.  [websocket 16; http 1024]"
)
@click.option("--users", type=click.IntRange(1, 10_000_000), default=1_000, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.05), default=5.0, show_default=True, help="Of each load.")
@source_options
@door_options
@output_options
def overload(
    values: str,
    kind: Literal["websocket", "http"],
    connections: int | None,
    users: int,
    seconds: float,
    asked: AskedDoor,
    output: Output,
) -> None:
    """Offer a door more than it can do: what is still committed, and how quickly the rest is refused."""
    try:
        factors = parse_values(values, "overload")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--values") from None
    if asked.faults or asked.target.batch > 1 or asked.target.url is not None:
        raise click.UsageError("overload is of single transfers, without faults, on a server of its own")
    connections = connections or _CONNECTIONS[kind]
    target = msgspec.structs.replace(asked.target, kind=kind, connections=connections)
    in_flight = connections if kind == "http" else _IN_FLIGHT[kind]

    async def work(progress: Progress, report: Report) -> Report:
        found = await measure_overload(
            target,
            Traffic(users=users),
            factors,
            seconds=seconds,
            in_flight=in_flight,
            sources=asked.sources,
            progress=progress,
        )
        notes = (*report.notes, *busy_notes(factors, found.sweep.results))
        return msgspec.structs.replace(report, results=(found.peak,), sweeps=(found.sweep,), notes=notes)

    report_on(work, output)


def busy_notes(factors: Sequence[float], results: Sequence[Result]) -> list[str]:
    """Say how much of its time the load itself computed: near all of it, the load is what was measured."""
    return [
        f"at {factor:g} times the peak the load computed {result.cpu.load_us * result.achieved / 1e6:.0%} of its time"
        for factor, result in zip(factors, results, strict=True)
    ]
