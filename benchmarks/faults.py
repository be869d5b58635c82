"""Faults amid a load: a server that is killed and comes back, a server, ledger or record store that stands still."""

import os
import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, get_args

import click
import msgspec
import trio

from transfer_engine.benchmarks.listening import ledger_pid, records_pid
from transfer_engine.benchmarks.plan import Backends, Fault
from transfer_engine.benchmarks.sources import Ground

KINDS: Final[tuple[str, ...]] = get_args(Fault.__annotations__["what"])
_FAULT: Final = re.compile(r"([a-z-]+)@([0-9]+(?:\.[0-9]+)?)s?(?::([0-9]+(?:\.[0-9]+)?)s?)?")


def parse_fault(text: str) -> Fault:
    """Return the fault that ``kill-server@5s`` or ``pause-ledger@5s:2s`` names: what, when, and for how long.

    Raises:
        ValueError: it names none; the message says what it should look like.
    """
    found = _FAULT.fullmatch(text)
    if found is None or found[1] not in KINDS:
        raise ValueError(f"{text!r} is no fault: say pause-ledger@5s:2s, with one of {', '.join(KINDS)}")
    what: Any = found[1]
    return Fault(at_s=float(found[2]), what=what, **({"for_s": float(found[3])} if found[3] else {}))


def _read(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> tuple[Fault, ...]:
    try:
        return tuple(parse_fault(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=context, param=parameter) from None


fault_option: Final = click.option(
    "--fault",
    "faults",
    multiple=True,
    callback=_read,
    metavar="WHAT@AT[:FOR]",
    help=f"As in kill-server@5s or pause-ledger@5s:2s; once for each. WHAT: {', '.join(KINDS)}.",
)


def check_faults(faults: Sequence[Fault], backends: Backends, *, has_server: bool) -> None:
    """Refuse what can't be done to such a target, before anything runs.

    Raises:
        click.UsageError: the message says why not.
    """
    for fault in faults:
        what, _, whom = fault.what.partition("-")
        is_within = backends.ledger == "embedded" if whom == "ledger" else backends.records == "sqlite"
        if whom == "server":
            if not has_server:
                raise click.UsageError(f"--fault {fault.what}: the engine is in this process; bench http has a server")
        elif what == "kill":
            raise click.UsageError(f"--fault {fault.what}: only the server is started again; use pause-{whom}")
        elif is_within:
            raise click.UsageError(f"--fault {fault.what}: the {whom} is in the engine's process; name --{whom}")


class Server(Protocol):
    """A server process that can be killed, started again, and held up."""

    async def start(self) -> None:
        """Start it again on its books."""
        ...

    async def kill(self) -> None:
        """End it as a crash does."""
        ...

    def pause(self) -> None:
        """Stop it where it stands."""
        ...

    def resume(self) -> None:
        """Let it go on."""
        ...


class Victims(msgspec.Struct, frozen=True):
    """What faults of a run can be made to."""

    server: Server | None = None
    ledger: int | None = None
    """The process of the ledger's server."""
    records: int | None = None
    """The process of the record store's server."""


def victims_of(ground: Ground, server: Server | None) -> Victims:
    """Return what can be hurt: our own server, and the servers behind it where they run on this machine."""
    settings = ground.settings
    return Victims(server=server, ledger=ledger_pid(settings), records=records_pid(settings))


def why_not(fault: Fault, victims: Victims) -> str | None:
    """Return why a fault can't be made; None where it can."""
    what, _, whom = fault.what.partition("-")
    if whom == "server":
        return None if victims.server is not None else f"{fault.what}: there is no server of the run's own"
    if what == "kill":
        return f"{fault.what}: only a server of the run's own is started again; use pause-{whom}"
    if _process(whom, victims) is None:
        return f"{fault.what}: the {whom} of this run is no process on this machine"
    return None


async def strike(fault: Fault, victims: Victims) -> None:
    """Make a fault, and end it after its time. Cancellation ends a pause at once, and leaves a killed server dead.

    Raises:
        RuntimeError: it can't be made, or a killed server did not start again.
    """
    if (reason := why_not(fault, victims)) is not None:
        raise RuntimeError(reason)
    what, _, whom = fault.what.partition("-")
    server = victims.server
    if whom == "server" and server is not None:
        if what == "kill":
            await server.kill()
            await trio.sleep(fault.for_s)
            await server.start()
            return
        server.pause()
        try:
            await trio.sleep(fault.for_s)
        finally:
            server.resume()
        return
    pid = _process(whom, victims)
    if pid is None:
        return
    os.kill(pid, signal.SIGSTOP)
    try:
        await trio.sleep(fault.for_s)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _process(whom: str, victims: Victims) -> int | None:
    return victims.ledger if whom == "ledger" else victims.records
