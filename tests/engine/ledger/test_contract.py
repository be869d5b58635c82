"""What every ledger must do beyond the answers that the engine meets daily: chains, time, flags, look-ups, filters."""

from dataclasses import replace

import pytest
import tigerbeetle as tb
from tigerbeetle import AccountFlags, CreateAccountStatus, TransferFlags
from tigerbeetle import CreateTransferStatus as Status

from support.ledger_books import LIMITED, LINKED, PENDING, Books
from transfer_engine.engine.ledger.protocol import AMOUNT_MAX

CREATED = Status.CREATED


def account_filter(account_id: int, flags: int = 3, **fields: int) -> tb.AccountFilter:
    return tb.AccountFilter(
        **{
            "account_id": account_id,
            "user_data_128": 0,
            "user_data_64": 0,
            "user_data_32": 0,
            "code": 0,
            "timestamp_min": 0,
            "timestamp_max": 0,
            "limit": 8189,
            "flags": tb.AccountFilterFlags(flags),
            **fields,
        }
    )


def query_filter(flags: int = 0, **fields: int) -> tb.QueryFilter:
    return tb.QueryFilter(
        **{
            "user_data_128": 0,
            "user_data_64": 0,
            "user_data_32": 0,
            "ledger": 0,
            "code": 0,
            "timestamp_min": 0,
            "timestamp_max": 0,
            "limit": 8189,
            "flags": tb.QueryFilterFlags(flags),
            **fields,
        }
    )


async def test_an_empty_batch_has_no_answers(books: Books) -> None:
    assert await books.ledger.create_transfers([]) == []
    assert await books.ledger.create_accounts([]) == []
    assert await books.ledger.lookup_accounts([]) == []


async def test_a_full_batch(books: Books) -> None:
    source, target = await books.pair(funds=10_000)
    results = await books.ledger.create_transfers([books.transfer(source, target, 1) for _ in range(8189)])
    assert {result.status for result in results} == {CREATED}
    assert await books.balance(target) == (8189, 0)


async def test_timestamps_rise_by_one_in_a_batch_and_never_fall_between(books: Books) -> None:
    source, target = await books.pair()
    first = await books.ledger.create_transfers([books.transfer(source, target, 1) for _ in range(3)])
    refused = await books.ledger.create_transfers([books.transfer(source, target, 5000)])
    second = await books.ledger.create_transfers([books.transfer(source, target, 1)])
    moments = [result.timestamp for result in [*first, *refused, *second]]
    assert moments[1] == moments[0] + 1
    assert moments[2] == moments[1] + 1
    assert moments == sorted(set(moments))
    transfers = await books.ledger.get_account_transfers(account_filter(target))
    assert [one.timestamp for one in transfers] == [*moments[:3], moments[4]]


async def test_a_broken_chain_leaves_nothing_but_the_burnt_id(books: Books) -> None:
    source, target = await books.pair()
    chain = [
        books.transfer(source, target, 1, LINKED),
        books.transfer(source, target, 5000, LINKED),
        books.transfer(source, target, 3),
    ]
    after = books.transfer(source, target, 4)
    failed = Status.LINKED_EVENT_FAILED
    assert await books.submit(*chain, after) == [failed, Status.EXCEEDS_CREDITS, failed, CREATED]
    assert await books.balance(target) == (4, 0)
    assert await books.submit(replace(chain[0], flags=TransferFlags.NONE)) == [CREATED]
    assert await books.submit(replace(chain[1], amount=1, flags=TransferFlags.NONE)) == [Status.ID_ALREADY_FAILED]


async def test_events_of_a_chain_see_each_other(books: Books) -> None:
    first, second = await books.pair(funds=10)
    third = await books.account(LIMITED)
    chain = [books.transfer(first, second, 10, LINKED), books.transfer(second, third, 10)]
    assert await books.submit(*chain) == [CREATED, CREATED]


async def test_a_broken_chain_gives_a_hold_back_its_open_state(books: Books) -> None:
    source, target = await books.pair()
    move = books.new_id()
    await books.must_submit(books.hold(move, source, target, 100))
    post = replace(books.post(move, source, target), flags=TransferFlags.LINKED | TransferFlags.POST_PENDING_TRANSFER)
    assert await books.submit(post, books.transfer(source, target, 5000)) == [
        Status.LINKED_EVENT_FAILED,
        Status.EXCEEDS_CREDITS,
    ]
    assert await books.balance(source) == (1000, 100)
    assert await books.submit(books.void(move, source, target)) == [CREATED]


async def test_events_after_a_broken_chain_see_nothing_of_it(books: Books) -> None:
    source, target = await books.pair()
    move = books.new_id()
    await books.must_submit(books.hold(move, source, target, 100))
    post = replace(books.post(move, source, target), flags=LINKED | TransferFlags.POST_PENDING_TRANSFER)
    broken = [post, books.transfer(source, target, 5000)]
    assert await books.submit(*broken, books.void(move, source, target)) == [
        Status.LINKED_EVENT_FAILED,
        Status.EXCEEDS_CREDITS,
        CREATED,
    ]
    assert await books.balance(source) == (1000, 0)


async def test_broken_chains_leave_no_hole_in_an_accounts_transfers(books: Books) -> None:
    """Wherever a chain breaks, all transfers before and after it are found, in both directions."""
    source, target = await books.pair()
    made = []
    for _ in range(40):
        chain = [books.transfer(source, target, 1, LINKED), books.transfer(source, target, 5000)]
        kept = [books.transfer(source, target, 1), books.transfer(source, target, 1)]
        assert await books.submit(*chain, *kept) == [
            Status.LINKED_EVENT_FAILED,
            Status.EXCEEDS_CREDITS,
            CREATED,
            CREATED,
        ]
        made += [one.id for one in kept]
    for account_id, side in ((source, 1), (target, 2)):
        forward = await books.ledger.get_account_transfers(account_filter(account_id, side))
        backward = await books.ledger.get_account_transfers(account_filter(account_id, side | 4))
        assert [one.id for one in forward] == made == [one.id for one in backward][::-1]


async def test_a_chain_left_open_fails_whole(books: Books) -> None:
    source, target = await books.pair()
    chain = [books.transfer(source, target, 1, LINKED), books.transfer(source, target, 1, LINKED)]
    assert await books.submit(*chain) == [Status.LINKED_EVENT_FAILED, Status.LINKED_EVENT_CHAIN_OPEN]
    assert await books.balance(target) == (0, 0)


async def test_a_chain_of_accounts(books: Books) -> None:
    good = tb.Account(id=books.new_id(), ledger=books.ledger_number, code=1, flags=AccountFlags.LINKED)
    bad = tb.Account(id=books.new_id(), ledger=books.ledger_number, code=0)
    results = await books.ledger.create_accounts([good, bad])
    assert [result.status for result in results] == [
        CreateAccountStatus.LINKED_EVENT_FAILED,
        CreateAccountStatus.CODE_MUST_NOT_BE_ZERO,
    ]
    assert await books.ledger.lookup_accounts([good.id]) == []


async def test_an_account_again(books: Books) -> None:
    account = tb.Account(id=books.new_id(), ledger=books.ledger_number, code=1, flags=LIMITED, user_data_64=5)
    [first] = await books.ledger.create_accounts([account])
    again = await books.ledger.create_accounts(
        [account, replace(account, flags=AccountFlags.NONE), replace(account, user_data_64=6), replace(account, code=2)]
    )
    assert [result.status for result in again] == [
        CreateAccountStatus.EXISTS,
        CreateAccountStatus.EXISTS_WITH_DIFFERENT_FLAGS,
        CreateAccountStatus.EXISTS_WITH_DIFFERENT_USER_DATA_64,
        CreateAccountStatus.EXISTS_WITH_DIFFERENT_CODE,
    ]
    assert again[0].timestamp == first.timestamp


async def test_a_hold_expires(backend, books: Books) -> None:
    source, target = await books.pair()
    move, posted_move = books.new_id(), books.new_id()
    await books.must_submit(
        books.hold(move, source, target, 100, timeout=1),
        books.hold(posted_move, source, target, 10, timeout=1),
        books.post(posted_move, source, target),
    )
    assert await books.balance(source) == (990, 100)
    await backend.pass_time(1)
    assert await books.balance(source) == (990, 0)
    assert await books.submit(books.post(move, source, target)) == [Status.PENDING_TRANSFER_EXPIRED]
    assert await books.submit(books.void(move, source, target)) == [Status.PENDING_TRANSFER_EXPIRED]
    assert await books.submit(books.hold(move, source, target, 100, timeout=1)) == [Status.EXISTS]
    assert await books.submit(books.post(posted_move, source, target)) == [Status.EXISTS]


async def test_an_expired_closing_hold_reopens_its_account(backend, books: Books) -> None:
    source, target = await books.pair()
    closing = books.hold(books.new_id(), source, target, 0, PENDING | TransferFlags.CLOSING_DEBIT, timeout=1)
    await books.must_submit(closing)
    assert await books.submit(books.transfer(source, target, 1)) == [Status.DEBIT_ACCOUNT_ALREADY_CLOSED]
    await backend.pass_time(1)
    assert await books.submit(books.transfer(source, target, 1)) == [CREATED]


async def test_held_money_cannot_be_spent_and_pending_credit_neither(books: Books) -> None:
    source, target = await books.pair(funds=100)
    move = books.new_id()
    await books.must_submit(books.hold(move, source, target, 60))
    assert await books.submit(books.transfer(source, target, 41), books.transfer(target, source, 1)) == [
        Status.EXCEEDS_CREDITS,
        Status.EXCEEDS_CREDITS,
    ]


async def test_credits_must_not_exceed_debits(books: Books) -> None:
    asset = await books.account(AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS)
    other = await books.account()
    await books.must_submit(books.transfer(asset, other, 10))
    assert await books.submit(books.transfer(other, asset, 11)) == [Status.EXCEEDS_DEBITS]
    assert await books.submit(books.transfer(other, asset, 10)) == [CREATED]


async def test_a_post_of_a_part_gives_the_rest_back(books: Books) -> None:
    source, target = await books.pair(funds=100)
    move = books.new_id()
    part = replace(books.post(move, source, target), amount=30)
    await books.must_submit(books.hold(move, source, target, 100), part)
    assert await books.balance(source) == (70, 0)
    assert await books.submit(part) == [Status.EXISTS]
    assert await books.submit(books.post(move, source, target)) == [Status.EXISTS_WITH_DIFFERENT_AMOUNT]
    assert await books.submit(books.post(move, source, target, leg=4)) == [Status.PENDING_TRANSFER_ALREADY_POSTED]


async def test_a_post_inherits_what_it_leaves_out(books: Books) -> None:
    source, target = await books.pair()
    move = books.new_id()
    hold = books.hold(move, source, target, 100, user_data_64=7, user_data_32=8)
    bare = tb.Transfer(id=move | 2, amount=AMOUNT_MAX, pending_id=hold.id, flags=TransferFlags.POST_PENDING_TRANSFER)
    await books.must_submit(hold, bare)
    [found] = await books.ledger.lookup_transfers([bare.id])
    assert replace(found, timestamp=0) == replace(hold, id=bare.id, pending_id=hold.id, flags=bare.flags)


async def test_balancing_transfers_move_what_is_there(books: Books) -> None:
    source, target = await books.pair(funds=70)
    balancing = books.transfer(source, target, 100, TransferFlags.BALANCING_DEBIT)
    assert await books.submit(balancing, balancing) == [CREATED, Status.EXISTS]
    assert await books.balance(target) == (70, 0)
    assert await books.submit(replace(balancing, amount=69)) == [Status.EXISTS_WITH_DIFFERENT_AMOUNT]
    [found] = await books.ledger.lookup_transfers([balancing.id])
    assert found.amount == 70


async def test_look_ups_keep_the_order_and_leave_out_what_is_not_there(books: Books) -> None:
    first, second = await books.pair()
    missing = books.new_id()
    found = await books.ledger.lookup_accounts([second, missing, first, second])
    assert [account.id for account in found] == [second, first, second]
    transfers = [books.transfer(first, second, 1) for _ in range(3)]
    await books.must_submit(*transfers)
    wanted = [transfers[2].id, missing, transfers[0].id]
    assert [one.id for one in await books.ledger.lookup_transfers(wanted)] == [transfers[2].id, transfers[0].id]


async def test_an_accounts_transfers_by_page_both_ways(books: Books) -> None:
    """More than the marks of a chain are apart, entered at every place."""
    source, target = await books.pair(funds=1000)
    third = await books.account()
    for _ in range(3):
        await books.must_submit(
            *[books.transfer(source, target if number % 3 else third, 1, code=10 + number % 2) for number in range(50)]
        )
    get = books.ledger.get_account_transfers
    every = await get(account_filter(source, flags=1))
    assert len(every) == 150
    forward, backward = [], []
    while len(forward) < 150:
        forward += await get(
            account_filter(source, flags=1, limit=7, timestamp_min=forward[-1].timestamp + 1 if forward else 0)
        )
        backward += await get(
            account_filter(source, flags=5, limit=7, timestamp_max=backward[-1].timestamp - 1 if backward else 0)
        )
    assert forward == every == backward[::-1]
    between = account_filter(source, timestamp_min=every[40].timestamp, timestamp_max=every[99].timestamp)
    assert (await get(between))[-60:] == every[40:100]
    assert [one for one in every if one.code == 11] == await get(account_filter(source, flags=1, code=11))
    incoming = [one for one in every if one.credit_account_id == third]
    assert await get(account_filter(third, flags=2)) == incoming
    assert await get(account_filter(third, flags=1)) == []


async def test_balances_over_time_of_accounts_that_keep_them(books: Books) -> None:
    source = await books.account(AccountFlags.HISTORY)
    target = await books.account()
    move = books.new_id()
    await books.must_submit(
        books.transfer(source, target, 5), books.hold(move, source, target, 7), books.post(move, source, target)
    )
    balances = await books.ledger.get_account_balances(account_filter(source))
    assert [(one.debits_pending, one.debits_posted) for one in balances] == [(0, 5), (7, 5), (0, 12)]
    last = await books.ledger.get_account_balances(account_filter(source, flags=7, limit=1))
    assert last == balances[-1:]
    assert await books.ledger.get_account_balances(account_filter(target)) == []


async def test_queries(books: Books) -> None:
    source, target = await books.pair()
    move = books.new_id()
    await books.must_submit(
        books.hold(move, source, target, 7),
        books.post(move, source, target),
        books.transfer(source, target, 1, code=11),
    )
    query = books.ledger.query_transfers
    assert [one.id for one in await query(query_filter(user_data_128=move))] == [move | 1, move | 2]
    assert [one.id for one in await query(query_filter(1, user_data_128=move, limit=1))] == [move | 2]
    of_this_ledger = await query(query_filter(ledger=books.ledger_number))
    assert [one.amount for one in of_this_ledger] == [1000, 7, 7, 1]
    assert [one.amount for one in await query(query_filter(ledger=books.ledger_number, code=11))] == [1]
    later = query_filter(ledger=books.ledger_number, timestamp_min=of_this_ledger[2].timestamp)
    assert await query(later) == of_this_ledger[2:]
    accounts = await books.ledger.query_accounts(query_filter(ledger=books.ledger_number))
    assert [one.id for one in accounts][:1] == [source]
    assert target in [one.id for one in accounts]


@pytest.mark.parametrize(
    "broken",
    [
        {"limit": 0},
        {"timestamp_min": 2, "timestamp_max": 1},
        {"timestamp_min": 1 << 63},
        {"timestamp_max": 1 << 63},
        {"flags": 8},
    ],
)
async def test_an_invalid_filter_finds_nothing(books: Books, broken) -> None:
    source, target = await books.pair()
    await books.must_submit(books.transfer(source, target, 1))
    for_account = dict(broken) | ({"flags": tb.AccountFilterFlags(8 | 3)} if "flags" in broken else {})
    assert await books.ledger.get_account_transfers(account_filter(source, **for_account)) == []
    for_query = dict(broken) | ({"flags": tb.QueryFilterFlags(8)} if "flags" in broken else {})
    assert await books.ledger.query_transfers(query_filter(ledger=books.ledger_number, **for_query)) == []
    assert await books.ledger.query_accounts(query_filter(ledger=books.ledger_number, **for_query)) == []


@pytest.mark.parametrize("account_id", [0, AMOUNT_MAX])
async def test_a_filter_needs_an_account_and_a_side(books: Books, account_id: int) -> None:
    source, target = await books.pair()
    await books.must_submit(books.transfer(source, target, 1))
    assert await books.ledger.get_account_transfers(account_filter(account_id)) == []
    assert await books.ledger.get_account_transfers(account_filter(source, flags=0)) == []
    assert await books.ledger.get_account_transfers(account_filter(books.new_id())) == []


async def test_numbers_at_the_edge_come_back_as_they_went(books: Books) -> None:
    source, target = await books.account(), await books.account()
    amounts = [0, 1, 2**63 - 1, 2**63, 2**64, 2**127]
    transfers = [
        books.transfer(
            source,
            target,
            amount,
            user_data_128=2**128 - 1,
            user_data_64=2**64 - 1,
            user_data_32=2**32 - 1,
            code=2**16 - 1,
        )
        for amount in amounts
    ]
    await books.must_submit(*transfers)
    found = await books.ledger.lookup_transfers([one.id for one in transfers])
    assert [replace(one, timestamp=0) for one in found] == transfers
    [account] = await books.ledger.lookup_accounts([source])
    assert account.debits_posted == sum(amounts)
    by_data = await books.ledger.query_transfers(
        query_filter(ledger=books.ledger_number, user_data_128=2**128 - 1, user_data_64=2**64 - 1)
    )
    assert by_data == found
