"""Daily sums on the real embedded backends: many at once, and the same after a restart."""

from pathlib import Path

import pytest

from support.engines import UNLIMITED_ASSETS
from transfer_engine.engine import Engine, Refused, Settings, TransferOrder, open_engine

MOST = 1_000
ASSETS = (UNLIMITED_ASSETS[0].model_copy(update={"daily_most": MOST}), *UNLIMITED_ASSETS[1:])


def orders(name: str, user_id: int, amount: int, count: int) -> list[TransferOrder]:
    return [
        TransferOrder(
            source="funding",
            target="trading",
            user_id=user_id,
            asset_id=1,
            amount=amount,
            idempotency_key=f"{name}-{user_id}-{number}",
        )
        for number in range(count)
    ]


async def committed(engine: Engine, wanted: list[TransferOrder]) -> int:
    outcomes = await engine.transfer_many(wanted)
    refusals = {outcome.code for outcome in outcomes if isinstance(outcome, Refused)}
    assert refusals <= {"daily_limit_reached"}
    return sum(not isinstance(outcome, Refused) and outcome.status == "committed" for outcome in outcomes)


@pytest.mark.parametrize("amount", [3, 7, 999, 1_000, 1_001])
async def test_exactly_as_many_as_fit(tmp_path: Path, amount: int) -> None:
    settings = Settings(data_dir=tmp_path, assets=ASSETS)
    users = (1, 2, 3)
    async with open_engine(settings) as engine:
        for user_id in users:
            await engine.credit(user_id=user_id, account="funding", asset_id=1, amount=1_000_000)
        first = [order for user_id in users for order in orders("first", user_id, amount, 200)]
        assert await committed(engine, first) == len(users) * min(200, MOST // amount)
        fit = len(users) * min(200, MOST // amount)
        assert await committed(engine, first) == fit, "all of them again, by the same keys"
    async with open_engine(settings) as engine:
        left = [(await engine.limits(user_id))[0].left for user_id in users]
        assert left == [MOST - amount * min(200, MOST // amount)] * len(users)
        again = [order for user_id in users for order in orders("again", user_id, amount, 200)]
        before = min(200, MOST // amount)
        assert await committed(engine, again) == len(users) * (min(400, MOST // amount) - before)
        assert await committed(engine, first) == len(users) * before
        assert (await engine.audit()).holds
