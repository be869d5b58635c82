"""Balances that are written late: readers beside the writer, failed commits, kills, and how late they may be."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

import pytest
import tigerbeetle as tb
from hypothesis import given, settings
from hypothesis import strategies as st
from tigerbeetle import AccountFilterFlags, CreateTransferStatus, TransferFlags

from support.ledger_connections import WatchedConnection, WatchedLock, fail_next_commit
from support.ledger_stage import ACCOUNTS, Stage, stage
from transfer_engine.engine.ledger import queries
from transfer_engine.engine.ledger.book import AccountState
from transfer_engine.engine.ledger.late_balances import LateBalances, LateLimits
from transfer_engine.engine.ledger.paging import every_one
from transfer_engine.engine.ledger.protocol import LedgerUnavailable

PATIENCE_S = 60
FEW = settings(max_examples=max(settings.default.max_examples // 4, 1), deadline=None)
TINY = LateLimits(accounts_most=3, transfers_most=5, slice_least=1)
NEVER_WRITTEN = LateLimits(accounts_most=1000, transfers_most=1000, slice_least=1)
LIMITS = st.builds(
    LateLimits, accounts_most=st.integers(1, 9), transfers_most=st.integers(1, 20), slice_least=st.integers(1, 4)
)
SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("late")


def sums(accounts: list[tb.Account]) -> list[tuple[int, int]]:
    return [(one.debits_posted, one.credits_posted) for one in accounts]


@FEW
@given(limits=LIMITS, seeds=st.lists(SEEDS, min_size=1, max_size=12))
def test_at_every_statement_of_the_writer_readers_see_whole_batches(
    directory: Path, limits: LateLimits, seeds: list[int]
) -> None:
    """Up to its commit the batch is nowhere, from then on everywhere; the same for holds that expire."""
    with stage(directory, limits) as one:
        for seed in seeds:
            random = Random(seed)
            works = [one.let_time_pass, partial(one.writer.create_transfers, one.some_events(random))]
            for work in works[random.randint(0, 1) :]:
                seen = [one.look()]
                since_commit: list[list[tb.Account]] = []

                def watch(statement: str, is_after: bool, *, seen=seen, since_commit=since_commit) -> None:
                    if statement == "COMMIT" and is_after:
                        since_commit.append(one.look())
                    elif since_commit:
                        assert one.look() == since_commit[-1]
                        if statement.startswith("BEGIN"):
                            seen.append(since_commit.pop())
                    else:
                        assert one.look() == seen[-1]

                with one.watched(watch):
                    work()
                at_rest = one.look()
                assert at_rest == (since_commit or seen)[-1]
            assert one.look_after_a_kill() == at_rest


def all_accounts(reader: sqlite3.Connection, late: LateBalances) -> object:
    return queries.lookup_accounts(reader, ACCOUNTS, late)


def queried_accounts(reader: sqlite3.Connection, late: LateBalances) -> object:
    return queries.query_accounts(reader, every_one(), late)


def account_transfers(reader: sqlite3.Connection, late: LateBalances) -> object:
    sides = AccountFilterFlags.DEBITS | AccountFilterFlags.CREDITS
    one_account = tb.AccountFilter(
        account_id=1,
        user_data_128=0,
        user_data_64=0,
        user_data_32=0,
        code=0,
        timestamp_min=0,
        timestamp_max=0,
        limit=100,
        flags=sides | AccountFilterFlags.REVERSED,
    )
    return queries.get_account_transfers(reader, one_account, late)


@pytest.mark.parametrize("limits", [TINY, NEVER_WRITTEN])
@pytest.mark.parametrize("query", [all_accounts, queried_accounts, account_transfers])
def test_between_any_two_steps_of_a_reader_a_batch_is_seen_whole_or_not_at_all(
    directory: Path, limits: LateLimits, query: Callable[[sqlite3.Connection, LateBalances], object]
) -> None:
    with stage(directory, limits) as one:
        one.writer.late._lock = lock = WatchedLock()  # type: ignore[assignment]
        seen = set()
        place = 0
        was_there = True
        while was_there:
            for _ in range(2):
                one.writer.create_transfers([*one.move(1, 2, 5), *one.move(3, 1, 3), *one.move(4, 5, 2)])
            before = query(one.reader, one.writer.late)
            batch = [*one.move(1, 6, 7), *one.move(2, 1, 1), one.transfer(7, 3, 4), *one.move(5, 4, 9)]
            found, was_there = with_a_batch_at(one, lock, place, batch, query)
            after = query(one.reader, one.writer.late)
            assert before != after
            assert found in ((before, after) if was_there else (before,))
            seen.add((found == after) if was_there else None)
            place += 1
        assert place > 2 * 4
        assert seen == {True, False, None}


def with_a_batch_at(
    one: Stage,
    lock: WatchedLock,
    place: int,
    batch: list[tb.Transfer],
    query: Callable[[sqlite3.Connection, LateBalances], object],
) -> tuple[object, bool]:
    """Ask while a batch is written at a place among the reader's steps; say whether there was such a place.

    Where the reader keeps the writer out, the batch is begun there, and goes on when it can.
    """
    places = iter(range(1000))
    writing = threading.Thread(target=one.writer.create_transfers, args=(batch,))

    def step(_statement: str) -> None:
        if next(places) == place:
            lock.waited_for.clear()
            is_locked = lock.locked()
            writing.start()
            if is_locked:
                assert lock.waited_for.wait(PATIENCE_S)
            else:
                writing.join(PATIENCE_S)

    found = query(WatchedConnection(one.reader, before=step, after=step), one.writer.late)  # type: ignore[arg-type]
    was_there = next(places) > place
    if not was_there:
        writing.start()
    writing.join(PATIENCE_S)
    assert not writing.is_alive()
    return found, was_there


@pytest.mark.parametrize("lands", [False, True], ids=["undone", "done"])
@pytest.mark.parametrize("limits", [TINY, NEVER_WRITTEN])
def test_readers_and_writer_agree_after_a_failed_commit(directory: Path, limits: LateLimits, lands: bool) -> None:
    with stage(directory, limits) as one:
        for _ in range(3):
            one.writer.create_transfers([*one.move(1, 2, 5), *one.move(3, 1, 3), one.transfer(4, 5, 2)])
            before = sums(one.look())
            batch = [*one.move(1, 2, 10), *one.move(2, 6, 4), one.transfer(7, 3, 4)]
            fail_next_commit(one.writer, lands=lands)
            with pytest.raises(LedgerUnavailable):
                one.writer.create_transfers(batch)
            # The writer has not looked at the file again.
            found = sums(one.look())
            assert (found == before) is not lands
            assert sums(one.look_after_a_kill()) == found
            statuses = {result.status for result in one.writer.create_transfers(batch)}
            assert statuses == {CreateTransferStatus.EXISTS if lands else CreateTransferStatus.CREATED}
            again = one.look()
            assert one.look_after_a_kill() == again
            assert lands is (sums(again) == found)


@FEW
@given(limits=LIMITS, seeds=st.lists(SEEDS, min_size=1, max_size=40))
def test_at_any_point_the_balances_are_the_same_after_a_kill(
    directory: Path, limits: LateLimits, seeds: list[int]
) -> None:
    with stage(directory, limits) as one:
        for seed in seeds:
            random = Random(seed)
            if random.random() < 0.2:
                one.let_time_pass()
            one.writer.create_transfers(one.some_events(random))
            found = one.look()
            if random.random() < 0.3:
                one.lose_the_connection()
                assert one.look() == found
        assert one.look_after_a_kill() == found


def test_what_a_kill_leaves_to_be_added_up_is_bounded(directory: Path) -> None:
    """Also where it is killed again and again, and never writes much in between."""
    limits = LateLimits(accounts_most=100, transfers_most=20, slice_least=1)
    with stage(directory, limits) as one:
        most = 0
        for _ in range(30):
            for _ in range(2):
                one.writer.create_transfers([*one.move(1, 2, 1), *one.move(3, 4, 1), *one.move(5, 6, 1)])
            one.lose_the_connection()
            most = max(most, one.transfers_after_the_mark())
        assert limits.transfers_most < most <= 2 * limits.transfers_most + 2 * 3


def test_lives_without_a_kill_leave_no_more(directory: Path) -> None:
    with stage(directory, TINY) as one:
        for number in range(60):
            one.writer.create_transfers([*one.move(1 + number % 4, 5, 1), *one.move(6, 7 + number % 2, 1)])
            assert one.transfers_after_the_mark() <= 2 * TINY.transfers_most + 2 * 2
            assert one.writer.statistics().accounts_late <= 2 * TINY.accounts_most + 2 * 4


def test_a_closed_file_has_all_its_balances_and_a_killed_one_has_not(directory: Path) -> None:
    with stage(directory, NEVER_WRITTEN) as one:
        one.writer.create_transfers([*one.move(1, 2, 5), *one.move(2, 3, 3)])
        found = one.look()
        assert one.rows() == [(0, 0)] * len(ACCOUNTS)
        assert one.look_after_a_kill() == found
        assert one.writer.statistics().accounts_late == 3
    assert one.rows() == sums(found)
    with closing(one.open(one.path)) as writer:
        assert writer.statistics().accounts_late == 0


def test_a_file_that_cannot_be_written_when_it_is_closed_loses_nothing(directory: Path) -> None:
    with stage(directory, NEVER_WRITTEN) as one:
        one.writer.create_transfers(one.move(1, 2, 5))
        found = one.look()
        fail_next_commit(one.writer, lands=False)
    assert one.rows() == [(0, 0)] * len(ACCOUNTS)
    with closing(one.open(one.path)) as writer:
        assert queries.lookup_accounts(writer._connect(), ACCOUNTS, writer.late) == found


def test_whatever_is_no_move_is_written_at_once(directory: Path) -> None:
    with stage(directory, NEVER_WRITTEN) as one:
        one.writer.create_transfers([*one.move(1, 2, 5), *one.move(1, 3, 2)])
        one.writer.create_transfers([one.transfer(2, 4, 1)])
        assert one.rows()[:4] == [(0, 0), (1, 5), (0, 0), (0, 1)]
        one.writer.create_transfers([one.transfer(1, 5, 9, TransferFlags.PENDING, timeout=1)])
        one.writer.create_transfers(one.move(1, 2, 1))
        assert one.rows()[0] == (7, 0)
        one.now_ns += 2 * 10**9
        one.writer.expire_due()
        assert one.rows()[0] == (8, 0)
        assert one.look_after_a_kill() == one.look()


class Batch:
    """What the property below draws for one batch."""

    def __init__(self, moved: set[int], changed: set[int], transfers: int) -> None:
        self.moved = moved
        self.changed = changed
        self.transfers = max(transfers, 1 if moved or changed else 0)


BATCHES = st.lists(
    st.builds(
        Batch,
        st.sets(st.integers(1, 30), max_size=12),
        st.sets(st.integers(1, 30), max_size=2),
        st.integers(0, 12),
    ),
    max_size=60,
)


@given(limits=LIMITS, batches=BATCHES)
def test_the_mark_never_passes_a_move_that_is_not_written(limits: LateLimits, batches: list[Batch]) -> None:
    late = LateBalances(limits)
    late.begin({}, 0, 0)
    accounts = {one: account_state(one) for one in range(1, 31)}
    unwritten: dict[int, int] = {}
    mark = 0
    for now, batch in enumerate(batches, 1):
        for one in batch.moved:
            unwritten.setdefault(one, now)
        changed = [accounts[one] for one in batch.changed]
        due = late.add_batch({one: accounts[one] for one in batch.moved}, changed, batch.transfers, now)
        assert batch.changed <= {one.id for one in due.accounts}
        assert [one.id for one in due.accounts] == sorted({one.id for one in due.accounts})
        for one in due.accounts:
            unwritten.pop(one.id, None)
        if due.complete_until is not None:
            assert due.complete_until > mark or due.complete_until == now == 1
            mark = due.complete_until
        assert all(first > mark for first in unwritten.values())
        assert all(late.get(one) is accounts[one] for one in unwritten)
    everything = late.all_due()
    assert set(unwritten) <= {one.id for one in everything.accounts}


def account_state(account_id: int) -> AccountState:
    return AccountState(account_id, account_id, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0)
