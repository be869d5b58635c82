"""Three replicas under load, one of them killed or stopped: the others go on, and nothing that was said is taken back.

How long the gap in the answers was is recorded and printed, not asserted.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import pytest
import tigerbeetle as tb
import trio
from tigerbeetle import CreateTransferStatus as Status

from support.ledger_books import LIMITED, Books
from support.tigerbeetle_ledgers import open_ledger, patient_books, until, until_answered
from support.tigerbeetle_server import Cluster, Replica, running_cluster
from transfer_engine.engine.ledger.protocol import Ledger, LedgerUnavailable

MOVES_A_BATCH = 50
SENDERS = 3
ACCOUNTS = 8
FUNDS = 300
"""So little that some moves are refused."""

DONE = {Status.CREATED, Status.EXISTS}
REFUSED = {Status.EXCEEDS_CREDITS, Status.PENDING_TRANSFER_NOT_FOUND, Status.ID_ALREADY_FAILED}


@pytest.fixture(scope="module")
def three_replicas(tigerbeetle_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Each test leaves all of them running."""
    with running_cluster(tigerbeetle_binary, tmp_path_factory.mktemp("tigerbeetle"), replica_count=3) as cluster:
        yield cluster


@dataclass
class Load:
    """Moves of hold and post, batch after batch, each asked again until it is answered."""

    ledger: Ledger
    books: Books
    balances: dict[int, int]
    """What the answers say that each account has."""
    random: Random
    answered_at: list[float] = field(default_factory=list)
    refused: int = 0
    is_over: bool = False

    async def send(self) -> None:
        while not self.is_over:
            moves = [(self.books.new_id(), *self.random.sample(list(self.balances), 2)) for _ in range(MOVES_A_BATCH)]
            amounts = [self.random.randint(1, 9) for _ in moves]
            batch: list[tb.Transfer] = []
            for (move, debit, credit), amount in zip(moves, amounts, strict=True):
                batch += self.books.hold(move, debit, credit, amount), self.books.post(move, debit, credit)
            results = await until_answered(lambda batch=batch: self.ledger.create_transfers(batch))
            self.answered_at.append(trio.current_time())
            for (_, debit, credit), amount, hold, post in zip(moves, amounts, results[::2], results[1::2], strict=True):
                self.note(debit, credit, amount, {hold.status, post.status})

    def note(self, debit: int, credit: int, amount: int, statuses: set[Status]) -> None:
        if statuses <= DONE:
            self.balances[debit] -= amount
            self.balances[credit] += amount
        else:
            assert statuses <= REFUSED, f"a move came to {statuses}"
            self.refused += 1

    async def go_on(self, batches: int) -> None:
        """Wait until so many more are answered."""
        wanted = len(self.answered_at) + batches
        await until(lambda: len(self.answered_at) >= wanted)

    def longest_gap_since(self, moment: float) -> str:
        times = [moment, *(one for one in self.answered_at if one > moment)]
        return f"{max(later - earlier for earlier, later in pairwise(times)):.2f} s"


@asynccontextmanager
async def under_load(cluster: Cluster) -> AsyncIterator[Load]:
    """Keep the cluster busy; at the end, look whether its books are what it had answered."""
    async with patient_books(cluster) as books, open_ledger(cluster, timeout_ms=1_000) as ledger:
        accounts = [await books.account(LIMITED, funds=FUNDS) for _ in range(ACCOUNTS)]
        load = Load(ledger, books, dict.fromkeys(accounts, FUNDS), Random(0))
        async with trio.open_nursery() as nursery:
            for _ in range(SENDERS):
                nursery.start_soon(load.send)
            await load.go_on(10)
            yield load
            load.is_over = True
        assert load.refused
        assert {one: await books.balance(one) for one in accounts} == {
            one: (balance, 0) for one, balance in load.balances.items()
        }
        assert sum(load.balances.values()) == ACCOUNTS * FUNDS


@pytest.mark.parametrize("role", ["primary", "backup"])
async def test_one_is_killed_and_restarted_under_load(
    three_replicas: Cluster, role: str, record_property: Callable[[str, object], None]
) -> None:
    async with under_load(three_replicas) as load:
        victim = three_replicas.primary() if role == "primary" else three_replicas.backups()[0]
        killed_at = trio.current_time()
        victim.kill()
        await load.go_on(30)
        record_property(f"longest gap when the {role} was killed", load.longest_gap_since(killed_at))
        await start_again(victim)
        await load.go_on(30)
        # Two of three must agree on everything: without another one, nothing is answered unless this one has caught up.
        other = next(one for one in three_replicas.replicas if one is not victim)
        killed_at = trio.current_time()
        other.kill()
        await load.go_on(30)
        record_property("longest gap when the restarted one was needed", load.longest_gap_since(killed_at))
    await start_again(other)


async def start_again(replica: Replica) -> None:
    replica.start()
    await trio.to_thread.run_sync(replica.wait_until_listening)


@pytest.mark.parametrize("pause_s", [0.5, 5])
async def test_a_stopped_primary_that_wakes_past_the_deadline_takes_nothing_back(
    three_replicas: Cluster, pause_s: float, record_property: Callable[[str, object], None]
) -> None:
    """Stopped for a moment it stays the primary; stopped for longer another one takes over.

    One session's post and another's void race for the same holds, and the first one's request is given up before it is
    answered. What anybody then hears or reads is true for ever.
    """
    async with (
        patient_books(three_replicas) as books,
        open_ledger(three_replicas) as impatient,
        open_ledger(three_replicas) as rival,
    ):
        source, target = await books.account(LIMITED, funds=1_000), await books.account(LIMITED)
        for ledger in (impatient, rival):
            await until_answered(lambda ledger=ledger: ledger.lookup_accounts([source]))
        moves = [books.new_id() for _ in range(20)]
        holds = [books.hold(move, source, target, 10) for move in moves]
        posts = [books.post(move, source, target) for move in moves]
        voids = [books.void(move, source, target) for move in moves]
        primary = three_replicas.primary()
        primary.pause()
        with pytest.raises(LedgerUnavailable, match="the outcome is unknown"):
            await impatient.create_transfers(merged(holds, posts))
        heard: list[dict[int, bool]] = []

        async def void_in_parts() -> None:
            for part in range(0, len(moves), 5):
                batch = merged(holds, voids)[2 * part : 2 * part + 10]
                results = await until_answered(lambda batch=batch: rival.create_transfers(batch))
                heard.append(outcomes(batch, [one.status for one in results]))
                heard.append(await until_answered(lambda: read(rival, posts + voids)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(void_in_parts)
            await trio.sleep(pause_s)
            primary.resume()
        for batch in (merged(holds, posts), merged(holds, voids)):
            results = await books.ledger.create_transfers(batch)
            heard.append(outcomes(batch, [one.status for one in results]))
        heard.append(await read(books.ledger, posts + voids))

        final = heard[-1]
        assert set(final) == {move | 1 for move in moves}, "every hold is posted or voided"
        for one in heard:
            assert one.items() <= final.items()
        posted = sum(final.values())
        assert await books.balance(source) == (1_000 - 10 * posted, 0)
        assert await books.balance(target) == (10 * posted, 0)
        record_property(f"posted after a pause of {pause_s} s", f"{posted} of {len(moves)}")


def merged(holds: Sequence[tb.Transfer], others: Sequence[tb.Transfer]) -> list[tb.Transfer]:
    return [one for pair in zip(holds, others, strict=True) for one in pair]


def outcomes(batch: Sequence[tb.Transfer], statuses: Sequence[Status]) -> dict[int, bool]:
    """Return by hold whether it was posted, as the answers to its post or void say."""
    known = {}
    for event, status in zip(batch[1::2], statuses[1::2], strict=True):
        is_post = bool(int(event.flags) & int(tb.TransferFlags.POST_PENDING_TRANSFER))
        if status in DONE:
            known[event.pending_id] = is_post
        else:
            other = Status.PENDING_TRANSFER_ALREADY_VOIDED if is_post else Status.PENDING_TRANSFER_ALREADY_POSTED
            assert status == other
            known[event.pending_id] = not is_post
    return known


async def read(ledger: Ledger, settlements: Sequence[tb.Transfer]) -> dict[int, bool]:
    """Return by hold whether it was posted, as far as a post or void of it is there."""
    found = await ledger.lookup_transfers([one.id for one in settlements])
    return {one.pending_id: bool(int(one.flags) & int(tb.TransferFlags.POST_PENDING_TRANSFER)) for one in found}
