"""A baseline as a run sees it: a server process with funded users, under the same load as a door, and its own books.

What a baseline *is* can be read in ``baselines/``; this module only starts one, and holds its balances against what it
told its clients.
"""

import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

import msgspec
import trio

from transfer_engine.benchmarks.door_subject import Balances, wrong_balances
from transfer_engine.benchmarks.expectations import Expectations
from transfer_engine.benchmarks.free_port import free_port
from transfer_engine.benchmarks.http_sender import HttpSender, http_sender
from transfer_engine.benchmarks.http_wire import Address
from transfer_engine.benchmarks.loops import Around
from transfer_engine.benchmarks.plan import FUNDS, Fault, Plan, Target, Traffic
from transfer_engine.benchmarks.private_postgres import find_programs, private_postgres
from transfer_engine.benchmarks.private_tigerbeetle import CLUSTER_ID, find_binary, private_tigerbeetle
from transfer_engine.benchmarks.recording import Recording
from transfer_engine.benchmarks.result import Books
from transfer_engine.benchmarks.sending import Sender
from transfer_engine.benchmarks.wrk_load import load_by_wrk

StoreName = Literal["sqlite", "postgres", "tigerbeetle"]

_HOST: Final = "127.0.0.1"
_START_S: Final = 60.0
_STOP_S: Final = 20.0
_SETTLE_S: Final = 30.0
_LOOK_S: Final = 0.05


class Baseline(msgspec.Struct, frozen=True):
    """One of the baselines."""

    store: StoreName
    name: str
    lacks: str
    """What it does not do, and the engine does."""


BASELINES: Final = (
    Baseline(
        store="sqlite",
        name="FastAPI + SQLite",
        lacks="no ledger entries, no two-phase holds, no order of one user's transfers, no recovery of what a client "
        "was not told, refusals not remembered",
    ),
    Baseline(
        store="postgres",
        name="FastAPI + PostgreSQL",
        lacks="no ledger entries, no two-phase holds, no order of one user's transfers, no recovery of what a client "
        "was not told, refusals not remembered",
    ),
    Baseline(
        store="tigerbeetle",
        name="FastAPI + TigerBeetle, unbatched",
        lacks="no records (no history, no look-up by key, no reason of a refusal), no two-phase holds, no cores, no "
        "order of one user's transfers, no deadlines, no recovery",
    ),
)


class NoBaseline(RuntimeError):
    """This baseline can't run here. The message says what is missing."""


class BaselineSubject:
    """A baseline that is up and funded."""

    is_here = False

    def __init__(self, sender: HttpSender, pid: int, servers: tuple[int, ...], before: Balances) -> None:
        self.pid = pid
        self.servers = servers
        self.address = sender.address
        """Where it is asked."""
        self._http = sender
        self._expectations = Expectations(sender, repeats=True)
        self._before = before

    @property
    def sender(self) -> Sender:
        """Hands out the callers."""
        return self._expectations

    async def counters(self) -> None:
        """Return nothing: a baseline counts nothing."""

    async def load_by_wrk(self, plan: Plan, recording: Recording, around: Around) -> None:
        """Have wrk make a plan's load; see :func:`transfer_engine.benchmarks.wrk_load.load_by_wrk`."""
        await load_by_wrk(plan, recording, around, address=self.address, expectations=self._expectations)

    async def make(self, fault: Fault) -> None:
        """Raise: nobody makes faults here."""
        raise RuntimeError(f"a baseline can't have {fault.what}")

    async def books(self) -> Books:
        """Ask for what is unknown; compare every balance with what was told."""
        expectations = self._expectations
        findings = await expectations.settle(within_s=_SETTLE_S)
        findings += wrong_balances(
            self._before,
            await _balances(self._http),
            expectations.expected(),
            may_differ=bool(expectations.nameless),
        )
        users = len(self._before) // 2
        against = "what they had together" if expectations.nameless else "what was told"
        return Books(how=f"balances of {users:,} users against {against}", findings=tuple(findings[:10]))


def missing(baseline: Baseline, dsn: str | None) -> str | None:
    """Return what a baseline would need and this machine does not have; None: it can run."""
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        return "there is no FastAPI: pip install 'transfer-engine[bench-baselines]'"
    if baseline.store == "postgres" and dsn is None and find_programs() is None:
        return "there is no PostgreSQL: name a database by --dsn, or install its server"
    if baseline.store == "tigerbeetle" and find_binary() is None:
        return "there is no TigerBeetle: put it on the PATH, or name it by TIGERBEETLE_BINARY"
    return None


@asynccontextmanager
async def open_baseline(
    baseline: Baseline, target: Target, traffic: Traffic, *, dsn: str | None = None
) -> AsyncIterator[BaselineSubject]:
    """Start a baseline with books of its own, its users funded; take it down again.

    Args:
        baseline: which.
        target: over how many connections it is asked.
        traffic: whose money moves.
        dsn: of a PostgreSQL; two tables of that database are made anew. Without it a private one is started.

    Raises:
        NoBaseline: something is missing here.
        RuntimeError: it did not start; the message ends with what it said.
    """
    reason = missing(baseline, dsn)
    if reason is not None:
        raise NoBaseline(reason)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-baseline-")))
        servers: tuple[int, ...] = ()
        options = ["--data-dir", str(folder)]
        if baseline.store == "postgres":
            programs = find_programs()
            if dsn is None and programs is not None:
                dsn = stack.enter_context(private_postgres(programs))
            options = ["--dsn", dsn or ""]
        if baseline.store == "tigerbeetle" and (binary := find_binary()) is not None:
            server = stack.enter_context(private_tigerbeetle(binary))
            servers = (server.pid,)
            options = ["--addresses", server.address, "--cluster-id", str(CLUSTER_ID)]
        port = free_port()
        options += ["--port", str(port), "--users", str(traffic.users), "--funds", str(FUNDS)]
        process = await stack.enter_async_context(_process([baseline.store, *options], port, folder / "log"))
        sender = await stack.enter_async_context(http_sender(Address(_HOST, port), connections=target.connections))
        if baseline.store == "postgres":
            servers = tuple(msgspec.json.decode(await _get(sender, "/servers"), type=list[int]))
        yield BaselineSubject(sender, process.pid, servers, await _balances(sender))


@asynccontextmanager
async def _process(arguments: list[str], port: int, log: Path) -> AsyncIterator[trio.Process]:
    command = [sys.executable, "-m", "transfer_engine.benchmarks.baselines.serve", *arguments]
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        with trio.move_on_after(_START_S) as patience:
            while not await _is_listening(port):
                if process.poll() is not None:
                    raise RuntimeError(f"the baseline did not start: {_end_of(log)}")
                await trio.sleep(_LOOK_S)
        if patience.cancelled_caught:
            raise RuntimeError(f"the baseline did not start in {_START_S:.0f} s: {_end_of(log)}")
        yield process
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.terminate()
            with trio.move_on_after(_STOP_S):
                await process.wait()
            if process.poll() is None:
                process.kill()
                await process.wait()


async def _is_listening(port: int) -> bool:
    try:
        await (await trio.open_tcp_stream(_HOST, port)).aclose()
    except OSError:
        return False
    return True


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-1_000:]


class _Balance(msgspec.Struct, frozen=True):
    user_id: int
    account: str
    balance: int


async def _balances(sender: HttpSender) -> Balances:
    found = msgspec.json.decode(await _get(sender, "/balances"), type=list[_Balance])
    return {(each.user_id, each.account): (each.balance, 0) for each in found}


async def _get(sender: HttpSender, path: str) -> bytes:
    async with sender.caller(0) as caller:
        answer = await caller.ask(sender.request("GET", path))
    if isinstance(answer, str) or answer.status != 200:
        raise RuntimeError(f"the baseline does not say {path}: {answer}")
    return answer.body
