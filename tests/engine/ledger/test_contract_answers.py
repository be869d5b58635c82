"""What the engine builds on: each situation that it can meet, and the answer that every ledger must give."""

from dataclasses import replace

import pytest
import trio
from tigerbeetle import AccountFlags, TransferFlags
from tigerbeetle import CreateTransferStatus as Status

from support.ledger_books import LIMITED, LINKED, PENDING, Books
from transfer_engine.engine.ledger.protocol import AMOUNT_MAX

CREATED, EXISTS, BURNT = Status.CREATED, Status.EXISTS, Status.ID_ALREADY_FAILED


async def test_hold_and_post_in_one_batch_and_again(books: Books) -> None:
    source, target = await books.pair()
    move = books.new_id()
    batch = [books.hold(move, source, target, 100), books.post(move, source, target)]
    first = await books.ledger.create_transfers(batch)
    again = await books.ledger.create_transfers(batch)
    assert [result.status for result in first] == [CREATED, CREATED]
    assert [result.status for result in again] == [EXISTS, EXISTS]
    assert [result.timestamp for result in again] == [result.timestamp for result in first]
    assert await books.balance(source) == (900, 0)
    assert await books.balance(target) == (100, 0)


async def test_too_little_money_is_final_even_after_funding(books: Books) -> None:
    source, target = await books.pair(funds=99)
    move = books.new_id()
    batch = [books.hold(move, source, target, 100), books.post(move, source, target)]
    assert await books.submit(*batch) == [Status.EXCEEDS_CREDITS, Status.PENDING_TRANSFER_NOT_FOUND]
    assert await books.submit(*batch) == [BURNT, BURNT]
    await books.must_submit(books.transfer(await books.account(), source, 1000))
    assert await books.submit(*batch) == [BURNT, BURNT]
    assert await books.balance(source) == (1099, 0)


@pytest.mark.parametrize(
    ("change", "hold_answer", "post_answer"),
    [
        ({"amount": 101}, Status.EXISTS_WITH_DIFFERENT_AMOUNT, CREATED),
        ({"debit_account_id": 0}, Status.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID, None),
        ({"credit_account_id": 0}, Status.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID, None),
        ({"code": 11}, Status.EXISTS_WITH_DIFFERENT_CODE, Status.PENDING_TRANSFER_HAS_DIFFERENT_CODE),
        ({"user_data_64": 7}, Status.EXISTS_WITH_DIFFERENT_USER_DATA_64, CREATED),
    ],
)
async def test_another_body_under_the_same_id(books: Books, change, hold_answer, post_answer) -> None:
    source, target = await books.pair()
    foreign = await books.account()
    move = books.new_id()
    await books.must_submit(books.hold(move, source, target, 100))
    change = {field: value or foreign for field, value in change.items()}
    for_post = {field: value for field, value in change.items() if field not in ("amount", "user_data_64")}
    hold = replace(books.hold(move, source, target, 100), **change)
    post = replace(books.post(move, source, target), **for_post)
    if post_answer is None:
        side = "DEBIT" if "debit_account_id" in change else "CREDIT"
        post_answer = Status[f"PENDING_TRANSFER_HAS_DIFFERENT_{side}_ACCOUNT_ID"]
    assert await books.submit(hold, post) == [hold_answer, post_answer]


async def test_a_bare_post_settles_whatever_body_has_the_id(books: Books) -> None:
    source, target = await books.pair()
    move = books.new_id()
    await books.must_submit(books.hold(move, source, target, 100))
    bare = replace(books.post(move, 0, 0), ledger=0, code=0)
    assert await books.submit(bare) == [CREATED]
    assert await books.balance(target) == (100, 0)


async def test_a_hold_refused_by_overflow_is_taken_later_but_its_post_is_burnt(books: Books) -> None:
    source, target = await books.account(), await books.account()
    giant = books.new_id()
    await books.must_submit(books.hold(giant, await books.account(), target, AMOUNT_MAX - 50))
    move = books.new_id()
    batch = [books.hold(move, source, target, 100), books.post(move, source, target)]
    assert await books.submit(*batch) == [Status.OVERFLOWS_CREDITS_PENDING, Status.PENDING_TRANSFER_NOT_FOUND]
    await books.must_submit(replace(books.void(giant, 0, 0), ledger=0, code=0))
    assert await books.submit(*batch) == [CREATED, BURNT]
    assert await books.submit(books.post(move, source, target, leg=4)) == [CREATED]
    assert await books.balance(target) == (100, 0)


async def test_after_a_void_no_post(books: Books) -> None:
    source, target = await books.pair()
    move = books.new_id()
    hold, void, post = (
        books.hold(move, source, target, 100),
        books.void(move, source, target),
        books.post(move, source, target),
    )
    assert await books.submit(hold, void, post) == [CREATED, CREATED, Status.PENDING_TRANSFER_ALREADY_VOIDED]
    assert await books.submit(hold, post) == [EXISTS, Status.PENDING_TRANSFER_ALREADY_VOIDED]
    assert await books.balance(source) == (1000, 0)


async def test_a_void_before_its_hold_is_burnt(books: Books) -> None:
    source, target = await books.pair()
    move = books.new_id()
    void = books.void(move, source, target)
    assert await books.submit(void) == [Status.PENDING_TRANSFER_NOT_FOUND]
    assert await books.submit(books.hold(move, source, target, 100), void) == [CREATED, BURNT]
    assert await books.submit(books.void(move, source, target, leg=5)) == [CREATED]
    together = books.new_id()
    await books.must_submit(books.hold(together, source, target, 100), books.void(together, source, target))
    assert await books.balance(source) == (1000, 0)


async def test_a_post_while_an_account_is_closed_is_burnt(books: Books) -> None:
    source, target = await books.pair()
    move = books.new_id()
    await books.must_submit(books.hold(move, source, target, 100))
    closing = books.new_id()
    other = await books.account()
    await books.must_submit(books.hold(closing, source, other, 0, PENDING | TransferFlags.CLOSING_DEBIT))
    [closed] = await books.ledger.lookup_accounts([source])
    assert closed.flags == AccountFlags.CLOSED | LIMITED
    assert await books.submit(books.post(move, source, target)) == [Status.DEBIT_ACCOUNT_ALREADY_CLOSED]
    await books.must_submit(books.void(closing, source, other))
    assert await books.submit(books.post(move, source, target)) == [BURNT]
    assert await books.submit(books.post(move, source, target, leg=4)) == [CREATED]
    assert await books.balance(target) == (100, 0)


async def test_of_a_post_and_a_void_at_once_exactly_one_wins(backend, books: Books) -> None:
    moves = 300
    source, target = await books.pair(funds=moves)
    answers: dict[int, list[Status]] = {}

    async def settle(session: Books, move: int, leg) -> None:
        answers[move] += await session.submit(leg)

    other = Books(backend.other_session)
    for _ in range(moves):
        move = books.new_id()
        await books.must_submit(books.hold(move, source, target, 1))
        answers[move] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(settle, books, move, books.post(move, source, target))
            nursery.start_soon(settle, other, move, books.void(move, source, target))
    losers = {Status.PENDING_TRANSFER_ALREADY_POSTED, Status.PENDING_TRANSFER_ALREADY_VOIDED}
    assert all(CREATED in pair and len(losers & set(pair)) == 1 for pair in answers.values())
    posted = sum(Status.PENDING_TRANSFER_ALREADY_POSTED in pair for pair in answers.values())
    assert await books.balance(source) == (moves - posted, 0)
    assert await books.balance(target) == (posted, 0)


async def test_a_tombstone_under_the_holds_id_ends_the_move(books: Books) -> None:
    source, target = await books.pair()
    move = books.new_id()
    tombstone = replace(books.hold(move, source, target, 0, flags=0), code=99)
    assert await books.submit(tombstone) == [CREATED]
    assert await books.submit(books.hold(move, source, target, 100), books.post(move, source, target)) == [
        Status.EXISTS_WITH_DIFFERENT_FLAGS,
        Status.PENDING_TRANSFER_NOT_PENDING,
    ]
    assert await books.balance(source) == (1000, 0)


async def test_a_tombstone_too_late_says_that_the_hold_has_won(books: Books) -> None:
    source, target = await books.pair()
    move = books.new_id()
    await books.must_submit(books.hold(move, source, target, 100))
    tombstone = replace(books.hold(move, source, target, 0, flags=0), code=99)
    assert await books.submit(tombstone) == [Status.EXISTS_WITH_DIFFERENT_FLAGS]


async def test_a_linked_chain_replayed_breaks_at_its_first_event(books: Books) -> None:
    source, target = await books.pair()
    chain = [books.transfer(source, target, 1, LINKED), books.transfer(source, target, 2)]
    assert await books.submit(*chain) == [CREATED, CREATED]
    assert await books.submit(*chain) == [EXISTS, Status.LINKED_EVENT_FAILED]


async def test_the_linked_flag_is_part_of_the_body(books: Books) -> None:
    source, target = await books.pair()
    transfer = books.transfer(source, target, 1)
    assert await books.submit(transfer) == [CREATED]
    linked = replace(transfer, flags=LINKED)
    assert await books.submit(linked, books.transfer(source, target, 1)) == [
        Status.EXISTS_WITH_DIFFERENT_FLAGS,
        Status.LINKED_EVENT_FAILED,
    ]


async def test_the_same_event_twice_in_one_batch(books: Books) -> None:
    source, target = await books.pair()
    transfer = books.transfer(source, target, 1)
    assert await books.submit(transfer, transfer) == [CREATED, EXISTS]
    assert await books.balance(target) == (1, 0)


async def test_an_overflow_is_not_final(books: Books) -> None:
    source, target = await books.account(), await books.account()
    giant = books.new_id()
    await books.must_submit(books.hold(giant, await books.account(), target, AMOUNT_MAX - 50))
    transfer = books.transfer(source, target, 100)
    assert await books.submit(transfer) == [Status.OVERFLOWS_CREDITS]
    await books.must_submit(replace(books.void(giant, 0, 0), ledger=0, code=0))
    assert await books.submit(transfer) == [CREATED]


async def test_a_refused_id_and_one_never_sent_look_the_same(books: Books) -> None:
    source, target = await books.pair(funds=1)
    refused = books.transfer(source, target, 2)
    assert await books.submit(refused) == [Status.EXCEEDS_CREDITS]
    assert await books.ledger.lookup_transfers([refused.id, books.new_id()]) == []
