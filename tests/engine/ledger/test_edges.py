"""Corners of the rules that random events seldom reach."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import tigerbeetle as tb
from tigerbeetle import CreateTransferStatus as Status
from tigerbeetle import TransferFlags

from support.ledger_books import PENDING, Books
from transfer_engine.engine.ledger.embedded import open_embedded_ledger
from transfer_engine.engine.ledger.protocol import AMOUNT_MAX

END_NS = (1 << 63) - 1


async def test_a_timeout_beyond_the_end_of_time(tmp_path: Path) -> None:
    now_ns = END_NS - 10 * 10**9
    async with open_embedded_ledger(tmp_path / "ledger", clock_ns=lambda: now_ns) as ledger:
        books = Books(ledger)
        source, target = await books.account(), await books.account()
        late, in_time = (books.hold(books.new_id(), source, target, 1, timeout=seconds) for seconds in (11, 9))
        assert await books.submit(late, in_time) == [Status.OVERFLOWS_TIMEOUT, Status.CREATED]
        late.timeout = 9
        assert await books.submit(late) == [Status.CREATED]


@pytest.mark.parametrize(
    ("posted", "pending", "flags", "amount", "answer"),
    [
        (0, AMOUNT_MAX, PENDING, 1, Status.OVERFLOWS_DEBITS_PENDING),
        (AMOUNT_MAX, 0, 0, 1, Status.OVERFLOWS_DEBITS_POSTED),
        (AMOUNT_MAX, 0, PENDING, 1, Status.OVERFLOWS_DEBITS_POSTED),
        (AMOUNT_MAX - 5, 5, 0, 1, Status.OVERFLOWS_DEBITS),
        (AMOUNT_MAX - 5, 5, PENDING, 1, Status.OVERFLOWS_DEBITS),
        (AMOUNT_MAX - 5, 5, PENDING, 0, Status.CREATED),
        (AMOUNT_MAX - 5, 4, 0, 1, Status.CREATED),
    ],
)
async def test_each_sum_that_can_overflow(books: Books, posted, pending, flags, amount, answer) -> None:
    """On the debit side; then mirrored, on the credit side."""
    filled, mirrored, empty = await books.account(), await books.account(), await books.account()
    for debit, credit in ((filled, await books.account()), (await books.account(), mirrored)):
        await books.must_submit(
            books.transfer(debit, credit, posted), books.hold(books.new_id(), debit, credit, pending)
        )
    assert await books.submit(books.transfer(filled, empty, amount, flags)) == [answer]
    mirror = Status[answer.name.replace("DEBITS", "CREDITS")]
    assert await books.submit(books.transfer(empty, mirrored, amount, flags)) == [mirror]


async def test_a_void_in_a_closed_account_is_taken(books: Books) -> None:
    source, target = await books.pair()
    move, closing = books.new_id(), books.new_id()
    await books.must_submit(
        books.hold(move, source, target, 5),
        books.hold(closing, source, target, 0, PENDING | TransferFlags.CLOSING_DEBIT | TransferFlags.CLOSING_CREDIT),
    )
    assert await books.submit(books.post(move, source, target), books.void(move, source, target)) == [
        Status.DEBIT_ACCOUNT_ALREADY_CLOSED,
        Status.CREATED,
    ]
    assert await books.submit(books.transfer(target, source, 1)) == [Status.DEBIT_ACCOUNT_ALREADY_CLOSED]
    await books.must_submit(books.void(closing, source, target))
    assert await books.submit(books.transfer(source, target, 1)) == [Status.CREATED]


async def test_a_closed_account_is_made_so_and_stays(books: Books) -> None:
    account = tb.Account(id=books.new_id(), ledger=books.ledger_number, code=1, flags=tb.AccountFlags.CLOSED)
    await books.ledger.create_accounts([account])
    other = await books.account()
    assert await books.submit(books.transfer(other, account.id, 1)) == [Status.CREDIT_ACCOUNT_ALREADY_CLOSED]


async def test_both_accounts_chains_can_be_entered_at_every_32nd_transfer(tmp_path: Path) -> None:
    """Without the marks all answers would still be right, and a page deep in a history would read all before it."""
    async with open_embedded_ledger(tmp_path / "ledger") as ledger:
        books = Books(ledger)
        source, target = await books.account(), await books.account()
        await books.must_submit(*[books.transfer(source, target, 1) for _ in range(100)])
    with closing(sqlite3.connect(tmp_path / "ledger")) as file:
        marks = file.execute("SELECT count(*) FROM account_marks GROUP BY account").fetchall()
    assert marks == [(3,), (3,)]


async def test_each_half_of_a_move_is_found_by_its_own_time(tmp_path: Path) -> None:
    """In the file they are one row, under the hold's timestamp."""
    async with open_embedded_ledger(tmp_path / "ledger") as ledger:
        books = Books(ledger)
        source, target = await books.account(), await books.account()
        moves = [books.new_id() + (number << 8) for number in range(3)]  # no two that share all but the last byte
        for move in moves:
            await books.must_submit(books.hold(move, source, target, 1), books.post(move, source, target))
        transfers = await ledger.lookup_transfers([move | leg for move in moves for leg in (1, 2)])
        with closing(sqlite3.connect(tmp_path / "ledger")) as file:
            assert file.execute("SELECT count(*) FROM transfers WHERE legs IS NOT NULL").fetchone() == (3,)
        times = [one.timestamp for one in transfers]
        for first in range(6):
            for last in range(first, 6):
                wanted = transfers[first : last + 1]
                bounds = dict.fromkeys(("user_data_128", "user_data_64", "user_data_32", "code"), 0)
                bounds |= {"timestamp_min": times[first], "timestamp_max": times[last]}
                for limit in (1, 2, 10):
                    for reverse in (False, True):
                        expected = wanted[::-1][:limit] if reverse else wanted[:limit]
                        query = tb.QueryFilter(**bounds, ledger=0, limit=limit, flags=tb.QueryFilterFlags(reverse))
                        assert await ledger.query_transfers(query) == expected
                        of_account = tb.AccountFilter(
                            account_id=target, **bounds, limit=limit, flags=tb.AccountFilterFlags(3 | reverse << 2)
                        )
                        assert await ledger.get_account_transfers(of_account) == expected


@pytest.mark.parametrize("field", ["user_data_64", "user_data_32", "user_data_128", "amount", "timeout", "timestamp"])
async def test_a_post_that_differs_from_its_hold_is_kept_or_refused_as_it_is(books: Books, field: str) -> None:
    source, target = await books.account(), await books.account()
    move = books.new_id()
    hold, post = books.hold(move, source, target, 5), books.post(move, source, target)
    hold.user_data_64 = post.user_data_64 = 2**64 - 1
    setattr(post, field, 3)
    answer = {
        "timeout": Status.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER,
        "timestamp": Status.TIMESTAMP_MUST_BE_ZERO,
    }.get(field, Status.CREATED)
    assert await books.submit(hold, post) == [Status.CREATED, answer]
    found = await books.ledger.lookup_transfers([hold.id, post.id])
    if answer is Status.CREATED:
        assert getattr(found[1], field) == 3
        assert getattr(found[0], field) == getattr(hold, field)
    else:
        assert len(found) == 1
