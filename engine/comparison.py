"""Reads the ledger and the records side by side, a page at a time, and says where they differ.

A page needs nothing but itself: the other leg of a transfer is looked up by its id, so pages may be read in any order
and memory is bounded by one of them. A transfer is compared on the page that has its end, or, while its hold is open,
on the hold's.

Rows are always read before the legs that they are held against: what a terminal row says has happened by then.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from tigerbeetle import Transfer

from transfer_engine.engine.ledger.paging import every_one
from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX, Ledger
from transfer_engine.engine.reconciliation import (
    Difference,
    Legs,
    Mismatch,
    Rules,
    compare,
    compare_row,
    legs_of_row,
    sort_legs,
)
from transfer_engine.engine.records.protocol import RecordPage, RecordsDamaged, RecordStore
from transfer_engine.schema.ids import HOLD, LEG_MAX, POSTS, VOIDS
from transfer_engine.schema.transfers import TransferRecord

_FIRST_ENDS: Final = (POSTS[0], VOIDS[0])
_LATER_ENDS: Final = (*POSTS[1:], *VOIDS[1:])
_ALL_LEGS: Final = range(HOLD, LEG_MAX + 1)


class Case(msgspec.Struct, frozen=True):
    """A transfer with something to say: how its sides differ, or that its hold is open (``mismatches`` empty)."""

    legs: Legs
    row: TransferRecord | None
    mismatches: list[Mismatch]

    @property
    def is_open(self) -> bool:
        """Whether its hold stands and nothing has ended it."""
        return self.legs.hold is not None and self.legs.end is None


class PageReport(msgspec.Struct, frozen=True):
    """What a page showed."""

    compared: int
    """Transfers that were held against their rows."""
    cases: list[Case]
    certain: list[Mismatch]
    """What needs no second look: ledger transfers that are none of ours, rows that can't be read."""


class Comparison:
    """The two sides, and the questions to them. Every method may raise the backends' faults; none changes anything."""

    def __init__(self, ledger: Ledger, records: RecordStore, rules: Rules) -> None:
        self._ledger = ledger
        self._records = records
        self.rules = rules

    async def ledger_page(
        self, *, from_ns: int = 0, to_ns: int = 0, limit: int, is_reversed: bool = False
    ) -> list[Transfer]:
        """Return ledger transfers by timestamp; 0 is no bound."""
        return await self._ledger.query_transfers(every_one(from_ns, to_ns, limit=limit, is_reversed=is_reversed))

    async def row_page(self, position: int | None, *, limit: int) -> RecordPage:
        """Return rows in the store's own order; see :meth:`RecordStore.scan_records`."""
        return await self._records.scan_records(position=position, limit=limit)

    async def compare_page(self, page: Sequence[Transfer], *, until_ms: int) -> PageReport:
        """Compare the transfers that end, or are held, on a page of the ledger."""
        by_req_id: dict[int, Legs] = {}
        certain = sort_legs(page, by_req_id)
        rows, unreadable = await self.find_rows(list(by_req_id))
        ended_elsewhere = await self._complete(by_req_id)
        cases: list[Case] = []
        for req_id, legs in by_req_id.items():
            if req_id in ended_elsewhere:
                continue
            if req_id in unreadable:
                certain.append(unreadable[req_id])
            else:
                self._compare(legs, rows.get(req_id), until_ms, cases)
        return PageReport(len(by_req_id) - len(ended_elsewhere), cases, certain)

    async def find_rows(self, req_ids: Sequence[int]) -> tuple[dict[int, TransferRecord], dict[int, Mismatch]]:
        """Return the rows that exist, and what is wrong with those that can't be read, both by `req_id`."""
        if not req_ids:
            return {}, {}
        try:
            return await self._records.get_many(req_ids), {}
        except RecordsDamaged:
            pass  # one by one, to find out which
        rows, unreadable = {}, {}
        for req_id in req_ids:
            try:
                row = await self._records.get(req_id)
            except RecordsDamaged as error:
                unreadable[req_id] = Mismatch(Difference.UNREADABLE_ROW, UUID(int=req_id), str(error))
            else:
                if row is not None:
                    rows[req_id] = row
        return rows, unreadable

    async def compare_again(self, req_ids: Sequence[int], *, until_ms: int) -> list[Case]:
        """Compare these transfers once more, from both sides as they are now."""
        rows, unreadable = await self.find_rows(req_ids)
        by_req_id: dict[int, Legs] = {}
        await self._look_up([req_id | leg for req_id in req_ids for leg in _ALL_LEGS], by_req_id)
        cases: list[Case] = []
        for req_id, legs in by_req_id.items():
            if req_id in unreadable:
                cases.append(Case(legs, None, [unreadable[req_id]]))
            else:
                self._compare(legs, rows.get(req_id), until_ms, cases)
        return cases

    async def compare_rows(self, rows: Sequence[TransferRecord]) -> list[Mismatch]:
        """Return the rows that say more than the ledger."""
        sorted_legs: dict[int, Legs] = {}
        wanted = {row.req_id.int: legs_of_row(row) for row in rows}
        await self._look_up([legs[0] for legs in wanted.values() if legs], sorted_legs)
        left = [row for row in rows if compare_row(row, _ids(sorted_legs, row)) is not None]
        if left:
            await self._look_up([leg for row in left for leg in wanted[row.req_id.int][1:]], sorted_legs)
        return [found for row in left if (found := compare_row(row, _ids(sorted_legs, row))) is not None]

    def _compare(self, legs: Legs, row: TransferRecord | None, until_ms: int, cases: list[Case]) -> None:
        mismatches = list(compare(legs, row, self.rules, until_ms=until_ms))
        if mismatches or (legs.end is None and legs.hold is not None):
            cases.append(Case(legs, row, mismatches))

    async def _complete(self, by_req_id: dict[int, Legs]) -> set[int]:
        """Look up what is missing of the transfers on a page; return those that ended on another one."""
        await self._look_up([req_id | HOLD for req_id, legs in by_req_id.items() if _lacks_hold(legs)], by_req_id)
        are_open = [req_id for req_id, legs in by_req_id.items() if legs.hold is not None and legs.end is None]
        for numbers in (_FIRST_ENDS, _LATER_ENDS):
            left = [req_id for req_id in are_open if by_req_id[req_id].end is None]
            await self._look_up([req_id | number for req_id in left for number in numbers], by_req_id)
        return {req_id for req_id in are_open if by_req_id[req_id].end is not None}

    async def _look_up(self, ids: Sequence[int], into: dict[int, Legs]) -> None:
        for start in range(0, len(ids), BATCH_EVENTS_MAX):
            # What is under one of our ids and is no leg is found where the ledger's own order leads to it.
            sort_legs(await self._ledger.lookup_transfers(ids[start : start + BATCH_EVENTS_MAX]), into)


def _lacks_hold(legs: Legs) -> bool:
    return legs.hold is None and legs.tombstone is None


def _ids(sorted_legs: dict[int, Legs], row: TransferRecord) -> set[int]:
    """Return the ids of the legs of a row's transfer that the ledger has."""
    legs = sorted_legs.get(row.req_id.int)
    return set() if legs is None else {leg.id for leg in (legs.hold, legs.end) if leg is not None}
