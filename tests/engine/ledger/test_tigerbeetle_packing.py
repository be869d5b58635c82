"""The bytes, against the client package's own structs, which nothing else here uses."""

import ctypes
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tigerbeetle as tb
from hypothesis import given
from hypothesis import strategies as st
from tigerbeetle import bindings

from transfer_engine.engine.ledger import packing

U16, U32, U64, U128 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64, 128))
TRANSFERS = st.builds(
    tb.Transfer, U128, U128, U128, U128, U128, U128, U64, U32, U32, U32, U16, U16.map(tb.TransferFlags), U64
)
ACCOUNTS = st.builds(tb.Account, U128, U128, U128, U128, U128, U128, U64, U32, U32, U16, U16.map(tb.AccountFlags), U64)
ACCOUNT_FILTERS = st.builds(
    tb.AccountFilter, U128, U128, U64, U32, U16, U64, U64, st.integers(0, 8189), U32.map(tb.AccountFilterFlags)
)
QUERY_FILTERS = st.builds(
    tb.QueryFilter, U128, U64, U32, U32, U16, U64, U64, st.integers(0, 8189), U32.map(tb.QueryFilterFlags)
)
BALANCES = st.builds(tb.AccountBalance, U128, U128, U128, U128, U64)


def as_the_package_packs(struct_type: Any, events: list[Any]) -> bytes:
    return b"".join(bytes(struct_type.from_param(event)) for event in events)


@given(st.lists(TRANSFERS, max_size=5))
def test_transfers(transfers: list[tb.Transfer]) -> None:
    expected = as_the_package_packs(bindings.CTransfer, transfers)
    assert packing.pack_transfers(transfers) == expected
    assert packing.unpack_transfers(expected) == transfers


@given(st.lists(ACCOUNTS, max_size=5))
def test_accounts(accounts: list[tb.Account]) -> None:
    expected = as_the_package_packs(bindings.CAccount, accounts)
    assert packing.pack_accounts(accounts) == expected
    assert packing.unpack_accounts(expected) == accounts


@given(st.lists(U128, max_size=5))
def test_ids(ids: list[int]) -> None:
    assert packing.pack_ids(ids) == as_the_package_packs(bindings.c_uint128, ids)


@given(ACCOUNT_FILTERS, QUERY_FILTERS)
def test_filters(account_filter: tb.AccountFilter, query_filter: tb.QueryFilter) -> None:
    assert packing.pack_account_filter(account_filter) == as_the_package_packs(
        bindings.CAccountFilter, [account_filter]
    )
    assert packing.pack_query_filter(query_filter) == as_the_package_packs(bindings.CQueryFilter, [query_filter])


@given(st.lists(BALANCES, max_size=5))
def test_balances(balances: list[tb.AccountBalance]) -> None:
    assert packing.unpack_balances(as_the_package_packs(bindings.CAccountBalance, balances)) == balances


@given(st.lists(st.tuples(U64, st.sampled_from(tb.CreateTransferStatus)), max_size=5))
def test_transfer_results(results: list[tuple[int, tb.CreateTransferStatus]]) -> None:
    answers = [tb.CreateTransferResult(*result) for result in results]
    unpacked = packing.unpack_transfer_results(as_the_package_packs(bindings.CCreateTransferResult, answers))
    assert unpacked == answers
    assert all(found.status is answer.status for found, answer in zip(unpacked, answers, strict=True))


@given(st.lists(st.tuples(U64, st.sampled_from(tb.CreateAccountStatus)), max_size=5))
def test_account_results(results: list[tuple[int, tb.CreateAccountStatus]]) -> None:
    answers = [tb.CreateAccountResult(*result) for result in results]
    assert packing.unpack_account_results(as_the_package_packs(bindings.CCreateAccountResult, answers)) == answers


def test_a_status_of_a_later_release_stays_a_number() -> None:
    [result] = packing.unpack_transfer_results(struct.pack("<QII", 7, 12_345, 0))
    assert (result.timestamp, result.status) == (7, 12_345)


def test_the_events_and_results_are_as_large_as_the_package_says() -> None:
    assert ctypes.sizeof(bindings.CTransfer) == ctypes.sizeof(bindings.CAccount) == packing.EVENT_BYTES


TRANSFER = tb.Transfer(id=1, debit_account_id=1, credit_account_id=2, amount=1, ledger=1, code=1)
FILTER = tb.AccountFilter(1, 0, 0, 0, 0, 0, 0, 1, tb.AccountFilterFlags.NONE)


@pytest.mark.parametrize(
    ("pack", "error", "text"),
    [
        (lambda: packing.pack_transfers([TRANSFER] * 8190), ValueError, "8190 events do not fit .* at most 8189"),
        (lambda: packing.pack_accounts([tb.Account()] * 8190), ValueError, "8190 events do not fit"),
        (lambda: packing.pack_ids([1] * 8190), ValueError, "8190 events do not fit"),
        (lambda: packing.pack_transfers([TRANSFER, replace(TRANSFER, id=2**128)]), ValueError, r"transfers\[1\].id is"),
        (lambda: packing.pack_transfers([replace(TRANSFER, amount=-1)]), ValueError, r"transfers\[0\].amount is -1"),
        (lambda: packing.pack_transfers([replace(TRANSFER, amount=1.5)]), TypeError, r"transfers\[0\].amount is 1.5"),
        (lambda: packing.pack_transfers([replace(TRANSFER, code=2**16)]), ValueError, r"\.code .* at most 16 bits"),
        (lambda: packing.pack_transfers([replace(TRANSFER, code=None)]), TypeError, r"transfers\[0\].code is None"),
        (lambda: packing.pack_accounts([tb.Account(user_data_32=-1)]), ValueError, r"accounts\[0\].user_data_32"),
        (lambda: packing.pack_ids([1, -1]), ValueError, r"ids\[1\] is -1"),
        (lambda: packing.pack_ids(["1"]), TypeError, r"ids\[0\] is '1'"),  # type: ignore[list-item]
        (lambda: packing.pack_account_filter(replace(FILTER, account_id=-1)), ValueError, "filter.account_id"),
        (lambda: packing.pack_account_filter(replace(FILTER, limit=8190)), ValueError, "limit: 8190 .* at most 8189"),
        (lambda: packing.pack_account_filter(replace(FILTER, limit="8")), TypeError, "filter.limit is '8'"),
    ],
)
def test_what_does_not_fit_the_wire_is_refused_by_name(
    pack: Callable[[], object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        pack()
