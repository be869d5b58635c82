"""A run whose books don't hold is told from one whose books do."""

import pytest

from support.memory_records import MemoryRecords
from transfer_engine.benchmarks.books import Holdings, moved_wrongly, rows_wrong
from transfer_engine.benchmarks.plan import AMOUNT
from transfer_engine.benchmarks.supply import Supply

BEFORE = Holdings(funding=100 * AMOUNT, trading=50, pending=0)
LEFT = 90 * AMOUNT
CAME = 50 + 10 * AMOUNT


def test_what_was_committed_has_moved() -> None:
    assert (
        moved_wrongly(
            BEFORE,
            Holdings(funding=LEFT, trading=CAME, pending=0),
            gained={"funding": -10 * AMOUNT, "trading": 10 * AMOUNT},
        )
        == []
    )


@pytest.mark.parametrize(
    "after",
    [
        Holdings(funding=LEFT + 1, trading=CAME, pending=0),
        Holdings(funding=LEFT, trading=CAME + 1, pending=0),
        Holdings(funding=LEFT - 1, trading=CAME + 1, pending=0),
        Holdings(funding=LEFT, trading=CAME, pending=2),
    ],
    ids=["too little left", "too much came", "one more moved", "still held"],
)
def test_balances_that_do_not_fit(after: Holdings) -> None:
    assert moved_wrongly(BEFORE, after, gained={"funding": -10 * AMOUNT, "trading": 10 * AMOUNT}) != []


async def test_a_row_that_is_missing_is_found() -> None:
    records = MemoryRecords()
    group = Supply().group(3)
    await records.write([], group.records[:2])
    asked = [record.req_id.int for record in group.records]
    assert await rows_wrong(records, asked[:2]) == []
    [wrong] = await rows_wrong(records, asked)
    assert "is missing" in wrong
