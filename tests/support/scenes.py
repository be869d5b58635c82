"""One engine under a load that goes on, whatever becomes of its backends; in the end everything is examined."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import trio

from support.books import breaches, settings_of
from support.journals import read_evidence
from support.killing import CONFIG, alerts_in
from support.production import Pair, free_port
from support.users import PATIENCE_S, Users, traces_of_refused
from transfer_engine.http.demo_books import read_books
from transfer_engine.http.demo_client import open_client
from transfer_engine.http.demo_invariants import check_invariants
from transfer_engine.http.demo_load import PAIRS
from transfer_engine.http.demo_notes import Notebook
from transfer_engine.http.demo_server import ServerProcess, running_server
from transfer_engine.http.settings import ServerSettings
from transfer_engine.schema.wire import ReadyResponse

TIMEOUT_MS = 1_000
"""After so long an engine of these tests takes an answer for lost."""

SETTINGS: dict[str, Any] = {
    **CONFIG,
    "deadline_ms": 500,
    "shutdown_ms": 2_000,
    "stale_after_ms": 300,
    # An operator would see them; here backends are away for as long as the test likes.
    "alert_retries": 1_000_000,
}

OUTAGE = frozenset({"ledger_unavailable", "records_unavailable", "heartbeat_failed"})
"""What an engine must alert while a backend is away."""


class Scene:
    """An engine's directory, its backends (or the proxies before them), and the users of all its lives."""

    def __init__(self, pair: Pair, directory: Path, **backends: str) -> None:
        self.pair = pair
        self.directory = directory
        self.notebook = Notebook()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.users = Users(self.notebook, [self.url], pairs=PAIRS)
        self.figures: dict[str, Any] | None = None
        self._backends = backends

    @asynccontextmanager
    async def server(self, **config: Any) -> AsyncIterator[ServerProcess]:
        """Run the engine; whatever is left of it at the end is killed."""
        backends = self.pair.backends(timeout_ms=TIMEOUT_MS, **self._backends)
        async with running_server(
            self.directory, {**SETTINGS, **backends, **config}, port=self.port, start_s=PATIENCE_S
        ) as server:
            yield server

    @asynccontextmanager
    async def load(self) -> AsyncIterator[Users]:
        """Send until the context is left, and until what was sent last is answered or taken for lost."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.users.run)
            yield self.users
            self.users.stop()

    @asynccontextmanager
    async def played(self, **config: Any) -> AsyncIterator[tuple[ServerProcess, Users]]:
        """Run an engine under load; leaving the context heals it, stops it and examines everything."""
        async with self.server(**config) as server:
            await self.users.fund()
            async with self.load() as users:
                yield server, users
            await self.heal()
            assert await server.stop() == 0, server.log_tail()
        await self.examine()

    async def ready(self) -> tuple[int, ReadyResponse | None]:
        """Return what the engine says of its readiness: the HTTP status, and the body; (0, None) if nobody answers."""
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
            try:
                answer = await client.get(f"{self.url}/ready")
            except httpx.TransportError:
                return 0, None
        return answer.status_code, msgspec.json.decode(answer.content, type=ReadyResponse)

    async def until_ready(self, status: int = 200) -> ReadyResponse:
        """Wait until the engine answers so; return what it says."""
        with trio.move_on_after(PATIENCE_S):
            while True:
                answered, said = await self.ready()
                if answered == status and said is not None:
                    return said
                await trio.sleep(0.1)
        raise AssertionError(f"not {status} within {PATIENCE_S:g} s: {await self.ready()}")

    async def heal(self) -> None:
        """Ask until everything is decided, and wait until the engine has nothing left to do."""
        await self.until_ready()
        await self.users.settle()
        async with open_client(self.url, self.notebook) as client:
            self.figures = await client.healed()

    async def unrecorded(self) -> set[int]:
        """Return what the ledger has moved or holds while the engine is dead, and no intent or row tells of."""
        return (await read_evidence(self._settings)).unrecorded

    @property
    def _settings(self) -> ServerSettings:
        return settings_of(self.directory / "data", **self.pair.backends())

    async def examine(self, *, expected: Collection[str] = OUTAGE) -> None:
        """Hold the books of the stopped engine against the notes: every invariant, and nothing half recorded."""
        books = await read_books(self._settings, self.users.ids)
        found = breaches(check_invariants(self.notebook, books, self.figures))
        assert found == [], "\n".join(found[:20])
        assert traces_of_refused(self.notebook, books) == []
        evidence = await read_evidence(self._settings)
        assert (evidence.unrecorded, evidence.unfinished) == (set(), set())
        assert alerts_in(self.directory / "server.log", expected=expected) == []
