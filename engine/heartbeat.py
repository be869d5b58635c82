"""The heartbeat: proves that this engine lives, promises identifiers ahead, and raises the journal's low-water mark.

Identifiers and journal buckets are promised ahead: none is issued above the ceiling, and the ceiling is durable before
it counts. So the next life of the node starts above it, whatever its clock says.
"""

from collections.abc import Callable
from typing import Final

import trio

from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.journal import Journal
from transfer_engine.engine.lives import Begun, next_ceiling_ms
from transfer_engine.engine.records.protocol import BUCKET_MS, ClaimLost, RecordStore, RecordsUnavailable

HEARTBEATS_IN_CEILING: Final = 4
"""Heartbeats at least in the time that the ceiling is ahead: some may fail before identifiers run out."""

CREEP_SPEED: Final = 0.5
"""Of real time: how fast a logical clock goes on that is ahead of the wall clock, until that has caught up.

Were it to stand still, an hour's step back of the wall clock would put an hour's intents into one bucket.
"""


class Heartbeat:
    """Raises the ceiling ahead of the clock, and the journal's low-water mark behind it.

    Args:
        store: where the claim lies.
        begun: the life that beats.
        journal: whose mark is raised, once :attr:`may_raise_mark` is set.
        alerts: told of faults.
        clock_ms: the wall clock (Unix ms).
        ahead_ms: how far ahead of it the ceiling is.
        heartbeat_ms: how often to beat, at the least.
    """

    def __init__(
        self,
        *,
        store: RecordStore,
        begun: Begun,
        journal: Journal,
        alerts: Alerts,
        clock_ms: Callable[[], int],
        ahead_ms: int,
        heartbeat_ms: int,
    ) -> None:
        self._store = store
        self._life = begun.life
        self._identifiers = begun.identifiers
        self._lease = begun.lease
        self._journal = journal
        self._alerts = alerts
        self._clock_ms = clock_ms
        self._ahead_ms = ahead_ms
        self._interval_s = min(heartbeat_ms, ahead_ms / HEARTBEATS_IN_CEILING) / 1000
        self._mark = 0
        self._beat = 1
        self._crept_at = trio.current_time()
        self.may_raise_mark = False
        """Whether the journal knows of everything that former lives left: before that it takes too much for settled."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Beat until cancelled; cancellation leaves the ceiling and the mark where the last beat put them."""
        task_status.started()
        while True:
            await trio.sleep(self._interval_s)
            await self.try_beat()

    async def try_beat(self) -> None:
        """Beat once; a store that does not answer is an alert, a claim that is lost the end of the lease, too."""
        if self._lease.loss is not None:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self.beat()
        except RecordsUnavailable as error:
            self._alerts.critical("heartbeat_failed", error=str(error))
        except ClaimLost as error:
            self._alerts.critical("claim_lost", error=str(error))
            self._lease.lose(
                ClaimLost(
                    f"node {self._life.node}: this engine was taken for stopped, and another one has taken it over; "
                    f"start it again ({error})"
                )
            )

    async def beat(self) -> None:
        """Raise the ceiling and the mark once.

        Raises:
            RecordsUnavailable: the store did not answer; the former ceiling counts.
            ClaimLost: another process claimed the node.
        """
        sent_at = trio.current_time()
        creep_ms = int((sent_at - self._crept_at) * 1000 * CREEP_SPEED)
        ceiling_ms = next_ceiling_ms(self._clock_ms(), self._identifiers.logical_ms + creep_ms, self._ahead_ms)
        self._beat += 1
        await self._store.raise_ceiling(self._life, ceiling_ms, beat=self._beat)
        self._lease.renew(sent_at)
        self._identifiers.raise_ceiling(ceiling_ms)
        self._identifiers.creep(creep_ms)
        self._crept_at = sent_at
        if self.may_raise_mark:
            await self._raise_mark(self._journal.low_water_mark)

    async def release(self) -> None:
        """Beat for the last time, and give the node up: whoever wants it may have it at once.

        To be called when nothing is under way any more. A store that does not answer is an alert, and others wait for
        the lease to be over. Cancellation leaves the node ours or given up.
        """
        await self.try_beat()
        if self._lease.loss is not None:
            return
        try:
            if self.may_raise_mark and not self._journal.unsettled:
                # Nothing of this life is left, whatever it journaled; the next one begins in the ceiling's bucket.
                await self._raise_mark(self._identifiers.ceiling_ms // BUCKET_MS)
            await self._store.release(self._life)
        except RecordsUnavailable as error:
            self._alerts.warn("release_failed", error=str(error))
        except ClaimLost as error:
            self._alerts.critical("claim_lost", error=str(error))

    async def _raise_mark(self, mark: int) -> None:
        if mark > self._mark:
            await self._store.raise_low_water_mark(self._life.node, mark)
            self._mark = mark
