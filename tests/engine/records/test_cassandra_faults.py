"""Cassandra dies, stops, or its answers get lost: nothing acknowledged is missing, unknown is never taken for done."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import pytest
import trio

from support.cassandra_server import CassandraServer
from support.cassandra_stores import empty_shared_keyspace, open_quietly, server_or_skip, settings_of
from support.proxy import Proxy, running_proxy
from support.record_stores import record
from transfer_engine.engine.records import cassandra_schema
from transfer_engine.engine.records.cassandra_store import CassandraRecords, open_cassandra_records
from transfer_engine.engine.records.protocol import Claim, ClaimLost, JournalBlob, Life, RecordsUnavailable
from transfer_engine.engine.settings import CassandraSettings
from transfer_engine.schema.ids import SNOWFLAKE_EPOCH_MS

Answer = TypeVar("Answer")

IMPATIENT_MS = 400
PATIENCE_S = 120

LATER_MS = SNOWFLAKE_EPOCH_MS + 1_000_000


@pytest.fixture
def server() -> CassandraServer:
    return server_or_skip()


@pytest.fixture
def settings(server: CassandraServer) -> CassandraSettings:
    return empty_shared_keyspace(server)


@pytest.fixture
async def store(settings: CassandraSettings) -> AsyncIterator[CassandraRecords]:
    """A store that waits long."""
    async with open_quietly(settings) as opened:
        yield opened


@pytest.fixture
async def proxy(server: CassandraServer) -> AsyncIterator[Proxy]:
    async with running_proxy(server.address) as opened:
        yield opened


def impatient(settings: CassandraSettings, **changes: object) -> CassandraSettings:
    return settings.model_copy(update={"timeout_ms": IMPATIENT_MS, **changes})


def behind(proxy: Proxy, settings: CassandraSettings) -> CassandraSettings:
    return impatient(settings, contact_points=(proxy.address,))


async def write_until_certain(store: CassandraRecords, blobs: list[JournalBlob], numbers: range) -> None:
    await until_answered(lambda: store.write(blobs, [record(number) for number in numbers]))


async def until_answered(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    with trio.fail_after(PATIENCE_S):
        while True:
            try:
                return await ask()
            except RecordsUnavailable:
                await trio.sleep(0.1)


async def until_found(ask: Callable[[], Awaitable[object]]) -> None:
    """Wait until a server has done what it did not get to say."""
    with trio.fail_after(PATIENCE_S):
        while await ask() is None:  # noqa: ASYNC110  what happens in another process
            await trio.sleep(0.01)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  what happens in another process
            await trio.sleep(0.01)


async def test_what_was_acknowledged_outlives_kill_9(server: CassandraServer) -> None:
    settings = settings_of(server)
    cassandra_schema.apply(settings, lambda _: None)
    server.keep_schema()
    acknowledged: list[int] = []
    unknown = 0

    async def write(first: int) -> None:
        nonlocal unknown
        number = first
        while not is_over:
            try:
                await store.write([JournalBlob(1, number, 1, b"intents")], [record(number)])
                acknowledged.append(number)
            except RecordsUnavailable:
                unknown += 1
                await trio.sleep(0.05)
            else:
                number += 8

    is_over = False
    async with open_quietly(impatient(settings, connect_timeout_ms=2_000)) as store:
        async with trio.open_nursery() as nursery:
            for first in range(8):
                nursery.start_soon(write, first)
            await until(lambda: len(acknowledged) >= 400)
            server.kill()
            before = len(acknowledged)
            await trio.to_thread.run_sync(server.restart)
            await until(lambda: len(acknowledged) >= before + 100)  # the same store goes on by itself
            is_over = True
        assert unknown > 0
    async with open_quietly(settings) as other:
        found = await other.get_many([record(number).req_id.int for number in acknowledged])
        assert len(found) == len(set(acknowledged))
        journaled = {blob.bucket async for blob in other.read_journal(1, from_bucket=0)}
        assert journaled >= set(acknowledged)


async def test_a_stopped_server_is_unknown_by_the_deadline_and_what_it_does_later_is_harmless(
    server: CassandraServer, settings: CassandraSettings, store: CassandraRecords
) -> None:
    async with open_quietly(impatient(settings, concurrency=2)) as hasty:
        await hasty.write([], [record(0)])
        server.pause()
        try:
            started = trio.current_time()
            unknown: list[int] = []

            async def write(number: int) -> None:
                with pytest.raises(RecordsUnavailable, match="timeout_ms"):
                    await hasty.write([], [record(number, "target_pending")])
                unknown.append(number)

            async with trio.open_nursery() as nursery:
                for number in range(1, 9):  # most of them wait for one of the two places
                    nursery.start_soon(write, number)
            assert sorted(unknown) == list(range(1, 9))
            assert trio.current_time() - started < 10 * IMPATIENT_MS / 1000
        finally:
            server.resume()
        await write_until_certain(store, [], range(1, 9))
        await write_until_certain(hasty, [], range(9, 12))
    for number in range(1, 9):
        assert await store.get(record(number).req_id.int) == record(number)
    page = await store.history(1, limit=50)
    assert page.records == [record(number) for number in range(11, -1, -1)]


async def test_a_write_whose_answer_is_lost_is_unknown_and_once_there_when_it_is_repeated(
    proxy: Proxy, settings: CassandraSettings, store: CassandraRecords
) -> None:
    async with open_quietly(behind(proxy, settings)) as deaf:
        await deaf.write([], [record(0)])
        proxy.drop_replies()
        blob = JournalBlob(1, 7, 1, b"intents")
        with pytest.raises(RecordsUnavailable):
            await deaf.write([blob], [record(1)])
        assert await store.get(record(1).req_id.int) is None, "no row before the blobs of its write are durable"
        with pytest.raises(RecordsUnavailable):
            await deaf.write([], [record(1)])
        await until_found(lambda: store.get(record(1).req_id.int))
        assert proxy.replies_dropped
        proxy.heal()
        await write_until_certain(deaf, [blob], range(1, 2))
    assert (await store.history(1, limit=10)).records == [record(1), record(0)]
    assert [found async for found in store.read_journal(1, from_bucket=0)] == [blob]


async def test_a_slow_server_is_not_sent_the_same_again_while_it_answers(
    proxy: Proxy, settings: CassandraSettings, store: CassandraRecords
) -> None:
    slow = behind(proxy, settings).model_copy(update={"concurrency": 1, "timeout_ms": 2_000})
    async with open_quietly(slow) as patient:
        proxy.delay(0.05)
        started = trio.current_time()
        found: list[object] = []

        async def look_up() -> None:
            found.append(await patient.get(record(0).req_id.int))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(patient.write, [], [record(number) for number in range(2_500)])
            await trio.sleep(0.1)
            nursery.start_soon(look_up)  # behind all those batches
        assert trio.current_time() - started > 2.5
        assert found == [record(0)]
    assert patient.statistics().failed == 0


async def test_what_waits_when_the_store_is_closed_is_unknown(
    server: CassandraServer, settings: CassandraSettings
) -> None:
    async with open_cassandra_records(settings.model_copy(update={"concurrency": 1})) as store:
        unknown: list[int] = []

        async def write(number: int) -> None:
            with pytest.raises(RecordsUnavailable):
                await store.write([], [record(100 * number + row) for row in range(100)])
            unknown.append(number)

        async with trio.open_nursery() as nursery:
            server.pause()
            try:
                for number in range(3):
                    nursery.start_soon(write, number)
                await until(lambda: store.statistics().waiting > 0)
                store.close()
                await until(lambda: len(unknown) == 2)  # but for the one of which a part was sent
            finally:
                server.resume()


async def test_connections_that_break_are_made_again(proxy: Proxy, settings: CassandraSettings) -> None:
    async with open_quietly(behind(proxy, settings)) as store:
        for number in range(5):
            proxy.cut()
            await write_until_certain(store, [], range(number, number + 1))
        proxy.refuse()
        with pytest.raises(RecordsUnavailable):
            await store.get(1)
        proxy.heal()
        await write_until_certain(store, [], range(5, 6))
        assert len((await store.history(1, limit=10)).records) == 6


async def test_a_claim_whose_answer_is_lost_is_asked_again_and_is_the_same_life(
    proxy: Proxy, settings: CassandraSettings, store: CassandraRecords
) -> None:
    await store.claim(3, "former", former=None, ceiling_ms=LATER_MS)
    former = await store.find_claim(3)

    async def taken_over() -> Claim | None:
        found = await store.find_claim(3)
        return None if found == former else found

    async with open_quietly(behind(proxy, settings)) as deaf:
        assert await deaf.find_claim(3) == former
        proxy.drop_replies()
        with pytest.raises(RecordsUnavailable):
            await deaf.claim(3, "me", former=former, ceiling_ms=LATER_MS)
        await until_found(taken_over)
        proxy.heal()
        life = await until_answered(lambda: deaf.claim(3, "me", former=former, ceiling_ms=LATER_MS))
        assert life == Life(node=3, epoch=2, owner="me", after_ms=LATER_MS)
        with pytest.raises(ClaimLost):
            await store.claim(3, "another", former=former, ceiling_ms=LATER_MS)

        proxy.drop_replies()
        with pytest.raises(RecordsUnavailable):
            await deaf.raise_ceiling(life, LATER_MS + 5, beat=1)
        proxy.heal()
        await until_answered(lambda: deaf.raise_ceiling(life, LATER_MS + 5, beat=1))
        assert await store.find_claim(3) == Claim(3, 2, "me", LATER_MS + 5, 1)

        proxy.drop_replies()
        with pytest.raises(RecordsUnavailable):
            await deaf.release(life)
        proxy.heal()
        await until_answered(lambda: deaf.release(life))
        assert await store.find_claim(3) == Claim(3, 2, "", LATER_MS + 5, 1)


async def test_of_many_claimants_from_many_connections_one_has_the_node(settings: CassandraSettings) -> None:
    lives: list[Life] = []

    async def claim(store: CassandraRecords, owner: str, former: Claim | None) -> None:
        with suppress(ClaimLost):
            lives.append(await store.claim(5, owner, former=former, ceiling_ms=LATER_MS))

    async with (
        open_quietly(settings) as one,
        open_quietly(settings) as two,
        open_quietly(settings) as three,
        open_quietly(settings) as four,
    ):
        former = None
        for epoch in (1, 2, 3):
            lives.clear()
            async with trio.open_nursery() as nursery:
                for number in range(32):
                    store = (one, two, three, four)[number % 4]
                    nursery.start_soon(claim, store, f"{epoch} {number}", former)
            [life] = lives
            former = await four.find_claim(5)
            assert former == Claim(5, epoch, life.owner, LATER_MS, 0)
            assert await one.claims() == [former]


async def test_a_cancelled_wait_leaves_the_store_usable(
    server: CassandraServer, settings: CassandraSettings, store: CassandraRecords
) -> None:
    async with open_quietly(settings.model_copy(update={"concurrency": 3})) as cancelled:
        server.pause()
        try:
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(cancelled.write, [], [record(number, "init")])
                while cancelled.statistics().waiting < 17:  # noqa: ASYNC110  the other three are sent
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            statistics = cancelled.statistics()
            assert (statistics.in_flight, statistics.waiting, statistics.given_up) == (3, 0, 20)
        finally:
            server.resume()
        await write_until_certain(cancelled, [], range(20))
        assert (await store.history(1, limit=50)).records == [record(number) for number in range(19, -1, -1)]
    assert cancelled.statistics().in_flight == 0
