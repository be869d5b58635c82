"""What every core must keep to, whatever stands behind it: ``core`` in ``conftest.py`` is one kind after another."""

from typing import Any
from uuid import UUID

import msgspec
import pytest

from transfer_engine.engine.services.protocol import (
    SUCCESS,
    Core,
    CoreBalance,
    Failed,
    Pending,
    ReportsBalances,
    ServiceCall,
)
from transfer_engine.schema.ids import issued_req_id
from transfer_engine.schema.money import AMOUNT_MAX

REQ_ID = UUID(int=issued_req_id(1))
OTHER = UUID(int=issued_req_id(2))
CALL = ServiceCall(req_id=REQ_ID, user_id=1, asset_id=1, amount=40)
OTHER_BODIES = [{"user_id": 2}, {"asset_id": 2}, {"amount": 39}]


async def holdings(core: ReportsBalances, user_id: int = 1, asset_id: int = 1) -> tuple[int, int]:
    found = {balance.asset_id: balance for balance in await core.balances(user_id)}
    balance = found.get(asset_id, CoreBalance(asset_id=asset_id, available=0, frozen=0))
    return balance.available, balance.frozen


async def test_it_is_a_core_that_reports_balances(core: Any) -> None:
    assert isinstance(core, Core)
    assert isinstance(core, ReportsBalances)
    assert await core.balances(1) == []


async def test_a_withdraw_takes_once(core: Any) -> None:
    await core.fund(1, 1, 100)
    for _ in range(3):
        assert await core.withdraw(CALL) == SUCCESS
        assert await holdings(core) == (60, 40 if core.freezes else 0)
    assert await core.query(REQ_ID) == SUCCESS


async def test_a_deposit_gives_once(core: Any) -> None:
    for _ in range(3):
        assert await core.deposit(CALL) == SUCCESS
        assert await holdings(core) == (40, 0)
    assert await core.query(REQ_ID) == SUCCESS


async def test_balances_are_by_user_and_asset(core: Any) -> None:
    await core.fund(1, 2, 5)
    await core.fund(1, 1, 7)
    await core.fund(2, 1, 9)
    assert [(balance.asset_id, balance.available) for balance in await core.balances(1)] == [(1, 7), (2, 5)]
    assert [(balance.asset_id, balance.available) for balance in await core.balances(2)] == [(1, 9)]


async def test_insufficient_funds_are_a_final_refusal(core: Any) -> None:
    await core.fund(1, 1, 39)
    refused = await core.withdraw(CALL)
    assert isinstance(refused, Failed)
    assert refused.reason
    await core.fund(1, 1, 1)
    assert await core.withdraw(CALL) == refused
    assert await core.query(REQ_ID) == refused
    assert await holdings(core) == (40, 0)
    assert await core.withdraw(msgspec.structs.replace(CALL, req_id=OTHER)) == SUCCESS


@pytest.mark.parametrize("other", OTHER_BODIES)
@pytest.mark.parametrize("operation", ["withdraw", "deposit"])
async def test_another_body_is_refused_and_changes_nothing(core: Any, operation: str, other: dict[str, int]) -> None:
    for user_id, asset_id in ((1, 1), (1, 2), (2, 1)):
        await core.fund(user_id, asset_id, 100)
    call = getattr(core, operation)
    assert await call(CALL) == SUCCESS
    before = [await core.balances(user_id) for user_id in (1, 2)]
    assert isinstance(await call(msgspec.structs.replace(CALL, **other)), Failed)
    assert [await core.balances(user_id) for user_id in (1, 2)] == before
    assert await call(CALL) == SUCCESS
    assert await core.query(REQ_ID) == SUCCESS


@pytest.mark.parametrize("other", OTHER_BODIES)
async def test_another_body_is_refused_after_a_refusal_too(core: Any, other: dict[str, int]) -> None:
    refused = await core.withdraw(CALL)
    for user_id, asset_id in ((1, 1), (1, 2), (2, 1)):
        await core.fund(user_id, asset_id, 100)
    assert isinstance(await core.withdraw(msgspec.structs.replace(CALL, **other)), Failed)
    assert await core.withdraw(CALL) == refused
    assert await holdings(core) == (100, 0)


async def test_one_req_id_is_never_both_a_withdraw_and_a_deposit(core: Any) -> None:
    await core.fund(1, 1, 100)
    assert await core.withdraw(CALL) == SUCCESS
    after_withdraw = await holdings(core)
    assert isinstance(await core.deposit(CALL), Failed)
    assert isinstance(await core.cancel(REQ_ID), Failed)
    assert await holdings(core) == after_withdraw
    assert await core.query(REQ_ID) == SUCCESS

    deposit = msgspec.structs.replace(CALL, req_id=OTHER, user_id=2)
    assert await core.deposit(deposit) == SUCCESS
    assert isinstance(await core.withdraw(deposit), Failed)
    assert isinstance(await core.commit(OTHER), Failed)
    assert isinstance(await core.rollback(OTHER), Failed)
    assert await holdings(core, user_id=2) == (40, 0)
    assert await core.query(OTHER) == SUCCESS


async def test_a_rollback_returns_the_amount_once(core: Any) -> None:
    await core.fund(1, 1, 100)
    assert await core.withdraw(CALL) == SUCCESS
    for _ in range(3):
        assert await core.rollback(REQ_ID) == SUCCESS
        assert await holdings(core) == (100, 0)
    assert isinstance(await core.commit(REQ_ID), Failed)
    assert await holdings(core) == (100, 0)


async def test_a_withdraw_that_was_rolled_back_takes_nothing_again_and_answers_as_before(core: Any) -> None:
    await core.fund(1, 1, 100)
    assert await core.withdraw(CALL) == SUCCESS
    assert await core.rollback(REQ_ID) == SUCCESS
    assert await core.withdraw(CALL) == SUCCESS
    assert await core.query(REQ_ID) == SUCCESS
    assert await holdings(core) == (100, 0)


async def test_a_commit_takes_the_frozen_amount_once(core: Any) -> None:
    await core.fund(1, 1, 100)
    assert await core.withdraw(CALL) == SUCCESS
    for _ in range(3):
        assert await core.commit(REQ_ID) == SUCCESS
        assert await holdings(core) == (60, 0)
    assert await core.withdraw(CALL) == SUCCESS
    assert await holdings(core) == (60, 0)


async def test_a_commit_excludes_a_rollback_where_there_is_a_freeze(core: Any) -> None:
    await core.fund(1, 1, 100)
    assert await core.withdraw(CALL) == SUCCESS
    assert await core.commit(REQ_ID) == SUCCESS
    for _ in range(2):
        rollback = await core.rollback(REQ_ID)
        if core.freezes:
            assert isinstance(rollback, Failed)
            assert await holdings(core) == (60, 0)
        else:
            assert rollback == SUCCESS
            assert await holdings(core) == (100, 0)
        assert await core.commit(REQ_ID) == SUCCESS


async def test_a_rollback_of_a_refused_withdraw_has_nothing_to_undo(core: Any) -> None:
    refused = await core.withdraw(CALL)
    assert isinstance(refused, Failed)
    for _ in range(2):
        assert await core.rollback(REQ_ID) == SUCCESS
        assert isinstance(await core.commit(REQ_ID), Failed)
    assert await core.withdraw(CALL) == refused
    assert await holdings(core) == (0, 0)


async def test_a_rollback_before_its_withdraw_is_a_fence(core: Any) -> None:
    await core.fund(1, 1, 100)
    for _ in range(2):
        assert await core.rollback(REQ_ID) == SUCCESS
    late = await core.withdraw(CALL)
    assert isinstance(late, Failed)
    assert await core.withdraw(CALL) == late
    assert await core.query(REQ_ID) == late
    assert await core.rollback(REQ_ID) == SUCCESS
    assert isinstance(await core.commit(REQ_ID), Failed)
    assert await holdings(core) == (100, 0)


async def test_a_cancel_before_its_deposit_is_a_fence(core: Any) -> None:
    for _ in range(2):
        assert await core.cancel(REQ_ID) == SUCCESS
    late = await core.deposit(CALL)
    assert isinstance(late, Failed)
    assert await core.deposit(CALL) == late
    assert await core.query(REQ_ID) == late
    assert await core.cancel(REQ_ID) == SUCCESS
    assert await holdings(core) == (0, 0)


async def test_a_cancel_after_its_deposit_was_taken_fails(core: Any) -> None:
    assert await core.deposit(CALL) == SUCCESS
    for _ in range(2):
        assert isinstance(await core.cancel(REQ_ID), Failed)
    assert await core.deposit(CALL) == SUCCESS
    assert await holdings(core) == (40, 0)


async def test_nothing_is_known_of_a_req_id_that_never_came(core: Any) -> None:
    assert isinstance(await core.query(REQ_ID), Pending)


async def test_a_commit_that_comes_before_its_withdraw_decides_nothing(core: Any) -> None:
    await core.fund(1, 1, 100)
    assert isinstance(await core.commit(REQ_ID), Pending)
    assert isinstance(await core.query(REQ_ID), Pending)
    assert await core.withdraw(CALL) == SUCCESS
    assert await core.commit(REQ_ID) == SUCCESS


async def test_a_deposit_that_would_overflow_is_a_final_refusal(core: Any) -> None:
    most = msgspec.structs.replace(CALL, amount=AMOUNT_MAX)
    assert await core.deposit(most) == SUCCESS
    assert await holdings(core) == (AMOUNT_MAX, 0)
    one_more = ServiceCall(req_id=OTHER, user_id=1, asset_id=1, amount=1)
    refused = await core.deposit(one_more)
    assert isinstance(refused, Failed)
    assert await core.cancel(OTHER) == SUCCESS
    assert await core.withdraw(msgspec.structs.replace(CALL, req_id=UUID(int=3))) == SUCCESS
    assert await core.deposit(one_more) == refused
    assert await core.query(OTHER) == refused


async def test_there_is_always_room_for_a_rollback(core: Any) -> None:
    await core.fund(1, 1, AMOUNT_MAX)
    everything = msgspec.structs.replace(CALL, amount=AMOUNT_MAX)
    assert await core.withdraw(everything) == SUCCESS
    assert isinstance(await core.deposit(ServiceCall(req_id=OTHER, user_id=1, asset_id=1, amount=1)), Failed)
    assert await core.rollback(REQ_ID) == SUCCESS
    assert await holdings(core) == (AMOUNT_MAX, 0)


@pytest.mark.parametrize("operation", ["withdraw", "deposit"])
@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("amount", 0),
        ("amount", -1),
        ("amount", AMOUNT_MAX + 1),
        ("user_id", -1),
        ("user_id", 1 << 64),
        ("asset_id", -1),
    ],
)
async def test_an_impossible_body_is_a_final_refusal_that_names_the_field(
    core: Any, operation: str, field: str, number: int
) -> None:
    await core.fund(1, 1, 100)
    call = getattr(core, operation)
    refused = await call(msgspec.structs.replace(CALL, **{field: number}))
    assert isinstance(refused, Failed)
    assert field in refused.reason
    assert await core.query(REQ_ID) == refused
    assert await call(msgspec.structs.replace(CALL, **{field: number})) == refused
    assert isinstance(await call(CALL), Failed)
    assert await holdings(core) == (100, 0)
