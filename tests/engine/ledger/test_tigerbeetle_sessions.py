"""Sessions that the server, the settings or the caller end, on a real server and the wall clock that they share."""

import ctypes
import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import structlog
import tigerbeetle as tb
import trio
from tigerbeetle import CreateTransferStatus as Status
from tigerbeetle import bindings
from trio.testing import wait_all_tasks_blocked

from support.ledger_books import Books
from support.tigerbeetle_ledgers import PATIENCE_S, open_ledger, until, until_answered
from support.tigerbeetle_server import Cluster
from transfer_engine.engine.ledger import tigerbeetle_session
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.ledger.tigerbeetle_client import TigerBeetleLedger, open_tigerbeetle_ledger
from transfer_engine.engine.ledger.tigerbeetle_session import Packet

NOBODY = "127.0.0.1:9"
"""The discard port: nothing listens there."""
SESSIONS_MAX = 64
"""TigerBeetle's bound on the clients of a cluster."""


async def test_an_evicted_session_is_followed_by_another(tigerbeetle_cluster: Cluster) -> None:
    async with open_ledger(tigerbeetle_cluster, timeout_ms=10_000) as ledger:
        books = Books(ledger)
        source, target = await books.pair()
        with structlog.testing.capture_logs() as logs:
            await trio.to_thread.run_sync(take_every_session, tigerbeetle_cluster)
            transfer = books.transfer(source, target, 100)
            with pytest.raises(LedgerUnavailable, match=r"the session was evicted.* more than 64 clients"):
                await ledger.create_transfers([transfer])
            assert (ledger.statistics().sessions_lost, ledger.statistics().in_flight) == (1, 0)
            assert "tigerbeetle_session_lost" in [entry["event"] for entry in logs]
            [result] = await until_answered(lambda: ledger.create_transfers([transfer]))
            assert result.status in {Status.CREATED, Status.EXISTS}
            assert await books.balance(target) == (100, 0)
        assert ledger.statistics().sessions_lost == 1


async def test_an_absent_cluster_does_not_hinder_opening() -> None:
    with trio.fail_after(5):
        async with open_tigerbeetle_ledger(cluster_id=0, addresses=[NOBODY], timeout_ms=200) as ledger:
            with pytest.raises(LedgerUnavailable, match=rf"at {NOBODY}: no answer within 200 ms"):
                await ledger.lookup_accounts([1])
            assert "in_flight=1" in repr(ledger)


async def test_a_wrong_cluster_id_is_an_outage_that_says_what_to_check(tigerbeetle_cluster: Cluster) -> None:
    [replica] = tigerbeetle_cluster.replicas
    async with open_tigerbeetle_ledger(cluster_id=7, addresses=[replica.address], timeout_ms=500) as ledger:
        with pytest.raises(LedgerUnavailable, match=r"cluster 7 .* no answer .* tigerbeetle\.cluster_id"):
            await ledger.lookup_accounts([1])


async def test_closing_does_not_wait_for_a_server_that_is_stopped(tigerbeetle_cluster: Cluster) -> None:
    [replica] = tigerbeetle_cluster.replicas
    failures: list[str] = []

    async def ask(ledger: TigerBeetleLedger) -> None:
        with pytest.raises(LedgerUnavailable) as caught:
            await ledger.lookup_accounts([1])
        failures.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        async with open_ledger(tigerbeetle_cluster, timeout_ms=60_000, concurrency=1, close_ms=1_000) as ledger:
            await ledger.lookup_accounts([1])
            replica.pause()
            for _ in range(2):
                nursery.start_soon(ask, ledger)
                await wait_all_tasks_blocked()
            began = time.monotonic()
        assert time.monotonic() - began < 5
    assert sorted("was not sent" in failure for failure in failures) == [False, True]
    with pytest.raises(LedgerUnavailable, match="the ledger is closed"):
        await ledger.lookup_accounts([1])


def test_a_client_that_does_not_end_is_left_to_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, has_ended = threading.Event(), threading.Event()
    deinit = bindings.tb_client_deinit

    def end_late(client: Any) -> int:
        may_end.wait(PATIENCE_S)
        status: int = deinit(client)
        has_ended.set()
        return status

    async def ask(ledger: TigerBeetleLedger) -> None:
        with pytest.raises(LedgerUnavailable, match="the ledger was closed; the outcome is unknown"):
            await ledger.lookup_accounts([1])

    async def leave() -> None:
        async with (
            trio.open_nursery() as nursery,
            open_tigerbeetle_ledger(cluster_id=0, addresses=[NOBODY], timeout_ms=60_000, close_ms=100) as ledger,
        ):
            nursery.start_soon(ask, ledger)
            await wait_all_tasks_blocked()

    monkeypatch.setattr(bindings, "tb_client_deinit", end_late)
    with structlog.testing.capture_logs() as logs:
        trio.run(leave)
    assert "tigerbeetle_close_abandoned" in [entry["event"] for entry in logs]
    assert not has_ended.is_set()
    # Its packet is completed when trio is long gone; nothing may come of that.
    may_end.set()
    assert has_ended.wait(PATIENCE_S)


PROCESS = """
import sys, trio
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.ledger.tigerbeetle_client import open_tigerbeetle_ledger

async def main():
    async with open_tigerbeetle_ledger(cluster_id=0, addresses=[sys.argv[1]], timeout_ms=300, close_ms=500) as ledger:
        try:
            await ledger.lookup_accounts([1])
        except LedgerUnavailable:
            print("unavailable")

trio.run(main)
"""


@pytest.mark.parametrize("is_there", [False, True])
def test_the_process_ends_whatever_the_server_does(tigerbeetle_cluster: Cluster, is_there: bool) -> None:
    [replica] = tigerbeetle_cluster.replicas
    replica.pause()
    address = replica.address if is_there else NOBODY
    ended = subprocess.run(
        [sys.executable, "-c", PROCESS, address], check=False, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (ended.returncode, ended.stdout) == (0, "unavailable\n"), ended.stderr


async def test_no_memory_is_kept_of_what_is_answered(tigerbeetle_cluster: Cluster) -> None:
    async with open_ledger(tigerbeetle_cluster, timeout_ms=30_000) as ledger:
        for _ in range(100):
            await ledger.lookup_accounts([1])
            with trio.move_on_after(0.0001):
                await ledger.lookup_accounts([1, 2])
        await until(lambda: ledger.statistics().in_flight == 0)
        gc.collect()
        # One may still be named by a frame of the event loop.
        assert sum(isinstance(one, Packet) for one in gc.get_objects()) <= 1


async def test_nothing_is_asked_for_nothing() -> None:
    async with open_tigerbeetle_ledger(cluster_id=0, addresses=[NOBODY], timeout_ms=60_000) as ledger:
        assert await ledger.create_accounts([]) == await ledger.create_transfers([]) == []
        assert await ledger.lookup_accounts([]) == await ledger.lookup_transfers([]) == []
        assert ledger.statistics().sent == 0


@pytest.mark.parametrize(
    ("status", "text", "is_session_over"),
    [
        (tb.PacketStatus.CLIENT_RELEASE_TOO_LOW, "too new for this client: upgrade the `tigerbeetle` package", True),
        (tb.PacketStatus.CLIENT_RELEASE_TOO_HIGH, "too old for this client: upgrade the replicas", True),
        (tb.PacketStatus.TOO_MUCH_DATA, "takes smaller requests.* was not applied", False),
        (tb.PacketStatus.INVALID_OPERATION, "does not know the operation.* was not applied", False),
        (tb.PacketStatus.INVALID_DATA_SIZE, "refused the request's size.* was not applied", False),
        (200, "unknown status 200", False),
    ],
)
async def test_each_error_of_the_client_is_named(
    monkeypatch: pytest.MonkeyPatch, status: int, text: str, is_session_over: bool
) -> None:
    def submit(_client: Any, packet_reference: Any) -> int:
        packet = packet_reference._obj
        packet.status = status
        tigerbeetle_session._complete(max(tigerbeetle_session._sessions), ctypes.addressof(packet), 0, None, 0)
        return 0

    monkeypatch.setattr(bindings, "tb_client_submit", submit)
    async with open_tigerbeetle_ledger(cluster_id=0, addresses=[NOBODY], timeout_ms=60_000) as ledger:
        for _ in range(3):  # again: it neither recovers by itself nor runs wild
            with pytest.raises(LedgerUnavailable, match=text):
                await ledger.lookup_accounts([1])
        assert (ledger.statistics().sessions_lost > 0) == is_session_over
        assert ledger.statistics().in_flight == 0


def take_every_session(cluster: Cluster) -> None:
    """Take all the sessions that the cluster has, so that one that was there before is evicted.

    Few at a time: connections, unlike sessions, end with their clients, and the server takes only so many.
    """

    def take_one(_: int) -> None:
        with closing(tb.ClientSync(0, cluster.addresses)) as client:
            client.lookup_accounts([1])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take_one, range(SESSIONS_MAX)))
