"""The HTTP client's calls of the second API and its batches, against a real server."""

from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from support.server import Server
from transfer_engine.http.client import (
    Client,
    NotFound,
    Outcome,
    Refusal,
    Refused,
    Transfer,
    TransferRefused,
    UserStatus,
)

UNIT = 100_000_000


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as open_client:
        yield open_client


def move(user_id: int, amount: int = UNIT, *, key: str | None = None) -> Transfer:
    if key is None:
        return Transfer(source="funding", target="trading", user_id=user_id, asset_id=1, amount=amount)
    return Transfer(source="funding", target="trading", user_id=user_id, asset_id=1, amount=amount, key=key)


async def test_decimal_amounts_and_the_three_names_of_a_transfer(client: Client) -> None:
    await client.credit(user_id=9201, account="funding", asset_id=1, amount=3 * UNIT)
    told = await client.internal_transfer(
        source="funding", target="spot", asset="USDT", amount="1.5", user_id=9201, key="decimal"
    )
    assert told.is_committed
    assert (told.amount, told.to_account.account_type, told.key) == ("1.50000000", "trading", "decimal")
    again = await client.internal_transfer(
        source="funding", target="spot", asset="USDT", amount=Decimal("1.50"), user_id=9201, key="decimal"
    )
    assert again.is_replay
    by_key = await client.get_by_key("decimal")
    by_request_id = await client.get_internal_transfer(told.request_id)
    assert by_key.req_id == by_request_id.req_id == told.req_id
    assert (await client.get_internal_transfer(told.req_id)).request_id == told.request_id
    balances = {balance.account_type: balance.available for balance in await client.user_balances(9201)}
    assert balances == {"funding": "1.50000000", "trading": "1.50000000"}


async def test_what_the_second_api_refuses_by_name(client: Client) -> None:
    with pytest.raises(TransferRefused) as refused:
        await client.internal_transfer(source="funding", target="spot", asset="USDT", amount="1e3", user_id=9202)
    assert refused.value.code == "invalid_amount"
    assert refused.value.field == "amount"
    with pytest.raises(NotFound):
        await client.get_by_key("never used")


async def test_a_history_over_many_pages_is_complete(client: Client) -> None:
    await client.credit(user_id=9203, account="funding", asset_id=1, amount=100 * UNIT)
    moved = [await client.transfer_many([move(9203) for _ in range(23)])]
    expected = [result.req_id for result in moved[0] if isinstance(result, Outcome)]
    seen = [transfer.req_id async for transfer in client.history(user_id=9203, source="funding", page=5)]
    assert len(seen) == 23
    assert set(seen) == set(expected)
    failed = [each async for each in client.history(user_id=9203, statuses=[UserStatus.FAILED])]
    assert failed == []


async def test_a_history_longer_than_the_server_allows_at_once(client: Client) -> None:
    await client.credit(user_id=9204, account="funding", asset_id=1, amount=5 * UNIT)
    outcome = (await client.transfer_many([move(9204)]))[0]
    assert isinstance(outcome, Outcome)
    made = (await client.get(outcome.req_id)).created_at
    seen = [
        transfer.req_id
        async for transfer in client.history(
            user_id=9204, source="funding", start_ms=made - 40 * 86_400_000, end_ms=made + 40 * 86_400_000
        )
    ]
    assert seen == [outcome.req_id]
    with pytest.raises(Refused) as refused:
        await anext(client.history(user_id=9204, asset="DOGE"))
    assert refused.value.field == "asset"


async def test_a_batch_tells_each_by_itself(client: Client) -> None:
    await client.credit(user_id=9205, account="funding", asset_id=1, amount=10 * UNIT)
    transfers = [move(9205, key="first"), move(9205, 0), move(9205, 20 * UNIT), move(9205, key="first")]
    first, zero, too_much, replay = await client.transfer_many(transfers)
    assert isinstance(first, Outcome)
    assert first.is_committed
    assert isinstance(zero, Refusal)
    assert zero.code == "amount_not_positive"
    assert isinstance(too_much, Outcome)
    assert too_much.status == "failed"
    assert isinstance(replay, Outcome)
    assert replay.req_id == first.req_id
    again = await client.transfer_many(transfers)
    assert [isinstance(result, Outcome) and result.is_replay for result in again] == [True, False, True, True]


async def test_more_than_one_batch_can_hold(client: Client) -> None:
    await client.credit(user_id=9206, account="funding", asset_id=1, amount=3_000 * UNIT)
    results = await client.transfer_many([move(9206) for _ in range(1_203)])
    assert len(results) == 1_203
    assert all(isinstance(result, Outcome) and result.is_committed for result in results)
    assert await client.transfer_many([]) == []


async def test_limits(client: Client) -> None:
    limits = await client.limits(9207)
    assert limits.user_id == 9207
    usdt = next(each for each in limits.limits if each.asset == "USDT")
    assert usdt.enabled
    assert usdt.minimum
    assert limits.rate_limit is None
