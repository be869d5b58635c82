"""The events that a transfer has in the ledger: ids, accounts, amounts, and that nothing else is in them."""

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tigerbeetle import AccountFlags, TransferFlags

from transfer_engine.engine.legs import TOMBSTONE_CODE, TRANSFER_CODE, LedgerBody, account_id, new_account, owner_of
from transfer_engine.schema.ids import LEG_MAX, POSTS, VOIDS, issued_req_id, keyed_req_id

REQ_ID = keyed_req_id("", "transfer", "key")
BODY = {
    "req_id": REQ_ID,
    "debit_account_id": account_id(4001, 1, 2),
    "credit_account_id": account_id(4002, 1, 3),
    "asset_id": 1,
    "amount": 1_000_000,
    "fingerprint": (1 << 64) - 3,
}
EVENTS = {
    "hold": lambda body: body.hold(),
    "tombstone": lambda body: body.tombstone(),
    **{f"post {leg}": lambda body, leg=leg: body.post(leg) for leg in POSTS},
    **{f"void {leg}": lambda body, leg=leg: body.void(leg) for leg in VOIDS},
}


def test_the_legs_are_one_hold_then_even_posts_and_odd_voids() -> None:
    assert list(POSTS) == [2, 4, 6, 8, 10, 12, 14]
    assert list(VOIDS) == [3, 5, 7, 9, 11, 13, 15]


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_names_its_transfer_and_carries_both_accounts_ledger_and_code(name: str) -> None:
    event = EVENTS[name](LedgerBody(**BODY))
    leg = int(name.rpartition(" ")[2]) if " " in name else 1
    assert event.id == REQ_ID | leg
    assert event.user_data_128 == REQ_ID
    assert event.user_data_64 == BODY["fingerprint"]
    assert (event.debit_account_id, event.credit_account_id) == (BODY["debit_account_id"], BODY["credit_account_id"])
    assert event.ledger == 1
    assert event.code == (TOMBSTONE_CODE if name == "tombstone" else TRANSFER_CODE)
    assert (event.timeout, event.timestamp, event.user_data_32) == (0, 0, 0)
    assert not event.flags & TransferFlags.LINKED


def test_amounts_and_kinds() -> None:
    body = LedgerBody(**BODY)
    assert (body.hold().flags, body.hold().amount, body.hold().pending_id) == (TransferFlags.PENDING, 1_000_000, 0)
    for leg in POSTS:
        post = body.post(leg)
        assert post.flags == TransferFlags.POST_PENDING_TRANSFER
        assert (post.amount, post.pending_id) == ((1 << 128) - 1, REQ_ID | 1)
    for leg in VOIDS:
        void = body.void(leg)
        assert void.flags == TransferFlags.VOID_PENDING_TRANSFER
        assert (void.amount, void.pending_id) == (1_000_000, REQ_ID | 1)
    tombstone = body.tombstone()
    assert (tombstone.flags, tombstone.amount, tombstone.pending_id) == (TransferFlags.NONE, 0, 0)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_a_function_of_the_body_alone(name: str) -> None:
    assert asdict(EVENTS[name](LedgerBody(**BODY))) == asdict(EVENTS[name](LedgerBody(**BODY)))


def test_ids_of_all_legs_of_all_transfers_differ() -> None:
    req_ids = [keyed_req_id("", "transfer", str(number)) for number in range(100)]
    req_ids += [issued_req_id(number) for number in range(100)]
    assert len({req_id | leg for req_id in req_ids for leg in range(LEG_MAX + 1)}) == 200 * (LEG_MAX + 1)


@given(user_id=st.integers(0, (1 << 63) - 1), asset_id=st.integers(1, 0xFFFF_FFFE), code=st.integers(1, 0xFFFF))
def test_an_account_id_says_whose_it_is(user_id: int, asset_id: int, code: int) -> None:
    number = account_id(user_id, asset_id, code)
    assert owner_of(number) == (user_id, asset_id, code)
    assert 0 < number < 1 << 128


@pytest.mark.parametrize(
    ("user_id", "flags"), [(1, AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS), (0, AccountFlags.NONE)]
)
def test_a_users_account_may_not_go_below_zero_and_an_omnibus_one_may(user_id: int, flags: AccountFlags) -> None:
    account = new_account(account_id(user_id, 7, 3))
    fields: dict[str, Any] = asdict(account)
    assert fields.pop("flags") == flags
    assert {name: value for name, value in fields.items() if value} == {
        "id": account_id(user_id, 7, 3),
        **({"user_data_64": user_id} if user_id else {}),
        "ledger": 7,
        "code": 3,
    }
