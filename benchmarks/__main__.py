"""`python -m transfer_engine.benchmarks`: the engine against its floors, in one run."""

import sys

import click
import trio

from transfer_engine.benchmarks.http_door import run_http
from transfer_engine.benchmarks.in_process import check_books, run_in_process, sqlite_floor
from transfer_engine.benchmarks.memory import run_memory
from transfer_engine.engine import tune_garbage_collection


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Measure the engine; without a command: in process, then over HTTP, both briefly."""
    if context.invoked_subcommand is None:
        context.invoke(in_process, transfers=40_000, users=1_000, in_flight=2_000, keyed=False)
        context.invoke(http, connections=32, seconds=4, rounds=2)


@main.command("in-process")
@click.option("--transfers", default=100_000, show_default=True, help="Transfers in each loop.")
@click.option("--users", default=1_000, show_default=True)
@click.option("--in-flight", default=2_000, show_default=True, help="Transfers under way at a time.")
@click.option("--keyed/--issued", default=False, help="Name each transfer by a key of its own.")
def in_process(transfers: int, users: int, in_flight: int, keyed: bool) -> None:
    """Transfers/s in process: many users, one hot user, against SQLite's own floor."""
    tune_garbage_collection()
    floor = sqlite_floor()
    print(f"SQLite floor: {floor:,.0f} ledger events/s in groups of 1,000 (two events a transfer)")
    results, report = trio.run(
        lambda: run_in_process(transfers=transfers, users=users, in_flight=in_flight, keyed=keyed)
    )
    for result in results:
        print(
            f"{result.name:>12}: {result.rate:8,.0f} transfers/s  {result.rate * 2 / floor:5.2f} of the floor  "
            f"{result.cpu_us:5.0f} µs CPU each  p50 {result.p50_ms:.0f} ms  p99 {result.p99_ms:.0f} ms  "
            f"{result.outcomes}  {result.rss_mib:.0f} MiB"
        )
    print(f"hot user / {users} users: {results[1].rate / results[0].rate:.2f}")
    check_books(report)


@main.command()
@click.option("--connections", default=32, show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="Length of a round.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of each server, in turn.")
def http(connections: int, seconds: float, rounds: int) -> None:
    """One transfer a request over the main door, against an empty quart-trio POST."""
    result = trio.run(lambda: run_http(connections=connections, seconds=seconds, rounds=rounds))
    for name, load in (("empty quart-trio POST", result.floor), ("POST /api/v1/transfer", result.door)):
        for each in load:
            print(
                f"{name:>22}: {each.rate:7,.0f} requests/s  p50 {each.p50_ms:.1f} ms  p99 {each.p99_ms:.1f} ms  "
                f"{each.statuses}"
            )
    print(f"door / floor: {result.ratio:.2f}")
    if any(status != 200 for each in result.door for status in each.statuses):
        sys.exit("some transfers were not committed")


@main.command()
@click.option("--transfers", default=1_000_000, show_default=True)
@click.option("--steps", default=10, show_default=True)
@click.option("--users", default=100_000, show_default=True, help="Users that are touched once.")
def memory(transfers: int, steps: int, users: int) -> None:
    """Resident memory over many transfers and users."""
    tune_garbage_collection()
    trio.run(lambda: run_memory(transfers=transfers, steps=steps, users=users, tell=print))


if __name__ == "__main__":
    main()
