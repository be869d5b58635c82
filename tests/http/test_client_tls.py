"""The client over TLS: HTTP and websocket, with an authority of its own, and without."""

import ssl
from pathlib import Path

import pytest

from support.certificates import self_signed
from support.server import running_server
from transfer_engine.http.client import Client, Unreachable

UNIT = 100_000_000


async def test_https_and_wss(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    trust = ssl.create_default_context(cafile=certificate)
    config = {"tls": {"certificate_file": str(certificate), "key_file": str(key)}}
    with running_server(tmp_path, config=config) as server:
        async with (
            Client(server.url, ssl_context=trust) as client,
            client.websocket() as websocket,
        ):
            await client.credit(user_id=1, account="funding", asset_id=1, amount=2 * UNIT)
            first = await client.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=UNIT)
            second = await websocket.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=UNIT)
            assert first.is_committed
            assert second.is_committed
            balances = {balance.account: balance.available for balance in await websocket.balances(1)}
            assert balances["trading"] == 2 * UNIT
        async with Client(server.url, deadline_s=0.5) as stranger, stranger.websocket() as websocket:
            with pytest.raises(Unreachable, match=r"(?i:certificate)"):
                await stranger.balances(1)
            with pytest.raises(Unreachable, match=r"(?i:certificate)"):
                await websocket.balances(1)
