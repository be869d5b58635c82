"""Requests to a real server that is paused, killed and restarted, on the wall clock that they share."""

import gc
from itertools import pairwise

import pytest
import tigerbeetle as tb
import trio
from tigerbeetle import CreateTransferStatus as Status
from trio.testing import wait_all_tasks_blocked

from support.ledger_books import Books
from support.tigerbeetle_ledgers import open_ledger, patient_books, until, until_answered
from support.tigerbeetle_server import Cluster
from transfer_engine.engine.ledger.protocol import LedgerUnavailable


async def test_a_cancelled_request_is_applied_and_found_by_its_id(tigerbeetle_cluster: Cluster) -> None:
    [replica] = tigerbeetle_cluster.replicas
    async with open_ledger(tigerbeetle_cluster, timeout_ms=30_000) as ledger:
        books = Books(ledger)
        source, target = await books.pair()
        transfer = books.transfer(source, target, 100)
        replica.pause()
        with trio.move_on_after(0.2) as scope:
            await ledger.create_transfers([transfer])
        assert scope.cancelled_caught
        assert (ledger.statistics().in_flight, ledger.statistics().unclaimed) == (1, 1)
        gc.collect()
        replica.resume()
        await until(lambda: ledger.statistics().in_flight == 0)
        assert ledger.statistics().unclaimed == 0
        assert [found.id for found in await ledger.lookup_transfers([transfer.id])] == [transfer.id]
        assert await books.balance(target) == (100, 0)


async def test_past_its_deadline_a_request_is_unknown_and_repeating_it_joins_it(tigerbeetle_cluster: Cluster) -> None:
    [replica] = tigerbeetle_cluster.replicas
    async with patient_books(tigerbeetle_cluster) as books, open_ledger(tigerbeetle_cluster) as ledger:
        source, target = await books.pair()
        batch = [books.transfer(source, target, 100)]
        await until_answered(lambda: ledger.lookup_accounts([source]))
        before = ledger.statistics()
        replica.pause()
        for asked in range(1, 4):
            with pytest.raises(
                LedgerUnavailable,
                match=rf"cluster 0 at {replica.address}: no answer within 300 ms, the outcome is unknown; check .* "
                r"tigerbeetle\.addresses and tigerbeetle\.cluster_id",
            ):
                await ledger.create_transfers(batch)
            statistics = ledger.statistics()
            assert (statistics.sent - before.sent, statistics.joined - before.joined) == (1, asked - 1)
            assert (statistics.timeouts - before.timeouts, statistics.in_flight) == (asked, 1)
        replica.resume()
        # Whether it meets its former self or comes after it, the money moved once.
        [result] = await until_answered(lambda: ledger.create_transfers(batch))
        assert result.status in {Status.CREATED, Status.EXISTS}
        assert await books.balance(target) == (100, 0)
        assert [again.status for again in await ledger.create_transfers(batch)] == [Status.EXISTS]


async def test_a_joined_request_gives_the_first_ones_answer(tigerbeetle_cluster: Cluster) -> None:
    [replica] = tigerbeetle_cluster.replicas
    async with open_ledger(tigerbeetle_cluster, timeout_ms=30_000) as ledger:
        books = Books(ledger)
        source, target = await books.pair()
        transfer = books.transfer(source, target, 100)
        replica.pause()
        with trio.move_on_after(0.1):
            await ledger.create_transfers([transfer])
        statuses: list[list[Status]] = []

        async def repeat() -> None:
            statuses.append(await books.submit(transfer))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(repeat)
            await wait_all_tasks_blocked()
            assert ledger.statistics().joined == 1
            nursery.start_soon(repeat)  # the same at once: somebody waits for the first one, this is another
            await wait_all_tasks_blocked()
            assert (ledger.statistics().joined, ledger.statistics().in_flight) == (1, 2)
            replica.resume()
        assert statuses == [[Status.CREATED], [Status.EXISTS]]


async def test_a_repeated_read_is_read_after_its_former_self(tigerbeetle_cluster: Cluster) -> None:
    [replica] = tigerbeetle_cluster.replicas
    async with open_ledger(tigerbeetle_cluster, timeout_ms=30_000) as ledger:
        account = await Books(ledger).account()
        replica.pause()
        sent = ledger.statistics().sent
        with trio.move_on_after(0.1):
            await ledger.lookup_accounts([account])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.lookup_accounts, [account])
            await wait_all_tasks_blocked()
            assert (ledger.statistics().joined, ledger.statistics().sent) == (1, sent + 1)
            replica.resume()
        assert ledger.statistics().sent == sent + 2


async def test_requests_beyond_the_bound_wait_and_are_not_sent(tigerbeetle_cluster: Cluster) -> None:
    [replica] = tigerbeetle_cluster.replicas
    async with patient_books(tigerbeetle_cluster) as books, open_ledger(tigerbeetle_cluster, concurrency=2) as ledger:
        source, target = await books.pair()
        transfers = [books.transfer(source, target, 1) for _ in range(3)]
        await until_answered(lambda: ledger.lookup_accounts([source]))
        replica.pause()
        failures: dict[int, str] = {}

        async def fail(index: int) -> None:
            with pytest.raises(LedgerUnavailable) as caught:
                await ledger.create_transfers([transfers[index]])
            failures[index] = str(caught.value)

        async with trio.open_nursery() as nursery:
            for index in range(3):
                nursery.start_soon(fail, index)
                await wait_all_tasks_blocked()
            assert (ledger.statistics().in_flight, ledger.statistics().waiting) == (2, 1)
        assert ["was not sent" in failures[index] for index in range(3)] == [False, False, True]
        assert ledger.statistics().waiting == 0
        replica.resume()
        await until(lambda: ledger.statistics().in_flight == 0)
        found = await until_answered(lambda: ledger.lookup_transfers([transfer.id for transfer in transfers]))
        assert [one.id for one in found] == [transfer.id for transfer in transfers[:2]]


async def test_requests_of_all_sizes_are_applied_in_their_order(tigerbeetle_cluster: Cluster) -> None:
    [replica] = tigerbeetle_cluster.replicas
    async with open_ledger(tigerbeetle_cluster, timeout_ms=60_000) as ledger:
        books = Books(ledger)
        source, target = await books.account(), await books.account()
        spans: dict[int, tuple[int, int]] = {}

        async def submit(index: int, batch: list[tb.Transfer]) -> None:
            results = await ledger.create_transfers(batch)
            assert {result.status for result in results} == {Status.CREATED}
            spans[index] = results[0].timestamp, results[-1].timestamp

        replica.pause()
        async with trio.open_nursery() as nursery:
            # The client joins a request to the first waiting one with room for it: the small ones would overtake.
            for index, size in enumerate([1, 5_000, 5_000, 100, 3, 8_000, 1, 1, 200, 30, 1]):
                batch = [books.transfer(source, target, 1) for _ in range(size)]
                nursery.start_soon(submit, index, batch)
                await wait_all_tasks_blocked()
            replica.resume()
        ordered = [spans[index] for index in sorted(spans)]
        assert all(before[1] < after[0] for before, after in pairwise(ordered))


async def test_a_read_does_not_wait_behind_transfers_that_wait_for_their_turn(tigerbeetle_cluster: Cluster) -> None:
    [replica] = tigerbeetle_cluster.replicas
    async with open_ledger(tigerbeetle_cluster, timeout_ms=60_000) as ledger:
        books = Books(ledger)
        source, target = await books.account(), await books.account()
        replica.pause()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                batch = [books.transfer(source, target, 1) for _ in range(500)]
                nursery.start_soon(ledger.create_transfers, batch)
                await wait_all_tasks_blocked()
            assert (ledger.statistics().in_flight, ledger.statistics().waiting) == (2, 1)
            nursery.start_soon(ledger.lookup_accounts, [source])
            await wait_all_tasks_blocked()
            assert (ledger.statistics().in_flight, ledger.statistics().waiting) == (3, 1)
            replica.resume()
        assert await books.balance(target) == (1_500, 0)


async def test_killed_and_restarted_under_load_every_batch_is_applied_once(tigerbeetle_cluster: Cluster) -> None:
    [replica] = tigerbeetle_cluster.replicas
    async with open_ledger(tigerbeetle_cluster, timeout_ms=500) as ledger:
        books = Books(ledger)
        source, target = await until_answered(books.account), await until_answered(books.account)
        batches = [[books.transfer(source, target, 1) for _ in range(size)] for size in [1, 100, 1_000] * 40]
        left = iter(batches)
        answered = 0

        async def send() -> None:
            nonlocal answered
            for batch in left:
                results = await until_answered(lambda batch=batch: ledger.create_transfers(batch))
                assert {result.status for result in results} <= {Status.CREATED, Status.EXISTS}
                answered += 1

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(send)
            for kill_at in (len(batches) // 4, len(batches) // 2):
                await until(lambda kill_at=kill_at: answered >= kill_at)
                replica.kill()
                await trio.sleep(0.7)  # past the deadline of all that is on its way
                replica.start()
                await trio.to_thread.run_sync(replica.wait_until_listening)
        assert answered == len(batches)
        balance = await until_answered(lambda: books.balance(target))
        assert balance == (sum(map(len, batches)), 0)
        assert ledger.statistics().timeouts > 0
