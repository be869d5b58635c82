"""The reconciler: compares books and records slowly, for ever, while the engine works. A mismatch is a critical alert.

Each turn reads three short pages:

* the *present*: the ledger's newest transfers, in order, behind a margin in which rows may still be on their way;
* the *past*: from this life's start back to the ledger's beginning, the newest first, and then again from the present;
* the *rows*: for what they say and the ledger does not know.

Where more happens than a turn may read, the present jumps to catch up: what it leaves out is the past's, which begins
at the present again and again. The cursors live as long as the engine does.

Several engines on one cluster each compare everything; one or two of them are enough (``settings.reconcile``).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import msgspec
import trio
from tigerbeetle import Transfer

from transfer_engine.actors import Backoff
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.comparison import Case, Comparison
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.reconciliation import Difference, Mismatch
from transfer_engine.engine.records.protocol import RecordsUnavailable
from transfer_engine.engine.settings import Settings

LAG_MOST_MS: Final = 60_000
"""The present is at most so far behind the margin, else it jumps: a mismatch of now matters more than one of then."""

RECHECK_MS: Final = 1_000
"""A difference is looked at again after this, before anybody is called."""

ALERTS_IN_TURN_MOST: Final = 10
"""Alerts of one turn, word for word; more of them are one alert with their number."""

TOLD_MOST: Final = 10_000
"""Mismatches remembered, so that the past's next round does not tell them again."""

ROUND_LEAST_MS: Final = 60_000
"""A round of the past, or of the rows, begins no sooner than this after the former one ended."""

UNREADABLE_MOST: Final = 100
"""Errors remembered, likewise."""

_NS_IN_MS: Final = 1_000_000


class ReconcilerStatistics(msgspec.Struct, frozen=True):
    """How far the comparison has got in this life. Times are Unix ms, of the ledger's clock."""

    running: bool
    compared: int
    """Transfers of the ledger that were held against their rows."""
    rows_compared: int
    """Rows that were held against the ledger."""
    mismatches: int
    """Differences that were alerted; each once."""
    by_difference: dict[str, int]
    present_ms: int
    """Everything that the ledger did between this life's start and then was compared, but for what was jumped over."""
    jumps: int
    """How often the present jumped: what it left out is compared as past."""
    past_ms: int
    """Everything between then and the beginning of this round is compared."""
    past_rounds: int
    """How often the ledger was compared back to its beginning."""
    rows_rounds: int
    """How often all rows were compared."""
    faults: int
    """Pages that were not compared because a backend did not answer, or because something can't be read."""


class Reconciler:
    """Compares page after page; it reads and never writes.

    Args:
        comparison: the two sides.
        alerts: told of mismatches.
        is_open: whether a transfer is under way in this engine: then its row is no matter of ours yet.
        clock_ms: the wall clock (Unix ms).
        settings: how often, how much, how far behind.
    """

    def __init__(
        self,
        comparison: Comparison,
        alerts: Alerts,
        *,
        is_open: Callable[[int], bool],
        clock_ms: Callable[[], int],
        settings: Settings,
    ) -> None:
        self._comparison = comparison
        self._alerts = alerts
        self._is_open = is_open
        self._clock_ms = clock_ms
        self._interval_s = settings.reconcile_interval_ms / 1000
        self._page = settings.reconcile_page
        self._margin_ms = settings.reconcile_margin_ms
        self._stranded_after_ms = settings.pending_critical_ms
        self._backoff = Backoff(first_ms=1_000, most_ms=60_000)
        self._running = False
        self._present_ns = self._past_ns = 0
        self._rows_position: int | None = None
        self._compared = self._rows_compared = self._faults = self._jumps = 0
        self._past_rounds = self._rows_rounds = 0
        self._by_difference: Counter[Difference] = Counter()
        self._told: dict[tuple[UUID, Difference], None] = {}
        self._unreadable: set[str] = set()
        self._past_rests_until = self._rows_rest_until = -math.inf
        self._alerts_left = 0

    def __repr__(self) -> str:
        return f"<Reconciler {self.statistics()}>"

    def statistics(self) -> ReconcilerStatistics:
        """Return how far it has got."""
        return ReconcilerStatistics(
            running=self._running,
            compared=self._compared,
            rows_compared=self._rows_compared,
            mismatches=self._by_difference.total(),
            by_difference={kind.value: count for kind, count in self._by_difference.items()},
            present_ms=self._present_ns // _NS_IN_MS,
            jumps=self._jumps,
            past_ms=self._past_ns // _NS_IN_MS,
            past_rounds=self._past_rounds,
            rows_rounds=self._rows_rounds,
            faults=self._faults,
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Compare until cancelled; cancellation leaves nothing behind.

        Backends that do not answer are waited for, and what nobody foresaw is an alert: it never ends the engine.
        """
        if not self._present_ns:
            self._present_ns = self._past_ns = (self._clock_ms() - self._margin_ms) * _NS_IN_MS
        self._running = True
        task_status.started()
        attempt = 0
        try:
            while True:
                await trio.sleep(self._interval_s)
                if await self._turn():
                    attempt = 0
                else:
                    attempt += 1
                    await self._backoff.sleep(attempt)
        finally:
            self._running = False

    async def _turn(self) -> bool:
        """Read a page of each; False where a backend did not answer. A cursor moves on once its page is compared."""
        self._alerts_left = ALERTS_IN_TURN_MOST
        until_ms = self._clock_ms() - self._margin_ms
        is_answered = True
        for part, limit in (
            (self._compare_present, self._page // 2),
            (self._compare_past, self._page // 4),
            (self._compare_rows, self._page // 4),
        ):
            try:
                await part(until_ms, limit)
            except (LedgerUnavailable, RecordsUnavailable):  # those who need them for transfers raise the alert
                self._faults += 1
                is_answered = False
            except Exception as error:  # noqa: BLE001  a row that can't be read must not end the engine
                self._tell_unreadable(error)
        if self._alerts_left < 0:
            self._alerts.critical("books_mismatch", difference="more", more=-self._alerts_left)
        return is_answered

    async def _compare_present(self, until_ms: int, limit: int) -> None:
        to_ns = until_ms * _NS_IN_MS
        if to_ns < self._present_ns:  # the clock was set back
            return
        page = await self._comparison.ledger_page(from_ns=self._present_ns, to_ns=to_ns, limit=limit)
        await self._compare_page(page, until_ms)
        self._present_ns = page[-1].timestamp + 1 if len(page) == limit else to_ns + 1
        if until_ms - self._present_ns // _NS_IN_MS > LAG_MOST_MS:
            self._present_ns = to_ns
            self._jumps += 1

    async def _compare_past(self, until_ms: int, limit: int) -> None:
        if trio.current_time() < self._past_rests_until:
            return
        page = await self._comparison.ledger_page(to_ns=self._past_ns, limit=limit, is_reversed=True)
        await self._compare_page(page, until_ms)
        if len(page) == limit and page[-1].timestamp > 1:
            self._past_ns = page[-1].timestamp - 1
        else:
            self._past_rounds += 1
            self._past_rests_until = trio.current_time() + ROUND_LEAST_MS / 1000
            self._past_ns = max(1, min(self._present_ns, until_ms * _NS_IN_MS))

    async def _compare_page(self, page: Sequence[Transfer], until_ms: int) -> None:
        """Compare a page and call somebody where that is needed; what can't be read is passed over, with an alert."""
        try:
            report = await self._comparison.compare_page(page, until_ms=until_ms)
            for mismatch in report.certain:
                self._tell(mismatch)
            doubtful = [case.legs.req_id for case in report.cases if self._mismatches(case)]
            if doubtful:
                await trio.sleep(RECHECK_MS / 1000)
                for case in await self._comparison.compare_again(doubtful, until_ms=until_ms):
                    for mismatch in self._mismatches(case):
                        self._tell(mismatch)
            self._compared += report.compared
        except (LedgerUnavailable, RecordsUnavailable):
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the cursor goes on behind it
            self._tell_unreadable(error)

    async def _compare_rows(self, _until_ms: int, limit: int) -> None:
        if trio.current_time() < self._rows_rest_until:
            return
        page = await self._comparison.row_page(self._rows_position, limit=limit)
        for mismatch in await self._comparison.compare_rows(page.records):
            if not self._is_open(mismatch.req_id.int):
                self._tell(mismatch)
        self._rows_compared += len(page.records)
        self._rows_position = page.next_position
        if page.next_position is None:
            self._rows_rounds += 1
            self._rows_rest_until = trio.current_time() + ROUND_LEAST_MS / 1000

    def _mismatches(self, case: Case) -> list[Mismatch]:
        """Return what is wrong with a transfer, as far as it is not under way."""
        legs = case.legs
        if self._is_open(legs.req_id):
            return []
        stranded_before_ms = self._clock_ms() - self._stranded_after_ms
        if case.is_open and case.row is None and not case.mismatches:
            held_ms = legs.created_at_ms or 0
            if held_ms > stranded_before_ms:
                return []  # another engine's, or about to be recovered
            what = f"its hold is open since {held_ms} (Unix ms), and it has no row"
            return [Mismatch(Difference.STRANDED_HOLD, UUID(int=legs.req_id), what)]
        if (legs.ended_at_ms or 0) > stranded_before_ms:
            # Another engine may be waiting for a core to commit, or to roll back.
            return [one for one in case.mismatches if one.difference is not Difference.UNFINISHED_ROW]
        return case.mismatches

    def _tell(self, mismatch: Mismatch) -> None:
        """Raise the alert, unless this life has told it before."""
        name = (mismatch.req_id, mismatch.difference)
        if name in self._told:
            return
        if len(self._told) >= TOLD_MOST:
            del self._told[next(iter(self._told))]
        self._told[name] = None
        self._by_difference[mismatch.difference] += 1
        self._alerts_left -= 1
        if self._alerts_left >= 0:
            self._alerts.critical(
                "books_mismatch",
                req_id=str(mismatch.req_id),
                difference=mismatch.difference.value,
                what=mismatch.what,
            )

    def _tell_unreadable(self, error: Exception) -> None:
        """Raise the alert that a page can't be compared, unless this life has told this error before."""
        self._faults += 1
        text = str(error) or repr(error)
        if text not in self._unreadable:
            if len(self._unreadable) >= UNREADABLE_MOST:
                self._unreadable.clear()
            self._unreadable.add(text)
            self._alerts.critical("books_unreadable", error=text, exc_info=error)
