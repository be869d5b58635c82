"""`transfer-engine bench http` and `bench websocket`: transfers through a door, of our own server or a running one."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import click
import msgspec

from transfer_engine.benchmarks.door_floors import http_floor, websocket_floor
from transfer_engine.benchmarks.faults import check_faults, fault_option
from transfer_engine.benchmarks.http_wire import parse_url
from transfer_engine.benchmarks.options import load_options, source_options
from transfer_engine.benchmarks.output import Output, output_options
from transfer_engine.benchmarks.plan import (
    Closed,
    Door,
    Fault,
    Generator,
    Length,
    Open,
    Plan,
    Target,
    Traffic,
)
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.reporting import report_on
from transfer_engine.benchmarks.result import Floor, Report
from transfer_engine.benchmarks.running import run
from transfer_engine.benchmarks.sources import Sources
from transfer_engine.benchmarks.websocket_sender import UNANSWERED_MOST
from transfer_engine.benchmarks.wrk import why_not_wrk
from transfer_engine.http.remote import TOKEN_VARIABLE

_R = TypeVar("_R")
_OWN: Final = ""
"""The value of ``--token`` without one: a token of a server of the run's own."""
_FLOOR_S: Final = 3.0


_DOOR: Final = (
    click.option("--door", type=click.Choice(get_args(Door)), default="express", show_default=True),
    click.option(
        "--batch", type=click.IntRange(1, 1_000), default=1, show_default=True, help="Transfers in a message."
    ),
    click.option("--limits/--no-limits", default=False, help="Count rates and daily sums; none is reached."),
    click.option("--access-log/--no-access-log", default=False, help="A line for each transfer."),
    click.option(
        "--token",
        is_flag=False,
        flag_value=_OWN,
        metavar="[TOKEN]",
        help="Every message proves itself by a token; with --url this one (better: --token-file).",
    ),
    click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"With --url: a file with the token.  [{TOKEN_VARIABLE}: the token itself]",
    ),
    click.option(
        "--url", help="Load a server that runs already, at this address of the door; users are the run's own."
    ),
    fault_option,
    click.option(
        "--floors/--no-floors", "has_floors", default=True, help="Also load the door's floor, without an engine."
    ),
    click.option(
        "--profile", "has_profile", is_flag=True, help="Also sample where the server's CPU goes, with py-spy."
    ),
)


class AskedDoor(msgspec.Struct, frozen=True):
    """What both commands are asked for."""

    target: Target
    sources: Sources
    faults: tuple[Fault, ...]
    has_floors: bool
    has_profile: bool = False


def door_options(command: Callable[..., _R]) -> Callable[..., _R]:
    """Give a command what says which door; it gets ``asked``, whose target has no kind and no connections yet."""

    @wraps(command)
    def with_door(
        *arguments: Any,
        door: Door,
        batch: int,
        limits: bool,
        access_log: bool,
        token: str | None,
        token_file: Path | None,
        url: str | None,
        faults: tuple[Fault, ...],
        has_floors: bool,
        has_profile: bool,
        sources: Sources,
        **others: Any,
    ) -> _R:
        if url is not None and has_profile:
            raise click.UsageError("--profile is of a server of the run's own: it can't be combined with --url")
        given = _token(url, token, token_file)
        if url is not None:
            _check_url(url, limits=limits, access_log=access_log, faults=faults)
        else:
            check_faults(faults, sources.backends, has_server=True)
        target = Target(
            door=door,
            batch=batch,
            url=url,
            has_token=token == _OWN or given is not None,
            has_limits=limits,
            has_access_log=access_log,
            backends=sources.backends,
        )
        sources = msgspec.structs.replace(sources, token=given)
        asked = AskedDoor(target, sources, faults, has_floors and url is None, has_profile)
        return command(*arguments, asked=asked, **others)

    for option in reversed(_DOOR):
        with_door = option(with_door)
    return with_door


@click.command()
@click.option("--connections", default=32, show_default=True, type=click.IntRange(1, 10_000), help="One request each.")
@click.option(
    "--generator",
    type=click.Choice(["auto", *get_args(Generator)]),
    default="auto",
    show_default=True,
    help="Who sends; auto is wrk where it is on PATH and can: a closed loop of plain single transfers.",
)
@source_options
@door_options
@load_options
@output_options
def http(
    connections: int,
    generator: str,
    asked: AskedDoor,
    traffic: Traffic,
    loop: Closed | Open,
    length: Length,
    output: Output,
) -> None:
    """Load a door over HTTP, one transfer or a batch a request, one request at a time on each connection."""
    target = msgspec.structs.replace(asked.target, kind="http", connections=connections)
    if isinstance(loop, Closed):
        loop = Closed(in_flight=min(loop.in_flight, connections * target.batch))
        connections = max(loop.in_flight // target.batch, 1)
        target = msgspec.structs.replace(target, connections=connections)
    plan = Plan(target=target, traffic=traffic, loop=loop, length=length, faults=asked.faults)
    reason = why_not_wrk(plan)
    if generator == "wrk" and reason is not None:
        raise click.UsageError(f"--generator wrk: {reason}")
    if generator != "python" and reason is None:
        plan = msgspec.structs.replace(plan, target=msgspec.structs.replace(target, generator="wrk"))
    by = "wrk" if plan.target.generator == "wrk" else "the suite's own callers, on bare sockets"
    seconds = _FLOOR_S if length.transfers is not None else min(length.seconds, _FLOOR_S)
    _measure(plan, asked, output, lambda: http_floor(plan.target, seconds=seconds), f"sent by {by}")


@click.command()
@click.option(
    "--connections", default=16, show_default=True, type=click.IntRange(1, 10_000), help="Shared by all callers."
)
@source_options
@door_options
@load_options
@output_options
def websocket(
    connections: int,
    asked: AskedDoor,
    traffic: Traffic,
    loop: Closed | Open,
    length: Length,
    output: Output,
) -> None:
    """Load a door over websockets, one transfer or a batch a frame, many frames unanswered on each connection."""
    batch = asked.target.batch
    target = msgspec.structs.replace(asked.target, kind="websocket", connections=connections)
    in_flight = loop.in_flight if isinstance(loop, Closed) else loop.in_flight_most
    in_flight = min(max(in_flight // batch, 1), connections * max(UNANSWERED_MOST // batch, 1)) * batch
    if isinstance(loop, Closed):
        loop = Closed(in_flight=in_flight)
    else:
        loop = msgspec.structs.replace(loop, in_flight_most=in_flight)
    plan = Plan(target=target, traffic=traffic, loop=loop, length=length, faults=asked.faults)
    note = f"at most {in_flight:,} transfers unanswered: {in_flight / batch / connections:.1f} frames a connection"
    seconds = _FLOOR_S if length.transfers is not None else min(length.seconds, _FLOOR_S)
    _measure(plan, asked, output, lambda: websocket_floor(target, in_flight=in_flight, seconds=seconds), note)


def _measure(plan: Plan, asked: AskedDoor, output: Output, floor: Callable[[], Any], note: str) -> None:
    async def work(progress: Progress, report: Report) -> Report:
        floors: tuple[Floor, ...] = ()
        if asked.has_floors:
            progress.step("the door's floor")
            floors = (await floor(),)
        result = await run(plan, asked.sources, progress, is_profiled=asked.has_profile)
        return msgspec.structs.replace(report, results=(result,), floors=floors, notes=(*report.notes, note))

    report_on(work, output)


def _token(url: str | None, token: str | None, token_file: Path | None) -> str | None:
    """Return the token for a server that runs already."""
    if url is None:
        if token_file is not None or token:
            raise click.UsageError(
                "a token of yours is for --url; --token alone makes one for a server of the run's own"
            )
        return None
    if token == _OWN:
        raise click.UsageError(f"--token needs its value with --url: better give --token-file, or set {TOKEN_VARIABLE}")
    if token_file is not None:
        try:
            return token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--token-file {token_file} can't be read: {error}") from None
    return token or os.environ.get(TOKEN_VARIABLE) or None


def _check_url(url: str, *, limits: bool, access_log: bool, faults: tuple[Fault, ...]) -> None:
    try:
        parse_url(url)
    except ValueError as error:
        raise click.UsageError(f"--url: {error}") from None
    for is_given, option in ((limits, "--limits"), (access_log, "--access-log"), (faults, "--fault")):
        if is_given:
            raise click.UsageError(f"{option} is for a server of the run's own, not for one at a --url")
