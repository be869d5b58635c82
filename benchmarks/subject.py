"""A target that is up and funded, as a run sees it: who sends, what is counted around the load, and its books at the end."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from transfer_engine.benchmarks.result import Books
from transfer_engine.benchmarks.sending import Sender


class Commits(msgspec.Struct, frozen=True):
    """What one group commit has done since the engine's start."""

    flushes: int
    entries: int


class Counters(msgspec.Struct, frozen=True):
    """What an engine has counted since its start: two of them tell what it did in between."""

    commits: Mapping[str, Commits]
    """By the group commit's name."""
    writes: int | None = None
    """Statements, rows and blobs that the record store was given, where it counts them."""


class Subject(Protocol):
    """What is under load. Made by a context manager that takes it down again."""

    @property
    def sender(self) -> Sender:
        """Hands out the callers."""
        ...

    @property
    def pid(self) -> int | None:
        """The process of the engine; None where it is this one, or runs where its process can't be seen."""
        ...

    @property
    def is_here(self) -> bool:
        """Whether the engine runs in this process: then its loop's lag can be measured."""
        ...

    @property
    def servers(self) -> tuple[int, ...]:
        """Processes of its ledger and record servers, as far as they are known."""
        ...

    async def counters(self) -> Counters | None:
        """Return what the engine has counted; None where it does not say."""
        ...

    async def books(self) -> Books:
        """End what serves, and look whether the books hold. Nothing is sent afterwards."""
        ...


def counters_of(statistics: Mapping[str, object]) -> Counters:
    """Return the counters among an engine's statistics, as ``GET /api/v1/admin/statistics`` tells them."""
    commits = {}
    for part in statistics.values():
        if not isinstance(part, Mapping):
            continue
        name, flushes, entries = part.get("name"), part.get("flushes"), part.get("entries_flushed")
        if isinstance(name, str) and isinstance(flushes, int) and isinstance(entries, int):
            commits[name] = Commits(flushes=flushes, entries=entries)
    return Counters(commits=commits)
