"""Servers that are killed under load, over and over, on one data directory; in the end everything is examined."""

import copy
import shutil
import signal
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import trio

from support.books import breaches, examine, settings_of
from transfer_engine.http.demo_books import read_books
from transfer_engine.http.demo_client import Client, open_client
from transfer_engine.http.demo_load import MATCHING, SERVICES, VAULT, Load
from transfer_engine.http.demo_notes import Note, Notebook
from transfer_engine.http.demo_server import LOG_NAME, ServerDied, ServerProcess, log_tail, running_server
from transfer_engine.http.settings import ServerSettings
from transfer_engine.schema.transfers import TransferRecord

CONFIG: dict[str, Any] = {
    "services": list(SERVICES),
    "deadline_ms": 2_000,
    "service_timeout_ms": 300,
    "scan_interval_ms": 50,
    "stale_after_ms": 100,
    "shutdown_ms": 5_000,
    "ceiling_ahead_ms": 1_000,
    "log_format": "json",
}
"""Short times: what waits for the scanner waits for tenths of a second."""

USERS_EACH = 18
"""Of them three have a full account in the vault, so that their transfers to it are rolled back."""

TRANSFERS_EACH = 400
"""More than any life of these tests gets through."""

LIVES_MOST = 5

PATIENCE_S = 60
"""How long one life may last."""

ABANDONED_EVERY = 4
"""Of so many clients one never comes back after the last crash."""

ASKED_AGAIN = 40
"""About so many of the decided transfers are asked for again."""


class Lives:
    """The lives of a server on one directory, and its clients' notes of all of them.

    Each life has users of its own, who have their money from the beginning.

    Args:
        directory: where the server's files are.
        notebook: what its clients asked and were told.
        lives: how many are lived at most, the last one apart.
        users: how many each life has.
        config: what the server is told beside ``CONFIG``.
        backends: settings of the clusters that it runs on: its own, and those of who reads its books.
    """

    def __init__(
        self,
        directory: Path,
        notebook: Notebook,
        *,
        lives: int = LIVES_MOST,
        users: int = USERS_EACH,
        config: Mapping[str, Any] | None = None,
        backends: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.notebook = notebook
        self.backends = dict(backends or {})
        self.config = {**CONFIG, **self.backends, **(config or {})}
        self.loads = [
            Load(
                notebook,
                users=users,
                transfers_each=TRANSFERS_EACH,
                first_user=1 + life * users,
                name=f"life{life}",
            )
            for life in range(lives)
        ]
        self.recovered: list[int] = []
        """How many unfinished transfers each life found that lived to tell it."""
        self._lived = 0

    @classmethod
    async def funded(cls, directory: Path, **arguments: Any) -> "Lives":
        """Return lives (of these ``arguments``) that begin with everybody's money; the server has stopped."""
        lives = cls(directory, Notebook(), **arguments)
        async with running_server(directory, lives.config) as server:
            for load in lives.loads:
                await load.fund(server.url)
            assert await server.stop() == 0
        return lives

    def copy(self, directory: Path) -> "Lives":
        """Return the same lives in another directory: neither changes the other. Only files can be copied."""
        shutil.copytree(self.directory / "data", directory / "data")
        return Lives(directory, copy.deepcopy(self.notebook))

    def next_load(self) -> Load:
        """Return the load of the next life."""
        self._lived += 1
        return self.loads[self._lived - 1]

    async def live_until(self, crash_at: str, **config: Any) -> None:
        """Live until the process kills itself at a named point: while it recovers, or under load."""
        load = self.next_load()
        try:
            async with running_server(self.directory, {**self.config, **config}, crash_at=crash_at) as server:
                with trio.fail_after(PATIENCE_S):
                    await load.run(server.url)
                returncode = await server.wait()
        except ServerDied as died:
            returncode = died.returncode
        assert returncode == -signal.SIGKILL, f"{crash_at} was not reached: {self.log_tail()}"

    async def live_until_answers(
        self,
        answers: int,
        end: Callable[[ServerProcess], Awaitable[None]],
        *,
        behaviour: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> int:
        """Live until so many answers came, then do ``end`` while the load goes on. Return the exit code.

        ``behaviour`` is what both cores are told; nothing by default.
        """
        load = self.next_load()
        left = answers

        def answered(_: Note) -> None:
            nonlocal left
            left -= 1
            if not left:
                nursery.start_soon(end, server)

        async with running_server(self.directory, {**self.config, **config}) as server:
            async with open_client(server.url, self.notebook) as client:
                for core in (MATCHING, VAULT):
                    await client.behave(core, **(behaviour or {}))
            with trio.fail_after(PATIENCE_S):
                async with trio.open_nursery() as nursery:
                    await load.run(server.url, answered=answered)
            assert left <= 0, f"only {answers - left} answers came: {server.log_tail()}"
            return await server.wait()

    async def die_while_opening(self, after_s: float) -> None:
        """Start a process, and kill it so many seconds later, whether it was ready or not."""
        with trio.move_on_after(after_s):
            async with running_server(self.directory, self.config):
                await trio.sleep_forever()

    async def recover(self) -> None:
        """Live a last life: recover, decide what has no final answer, stop gently; then examine all.

        Some of the clients never come back: what they asked for has happened as a whole, or not at all.
        """
        async with running_server(self.directory, self.config) as server:
            async with open_client(server.url, self.notebook) as client:
                await self.ask_for_what_was_told(client)
                self.recovered.append((await client.healed())["recovered"])
                self._abandon_some()
                async with trio.open_nursery() as nursery:
                    for load in self.loads:
                        nursery.start_soon(load.settle, server.url)
                figures = await client.healed()
            assert await server.stop() == 0, server.log_tail()
        await self.examine(figures)

    def _abandon_some(self) -> None:
        for note in self.notebook.undecided:
            note.is_abandoned = note.asked.user_id % ABANDONED_EVERY == 0

    async def ask_for_what_was_told(self, client: Client) -> None:
        """Ask a new life, at once, for what earlier ones told: by `req_id`, and by the same keys."""
        told = [note for note in self.notebook if note.verdict is not None and not note.asked.is_credit]
        for note in told[:: max(1, len(told) // ASKED_AGAIN)]:
            record = await client.record(note.asked)
            assert record.state.value == note.verdict, (note, record)
            again = await client.ask(note.asked)
            assert again.status is note.verdict, (note, again)
            assert again.is_replay, (note, again)

    async def examine(self, figures: dict[str, Any] | None = None) -> None:
        """Hold the files of the stopped server against the notes: every invariant."""
        found = breaches(await examine(self.directory / "data", self.notebook, figures, **self.backends))
        assert not found, "\n".join([*found[:20], self.log_tail()])

    async def rows(self) -> dict[int, TransferRecord]:
        """Return all records of the stopped server, by `req_id`."""
        return (await read_books(self.settings, ())).rows

    @property
    def settings(self) -> ServerSettings:
        """What its books are read with."""
        return settings_of(self.directory / "data", **self.backends)

    def log_tail(self) -> str:
        """Return the last lines of all servers' log."""
        return log_tail(self.directory / LOG_NAME)

    @property
    def alerts(self) -> list[str]:
        """What the servers' logs say that a person must see at once: a fault of the engine's own, here."""
        return alerts_in(self.directory / LOG_NAME)


def alerts_in(log: Path, *, expected: Collection[str] = ()) -> list[str]:
    """Return the lines of a log that a person must see at once, but for those that tell of an ``expected`` event."""
    lines = log.read_text().splitlines()
    harmless = [
        '"level": "info"',
        '"level": "warning"',
        '"level":"info"',
        '"level":"warning"',
        *(f'"event": "{event}"' for event in expected),
    ]
    return [line for line in lines if not any(words in line for words in harmless)]
