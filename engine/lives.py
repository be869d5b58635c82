"""An engine's life: its claim on a node number, the ceiling of its identifiers, and the heartbeat that raises it.

Identifiers and journal buckets are promised ahead: none is issued above the ceiling, and the ceiling is durable
before it counts. So the next life of the node starts above it, whatever its clock says.
"""

from collections.abc import Callable
from uuid import uuid4

import trio

from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.journal import Journal
from transfer_engine.engine.records.protocol import ClaimLost, Life, RecordStore, RecordsUnavailable
from transfer_engine.schema.ids import SnowflakeGenerator

HEARTBEATS_IN_CEILING = 4
"""Heartbeats in the time that the ceiling is ahead: some may fail before identifiers run out."""


AHEAD_LEAST_MS = 100
"""How far the ceiling is above the logical clock at least: 409,600 identifiers, enough until the next heartbeat.

Where the former life's ceiling is ahead of the clock, this is all: else an engine that restarts again and again would
run ahead of the clock by a whole ceiling at every start.
"""


def _ceiling_ms(clock_ms: int, logical_ms: int, ahead_ms: int) -> int:
    return max(clock_ms + ahead_ms, logical_ms + AHEAD_LEAST_MS)


class Lease:
    """Whether this engine may ask anything of the ledger and the cores; once lost, it is lost."""

    def __init__(self) -> None:
        self.is_held = True

    def lose(self) -> None:
        """Another engine has claimed the node: stop asking."""
        self.is_held = False


async def begin_life(
    store: RecordStore, *, node: int, clock_ms: Callable[[], int], ahead_ms: int
) -> tuple[Life, SnowflakeGenerator]:
    """Claim the node and return the new life, and a generator that starts above all former lives.

    Cancellation leaves the node claimed by a life that never issued anything.
    """
    former = await store.find_claim(node)
    life = await store.claim(node, uuid4().hex, former=former, ceiling_ms=clock_ms() + ahead_ms)
    generator = SnowflakeGenerator(node=node, clock_ms=clock_ms, after_ms=life.after_ms)
    ceiling_ms = _ceiling_ms(clock_ms(), life.after_ms, ahead_ms)
    await store.raise_ceiling(life, ceiling_ms, beat=1)
    generator.raise_ceiling(ceiling_ms)
    return life, generator


class Heartbeat:
    """Raises the ceiling ahead of the clock, and the journal's low-water mark behind it."""

    def __init__(
        self,
        *,
        store: RecordStore,
        life: Life,
        generator: SnowflakeGenerator,
        journal: Journal,
        lease: Lease,
        alerts: Alerts,
        clock_ms: Callable[[], int],
        ahead_ms: int,
    ) -> None:
        self._store = store
        self._life = life
        self._generator = generator
        self._journal = journal
        self._lease = lease
        self._alerts = alerts
        self._clock_ms = clock_ms
        self._ahead_ms = ahead_ms
        self._mark = 0
        self._beat = 1

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Beat until cancelled; cancellation leaves the ceiling and the mark where the last beat put them."""
        task_status.started()
        while True:
            await trio.sleep(self._ahead_ms / HEARTBEATS_IN_CEILING / 1000)
            await self.try_beat()

    async def try_beat(self) -> None:
        """Beat once; a store that does not answer, or a claim that is lost, is an alert and no more."""
        try:
            await self.beat()
        except RecordsUnavailable as error:
            self._alerts.critical("heartbeat_failed", error=str(error))
        except ClaimLost as error:
            self._lease.lose()
            self._alerts.critical("claim_lost", error=str(error))

    async def beat(self) -> None:
        """Raise the ceiling and the mark once.

        Raises:
            RecordsUnavailable: the store did not answer; the former ceiling counts.
            ClaimLost: another process claimed the node.
        """
        ceiling_ms = _ceiling_ms(self._clock_ms(), self._generator.logical_ms, self._ahead_ms)
        self._beat += 1
        await self._store.raise_ceiling(self._life, ceiling_ms, beat=self._beat)
        self._generator.raise_ceiling(ceiling_ms)
        mark = self._journal.low_water_mark
        if mark > self._mark:
            await self._store.raise_low_water_mark(self._life.node, mark)
            self._mark = mark
