"""What every record store must keep to about the journal of intents and its mark."""

import pytest

from support.record_stores import Reopenable, record
from transfer_engine.engine.records.protocol import JOURNAL_BLOB_BYTES_MAX, JournalBlob, RecordStore


def blob(bucket: int, sequence: int, body: bytes = b"", shard: int = 1) -> JournalBlob:
    return JournalBlob(shard=shard, bucket=bucket, sequence=sequence, body=body or f"{bucket}/{sequence}".encode())


async def journal(store: RecordStore, shard: int = 1, from_bucket: int = 0) -> list[JournalBlob]:
    return [found async for found in store.read_journal(shard, from_bucket=from_bucket)]


async def test_the_journal_is_read_by_bucket_and_sequence(reopenable: Reopenable) -> None:
    blobs = [blob(bucket, sequence) for bucket in (9, 10, 100) for sequence in (2, 10, 1 << 60)]
    async with reopenable.open() as store:
        for written in reversed(blobs):
            await store.write([written], [])
        await store.write([blob(9, 5, shard=2)], [])
    async with reopenable.open() as store:
        assert await journal(store) == blobs
        assert await journal(store, from_bucket=10) == blobs[3:]
        assert await journal(store, from_bucket=101) == []
        assert await journal(store, shard=2) == [blob(9, 5, shard=2)]
        assert await journal(store, shard=3) == []


async def test_writing_a_blob_again_changes_nothing(store: RecordStore) -> None:
    for _ in range(2):
        await store.write([blob(1, 1), blob(1, 2)], [record(1)])
    assert await journal(store) == [blob(1, 1), blob(1, 2)]


async def test_a_long_journal_is_read_whole(store: RecordStore) -> None:
    blobs = [blob(number // 10, number) for number in range(200)]
    await store.write(blobs, [])
    assert await journal(store) == blobs


async def test_a_blob_may_be_as_large_as_the_limit_and_no_larger(store: RecordStore) -> None:
    largest = blob(1, 1, bytes(range(256)) * (JOURNAL_BLOB_BYTES_MAX // 256))
    await store.write([largest], [])
    with pytest.raises(ValueError, match="blob"):
        await store.write([blob(1, 2, largest.body + b"x")], [])
    assert await journal(store) == [largest]


async def test_what_is_appended_while_it_is_read_disturbs_nothing(store: RecordStore) -> None:
    blobs = [blob(2, number) for number in range(0, 100, 2)]
    await store.write(blobs, [])
    found = []
    async for read in store.read_journal(1, from_bucket=0):
        found.append(read)
        if len(found) == 20:
            await store.write([blob(1, 1), blob(3, 1)], [])
    assert found[:50] == blobs
    assert found[50:] in ([], [blob(3, 1)])


async def test_the_mark_drops_what_lies_below_it_and_never_goes_down(reopenable: Reopenable) -> None:
    async with reopenable.open() as store:
        assert await store.low_water_mark(1) == 0
        await store.write([blob(bucket, sequence) for bucket in range(10) for sequence in range(20)], [])
        await store.write([blob(3, 1, shard=2)], [])
        await store.raise_low_water_mark(1, 5)
        await store.raise_low_water_mark(1, 4)
        assert await store.low_water_mark(1) == 5
    async with reopenable.open() as store:
        assert (await store.low_water_mark(1), await store.low_water_mark(2)) == (5, 0)
        assert await journal(store) == [blob(bucket, sequence) for bucket in range(5, 10) for sequence in range(20)]
        assert await journal(store, shard=2) == [blob(3, 1, shard=2)]
