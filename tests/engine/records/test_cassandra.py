"""The record store on a real Cassandra: its schema, its bad configurations, and what only it has to keep to."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from support.cassandra_server import CassandraServer, find_jars, running_cassandra
from support.cassandra_stores import (
    connected,
    empty_shared_keyspace,
    forge_state,
    open_quietly,
    server_or_skip,
    settings_of,
)
from support.record_stores import record
from transfer_engine.engine.records import cassandra_schema, cassandra_store
from transfer_engine.engine.records.cassandra_cluster import parse_contact_point, tls_context
from transfer_engine.engine.records.cassandra_rows import PERIOD_MS
from transfer_engine.engine.records.cassandra_store import CassandraRecords, open_cassandra_records
from transfer_engine.engine.records.protocol import (
    JournalBlob,
    RecordsDamaged,
    RecordsMisconfigured,
    RecordsUnavailable,
)
from transfer_engine.engine.settings import CassandraSettings, TlsSettings
from transfer_engine.schema.transfers import TransferRecord

ROW = record(1)


@pytest.fixture
def server() -> CassandraServer:
    return server_or_skip()


@pytest.fixture
def settings(server: CassandraServer) -> CassandraSettings:
    return empty_shared_keyspace(server)


@pytest.fixture
async def store(settings: CassandraSettings):
    async with open_quietly(settings) as opened:
        yield opened


async def refusal_of(settings: CassandraSettings) -> str:
    with pytest.raises(RecordsMisconfigured) as caught:
        async with open_cassandra_records(settings):
            pass
    return str(caught.value)


def apply(settings: CassandraSettings) -> list[str]:
    told: list[str] = []
    cassandra_schema.apply(settings, told.append)
    return told


# Bad configurations.


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:9042"])
async def test_an_absent_cluster_is_unavailable_at_once(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(RecordsUnavailable, match=address):
        async with open_cassandra_records(CassandraSettings(contact_points=(address,), connect_timeout_ms=20_000)):
            pass
    assert time.monotonic() - started < 15


async def test_a_cluster_that_says_nothing_is_unavailable_by_the_time_that_was_set() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        settings = CassandraSettings(contact_points=(address,), connect_timeout_ms=300)
        started = time.monotonic()
        with pytest.raises(RecordsUnavailable, match=address):
            async with open_cassandra_records(settings):
                pass
        assert time.monotonic() - started < 5


async def test_what_is_no_cluster_is_unavailable() -> None:
    async def say_nonsense(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, say_nonsense, [listener])
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        with pytest.raises(RecordsUnavailable, match=address):
            async with open_cassandra_records(CassandraSettings(contact_points=(address,), connect_timeout_ms=2_000)):
                pass
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("contact_point", ["", "host:", "host:0", "host:70000", "host:cql", ":9042"])
def test_a_contact_point_that_is_none_is_named(contact_point: str) -> None:
    with pytest.raises(RecordsMisconfigured, match=r"cassandra\.contact_points"):
        parse_contact_point(contact_point)


@pytest.mark.parametrize(
    ("contact_point", "parsed"),
    [
        ("db1", ("db1", 9042)),
        ("db1:19042", ("db1", 19042)),
        ("::1", ("::1", 9042)),
        ("[::1]", ("::1", 9042)),
        ("[::1]:19042", ("::1", 19042)),
    ],
)
def test_contact_points(contact_point: str, parsed: tuple[str, int]) -> None:
    assert parse_contact_point(contact_point) == parsed


async def test_a_missing_keyspace_names_the_command(server: CassandraServer) -> None:
    message = await refusal_of(settings_of(server))
    assert "cassandra.keyspace" in message
    assert "transfer-engine schema apply" in message


async def test_another_data_centre_names_those_that_are_there(settings: CassandraSettings) -> None:
    message = await refusal_of(settings.model_copy(update={"local_data_centre": "elsewhere"}))
    assert "cassandra.local_data_centre" in message
    assert "datacenter1" in message


def test_more_replicas_than_nodes_are_refused_before_anything_is_made(server: CassandraServer) -> None:
    settings = settings_of(server, replication_factor=3)
    with pytest.raises(RecordsMisconfigured, match="--replication-factor 1"):
        apply(settings)
    with connected(settings) as session, pytest.raises(Exception, match="exist"):
        session.execute(f"USE {settings.keyspace}")


async def test_the_schema_is_made_once_and_its_version_is_checked(server: CassandraServer) -> None:
    settings = settings_of(server)
    assert len(apply(settings)) == 2
    assert apply(settings) == [f"keyspace {settings.keyspace}: schema version 3, nothing to do"]
    with connected(settings) as session:
        session.execute(f"TRUNCATE {settings.keyspace}.schema_version")
        assert "schema apply" in await refusal_of(settings)
        assert len(apply(settings)) == 1  # what is there stays
        of_version = f"INSERT INTO {settings.keyspace}.schema_version (component, version) VALUES ('records', %s)"  # noqa: S608
        session.execute(f"TRUNCATE {settings.keyspace}.schema_version")
        session.execute(of_version, (2,))
        assert "rebuild" in await refusal_of(settings)
        with pytest.raises(RecordsMisconfigured, match=r"another cassandra\.keyspace"):
            apply(settings)
        session.execute(of_version, (99,))
        assert "99" in await refusal_of(settings)
        with pytest.raises(RecordsMisconfigured, match="99"):
            apply(settings)
        session.execute(f"DROP KEYSPACE {settings.keyspace}", timeout=60)


async def test_a_table_that_goes_while_it_is_used_is_a_misconfiguration(server: CassandraServer) -> None:
    settings = settings_of(server)
    apply(settings)
    async with open_quietly(settings) as store:
        await store.write([], [ROW])
        with connected(settings) as session:
            session.execute(f"DROP KEYSPACE {settings.keyspace}", timeout=60)
        with pytest.raises(RecordsMisconfigured, match=settings.keyspace):
            await store.write([], [ROW])
        with pytest.raises(RecordsMisconfigured, match=settings.keyspace):
            await store.get(ROW.req_id.int)


async def test_credentials(tmp_path: Path, server: CassandraServer) -> None:
    password = tmp_path / "password"
    password.write_text("cassandra\n")
    with running_cassandra(find_jars(), tmp_path, authenticator="PasswordAuthenticator") as guarded:
        open_one = settings_of(guarded)
        right = open_one.model_copy(update={"username": "cassandra", "password_file": password})
        with trio.fail_after(60):
            while True:  # the first account is made a moment after the server listens
                try:
                    await trio.to_thread.run_sync(apply, right)
                    break
                except RecordsMisconfigured:
                    await trio.sleep(0.2)
        assert "cassandra.username and cassandra.password_file" in await refusal_of(open_one)
        wrong = tmp_path / "wrong"
        wrong.write_text("secret")
        message = await refusal_of(right.model_copy(update={"password_file": wrong}))
        assert "'cassandra'" in message
        assert str(wrong) in message
        assert "secret" not in message
        async with open_cassandra_records(right) as store:
            await store.write([], [ROW])
            assert await store.get(ROW.req_id.int) == ROW


async def test_a_password_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (None, tmp_path / "absent"):
        message = await refusal_of(CassandraSettings(username="engine", password_file=path))
        assert "cassandra.password_file" in message


def test_a_certificate_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for path in (tmp_path / "ca.pem", tmp_path / "absent.pem"):
        with pytest.raises(RecordsMisconfigured, match=r"cassandra\.tls\.ca_file"):
            tls_context(TlsSettings(ca_file=path))


# Rows that nobody of us wrote.


async def test_an_unknown_state_is_damage_wherever_it_is_read(
    settings: CassandraSettings, store: CassandraRecords
) -> None:
    await store.write([], [ROW])
    with connected(settings) as session:
        forge_state(session, settings.keyspace, ROW.req_id, "limbo")
    readings = [
        lambda: store.get(ROW.req_id.int),
        lambda: store.history(1, limit=1),
        lambda: store.scan_records(limit=1),
    ]
    for read in readings:
        with pytest.raises(RecordsDamaged, match="limbo") as caught:
            await read()
        assert str(ROW.req_id) in str(caught.value)


async def test_a_row_without_fields_is_damage(settings: CassandraSettings, store: CassandraRecords) -> None:
    key = UUID(int=ROW.req_id.int)
    with connected(settings) as session:
        insert = f"INSERT INTO {settings.keyspace}.transfers (req_id, record) VALUES (%s, {{state: 'failed'}})"  # noqa: S608
        session.execute(insert, (key,))
        with pytest.raises(RecordsDamaged, match="amount"):
            await store.get(key.int)
        session.execute(f"INSERT INTO {settings.keyspace}.transfers (req_id) VALUES (%s)", (UUID(int=1),))  # noqa: S608
        with pytest.raises(RecordsDamaged, match=str(UUID(int=1))):
            await store.get(1)


async def test_a_claim_without_columns_is_damage(settings: CassandraSettings, store: CassandraRecords) -> None:
    with connected(settings) as session:
        session.execute(f"INSERT INTO {settings.keyspace}.claims (node) VALUES (7) IF NOT EXISTS")  # noqa: S608
        session.execute(f"INSERT INTO {settings.keyspace}.claimed_nodes (component, node) VALUES ('records', 7)")  # noqa: S608
    for read in (store.claims, lambda: store.find_claim(7)):
        with pytest.raises(RecordsDamaged, match="node 7"):
            await read()


async def test_rows_are_what_the_first_api_documents(settings: CassandraSettings, store: CassandraRecords) -> None:
    await store.write([], [record(1, "failed", error="insufficient funds", retry_count=3)])
    with connected(settings) as session:
        [row] = session.execute(
            "SELECT req_id, record.source, record.target, record.user_id, record.asset_id, record.amount, "  # noqa: S608
            "record.state, record.created_at, record.updated_at, record.error, record.retry_count, "
            f"record.target_user_id, record.fingerprint, writetime(record) FROM {settings.keyspace}.transfers"
        )
    at = 1_800_000_000_001
    assert row[:11] == (ROW.req_id, "funding", "trading", 1, 1, 100, "failed", at, at, "insufficient funds", 3)
    assert row[11:] == (1, 0xFEDC_BA98_7654_3210 - 2**64, record(1, "failed", retry_count=3).version)


# Timestamps: what comes late changes nothing.


async def test_an_append_to_a_settled_bucket_stays_dead(settings: CassandraSettings, store: CassandraRecords) -> None:
    blobs = [JournalBlob(1, bucket, bucket, b"intents") for bucket in range(6)]
    await store.write(blobs, [])
    await store.raise_low_water_mark(1, 4)
    await store.write(blobs, [])
    async with open_quietly(settings) as other:  # one that does not remember which buckets are listed
        await other.write(blobs, [])
        assert [blob.bucket async for blob in other.read_journal(1, from_bucket=0)] == [4, 5]
    with connected(settings) as session:
        stored = session.execute(f"SELECT bucket FROM {settings.keyspace}.intents WHERE shard = 1 ALLOW FILTERING")  # noqa: S608
        assert sorted(bucket for (bucket,) in stored) == [4, 5]


async def test_what_a_former_process_left_below_the_mark_is_dropped(
    settings: CassandraSettings, store: CassandraRecords
) -> None:
    await store.write([JournalBlob(1, bucket, 1, b"intents") for bucket in range(250)], [])
    with connected(settings) as session:
        session.execute(f"INSERT INTO {settings.keyspace}.marks (shard, bucket) VALUES (1, 240) USING TIMESTAMP 240")  # noqa: S608
        await store.raise_low_water_mark(1, 245)
        stored = session.execute(f"SELECT bucket FROM {settings.keyspace}.intents WHERE shard = 1 ALLOW FILTERING")  # noqa: S608
        assert sorted(bucket for (bucket,) in stored) == list(range(245, 250))
        listed = session.execute(f"SELECT bucket FROM {settings.keyspace}.intent_buckets WHERE shard = 1")  # noqa: S608
        assert [bucket for (bucket,) in listed] == list(range(245, 250))


async def test_a_late_mark_does_not_lower_it(settings: CassandraSettings, store: CassandraRecords) -> None:
    await store.raise_low_water_mark(1, 9)
    async with open_quietly(settings) as other:
        await other.raise_low_water_mark(1, 5)
    assert await store.low_water_mark(1) == 9


# History over many partitions, batches of many sizes.


async def whole(store: CassandraRecords, user_id: int, limit: int) -> list[TransferRecord]:
    listed: list[TransferRecord] = []
    position: tuple[int, int] | None = None
    while True:
        page = await store.history(user_id, limit=limit, position=position)
        assert len(page.records) == limit or page.next_position is None
        listed += page.records
        if page.next_position is None:
            return listed
        position = page.next_position


@pytest.mark.parametrize("limit", [1, 7, 100, 1_000])
async def test_a_history_of_many_periods_is_complete(store: CassandraRecords, limit: int) -> None:
    # Some periods are full, most have one transfer, many have none; some candidates are of versions that lost.
    rows = [
        record(
            number,
            user_id=1 if number % 3 else 2,
            target_user_id=1,
            created_at=(number // 30 if number < 120 else 2 * number) * PERIOD_MS + number % 5,
        )
        for number in range(180)
    ]
    losers = [
        record(number, "init", user_id=1, target_user_id=3, created_at=number * PERIOD_MS)
        for number in range(0, 180, 4)
    ]
    await store.write([], losers + rows)
    newest_first = sorted(rows, key=lambda row: (row.created_at, row.req_id.int), reverse=True)
    assert await whole(store, 1, limit) == newest_first
    assert await whole(store, 2, limit) == [row for row in newest_first if row.user_id == 2]
    assert await whole(store, 3, limit) == []


async def test_batches_shrink_to_what_the_server_allows(
    store: CassandraRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_batch_bytes", 16 * cassandra_store.BATCH_BYTES_MOST)
    rows = [record(number) for number in range(2_000)]
    await store.write([], rows)
    found = await store.get_many([row.req_id.int for row in rows])
    assert len(found) == len(rows)
    sent = store.statistics().sent
    await store.write([], rows)
    assert 10 < store.statistics().sent - sent < 60  # it remembers


async def test_a_row_larger_than_a_batch_is_stored(store: CassandraRecords) -> None:
    rows = [record(number, "failed", error="x" * size) for number, size in enumerate((60_000, 10, 30_000, 200_000, 10))]
    await store.write([], rows)
    assert await store.get_many([row.req_id.int for row in rows]) == {row.req_id.int: row for row in rows}


async def test_a_scan_continues_within_one_token(store: CassandraRecords) -> None:
    rows = [record(number) for number in range(25)]
    await store.write([], rows)
    for limit in (1, 2, 24, 25, 26):
        scanned: list[TransferRecord] = []
        position: int | None = None
        while True:
            page = await store.scan_records(position=position, limit=limit)
            scanned += page.records
            position = page.next_position
            if position is None:
                break
        assert sorted(scanned, key=lambda row: row.req_id) == rows


# Its end.


async def test_a_closed_store_says_so(settings: CassandraSettings) -> None:
    async with open_cassandra_records(settings) as store:
        pass
    for ask in (lambda: store.write([], [ROW]), lambda: store.get(1), store.claims):
        with pytest.raises(trio.ClosedResourceError):
            await ask()


LEFT_OPEN = """
import sys, trio
from transfer_engine.engine.records.cassandra_store import open_cassandra_records
from transfer_engine.engine.settings import CassandraSettings

async def main():
    store = open_cassandra_records(CassandraSettings.model_validate_json(sys.argv[1]))
    records = await store.__aenter__()
    print(await records.claims())
    sys.exit(3)

trio.run(main)
"""


def test_no_thread_keeps_a_process_alive(settings: CassandraSettings) -> None:
    ended: Any = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LEFT_OPEN, settings.model_dump_json()],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (3, "[]\n"), ended.stderr
