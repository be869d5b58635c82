"""A row that can't be understood: told to a person, left alone, and in nobody's way."""

import sqlite3
from pathlib import Path

from support.engines import UNLIMITED_ASSETS
from transfer_engine.engine import ServiceSettings, Settings, TransferStatus, open_engine
from transfer_engine.engine.services.simulated import Behaviour


async def test_an_unknown_state_is_alerted_and_never_guessed(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        assets=UNLIMITED_ASSETS,
        deadline_ms=200,
        service_timeout_ms=20,
        services=(
            ServiceSettings(name="funding", code=2),
            ServiceSettings(name="trading", code=3),
            ServiceSettings(name="core", code=10, kind="simulated_core"),
        ),
    )
    async with open_engine(settings) as engine:
        await engine.credit(user_id=1, account="funding", asset_id=1, amount=100, deadline_ms=5_000)
        engine.simulated_cores["core"].behave(Behaviour(pending_calls=1_000_000))
        stuck = [
            await engine.transfer(source="funding", target="core", user_id=1, asset_id=1, amount=amount)
            for amount in (10, 20)
        ]
        assert {outcome.status for outcome in stuck} == {TransferStatus.PENDING}
    damaged, sound = stuck
    with sqlite3.connect(tmp_path / "records.db") as file:
        changed = file.execute("UPDATE transfers SET state = 'quantum' WHERE req_id = ?", (damaged.req_id.bytes,))
        assert changed.rowcount == 1
    file.close()

    async with open_engine(settings) as engine:
        statistics = engine.statistics()
        assert statistics.alerts["row_damaged"] == 1
        assert statistics.recovered == 1
        assert statistics.unsettled_intents == 2, "the intent is kept for whoever mends the row"
        moved = await engine.transfer(
            source="funding", target="trading", user_id=1, asset_id=1, amount=5, deadline_ms=5_000
        )
        assert moved.status is TransferStatus.COMMITTED
        found = await engine.get(sound.req_id)
        assert found is not None
        held = {balance.account: balance for balance in await engine.balances(1)}
        assert held["funding"].available == 65
        assert held["funding"].frozen >= 10, "the damaged one's hold stands"
