"""Several engines on one pair of clusters, killed and stopped under the load of users who turn to whichever answers."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from support.books import breaches, settings_of
from support.journals import read_evidence
from support.killing import alerts_in
from support.production import Pair, free_port
from support.scenes import SETTINGS
from support.users import PATIENCE_S, Users, traces_of_refused
from transfer_engine.http.demo_books import read_books
from transfer_engine.http.demo_client import open_client
from transfer_engine.http.demo_invariants import check_invariants
from transfer_engine.http.demo_notes import Notebook
from transfer_engine.http.demo_server import LOG_NAME, ServerProcess
from transfer_engine.http.settings import ServerSettings

WALLETS = [{"name": "funding", "code": 2}, {"name": "trading", "code": 3}]
"""A simulated core lies in one engine's files: there is none here."""

LEASE: dict[str, Any] = {"heartbeat_ms": 300, "lease_ms": 3_000, "adoption_recheck_ms": 1_000}

LOST = frozenset({"claim_lost", "heartbeat_failed", "the server failed"})
"""What an engine says that was taken for stopped, beside its last line."""

TIMEOUT_MS = 5_000


class Peers:
    """Engines by their node numbers; each has its directory and its port for all of its lives."""

    def __init__(self, pair: Pair, directory: Path, *, nodes: int, answer_s: float) -> None:
        self.pair = pair
        self.directories = [directory / f"node{node}" for node in range(nodes)]
        self.ports = [free_port() for _ in self.directories]
        self.notebook = Notebook()
        self.users = Users(
            self.notebook, [f"http://127.0.0.1:{port}" for port in self.ports], number=18, answer_s=answer_s
        )
        self.running: dict[int, ServerProcess] = {}

    async def start(self, node: int) -> None:
        """Start a node, and wait until it takes transfers."""
        directory = self.directories[node]
        directory.mkdir(exist_ok=True)
        config = {**SETTINGS, **LEASE, **self.pair.backends(timeout_ms=TIMEOUT_MS), "services": WALLETS, "node": node}
        self.running[node] = await ServerProcess.start(directory, config, port=self.ports[node], start_s=PATIENCE_S)

    async def kill(self, node: int) -> None:
        """`kill -9`."""
        assert await self.running.pop(node).kill() == -signal.SIGKILL

    def pause(self, node: int) -> None:
        """SIGSTOP."""
        self.running[node].send(signal.SIGSTOP)

    async def resume_to_its_end(self, node: int) -> int:
        """SIGCONT; wait until the process ends by itself, and return its exit code."""
        server = self.running[node]
        server.send(signal.SIGCONT)
        code = await server.wait()
        await self.running.pop(node).kill()
        return code

    async def figures(self, node: int) -> dict[str, Any]:
        """Return a node's statistics."""
        async with open_client(self.running[node].url, self.notebook) as client:
            return await client.statistics()

    async def until(self, node: int, path: tuple[str, str], least: int) -> None:
        """Wait until a figure of a node's is large enough."""
        with trio.move_on_after(PATIENCE_S):
            while True:
                figures = await self.figures(node)
                if figures[path[0]][path[1]] >= least:
                    return
                await trio.sleep(0.1)
        raise AssertionError(f"{path} of node {node} did not come to {least}: {figures}")

    async def until_adopted_by(self, node: int, shards: int = 1) -> None:
        """Wait until a node has taken so many more shards over."""
        before = (await self.figures(node))["adoption"]["taken_over"]
        await self.until(node, ("adoption", "taken_over"), before + shards)

    async def end(self) -> None:
        """Have everything decided, wait until nothing is left, stop all gracefully, and examine everything."""
        self.users.urls = [server.url for server in self.running.values()]
        await self.users.settle()
        figures = []
        for server in self.running.values():
            async with open_client(server.url, self.notebook) as client:
                figures.append(
                    await client.until(lambda seen: not seen["open_transfers"] and not seen["unsettled_intents"])
                )
        for server in self.running.values():
            assert await server.stop() == 0, server.log_tail()
        await self._examine(figures)

    async def unrecorded(self) -> set[int]:
        """Return what the ledger has moved or holds while all are dead, and no intent or row tells of."""
        return (await read_evidence(self._settings)).unrecorded

    @property
    def _settings(self) -> ServerSettings:
        return settings_of(self.directories[0] / "data", services=WALLETS, **self.pair.backends())

    async def _examine(self, figures: list[dict[str, Any]]) -> None:
        books = await read_books(self._settings, self.users.ids)
        for of_one in figures:
            found = breaches(check_invariants(self.notebook, books, of_one))
            assert found == [], "\n".join(found[:20])
        assert traces_of_refused(self.notebook, books) == []
        evidence = await read_evidence(self._settings)
        assert (evidence.unrecorded, evidence.unfinished) == (set(), set())
        for directory in self.directories:
            alerts = alerts_in(directory / LOG_NAME, expected=LOST)
            assert [line for line in alerts if not line.startswith("transfer-engine: ")] == []


@asynccontextmanager
async def peers_under_load(pair: Pair, directory: Path, *, nodes: int = 2, answer_s: float = 8) -> AsyncIterator[Peers]:
    """Run so many engines and their users; leaving the context ends the load, and examines everything."""
    peers = Peers(pair, directory, nodes=nodes, answer_s=answer_s)
    try:
        async with trio.open_nursery() as nursery:
            for node in range(nodes):
                nursery.start_soon(peers.start, node)
        await peers.users.fund()
        async with trio.open_nursery() as nursery:
            await nursery.start(peers.users.run)
            yield peers
            peers.users.stop()
        await peers.end()
    finally:
        for server in peers.running.values():
            await server.kill()
