"""Reading a user's history from Cassandra: candidates by period, newest first, each checked against its row."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from transfer_engine.engine.records.cassandra_messages import (
    READ_CONSISTENCY,
    bigint_key,
    bigint_value,
    bytes_value,
    composite_key,
    int_key,
    int_value,
)
from transfer_engine.engine.records.cassandra_rows import PERIOD_MS, history_part
from transfer_engine.engine.records.cassandra_session import CassandraSession
from transfer_engine.engine.records.cassandra_statements import Statements
from transfer_engine.engine.records.protocol import HistoryPage
from transfer_engine.schema.transfers import TransferRecord

PERIODS_AT_ONCE_MOST: Final = 16
"""Periods that are read at the same time: one at first, then twice as many each time, for users with few transfers."""

CANDIDATES_MOST: Final = 500
"""Candidates fetched from one period at a time."""

_FIRST_POSITION: Final = ((1 << 63) - 1, (1 << 128) - 1)

Position = tuple[int, int]
"""``created_at`` and `req_id`, as a number."""


class CassandraHistory:
    """Reads pages of users' histories.

    Args:
        session: where to ask.
        statements: its statements.
        get_many: finds rows by `req_id`.
    """

    def __init__(
        self,
        session: CassandraSession,
        statements: Statements,
        get_many: Callable[[Sequence[int]], Awaitable[dict[int, TransferRecord]]],
    ) -> None:
        self._session = session
        self._statements = statements
        self._get_many = get_many
        self._consistency = READ_CONSISTENCY[session.settings.consistency]

    async def page(self, user_id: int, limit: int, position: Position | None) -> HistoryPage:
        """Return a page, see `RecordStore`.

        A candidate counts where it agrees with its row, and that is in one place at most: so every transfer is listed
        once, by the time of its winning version.
        """
        records: list[TransferRecord] = []
        at = position or _FIRST_POSITION
        while True:
            candidates, at_end = await self._candidates(user_id, at, limit + 1 - len(records))
            rows = await self._get_many([req_id for _, req_id in candidates])
            for created_at, req_id in candidates:
                row = rows.get(req_id)
                if row is None or row.created_at != created_at or user_id not in {row.user_id, row.target_user_id}:
                    continue
                if len(records) == limit:
                    last = records[-1]
                    return HistoryPage(records, (last.created_at, last.req_id.int))
                records.append(row)
            if at_end:
                return HistoryPage(records, None)
            at = candidates[-1]

    async def _candidates(self, user_id: int, at: Position, wanted: int) -> tuple[list[Position], bool]:
        """Return some candidates below a position, newest first, and whether there are no more."""
        found: list[Position] = []
        wanted = min(wanted, CANDIDATES_MOST)
        newest = at[0] // PERIOD_MS
        count = 1
        while len(found) < wanted:
            periods = await self._periods(user_id, newest, count)
            for candidates in await self._read_periods(user_id, periods, at, wanted):
                found += candidates
                if len(candidates) == wanted:  # this period may have more, and they come before the next one's
                    return found, False
            if len(periods) < count:
                return found, True
            newest = periods[-1] - 1
            count = min(2 * count, PERIODS_AT_ONCE_MOST)
        return found, False

    async def _periods(self, user_id: int, newest: int, count: int) -> list[int]:
        """Return the first ``count`` periods, from the newest on, in which a user has candidates."""
        values = (bigint_value(user_id), bigint_value(newest), int_value(count))
        rows = await self._session.execute(
            *self._statements.request("select_periods", values, self._consistency, routing_key=bigint_key(user_id))
        )
        return [period for (period,) in rows]

    async def _read_periods(
        self, user_id: int, periods: Sequence[int], below: Position, wanted: int
    ) -> list[list[Position]]:
        created_at, req_id = below
        part, user = history_part(user_id), bigint_value(user_id)
        position = (user, bigint_value(created_at), bytes_value(req_id.to_bytes(16, "big")), user, int_value(wanted))
        answers = await self._session.execute_all(
            [
                self._statements.request(
                    "select_history",
                    (int_value(part), bigint_value(period), *position),
                    self._consistency,
                    routing_key=composite_key(int_key(part), bigint_key(period)),
                )
                for period in periods
            ]
        )
        return [[(created_at, req_id.int) for created_at, req_id in rows] for rows in answers]
