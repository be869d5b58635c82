"""A target that is up and funded, as a run sees it: who sends, what is counted around the load, and its books."""

from collections.abc import Mapping
from typing import Final, Protocol, runtime_checkable

import msgspec

from transfer_engine.benchmarks.loops import Around
from transfer_engine.benchmarks.plan import Fault, Plan
from transfer_engine.benchmarks.recording import Recording
from transfer_engine.benchmarks.result import Books
from transfer_engine.benchmarks.sending import Sender

_JOURNAL: Final = "journal"
_RECORDER: Final = "recorder"


class Commits(msgspec.Struct, frozen=True):
    """What one group commit has done since the engine's start."""

    flushes: int
    entries: int


class Counters(msgspec.Struct, frozen=True):
    """What an engine has counted since its start: two of them tell what it did in between."""

    commits: Mapping[str, Commits]
    """By the group commit's name."""
    writes: int | None = None
    """Rows and blobs that the record store was given."""


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

    async def make(self, fault: Fault) -> None:
        """Do this to the target now, and undo it after its time; return when it is undone.

        Raises:
            RuntimeError: this target can't have such a fault.
        """
        ...

    async def books(self) -> Books:
        """End what serves, and look whether the books hold. Nothing is sent afterwards."""
        ...


@runtime_checkable
class LoadedByWrk(Protocol):
    """A subject that answers the first API's transfers over HTTP."""

    async def load_by_wrk(self, plan: Plan, recording: Recording, around: Around) -> None:
        """Have wrk make a plan's load.

        Raises:
            RuntimeError: wrk can't, or failed.
        """
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
    writes = None
    if _JOURNAL in commits and _RECORDER in commits:  # a flush of intents is a blob
        writes = commits[_JOURNAL].flushes + commits[_RECORDER].entries
    return Counters(commits=commits, writes=writes)
