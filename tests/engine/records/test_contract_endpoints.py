"""What every record store must keep to about users' endpoints, and about what is told of a transfer with its row."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from support.cassandra_stores import CassandraStore
from support.record_stores import Reopenable, record
from transfer_engine.engine.records.protocol import (
    OUTBOX_SHARDS,
    JournalBlob,
    RecordStore,
    RecordsUnavailable,
)
from transfer_engine.schema.webhooks import Endpoint


def endpoint(user_id: int, version: int = 1, url: str = "https://example.com/hook") -> Endpoint:
    return Endpoint(user_id=user_id, version=version, url=url, secret=f"whsec_{user_id}_{version}", created_at=5)


async def all_endpoints(store: RecordStore, limit: int) -> list[Endpoint]:
    found, position = [], None
    while True:
        page = await store.scan_endpoints(position=position, limit=limit)
        assert len(page.endpoints) <= limit
        found += page.endpoints
        position = page.next_position
        if position is None:
            return found


async def test_an_endpoint_is_what_was_put_last(reopenable: Reopenable) -> None:
    async with reopenable.open() as store:
        assert await store.get_endpoint(7) is None
        for _ in range(2):
            await store.put_endpoint(endpoint(7))
        await store.put_endpoint(endpoint(7, 3, url=""))
        await store.put_endpoint(endpoint(7, 2))
    async with reopenable.open() as store:
        assert await store.get_endpoint(7) == endpoint(7, 3, url="")
        assert await store.get_endpoint(8) is None


async def test_of_two_under_one_version_one_stays_whole(store: RecordStore) -> None:
    both = [endpoint(7, 1, url="https://a.example/z"), endpoint(7, 1, url="https://b.example/")]
    for one in both:
        await store.put_endpoint(one)
    assert await store.get_endpoint(7) in both


async def test_what_a_user_changes_beats_what_engines_changed_meanwhile(store: RecordStore) -> None:
    registered = endpoint(7)
    by_user = endpoint(7, registered.version_by_user, url="https://new.example/")
    by_engine = endpoint(7, registered.version_by_engine, url="https://old.example/")
    await store.put_endpoint(by_user)
    await store.put_endpoint(by_engine)
    assert await store.get_endpoint(7) == by_user


async def test_all_endpoints_are_found_page_by_page(store: RecordStore) -> None:
    users = [1, 2, 64, 65, 128, 129, 192, (1 << 63) - 1, (1 << 63) - 64]
    for user_id in users:
        await store.put_endpoint(endpoint(user_id))
    for limit in (1, 2, 3, 100):
        found = await all_endpoints(store, limit)
        assert sorted(one.user_id for one in found) == sorted(users)
        assert all(one == endpoint(one.user_id) for one in found)


async def test_blobs_and_rows_of_one_write_are_both_there(store: RecordStore) -> None:
    blob = JournalBlob(shard=OUTBOX_SHARDS + 3, bucket=9, sequence=1 << 41, body=b"told")
    await store.write([blob], [record(1)])
    assert [found async for found in store.read_journal(OUTBOX_SHARDS + 3, from_bucket=0)] == [blob]
    assert [found async for found in store.read_journal(3, from_bucket=0)] == []
    assert await store.get(record(1).req_id.int) == record(1)


async def test_cassandra_writes_no_row_before_the_blobs_of_its_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with CassandraStore(tmp_path).open() as store:
        sent: list[int] = []

        async def lose(requests: Sequence[object]) -> list[object]:
            sent.append(len(requests))
            raise RecordsUnavailable("the answer was lost")

        blob = JournalBlob(shard=OUTBOX_SHARDS + 3, bucket=9, sequence=1 << 41, body=b"told")
        with monkeypatch.context() as patched:
            patched.setattr(store._session, "execute_all", lose)
            with pytest.raises(RecordsUnavailable):
                await store.write([blob], [record(1)])
        assert sent == [2]  # the blob and its bucket
        assert await store.get(record(1).req_id.int) is None
        await store.write([blob], [record(1)])
        assert await store.get(record(1).req_id.int) == record(1)
