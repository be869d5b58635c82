"""Daily sums from a history in Cassandra: read over several pages, and the same after an engine was killed."""

from pathlib import Path
from typing import Any

import trio

from support.engines import UNLIMITED_ASSETS
from support.production import Pair
from transfer_engine.engine import Engine, Refused, Settings, TransferOrder, open_engine

MOST = 1_500
ASSETS = (UNLIMITED_ASSETS[0].model_copy(update={"daily_most": MOST}), *UNLIMITED_ASSETS[1:])


def settings(pair: Pair, directory: Path, **changes: Any) -> Settings:
    return Settings.model_validate(
        {"data_dir": directory, "assets": ASSETS, "mailbox_capacity": 10_000, "deadline_ms": 60_000}
        | pair.backends()
        | changes
    )


async def committed(engine: Engine, name: str, count: int) -> int:
    """Move 1 so often, all at once; return how often it moved."""
    outcomes = await engine.transfer_many(
        [
            TransferOrder(
                source="funding", target="trading", user_id=1, asset_id=1, amount=1, idempotency_key=f"{name}-{number}"
            )
            for number in range(count)
        ]
    )
    assert {outcome.code for outcome in outcomes if isinstance(outcome, Refused)} <= {"daily_limit_reached"}
    return sum(not isinstance(outcome, Refused) and outcome.status == "committed" for outcome in outcomes)


async def test_the_sum_of_a_day_is_read_from_the_history(pair: Pair, tmp_path: Path) -> None:
    ours = settings(pair, tmp_path / "one")
    with trio.CancelScope() as life:
        async with open_engine(ours) as engine:
            await engine.credit(user_id=1, account="funding", asset_id=1, amount=10_000)
            assert await committed(engine, "a", 1_200) == 1_200
            life.cancel()  # it drains nothing, and gives nothing back
    async with open_engine(ours) as engine:
        assert (await engine.limits(1))[0].used == 1_200
        assert await committed(engine, "b", 400) == 300
        assert await committed(engine, "a", 100) == 100, "first answers stay"
        assert (await engine.limits(1))[0].left == 0
