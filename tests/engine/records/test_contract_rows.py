"""What every record store must keep to about rows: monotone, complete, and each found again."""

from itertools import permutations
from uuid import UUID

import msgspec
import trio

from support.record_stores import Reopenable, record
from transfer_engine.engine.records.protocol import RecordPage, RecordStore
from transfer_engine.schema.ids import issued_req_id, keyed_req_id
from transfer_engine.schema.transfers import TransferRecord, TransferState

BIGGEST = record(
    7,
    "failed",
    req_id=UUID(int=keyed_req_id("subject", "transfer", "key")),
    user_id=2**63 - 1,
    target_user_id=2**62,
    asset_id=2**31 - 1,
    amount=2**63 - 1,
    created_at=2**63 - 1,
    updated_at=2**62,
    error="insufficient funds: „žlutý kůň“ 🪙\n\0'\"",
    retry_count=2**31 - 1,
    fingerprint=2**64 - 1,
)
SMALLEST = record(0, "init", user_id=0, target_user_id=0, created_at=0, updated_at=0, fingerprint=0)


async def test_there_is_nothing_at_first(store: RecordStore) -> None:
    assert await store.get(issued_req_id(1)) is None
    assert await store.get_many([issued_req_id(1), issued_req_id(2)]) == {}
    assert await store.get_many([]) == {}
    assert await store.scan_records(limit=10) == RecordPage([], None)


async def test_a_row_is_read_as_it_was_written(reopenable: Reopenable) -> None:
    rows = [BIGGEST, SMALLEST, *(record(number, state) for number, state in enumerate(TransferState, 1))]
    async with reopenable.open() as store:
        for written in rows:
            await store.write([], [written])
            assert await store.get(written.req_id.int) == written
    async with reopenable.open() as store:
        for written in rows:
            read = await store.get(written.req_id.int)
            assert read == written
            assert isinstance(read.state, TransferState)


async def test_the_highest_version_wins_in_any_order(store: RecordStore) -> None:
    for number, order in enumerate(permutations(["source_pending", "target_pending", "committed"])):
        for updated_at, state in enumerate(order):
            await store.write([], [record(number, state, updated_at=updated_at)])
        expected = record(number, "committed", updated_at=order.index("committed"))
        assert await store.get(issued_req_id(number)) == expected


async def test_the_highest_version_wins_within_one_write(store: RecordStore) -> None:
    for number, order in enumerate(permutations(["init", "compensating", "rolled_back"])):
        await store.write([], [record(number, state, updated_at=at) for at, state in enumerate(order)])
        expected = record(number, "rolled_back", updated_at=order.index("rolled_back"))
        assert await store.get(issued_req_id(number)) == expected


async def test_a_row_is_replaced_whole(store: RecordStore) -> None:
    loser = record(1, "init", source="a", target="b", user_id=5, target_user_id=6, asset_id=2, amount=1, error="x")
    winner = record(1, "committed", retry_count=3, fingerprint=1, created_at=1, updated_at=2)
    await store.write([], [loser])
    await store.write([], [winner])
    assert await store.get(issued_req_id(1)) == winner


async def test_retries_count_before_the_end_only(store: RecordStore) -> None:
    for retry_count in (2, 9, 3):
        await store.write([], [record(1, "target_pending", retry_count=retry_count)])
        await store.write([], [record(2, "committed", retry_count=retry_count)])
    assert await store.get(issued_req_id(1)) == record(1, "target_pending", retry_count=9)
    ended = await store.get(issued_req_id(2))
    assert ended in [record(2, retry_count=retry_count) for retry_count in (2, 9, 3)]  # equal versions: either stays


async def test_an_equal_version_changes_neither_state_nor_body(store: RecordStore) -> None:
    # Two engines that record one refusal may do so at two times, in two words: either may stay, and for good.
    rows = [
        record(1, "failed", error=error, created_at=at, updated_at=at)
        for error, at in (("insufficient funds", 5), ("an account is closed", 9))
    ]
    for written in rows:
        await store.write([], [written])
    stored = await store.get(issued_req_id(1))
    assert stored is not None
    assert stored.error in {row.error for row in rows}
    assert stored.created_at in {row.created_at for row in rows}
    assert msgspec.structs.replace(stored, error=rows[0].error, created_at=5, updated_at=5) == rows[0]
    for written in rows[::-1]:
        await store.write([], [written])
    assert await store.get(issued_req_id(1)) == stored


async def test_another_body_under_the_same_id_is_never_mixed_in(store: RecordStore) -> None:
    bodies = [record(1, fingerprint=print_ << 44, amount=print_, user_id=print_) for print_ in (3, 8, 5)]
    for body in bodies:
        await store.write([], [body])
    assert await store.get(issued_req_id(1)) == bodies[1]


async def test_any_number_of_rows_in_one_write(store: RecordStore) -> None:
    for start, count in enumerate((1, 2, 3, 255, 448, 449, 511, 512, 513, 1_300)):
        rows = [record(number, user_id=number % 7) for number in range(10_000 * start, 10_000 * start + count)]
        await store.write([], rows)
        found = await store.get_many([row.req_id.int for row in rows])
        assert found == {row.req_id.int: row for row in rows}


async def test_get_many_leaves_out_what_is_not_there(store: RecordStore) -> None:
    await store.write([], [record(number) for number in range(0, 1_000, 2)])
    found = await store.get_many([issued_req_id(number) for number in (3, 4, 4, 5, 998, 999, 1_000)])
    assert found == {issued_req_id(number): record(number) for number in (4, 998)}


async def test_a_scan_passes_every_row_once(store: RecordStore) -> None:
    rows = [record(number) for number in range(50)]
    rows += [record(0, req_id=UUID(int=keyed_req_id("", "transfer", str(number)))) for number in range(50)]
    await store.write([], rows)
    for limit in (7, 100, 101):
        assert sorted(await scan(store, limit), key=lambda row: row.req_id) == sorted(rows, key=lambda row: row.req_id)


async def test_rows_that_change_during_a_scan_are_on_one_page_each(store: RecordStore) -> None:
    rows = [record(number, "init") for number in range(30)]
    await store.write([], rows)
    first = await store.scan_records(limit=10)
    await store.write([], [record(number) for number in range(60)])
    rest = await scan(store, 10, first.next_position)
    found = [row.req_id for row in first.records + rest]
    assert len(found) == len(set(found))
    assert {row.req_id for row in rows} <= set(found)


async def scan(store: RecordStore, limit: int, position: int | None = None) -> list[TransferRecord]:
    scanned: list[TransferRecord] = []
    while True:
        page = await store.scan_records(position=position, limit=limit)
        assert len(page.records) <= limit
        scanned += page.records
        position = page.next_position
        if position is None:
            return scanned


async def test_concurrent_writes_all_land(store: RecordStore) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(150):
            nursery.start_soon(store.write, [], [record(number, "init"), record(number)])
    assert len(await scan(store, 1_000)) == 150


async def test_a_row_of_a_cancelled_write_lands_whole_or_not_at_all(reopenable: Reopenable) -> None:
    async with reopenable.open() as store, trio.open_nursery() as nursery:
        for number in range(0, 40, 2):
            nursery.start_soon(store.write, [], [record(number), record(number + 1)])
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    async with reopenable.open() as store:
        for row in await scan(store, 100):
            assert row in [record(number) for number in range(40)]
        await store.write([], [record(100)])
        assert await store.get(issued_req_id(100)) == record(100)


async def test_a_cancelled_write_takes_no_other_along(store: RecordStore) -> None:
    for first in range(0, 300, 3):  # trio shuffles its tasks: so every one of the three leads sometimes
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(write_within, scope, store, record(first))
            nursery.start_soon(store.write, [], [record(first + 1)])
            nursery.start_soon(store.write, [], [record(first + 2)])
            for _ in range(first % 6):
                await trio.lowlevel.checkpoint()
            scope.cancel()
        found = await store.get_many([issued_req_id(first + 1), issued_req_id(first + 2)])
        assert found.keys() == {issued_req_id(first + 1), issued_req_id(first + 2)}


async def write_within(scope: trio.CancelScope, store: RecordStore, row: TransferRecord) -> None:
    with scope:
        await store.write([], [row])


async def test_writing_nothing_is_no_fault(store: RecordStore) -> None:
    await store.write([], [])
    assert await scan(store, 1) == []
