"""The client where tokens expire in the middle, and where they are not accepted at all."""

import secrets
import time
from collections.abc import Iterator

import jwt
import pytest
import trio

from support.server import Server, running_server
from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client import Client, NotFound, Refused, Snapshot, TransferRefused

UNIT = 100_000_000
AT_ONCE = Backoff(first_ms=5, most_ms=50)
SECRET = secrets.token_hex(32)


def token(subject: str, scope: str = "transfer:read transfer:write", *, lifetime_s: float = 60.0) -> str:
    claims = {"sub": subject, "aud": "transfer-engine", "scope": scope, "exp": time.time() + lifetime_s}
    return jwt.encode(claims, SECRET, algorithm="HS256")


class Renewing:
    """Signs tokens that last for a second or two."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.made = 0

    async def __call__(self) -> str:
        self.made += 1
        await trio.lowlevel.checkpoint()
        return token(self.subject, lifetime_s=1.5)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "secret").write_text(SECRET)
    config = {"tokens": {"secret_file": str(folder / "secret"), "leeway_ms": 0}}
    with running_server(folder, config=config) as server:
        yield server
        assert not [line for line in server.logged.splitlines() if SECRET in line or "eyJ" in line]


async def credit(server: Server, user_id: int) -> None:
    async with Client(server.url, token=token("cashier", "admin")) as client:
        await client.credit(user_id=user_id, account="funding", asset_id=1, amount=1_000 * UNIT)


async def test_calls_go_on_with_another_token(guarded: Server) -> None:
    await credit(guarded, 1)
    renewing = Renewing("1")
    async with Client(guarded.url, token=renewing, backoff=AT_ONCE) as client:
        end = trio.current_time() + 4
        moved = 0
        while trio.current_time() < end:
            outcome = await client.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=UNIT)
            assert outcome.is_committed
            moved += 1
            await trio.sleep(0.1)
        balances = {balance.account: balance.available for balance in await client.balances(1)}
    assert balances["trading"] == moved * UNIT
    assert renewing.made > 1


async def test_a_websocket_goes_on_with_another_token(guarded: Server) -> None:
    await credit(guarded, 2)
    renewing = Renewing("2")
    async with (
        Client(guarded.express_url, token=renewing, backoff=AT_ONCE) as client,
        client.websocket() as websocket,
        websocket.subscribe() as events,
    ):
        assert isinstance(await anext(events), Snapshot)
        end = trio.current_time() + 5
        moved = 0
        while trio.current_time() < end:
            outcome = await websocket.transfer(source="funding", target="trading", asset_id=1, amount=UNIT)
            assert outcome.is_committed
            moved += 1
            await trio.sleep(0.1)
        assert websocket.connections > 1
        balances = {balance.account: balance.available for balance in await websocket.balances()}
        assert balances["trading"] == moved * UNIT
        with trio.fail_after(10):
            event = await anext(events)
            assert not isinstance(event, Snapshot)
    assert renewing.made > 1


@pytest.mark.parametrize("door", ["main", "express"])
async def test_a_token_that_is_not_accepted_is_told_at_once(guarded: Server, door: str) -> None:
    url = guarded.express_url if door == "express" else guarded.url
    async with Client(url, token="a.b.c", backoff=AT_ONCE) as client, client.websocket() as websocket:  # noqa: S106
        with trio.fail_after(10):
            with pytest.raises(TransferRefused) as refused:
                await client.transfer(source="funding", target="trading", user_id=3, asset_id=1, amount=UNIT)
            assert refused.value.code == "unauthenticated"
            with pytest.raises(Refused) as refused_there:
                await websocket.transfer(source="funding", target="trading", asset_id=1, amount=UNIT)
            assert refused_there.value.code == "unauthenticated"


async def test_what_is_not_his(guarded: Server) -> None:
    async with Client(guarded.express_url, token=token("4")) as client, client.websocket() as websocket:
        with pytest.raises(NotFound):
            await client.balances(5)
        with pytest.raises(NotFound):
            async with websocket.subscribe(5):
                pass
        with pytest.raises(TransferRefused) as refused:
            await websocket.transfer(source="funding", target="trading", user_id=5, asset_id=1, amount=UNIT)
        assert (refused.value.code, refused.value.field) == ("insufficient_scope", "user_id")


async def test_a_token_that_can_not_be_made(guarded: Server) -> None:
    def fail() -> str:
        raise LookupError("the vault is closed")

    async with Client(guarded.express_url, token=fail) as client:
        with pytest.raises(LookupError):
            await client.balances(5)
