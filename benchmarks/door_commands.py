"""The commands that measure the doors: HTTP, websocket, idle websockets, overload."""

import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
import trio

from transfer_engine.benchmarks.http_door import Round, run_http
from transfer_engine.benchmarks.idle_websockets import run_idle
from transfer_engine.benchmarks.overload import Overloaded, run_overload
from transfer_engine.benchmarks.server_processes import Books
from transfer_engine.benchmarks.websocket_door import BATCHES_IN_FLIGHT, IN_FLIGHT, SocketRound, run_websocket

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


def _door(default: str) -> Callable[[Command], Command]:
    return click.option("--door", type=click.Choice(["main", "express"]), default=default, show_default=True)


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
@_door("main")
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


def _tell_socket(measured: SocketRound) -> None:
    transfers = f"  {measured.transfers_rate:8,.0f} transfers/s" if measured.transfers_rate else " " * 22
    others = f"  {measured.others} were not committed" if measured.others else ""
    print(
        f"{measured.name:>42}: {measured.frames_rate:8,.0f} frames/s{transfers}  p50 {measured.p50_ms:.1f} ms  "
        f"p99 {measured.p99_ms:.1f} ms  server {measured.server_us:.0f} µs CPU each{others}",
        flush=True,
    )


@click.command()
@_door("express")
@click.option("--batch", type=click.IntRange(0, 1_000), default=0, help="Transfers in a frame; 0: one, no batch.")
@click.option("--connections", default=16, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--in-flight", default=0, type=click.IntRange(min=0), help="Unanswered frames of a connection.  [64, batches: 4]"
)
@click.option("--seconds", default=5.0, show_default=True, help="Length of a round.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of each server, in turn.")
@_server_options
def websocket(
    door: str,
    batch: int,
    connections: int,
    in_flight: int,
    seconds: float,
    rounds: int,
    token: bool,
    limits: bool,
    access_log: bool,
) -> None:
    """Transfers over websockets, pipelined, against trio-websocket's echo."""
    result = run(
        lambda: run_websocket(
            door=door,
            batch=batch,
            connections=connections,
            in_flight=in_flight or (BATCHES_IN_FLIGHT if batch else IN_FLIGHT),
            seconds=seconds,
            rounds=rounds,
            token=token,
            limits=limits,
            access_log=access_log,
            tell=_tell_socket,
        )
    )
    print(f"websocket / floor: {result.ratio:.2f} of the frames (load by frames of our own)")
    end(result.books, [str(each.others or "") for each in result.door])


@click.command("idle-websockets")
@_door("express")
@click.option("--connections", default=5_000, show_default=True, type=click.IntRange(min=1))
@click.option("--subscribe/--no-subscribe", default=False, help="Each is told of one user's transfers and balances.")
@click.option("--watch", "watch_s", default=10.0, show_default=True, help="Seconds for which they are idle.")
def idle_websockets(door: str, connections: int, subscribe: bool, watch_s: float) -> None:
    """Memory of the server for each idle websocket."""
    result = run(lambda: run_idle(door=door, connections=connections, subscribe=subscribe, watch_s=watch_s, tell=print))
    print(
        f"with {result.connections:,} idle websockets{', subscribed' if subscribe else ''}: {result.after_kib:,} KiB, "
        f"{result.each_kib:.1f} KiB each; {result.cpu_share:.1%} of a core"
    )
    end(result.books, [])


@click.command()
@click.option(
    "--factor",
    "factors",
    multiple=True,
    type=click.FloatRange(min=1),
    default=(2.0, 3.0, 5.0),
    show_default=True,
    help="Of the peak; once for each.",
)
@_door("express")
@click.option("--connections", default=32, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=5.0, show_default=True, help="Length of each load.")
@_server_options
def overload(
    factors: tuple[float, ...],
    door: str,
    connections: int,
    seconds: float,
    token: bool,
    limits: bool,
    access_log: bool,
) -> None:
    """Multiples of what the engine can do, over websockets: goodput, and how quickly the rest is refused."""
    result = run(
        lambda: run_overload(
            door=door,
            factors=factors,
            connections=connections,
            seconds=seconds,
            token=token,
            limits=limits,
            access_log=access_log,
            tell=_tell_overload,
        )
    )
    print(f"at the peak: {result.peak_us:.0f} µs of the server's CPU a commit")
    end(result.books, [])


def _tell_overload(peak: float, load: Overloaded | None) -> None:
    if load is None:
        print(f"peak, closed loop: {peak:,.0f} transfers/s", flush=True)
        return
    share = load.goodput / peak
    print(
        f"{load.factor:g}x: {load.offered:,.0f}/s offered, {load.held_back:,.0f}/s of them not taken from the socket, "
        f"{load.goodput:,.0f}/s committed ({share:.2f} of the peak)  "
        f"{load.outcomes}" + (f"  {load.unanswered} UNANSWERED" if load.unanswered else "")
    )
    print(f"    committed: {load.committed}\n    all others: {load.refused}")
    print(
        f"    server: {load.server_us:.0f} µs of CPU a commit; the load itself was busy for {load.busy:.0%} of the time"
    )
