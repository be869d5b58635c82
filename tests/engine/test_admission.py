"""What is refused before an intent is taken: by the right code, naming the field, leaving nothing."""

from typing import Any

import pytest

from support.engines import FREEZING, World
from transfer_engine.engine.outcomes import InvalidTransfer, RefusalCode
from transfer_engine.engine.settings import AssetSettings

GOOD: dict[str, Any] = {"source": "funding", "target": "trading", "user_id": 1, "asset_id": 1, "amount": 1}
BAD = [
    ({"amount": 0}, "amount_not_positive", "amount"),
    ({"amount": -1}, "amount_not_positive", "amount"),
    ({"amount": 1.0}, "invalid_type", "amount"),
    ({"amount": "1"}, "invalid_type", "amount"),
    ({"amount": True}, "invalid_type", "amount"),
    ({"amount": None}, "invalid_type", "amount"),
    ({"amount": 1 << 63}, "amount_too_large", "amount"),
    ({"amount": 1 << 200}, "amount_too_large", "amount"),
    ({"asset_id": 99}, "unknown_asset", "asset_id"),
    ({"asset_id": "1"}, "invalid_type", "asset_id"),
    ({"asset_id": True}, "invalid_type", "asset_id"),
    ({"asset_id": -1}, "unknown_asset", "asset_id"),
    ({"asset_id": 9}, "asset_disabled", "asset_id"),
    ({"user_id": 0}, "invalid_user_id", "user_id"),
    ({"user_id": -4}, "invalid_user_id", "user_id"),
    ({"user_id": 1 << 63}, "invalid_user_id", "user_id"),
    ({"user_id": "1"}, "invalid_type", "user_id"),
    ({"user_id": True}, "invalid_type", "user_id"),
    ({"user_id": 1.0}, "invalid_type", "user_id"),
    ({"target_user_id": 0}, "invalid_user_id", "target_user_id"),
    ({"target_user_id": "2"}, "invalid_type", "target_user_id"),
    ({"source": "savings"}, "unknown_service", "from"),
    ({"source": ""}, "unknown_service", "from"),
    ({"source": None}, "invalid_type", "from"),
    ({"source": "external"}, "unknown_service", "from"),
    ({"target": "external"}, "unknown_service", "to"),
    ({"target": "x" * 10_000}, "unknown_service", "to"),
    ({"target": 3}, "invalid_type", "to"),
    ({"target": "funding"}, "same_account", "to"),
    ({"source": "spot", "target": "trading"}, "same_account", "to"),
    ({"source": FREEZING, "target": FREEZING}, "same_account", "to"),
    ({"source": FREEZING, "target": FREEZING, "target_user_id": 2}, "same_account", "to"),
    ({"idempotency_key": ""}, "key_empty", "idempotency_key"),
    ({"idempotency_key": "k" * 256}, "key_too_long", "idempotency_key"),
    ({"idempotency_key": 7}, "invalid_type", "idempotency_key"),
    ({"idempotency_key": "\ud800"}, "invalid_type", "idempotency_key"),
    ({"idempotency_key": "key", "subject": "\ud800"}, "invalid_type", "idempotency_key"),
]


@pytest.mark.parametrize(("bad", "code", "field"), BAD, ids=lambda value: str(value)[:40])
async def test_bad_input_is_refused_by_name_and_leaves_nothing(
    world: World, bad: dict[str, Any], code: str, field: str
) -> None:
    disabled = AssetSettings(asset_id=9, symbol="OLD", decimals=2, enabled=False)
    async with world.engine(assets=(*world.settings.assets, disabled)) as engine:
        calls = world.wire.calls
        with pytest.raises(InvalidTransfer) as refused:
            await engine.transfer(**GOOD | bad)
        assert (refused.value.code, refused.value.field) == (RefusalCode(code), field)
        assert not refused.value.is_retryable
        assert len(refused.value.message) < 300
        assert engine.statistics().open_transfers == engine.statistics().unsettled_intents == 0
        assert world.wire.calls == calls


async def test_the_message_of_the_first_api(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(InvalidTransfer, match=r"^Amount must be positive$"):
            await engine.transfer(**GOOD | {"amount": 0})


async def test_credits_are_checked_likewise(world: World) -> None:
    async with world.engine() as engine:
        for bad, field in (
            ({"account": "external"}, "account"),
            ({"account": "nowhere"}, "account"),
            ({"amount": 0}, "amount"),
            ({"user_id": 0}, "user_id"),
            ({"idempotency_key": ""}, "idempotency_key"),
        ):
            with pytest.raises(InvalidTransfer) as refused:
                await engine.credit(**{"user_id": 1, "account": "funding", "asset_id": 1, "amount": 1} | bad)
            assert refused.value.field == field


async def test_the_largest_and_longest_that_are_good(world: World) -> None:
    async with world.engine() as engine:
        user_id = (1 << 63) - 1
        credit = await engine.credit(
            user_id=user_id, account="funding", asset_id=1, amount=(1 << 63) - 1, idempotency_key="k" * 255
        )
        assert credit.status == "committed"
        outcome = await engine.transfer(
            **GOOD | {"user_id": user_id, "amount": (1 << 63) - 1, "idempotency_key": "ü" * 255}
        )
        assert outcome.status == "committed"
        [balance] = [one for one in await engine.balances(user_id) if one.available]
        assert (balance.account, balance.available, balance.frozen) == ("trading", (1 << 63) - 1, 0)


async def test_one_users_funding_to_anothers_is_a_transfer_like_any_other(world: World) -> None:
    async with world.engine() as engine:
        told = await world.ask(engine, "funding", "funding", target_user_id=2)
        assert told.outcome.status == "committed"
        for user_id in (1, 2):
            page = await engine.history(user_id)
            assert page.records[0].req_id == told.outcome.req_id
    assert (await world.spendable(1, "funding"), await world.spendable(2, "funding")) == (900, 1_100)
    await world.check()


@pytest.mark.parametrize("bad", ["", "nonsense", 7, None, b"x", "0" * 31])
async def test_a_req_id_that_is_none(world: World, bad: Any) -> None:
    async with world.engine() as engine:
        with pytest.raises(InvalidTransfer) as refused:
            await engine.get(bad)
        assert refused.value.field == "req_id"


async def test_a_req_id_that_nobody_knows(world: World) -> None:
    async with world.engine() as engine:
        assert await engine.get("00000000-0000-0000-0000-000000000000") is None
