"""Waves: intents are journaled for everybody who is about to come, not for whoever comes first.

A transfer takes three commits, one after the other: its intent, the ledger, its row. Where each of them starts as soon
as it can, callers that came together drift apart: a few are journaled, while others are in the ledger and the rest are
written down, and each stage makes three small commits where one large one would do: 32 and 128 callers at the express
door had 11 and 43 transfers in a commit, and have 32 and 127 so. A commit costs nearly the same, whatever is in it: an
embedded store a sync of its disk, a cluster some hundred microseconds of CPU on either side for each of its statements.
With TigerBeetle and Cassandra on the engine's own two cores, 3,000 transfers a second that came by chance had a P99 of
153 ms with several appends of intents in flight, and 52 ms in waves.

So the journal waits, never long, for two things: that those before it have got through, and that as many have come as
came the last time. Callers that wait for their answers come back together. PostgreSQL's `commit_delay` does the same
with its `commit_siblings`. Who comes alone waits once, if many came before him, and never again.
"""

from typing import Final, Protocol

import trio

from transfer_engine.engine.recorder import Recorder
from transfer_engine.engine.submitter import Submitter

SIBLINGS_LEAST: Final = 4
"""Transfers in the last wave; with fewer nobody waits."""

AHEAD_S_MOST: Final = 0.02
"""How long a wave waits for the one before it: a few times the 5 ms that one of 32 transfers took on a quick disk.
Where a cluster takes longer, waves run beside each other."""

GATHER_S_MOST: Final = 0.001
"""How long it waits for those who may come back. Whoever comes by chance waits in vain: of 3 ms his P50 had 2."""


class _Stage(Protocol):
    @property
    def entries_waiting(self) -> int: ...

    async def wait_drained(self) -> None: ...


class Waves:
    """Decides when a flush of intents begins. It holds nothing: cancelled, it leaves every intent where it is."""

    def __init__(self, submitter: Submitter, recorder: Recorder) -> None:
        self._stages: Final[tuple[_Stage, ...]] = (submitter.transfers, recorder.rows)
        self._intents = recorder.intents
        self._last = 0

    def __repr__(self) -> str:
        return f"<Waves, {self._last} transfers in the last one>"

    async def gather(self) -> None:
        """Wait until a flush of intents is worth it; no step of the loop passes where it is already."""
        intents = self._intents
        if self._last >= SIBLINGS_LEAST:
            if any(stage.entries_waiting for stage in self._stages):
                with trio.move_on_after(AHEAD_S_MOST):
                    await self._until_through()
            if intents.weight_waiting < self._last:
                with trio.move_on_after(GATHER_S_MOST):
                    await intents.wait_for_weight(self._last)
        self._last = intents.weight_waiting

    async def _until_through(self) -> None:
        for stage in self._stages:
            if stage.entries_waiting:
                await stage.wait_drained()
                await trio.lowlevel.checkpoint()  # tasks that were answered there go on to the next stage first
