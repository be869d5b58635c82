"""A restart with many unfinished transfers: how soon the service answers, and how soon all of them have their end.

An engine of its own leaves them (:mod:`transfer_engine.benchmarks.unfinished`) and is killed. They are counted in the
books before the server starts, and looked for in the books once it has stopped.
"""

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from transfer_engine.benchmarks.books import rows_wrong
from transfer_engine.benchmarks.free_port import free_port
from transfer_engine.benchmarks.http_sender import HttpSender, http_sender
from transfer_engine.benchmarks.http_wire import Address
from transfer_engine.benchmarks.measures import Meter
from transfer_engine.benchmarks.plan import AMOUNT, Traffic
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.recording import histogram_of, percentiles_of
from transfer_engine.benchmarks.result import Books, Percentiles, Recovery
from transfer_engine.benchmarks.sending import COMMITTED, Order
from transfer_engine.benchmarks.served_engine import FINDINGS_MOST, audit
from transfer_engine.benchmarks.sources import Ground, Sources, open_ground
from transfer_engine.benchmarks.unfinished import IS_LEFT, Leave
from transfer_engine.engine import Settings
from transfer_engine.engine.backends import open_backends
from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX, Ledger
from transfer_engine.engine.recovery import unfinished_intents
from transfer_engine.http.demo_server import ServerDied, ServerProcess, log_tail
from transfer_engine.schema.ids import POSTS

SETTLED_S_MOST: Final = 900.0
"""A recovery that takes longer is none."""
_LEFT_S_MOST: Final = 300.0
_HEALTH_S: Final = 0.02
_READY_S: Final = 0.05
_TRANSFER_S: Final = 0.1
_STATISTICS_S: Final = 0.25
_HOST: Final = "127.0.0.1"


class Left(msgspec.Struct, frozen=True):
    """What a killed engine left in the books."""

    unfinished: tuple[int, ...]
    """The transfers whose intents are durable, and whose ends are not."""
    moved: int
    """Of them, those that the ledger had carried out."""


async def measure_recovery(
    sources: Sources, *, transfers: int, users: int, moved: float, progress: Progress
) -> Recovery:
    """Leave transfers unfinished on books of its own, start a server on them, and watch it.

    Args:
        sources: where the books are.
        transfers: how many are to be unfinished.
        users: whose they are.
        moved: the share of them that the ledger is to have carried out.
        progress: who is told.

    Raises:
        RuntimeError: something did not start, or took far too long.
        whatever :func:`transfer_engine.engine.backends.open_backends` raises.
    """
    with open_ground(sources, Traffic()) as ground, tempfile.TemporaryDirectory(prefix="benchmark-recovery-") as name:
        folder = Path(name)
        settings = ground.settings.model_copy(update={"data_dir": folder / "data"})
        leave = Leave(settings=settings.model_dump_json(), transfers=transfers, users=users, moved=moved)
        progress.step(f"leaving {transfers:,} transfers unfinished")
        await leave_and_kill(leave, folder)
        left = await look_at_left(settings)
        progress.step(f"restarting with {len(left.unfinished):,} unfinished transfers, {left.moved:,} of which moved")
        watch = _Watch(folder, ground, left, leave.bystander)
        await watch.run()
        progress.step("looking at the books")
        books = await books_after(settings, left, watch.figures)
    return watch.recovery(name=sources.backends.name, books=books)


async def look_at_left(settings: Settings) -> Left:
    """Count what is unfinished in books that no engine runs on: by their journal, rows and ledger."""
    async with open_backends(settings) as (_, ledger, records):
        req_ids = []
        async with aclosing(unfinished_intents(records, settings.node)) as blobs:
            async for _, intents in blobs:
                req_ids += [int.from_bytes(intent.req_id) for intent, _ in intents]
        return Left(unfinished=tuple(req_ids), moved=await _posted(ledger, req_ids))


async def _posted(ledger: Ledger, req_ids: list[int]) -> int:
    found = 0
    for start in range(0, len(req_ids), BATCH_EVENTS_MAX):
        part = req_ids[start : start + BATCH_EVENTS_MAX]
        found += len(await ledger.lookup_transfers([req_id | POSTS[0] for req_id in part]))
    return found


async def leave_and_kill(leave: Leave, folder: Path) -> None:
    """Run the engine that leaves them, until it says so; then kill it."""
    path, log = folder / "leave.json", folder / "leave.log"
    path.write_bytes(msgspec.json.encode(leave))
    command = [sys.executable, "-m", "transfer_engine.benchmarks.unfinished", str(path)]
    with log.open("wb") as errors:
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=errors)
    said = b""
    try:
        with trio.move_on_after(_LEFT_S_MOST):
            while process.stdout is not None and (chunk := await process.stdout.receive_some()):
                said += chunk
                if IS_LEFT.encode() in said:
                    break
    finally:
        with trio.CancelScope(shield=True):  # a killed process ends at once
            process.kill()
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
    if IS_LEFT.encode() not in said:
        raise RuntimeError(f"no transfers could be left unfinished: {log_tail(log)}")


async def books_after(settings: Settings, left: Left, figures: Mapping[str, Any]) -> Books:
    """Audit the stopped server's books, and look for each transfer that was unfinished."""
    findings = []
    if figures.get("recovered") != len(left.unfinished):
        findings.append(f"{len(left.unfinished)} were unfinished, and {figures.get('recovered')} were taken up")
    async with open_backends(settings) as (_, ledger, records):
        unfinished = list(left.unfinished)
        if (posted := await _posted(ledger, unfinished)) != len(unfinished):
            findings.append(f"{len(unfinished) - posted} transfers that were unfinished have not moved")
        findings += await rows_wrong(records, unfinished)
    audited = await audit(settings)
    return Books(
        how=f"{audited.how}; {len(left.unfinished):,} that were unfinished looked for by name",
        findings=(*findings, *audited.findings)[:FINDINGS_MOST],
    )


class _Watch:
    """Starts the server, and asks it all that is to be known until nothing is unfinished."""

    def __init__(self, folder: Path, ground: Ground, left: Left, bystander: int) -> None:
        self.figures: Mapping[str, Any] = {}
        """The engine's own, of the last look."""
        self._folder = folder
        self._ground = ground
        self._left = left
        self._bystander = bystander
        self._began = 0.0
        self._at: dict[str, float] = {}
        self._asked: Counter[str] = Counter()
        self._lags_us: Counter[int] = Counter()
        self._lag_most_s = 0.0
        self._open: list[tuple[float, int]] = []
        self._cpu_s = self._servers_s = self._rss_mib = 0.0

    async def run(self) -> None:
        """Start it, ask, and stop it once all is settled.

        Raises:
            RuntimeError: it did not start, or did not settle.
        """
        port, express = Address(_HOST, free_port()), Address(_HOST, free_port())
        settings = self._ground.settings
        config = settings.model_dump(mode="json", exclude={"data_dir"}, exclude_none=True)
        config |= {"express_port": express.port, "access_log": False, "log_level": "error"}
        meter, self._began = Meter(self._ground.servers), time.perf_counter()
        with trio.move_on_after(SETTLED_S_MOST) as patience:
            async with http_sender(express, reached_s=SETTLED_S_MOST) as sender, trio.open_nursery() as nursery:
                for ask in (self._ask_health, self._ask_ready, self._ask_transfers):
                    nursery.start_soon(ask, sender)
                try:
                    server = await ServerProcess.start(self._folder, config, port=port.port, start_s=SETTLED_S_MOST)
                except ServerDied as error:
                    raise RuntimeError(f"{error}: {log_tail(self._folder / 'server.log')}") from None
                try:
                    await self._settled(sender, server.pid, meter)
                    nursery.cancel_scope.cancel()
                finally:
                    with trio.CancelScope(shield=True):
                        await server.stop()
        if patience.cancelled_caught:
            raise RuntimeError(f"not all was settled after {SETTLED_S_MOST:.0f} s: {self._open[-1:]}")

    def recovery(self, *, name: str, books: Books) -> Recovery:
        """Return what was measured."""
        count = max(len(self._left.unfinished), 1)
        return Recovery(
            name=name,
            unfinished=len(self._left.unfinished),
            moved=self._left.moved,
            answering_s=self._at["answering"],
            ready_s=self._at["ready"],
            first_transfer_s=self._at["transfer"],
            settled_s=self._at["settled"],
            asked=dict(self._asked.most_common()),
            cpu_us=self._cpu_s / count * 1e6,
            servers_us=self._servers_s / count * 1e6,
            rss_mib=self._rss_mib,
            lag_ms=self._lag(),
            open_over_time=tuple(self._open),
            books=books,
        )

    def _lag(self) -> Percentiles:
        return percentiles_of(histogram_of(self._lags_us), self._lag_most_s * 1e3)

    def _note(self, what: str) -> None:
        self._at.setdefault(what, time.perf_counter() - self._began)

    async def _ask_health(self, sender: HttpSender) -> None:
        """Ask every 20 ms. While an answer is late, those that would have been asked meanwhile are late, too."""
        request = sender.request("GET", "/health")
        async with sender.caller(0) as caller:
            while True:
                asked = time.perf_counter()
                answer = await caller.ask(request)
                if not isinstance(answer, str):
                    if "answering" in self._at:
                        late_s = time.perf_counter() - asked
                        self._lag_most_s = max(self._lag_most_s, late_s)
                        while late_s > 0:
                            self._lags_us[int(late_s * 1e6)] += 1
                            late_s -= _HEALTH_S
                    self._note("answering")
                await trio.sleep(_HEALTH_S)

    async def _ask_ready(self, sender: HttpSender) -> None:
        request = sender.request("GET", "/ready")
        async with sender.caller(0) as caller:
            while True:
                answer = await caller.ask(request)
                if not isinstance(answer, str) and answer.status == 200:
                    self._note("ready")
                    return
                await trio.sleep(_READY_S)

    async def _ask_transfers(self, sender: HttpSender) -> None:
        """Ask for transfers of somebody who has nothing unfinished, each by a key of its own."""
        number = 0
        async with sender.caller(0) as caller:
            while True:
                number += 1
                order = Order(
                    number=number,
                    user_id=self._bystander,
                    source="funding",
                    target="trading",
                    amount=AMOUNT,
                    key=f"bystander-{number}",
                )
                [outcome] = await caller.send([order])
                self._asked[outcome] += 1
                if outcome == COMMITTED:
                    self._note("transfer")
                await trio.sleep(_TRANSFER_S)

    async def _settled(self, sender: HttpSender, pid: int, meter: Meter) -> None:
        """Look at the engine's figures until nothing is unfinished, and somebody else's transfer was committed."""
        request = sender.request("GET", "/api/v1/admin/statistics")
        async with sender.caller(0) as caller:
            while not {"settled", "transfer", "ready"} <= self._at.keys():
                answer = await caller.ask(request)
                if not isinstance(answer, str) and answer.status == 200:
                    self.figures = msgspec.json.decode(answer.body)
                    unfinished = self.figures["open_transfers"]
                    if "settled" not in self._at:
                        self._open.append((time.perf_counter() - self._began, unfinished))
                        if not unfinished:
                            self._note("settled")
                            usage = meter.read(pid)
                            self._cpu_s, self._servers_s = usage.engine_s, usage.servers_s
                            self._rss_mib = _rss_most_mib(pid)
                await trio.sleep(_STATISTICS_S)


def _rss_most_mib(pid: int) -> float:
    """Return the most memory that a process had resident, in MiB; 0 where that is not told."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM:")), 0.0)
