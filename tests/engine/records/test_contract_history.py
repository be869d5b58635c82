"""What every record store must keep to about histories: both users', newest first, each transfer once."""

from collections.abc import AsyncIterator

import pytest

from support.record_stores import Reopenable, record
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.schema.transfers import TransferRecord


async def pages(store: RecordStore, user_id: int, limit: int) -> AsyncIterator[list[TransferRecord]]:
    position = None
    while True:
        page = await store.history(user_id, limit=limit, position=position)
        assert len(page.records) <= limit
        yield page.records
        if page.next_position is None:
            return
        position = page.next_position


async def whole(store: RecordStore, user_id: int, limit: int = 7) -> list[TransferRecord]:
    return [row async for page in pages(store, user_id, limit) for row in page]


def newest_first(rows: list[TransferRecord]) -> list[TransferRecord]:
    return sorted(rows, key=lambda row: (row.created_at, row.req_id.int), reverse=True)


async def test_a_user_without_transfers_has_none(store: RecordStore) -> None:
    await store.write([], [record(1, user_id=1)])
    page = await store.history(2, limit=5)
    assert (page.records, page.next_position) == ([], None)


async def test_both_users_have_it_and_nobody_else(reopenable: Reopenable) -> None:
    own = [record(number, user_id=1) for number in range(5)]
    given = [record(number, user_id=1, target_user_id=2) for number in range(5, 8)]
    taken = [record(number, user_id=3, target_user_id=1) for number in range(8, 12)]
    async with reopenable.open() as store:
        await store.write([], own + given + taken)
    async with reopenable.open() as store:
        assert await whole(store, 1) == newest_first(own + given + taken)
        assert await whole(store, 2) == newest_first(given)
        assert await whole(store, 3) == newest_first(taken)


async def test_the_same_millisecond_is_ordered_by_id(store: RecordStore) -> None:
    rows = [record(number, created_at=77) for number in (5, 1, 9, 3)]
    await store.write([], rows)
    assert [row.req_id for row in await whole(store, 1, limit=1)] == [record(number).req_id for number in (9, 5, 3, 1)]


@pytest.mark.parametrize("limit", [1, 2, 19, 20, 21, 1_000])
async def test_pages_of_any_size_are_the_whole(store: RecordStore, limit: int) -> None:
    rows = [record(number, created_at=number // 3) for number in range(20)]
    await store.write([], rows)
    listed = [page async for page in pages(store, 1, limit)]
    assert [row for page in listed for row in page] == newest_first(rows)
    assert len(listed) == -(-20 // limit)  # no empty page at the end


async def test_it_follows_the_row(store: RecordStore) -> None:
    for state in ("source_pending", "target_pending", "committed"):
        await store.write([], [record(1, state)])
        assert await whole(store, 1) == [record(1, state)]
    await store.write([], [record(1, "init")])
    assert await whole(store, 1) == [record(1, "committed")]


@pytest.mark.parametrize("times", [(10, 30), (30, 10)])
async def test_a_refusal_recorded_twice_is_listed_once(store: RecordStore, times: tuple[int, int]) -> None:
    others = [record(number, created_at=20) for number in (2, 3)]
    await store.write([], others)
    for created_at in times:
        await store.write([], [record(1, "failed", created_at=created_at)])
    stored = await store.get(record(1).req_id.int)
    assert stored in [record(1, "failed", created_at=created_at) for created_at in times]
    assert await whole(store, 1, limit=1) == newest_first([*others, stored])


async def test_it_is_listed_by_the_time_of_the_version_that_won(store: RecordStore) -> None:
    await store.write([], [record(2, created_at=20)])
    for state, created_at in (("init", 10), ("committed", 30), ("source_pending", 25)):
        await store.write([], [record(1, state, created_at=created_at)])
    assert await whole(store, 1, limit=1) == [record(1, created_at=30), record(2, created_at=20)]


async def test_many_losers_in_a_row_do_not_end_a_page(store: RecordStore) -> None:
    await store.write([], [record(1, created_at=5), record(2, created_at=4)])
    await store.write([], [record(1, "init", created_at=100 + number) for number in range(30)])
    page = await store.history(1, limit=1)
    assert page.records == [record(1, created_at=5)]
    assert page.next_position is not None
    last = await store.history(1, limit=1, position=page.next_position)
    assert (last.records, last.next_position) == ([record(2, created_at=4)], None)


async def test_another_users_losing_body_is_not_in_their_history(store: RecordStore) -> None:
    await store.write([], [record(1, user_id=4, target_user_id=5, fingerprint=0)])
    winner = record(1, user_id=6, target_user_id=7, fingerprint=2**63)
    await store.write([], [winner])
    assert [await whole(store, user_id) for user_id in (4, 5, 6, 7)] == [[], [], [winner], [winner]]


async def test_rows_that_arrive_between_two_pages(store: RecordStore) -> None:
    rows = [record(number) for number in range(10, 20)]
    await store.write([], rows)
    first = await store.history(1, limit=5)
    newer, older = record(50), record(3)
    await store.write([], [newer, older, *rows])
    second = await store.history(1, limit=10, position=first.next_position)
    assert first.records + second.records == newest_first([*rows, older])
    assert (await whole(store, 1))[0] == newer


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_that_is_none_is_refused(store: RecordStore, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        await store.history(1, limit=limit)
    with pytest.raises(ValueError, match="limit"):
        await store.scan_records(limit=limit)
