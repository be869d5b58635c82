"""A user's endpoint whose row can't be understood: nobody else's matter, and mended by registering again."""

import sqlite3
from pathlib import Path

from support.engines import UNLIMITED_ASSETS
from transfer_engine.engine import Settings, open_engine
from transfer_engine.engine.outbox_limits import OutboxLimits


async def test_a_damaged_endpoint_keeps_no_engine_from_starting_and_is_mended_by_its_user(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, assets=UNLIMITED_ASSETS)
    async with open_engine(settings, outbox=OutboxLimits()) as engine:
        assert engine.outbox is not None
        for user_id in (1, 2, 3):
            await engine.outbox.endpoints.register(user_id, f"https://{user_id}.example/")
    with sqlite3.connect(tmp_path / "records.db") as connection:
        connection.execute("UPDATE webhook_endpoints SET body = x'c1' WHERE user_id = 2")
    connection.close()
    async with open_engine(settings, outbox=OutboxLimits()) as engine:
        assert engine.outbox is not None
        endpoints = engine.outbox.endpoints
        assert set(endpoints.enabled) == {1, 3}
        await endpoints.read_again()
        assert engine.statistics().alerts["endpoint_damaged"] == 1
        endpoint, is_new = await endpoints.register(2, "https://again.example/")
        assert is_new
        assert await endpoints.get(2) == endpoint
        assert await endpoints.remove(2)
    async with open_engine(settings, outbox=OutboxLimits()) as engine:
        assert engine.outbox is not None
        assert set(engine.outbox.endpoints.enabled) == {1, 3}
        assert "endpoint_damaged" not in engine.statistics().alerts
