"""`python -m transfer_engine.benchmarks`: the engine against its floors, in one run."""

import sys
from typing import Any

import click
import trio

from transfer_engine.benchmarks.door_commands import http, idle_websockets, overload, websocket
from transfer_engine.benchmarks.in_process import HALF, Plan, run_in_process
from transfer_engine.benchmarks.loops import Arrivals, Loop
from transfer_engine.benchmarks.memory import run_memory
from transfer_engine.benchmarks.report import loop_lines, machine_line, run_lines
from transfer_engine.benchmarks.targets import UNUSABLE, target, target_options
from transfer_engine.engine import tune_garbage_collection


def _rate(_: click.Context, parameter: click.Parameter, value: str) -> float | str | None:
    """Read a number above zero, ``half``, or ``none``."""
    if value in {HALF, "none"}:
        return HALF if value == HALF else None
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise click.BadParameter(f"{value} is no rate: give a number above 0, half or none", param=parameter)
    return rate


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Measure the engine; without a command: in process, then over HTTP, both briefly."""
    if context.invoked_subcommand is None:
        _measure_in_process(Plan(), {})
        context.invoke(http, seconds=4, rounds=2)


@main.command("in-process")
@target_options
@click.option("--transfers", default=100_000, show_default=True, help="Transfers in each loop.")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Length of each loop, instead of --transfers.")
@click.option("--users", default=1_000, show_default=True, type=click.IntRange(min=1))
@click.option("--in-flight", default=2_000, show_default=True, help="Transfers under way at a time, at most.")
@click.option("--keyed/--issued", default=False, help="Name each transfer by a key of its own.")
@click.option(
    "--rate",
    default=HALF,
    show_default=True,
    callback=_rate,
    help="Of the open loop: arrivals a second, half of what the closed loop reached, or none.",
)
@click.option("--arrivals", default="poisson", show_default=True, type=click.Choice(["poisson", "even"]))
@click.option("--hot/--no-hot", default=True, help="Also load one hot user.")
@click.option("--floors/--no-floors", default=True, help="Also measure the floors.")
def in_process(
    transfers: int,
    seconds: float | None,
    users: int,
    in_flight: int,
    keyed: bool,
    rate: float | str | None,
    arrivals: Arrivals,
    hot: bool,
    floors: bool,
    **chosen: Any,
) -> None:
    """Transfers/s in process: many users, an open loop, one hot user, against the backends' own floors."""
    plan = Plan(
        transfers=transfers,
        seconds=seconds,
        users=users,
        in_flight=in_flight,
        keyed=keyed,
        rate=rate,
        arrivals=arrivals,
        hot=hot,
        floors=floors,
    )
    _measure_in_process(plan, chosen)


def _tell(loop: Loop) -> None:
    for line in loop_lines(loop):
        print(line, flush=True)


def _measure_in_process(plan: Plan, chosen: dict[str, Any]) -> None:
    print(machine_line(), flush=True)
    with target(**chosen) as measured:
        tune_garbage_collection()
        print(f"{measured.name}, in process", flush=True)
        try:
            run = trio.run(run_in_process, plan, measured, _tell)
        except UNUSABLE as error:
            raise click.ClickException(str(error)) from None
    for line in run_lines(run):
        print(line)
    if run.books.wrong:
        sys.exit("the books don't hold: this is no run")


@main.command()
@click.option("--transfers", default=1_000_000, show_default=True)
@click.option("--steps", default=10, show_default=True)
@click.option("--users", default=100_000, show_default=True, help="Users that are touched once.")
def memory(transfers: int, steps: int, users: int) -> None:
    """Resident memory over many transfers and users."""
    tune_garbage_collection()
    trio.run(lambda: run_memory(transfers=transfers, steps=steps, users=users, tell=print))


for _command in (http, websocket, idle_websockets, overload):
    main.add_command(_command)

if __name__ == "__main__":
    main()
