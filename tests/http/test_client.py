"""The HTTP client against a real server: what it returns, and what it raises."""

import socket
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from support.server import Server
from transfer_engine.http.client import (
    Client,
    InvalidUrl,
    NotFound,
    Refused,
    TransferRefused,
    TransferStatus,
    Unreachable,
)

UNIT = 100_000_000


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as open_client:
        yield open_client


async def test_a_transfer_and_what_is_known_of_it(client: Client) -> None:
    credited = await client.credit(user_id=9001, account="funding", asset_id=1, amount=500 * UNIT)
    assert credited.is_committed
    outcome = await client.transfer(source="funding", target="trading", user_id=9001, asset_id=1, amount=200 * UNIT)
    assert outcome.status is TransferStatus.COMMITTED
    assert outcome.is_final
    assert not outcome.is_replay
    record = await client.get(outcome.req_id)
    assert (record.source, record.target, record.amount) == ("funding", "trading", 200 * UNIT)
    assert record == await client.get(str(outcome.req_id))
    balances = {balance.account: balance.available for balance in await client.balances(9001)}
    assert balances == {"funding": 300 * UNIT, "trading": 200 * UNIT}


async def test_the_same_key_moves_once(client: Client) -> None:
    await client.credit(user_id=9002, account="funding", asset_id=1, amount=500 * UNIT)
    outcomes = [
        await client.transfer(
            source="funding", target="trading", user_id=9002, asset_id=1, amount=200 * UNIT, key="twice"
        )
        for _ in range(2)
    ]
    assert [outcome.is_replay for outcome in outcomes] == [False, True]
    assert outcomes[0].req_id == outcomes[1].req_id
    with pytest.raises(TransferRefused) as refused:
        await client.transfer(
            source="funding", target="trading", user_id=9002, asset_id=1, amount=201 * UNIT, key="twice"
        )
    assert refused.value.code == "key_reused"
    assert not refused.value.retryable


async def test_every_call_has_a_key_of_its_own(client: Client) -> None:
    await client.credit(user_id=9003, account="funding", asset_id=1, amount=500 * UNIT)
    first = await client.transfer(source="funding", target="trading", user_id=9003, asset_id=1, amount=UNIT)
    second = await client.transfer(source="funding", target="trading", user_id=9003, asset_id=1, amount=UNIT)
    assert first.req_id != second.req_id
    again = await client.transfer(
        source="funding", target="trading", user_id=9003, asset_id=1, amount=UNIT, key=first.key
    )
    assert again.req_id == first.req_id
    assert again.is_replay


async def test_a_verdict_is_no_exception(client: Client) -> None:
    outcome = await client.transfer(source="funding", target="trading", user_id=9004, asset_id=1, amount=UNIT)
    assert outcome.status is TransferStatus.FAILED
    assert outcome.is_final
    assert outcome.message


async def test_a_refusal_names_what_to_mend(client: Client) -> None:
    with pytest.raises(TransferRefused) as refused:
        await client.transfer(source="funding", target="trading", user_id=9005, asset_id=1, amount=0)
    assert refused.value.code == "amount_not_positive"
    assert refused.value.field == "amount"
    assert refused.value.refusal.http_status == 422


async def test_what_is_not_there(client: Client) -> None:
    with pytest.raises(NotFound):
        await client.get(UUID(int=0))
    with pytest.raises(Refused) as refused:
        await client.get("no id")
    assert refused.value.code == "invalid_req_id"


async def test_pending_is_waited_for_where_the_caller_says_so(client: Client, server: Server) -> None:
    await client.credit(user_id=9006, account="funding", asset_id=1, amount=10 * UNIT)
    behaviour = {"ops": ["deposit"], "latency_ms": 900}
    server.client.put("/api/v1/admin/simulated-cores/vault/behaviour", json=behaviour)
    try:
        at_once = await client.transfer(source="funding", target="vault", user_id=9006, asset_id=1, amount=UNIT)
        assert at_once.status is TransferStatus.PENDING
        server.client.put("/api/v1/admin/simulated-cores/vault/behaviour", json={})
        waited = await client.transfer(
            source="funding", target="vault", user_id=9006, asset_id=1, amount=UNIT, key=at_once.key, wait=True
        )
    finally:
        server.client.put("/api/v1/admin/simulated-cores/vault/behaviour", json={})
    assert waited.status is TransferStatus.COMMITTED
    assert waited.req_id == at_once.req_id


async def test_a_wait_ends_with_its_deadline_and_says_pending(client: Client, server: Server) -> None:
    await client.credit(user_id=9007, account="funding", asset_id=1, amount=10 * UNIT)
    server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={"ops": ["deposit"], "crash_before": 1_000})
    try:
        outcome = await client.transfer(
            source="funding", target="core", user_id=9007, asset_id=1, amount=UNIT, wait=True, deadline_s=1.5
        )
        assert outcome.status is TransferStatus.PENDING
        resolution = await client.resolve(outcome.req_id, "void")
    finally:
        server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={})
    assert resolution.state == "rolled_back"
    assert resolution.steps


async def test_health_figures_and_assets(client: Client) -> None:
    assert (await client.health()).status == "healthy"
    ready = await client.ready()
    assert ready.ready
    assert ready.ledger.ready
    assert "open_transfers" in await client.statistics()
    assert {asset.symbol: asset.decimals for asset in await client.assets()}["USDT"] == 8


async def test_nobody_there_is_known_to_have_moved_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with Client(f"http://127.0.0.1:{port}", deadline_s=0.3) as client:
        with pytest.raises(Unreachable) as unreachable:
            await client.transfer(
                source="funding", target="trading", user_id=1, asset_id=1, amount=UNIT, key="nobody-there"
            )
        assert unreachable.value.key == "nobody-there"
        assert not unreachable.value.was_sent
        with pytest.raises(Unreachable):
            await client.balances(1)


@pytest.mark.parametrize("url", ["", "ftp://x", "localhost:8080", "http://"])
async def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(InvalidUrl, match=r"URL|begin|host"):
        async with Client(url, deadline_s=0.2) as client:
            await client.health()


@pytest.mark.parametrize("key", ["caf\u00e9", "line\nbreak"])
async def test_keys_that_can_not_be_sent(client: Client, key: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        await client.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=UNIT, key=key)


@pytest.mark.parametrize("deadline_s", [0, -1, float("nan")])
async def test_deadlines_that_are_none(client: Client, deadline_s: float) -> None:
    with pytest.raises(ValueError, match="deadline_s"):
        await client.health(deadline_s=deadline_s)
