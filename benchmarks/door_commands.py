"""The commands that measure the doors: HTTP, websocket, idle websockets, overload."""

import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
import trio

from transfer_engine.benchmarks.http_door import Round, run_http
from transfer_engine.benchmarks.server_processes import Books

Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")


def _server_options(command: Command) -> Command:
    for option in (
        click.option("--access-log/--no-access-log", default=False, help="A line for each transfer."),
        click.option("--limits/--no-limits", default=False, help="Count rates and daily sums; none is reached."),
        click.option("--token/--no-token", default=False, help="Every request proves itself by a token."),
    ):
        command = option(command)
    return command


def run(work: Callable[[], Awaitable[Result]]) -> Result:
    """Return what ``work`` does; a server that does not start is told in a line."""
    try:
        return trio.run(work)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None


def _tell(measured: Round) -> None:
    transfers = f"  {measured.transfers_rate:8,.0f} transfers/s" if measured.transfers_rate else " " * 22
    print(
        f"{measured.name:>34}: {measured.requests_rate:8,.0f} requests/s{transfers}  p50 {measured.p50_ms:.1f} ms  "
        f"p99 {measured.p99_ms:.1f} ms  server {measured.server_us:.0f} µs CPU each  {measured.others}",
        flush=True,
    )


def end(books: Books, others: list[str]) -> None:
    """Say whether the books hold, and end the process by an error where they don't, or where something went wrong."""
    print(
        f"books: audit (I1, I2, I3, I7) of {books.transfers:,} ledger transfers: {'; '.join(books.findings) or 'holds'}"
    )
    if not books.hold:
        sys.exit("the books don't hold: this is no run")
    if any(others):
        sys.exit("some transfers were not committed")


@click.command()
@click.option("--door", type=click.Choice(["main", "express"]), default="main", show_default=True)
@click.option("--batch", type=click.IntRange(0, 1_000), default=0, help="Transfers in a request; 0: one, no batch.")
@click.option("--connections", default=32, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=5.0, show_default=True, help="Length of a round.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of each server, in turn.")
@_server_options
def http(
    door: str,
    batch: int,
    connections: int,
    seconds: float,
    rounds: int,
    token: bool,
    limits: bool,
    access_log: bool,
) -> None:
    """Transfers over HTTP, against the door's floor."""
    result = run(
        lambda: run_http(
            door=door,
            batch=batch,
            connections=connections,
            seconds=seconds,
            rounds=rounds,
            token=token,
            limits=limits,
            access_log=access_log,
            tell=_tell,
        )
    )
    print(f"door / floor: {result.ratio:.2f} of the requests (load by {result.generator})")
    end(result.books, [each.others for each in result.door])
