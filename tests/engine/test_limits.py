"""Limits of one transfer, of a day, and first answers that no limit hides."""

from functools import partial
from typing import Any

import pytest
import trio

from support.engines import BORN_MS, FREEZING, UNLIMITED_ASSETS, Told, World, now_ms, until
from support.wire import Wire
from transfer_engine.engine import Engine, TransferOrder
from transfer_engine.engine.limits import DAY_MS
from transfer_engine.engine.outcomes import (
    InvalidTransfer,
    KeyReused,
    Overloaded,
    RefusalCode,
    Refused,
    TransferOutcome,
)
from transfer_engine.engine.records.protocol import RecordsUnavailable
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.engine.settings import AssetSettings, Settings
from transfer_engine.schema.transfers import TransferStatus

RESETS_AT = (BORN_MS // DAY_MS + 1) * DAY_MS

Answers = list[TransferOutcome | Exception]


def usdt(**limits: Any) -> tuple[AssetSettings, ...]:
    """Return the assets, the first of them with limits."""
    return (UNLIMITED_ASSETS[0].model_copy(update=limits), *UNLIMITED_ASSETS[1:])


def code(told: Told) -> str:
    """Return the status or the refusal's code."""
    return told.answer.code if isinstance(told.answer, Refused) else told.outcome.status


async def used(engine: Engine, user_id: int = 1) -> int | None:
    """Return what a user has used of the first asset's day."""
    return (await engine.limits(user_id))[0].used


@pytest.fixture
def born_ms() -> int:
    """What all clocks say at first."""
    return BORN_MS


@pytest.fixture
async def world(born_ms: int, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("support.engines.BORN_MS", born_ms)
    world = World()
    await world.fund(1, 2)
    return world


# One transfer ---------------------------------------------------------------------------------------------------------


async def test_the_least_and_the_most_of_one_transfer(world: World) -> None:
    async with world.engine(assets=usdt(amount_least=10, amount_most=20)) as engine:
        for amount, expected in (
            (9, "amount_below_minimum"),
            (10, "committed"),
            (20, "committed"),
            (21, "amount_above_maximum"),
        ):
            assert code(await world.ask(engine, "funding", "trading", amount=amount)) == expected
        assert code(await world.ask(engine, "funding", "trading", amount=9, asset_id=2)) == "failed"


async def test_a_refusal_says_amount_and_limit(world: World) -> None:
    async with world.engine(assets=usdt(amount_least=1_000_000)) as engine:
        with pytest.raises(InvalidTransfer) as refused:
            await engine.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=999_999)
    assert refused.value.field == "amount"
    assert not refused.value.is_retryable
    assert str(refused.value) == (
        "amount 0.00999999 USDT is below the minimum of one transfer, 0.01000000 USDT (1000000 minor units)"
    )


async def test_credits_have_no_limits(world: World) -> None:
    async with world.engine(assets=usdt(amount_least=10, amount_most=20, daily_most=10)) as engine:
        for amount in (1, 1_000):
            outcome = await engine.credit(user_id=1, account="funding", asset_id=1, amount=amount)
            assert outcome.status is TransferStatus.COMMITTED
        assert await used(engine) == 0


def test_the_defaults_of_usdt() -> None:
    first = Settings().assets[0]
    assert (first.symbol, first.amount_least, first.amount_most, first.daily_most) == ("USDT", 1_000_000, 10**15, None)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"amount_least": 0}, "greater than or equal to 1"),
        ({"amount_most": 1 << 63}, "less than or equal to 9223372036854775807"),
        ({"amount_least": 5, "amount_most": 4}, "the least not above the most"),
        ({"amount_least": 5, "daily_most": 4}, "no transfer of amount_least, 5, would ever fit in"),
        ({"daily_most": 0}, "greater than or equal to 1"),
    ],
)
def test_limits_that_contradict_each_other(limits: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AssetSettings(asset_id=1, symbol="X", decimals=2, **limits)


# A day ----------------------------------------------------------------------------------------------------------------


async def test_the_daily_limit_is_used_up_exactly(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=250)) as engine:
        assert [code(await world.ask(engine, "funding", "trading")) for _ in range(3)] == [
            "committed",
            "committed",
            "daily_limit_reached",
        ]
        told = await world.ask(engine, "trading", "funding", amount=51)
        assert isinstance(told.answer, InvalidTransfer)
        assert str(told.answer) == (
            "amount 0.00000051 USDT is more than is left of the daily limit of 0.00000250 USDT: 0.00000200 USDT used, "
            "0.00000050 USDT left until 2026-09-22T00:00:00Z"
        )
        assert code(await world.ask(engine, "trading", "funding", amount=50)) == "committed"
        [limits, other, _] = await engine.limits(1)
        assert (limits.daily_most, limits.used, limits.left, limits.resets_at) == (250, 250, 0, RESETS_AT)
        assert (other.daily_most, other.used, other.left, other.resets_at) == (None, None, None, None)
        assert await used(engine, 2) == 0


async def test_what_comes_from_others_is_theirs(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=250)) as engine:
        assert code(await world.ask(engine, "funding", "funding", target_user_id=2)) == "committed"
        assert (await used(engine, 1), await used(engine, 2)) == (100, 0)
    async with world.engine(assets=usdt(daily_most=250)) as engine:
        assert (await used(engine, 1), await used(engine, 2)) == (100, 0)


async def test_many_at_once_use_up_the_limit_and_no_more(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=77)) as engine:
        orders = [
            TransferOrder(source="funding", target="trading", user_id=1, asset_id=1, amount=10) for _ in range(50)
        ]
        outcomes = await engine.transfer_many(orders)
        told = [outcome.code if isinstance(outcome, Refused) else outcome.status for outcome in outcomes]
        assert told == ["committed"] * 7 + ["daily_limit_reached"] * 43
        assert engine.statistics().submitter.flushes == 1
    await world.check()


async def test_those_that_wait_for_the_sum_are_accepted_in_their_order(world: World) -> None:
    """I6: also those that have nothing to do with the limit, and those that come while the line is being served."""
    answers: Answers = []
    async with world.engine(assets=usdt(daily_most=10_000)) as engine:
        stop = world.wire.stop("history")
        for number in range(30):
            asset_id, target = 1 + number % 2, "trading"
            order = TransferOrder(source="funding", target=target, user_id=1, asset_id=asset_id, amount=1 + number)
            engine.submit(order, answers.append)
        await stop.reached.wait()
        assert answers == []
        stop.released.set()
        await until(lambda: len(answers) == 30)
        rows = sorted(world.records.rows.values(), key=lambda row: row.req_id.int)
    amounts = [row.amount for row in rows if row.source == "funding"]
    assert amounts == list(range(1, 31))
    holds = [entry.req_id for entry in world.wire.log if entry.name == "hold"]
    assert holds == sorted(holds), "they reach the ledger in the order of their names, which is that of their coming"


async def test_failures_refusals_and_rollbacks_give_back(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=1_500)) as engine:
        assert code(await world.ask(engine, "trading", "funding", amount=1_400)) == "failed"
        assert await used(engine) == 0
        world.cores[FREEZING].behave(Behaviour(refuse="closed"))
        assert code(await world.ask(engine, "funding", FREEZING, amount=900)) == "rolled_back"
        assert await used(engine) == 0
        assert code(await world.ask(engine, "funding", "trading", amount=1_000)) == "committed"
        assert code(await world.ask(engine, "trading", "funding", amount=501)) == "daily_limit_reached"


async def test_what_is_under_way_counts_until_it_has_ended(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=150)) as engine:
        world.wire.down.add(FREEZING)
        assert code(await world.ask(engine, "funding", FREEZING)) == "pending"
        assert await used(engine) == 100
        assert code(await world.ask(engine, "funding", "trading", amount=51)) == "daily_limit_reached"
        world.wire.down.clear()
        await world.heal(engine)
        assert await used(engine) == 100


async def test_a_repetition_counts_once(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=250)) as engine:
        for _ in range(3):
            assert code(await world.ask(engine, "funding", "trading", key="a")) == "committed"
        assert await used(engine) == 100
        assert code(await world.ask(engine, "funding", "trading", key="b")) == "committed"
        assert await used(engine) == 200


async def test_a_repetition_under_way_takes_no_quota_from_others(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=250)) as engine:
        assert code(await world.ask(engine, "funding", "trading", key="a")) == "committed"
        stop = world.wire.stop("hold")
        answers: Answers = []
        order = partial(TransferOrder, source="funding", target="trading", user_id=1, asset_id=1)
        engine.submit(order(amount=100, idempotency_key="a"), answers.append)
        await stop.reached.wait()
        engine.submit(order(amount=150), answers.append)
        await trio.sleep(0.1)
        assert answers == []
        stop.released.set()
        await until(lambda: len(answers) == 2)
        assert {answer.status for answer in answers if isinstance(answer, TransferOutcome)} == {
            TransferStatus.COMMITTED
        }
        assert await used(engine) == 250


# Restarts, midnight, forgetting ---------------------------------------------------------------------------------------


async def test_sums_survive_a_restart(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=250)) as engine:
        await world.ask(engine, "funding", "trading")
        await world.ask(engine, "trading", "funding", amount=1_000)
    async with world.engine(assets=usdt(daily_most=250)) as engine:
        assert code(await world.ask(engine, "funding", "trading", amount=151)) == "daily_limit_reached"
        assert code(await world.ask(engine, "funding", "trading", amount=150)) == "committed"


TWO_MINUTES_TO_MIDNIGHT = pytest.mark.parametrize("born_ms", [RESETS_AT - 120_000])


async def cut_down(world: World) -> None:
    """Live a life that ends with a transfer of 100 in the ledger, and no row of it."""
    assert not await world.live(
        lambda world, engine: world.ask(engine, "funding", "trading"), number=3, fate="cut_after"
    )
    assert len(world.records.rows) == 2, "credits"


async def test_a_transfer_that_ends_before_the_history_is_read_counts_once(world: World) -> None:
    await cut_down(world)
    async with world.engine(assets=usdt(daily_most=250)) as engine:
        stop = world.wire.stop("history")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.limits, 1)
            await stop.reached.wait()
            await world.heal(engine)
            stop.released.set()
        assert await used(engine) == 100


async def test_a_transfer_that_ends_after_its_row_was_read_counts_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer_engine.engine.daily_sums.PAGE_RECORDS", 1)
    await cut_down(world)
    wire = Wire()
    wire.next_fates["row committed"] = ["lose_answer"]
    async with world.engine(wire, assets=usdt(daily_most=250)) as engine:
        await until(lambda: len(world.records.rows) == 3, every_s=0)
        assert engine.statistics().open_transfers == 1, "its row is there, and the engine does not know it"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.limits, 1)
            await until(lambda: wire.names().count("history") == 1, every_s=0)
            stop = wire.stop("history")
            await stop.reached.wait()
            assert engine.statistics().open_transfers == 1
            await world.heal(engine)
            stop.released.set()
        assert await used(engine) == 100


async def test_a_transfer_whose_row_is_there_before_it_has_ended_counts_once(world: World) -> None:
    await cut_down(world)
    wire = Wire()
    wire.next_fates["row committed"] = ["lose_answer"]
    async with world.engine(wire, assets=usdt(daily_most=250)) as engine:
        await until(lambda: len(world.records.rows) == 3, every_s=0)
        assert await used(engine) == 100
        assert engine.statistics().open_transfers == 1
        await world.heal(engine)
        assert await used(engine) == 100


@TWO_MINUTES_TO_MIDNIGHT
async def test_midnight(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=250)) as engine:
        await trio.sleep((RESETS_AT - now_ms()) / 1000 - 1)
        assert code(await world.ask(engine, "funding", "trading", amount=200)) == "committed"
        assert code(await world.ask(engine, "funding", "trading")) == "daily_limit_reached"
        await trio.sleep(2)
        assert await used(engine) == 0
        assert code(await world.ask(engine, "funding", "trading", amount=250)) == "committed"
        assert code(await world.ask(engine, "trading", "funding", amount=1)) == "daily_limit_reached"
        assert (await engine.limits(1))[0].resets_at == RESETS_AT + DAY_MS
    async with world.engine(assets=usdt(daily_most=250)) as engine:
        assert await used(engine) == 250, "yesterday's rows are in the history, and don't count"


@TWO_MINUTES_TO_MIDNIGHT
async def test_what_is_under_way_over_midnight_counts_to_the_day_until_it_ends_as_yesterdays(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=250)) as engine:
        await trio.sleep((RESETS_AT - now_ms()) / 1000 - 5)
        world.wire.down.add(FREEZING)
        assert code(await world.ask(engine, "funding", FREEZING)) == "pending"
        await trio.sleep(10)
        assert await used(engine) == 100
        world.wire.down.clear()
        await world.heal(engine)
        assert await used(engine) == 0


async def test_a_clock_that_is_set_back_over_midnight(world: World) -> None:
    ahead_ms = DAY_MS

    def clock_ms() -> int:
        return now_ms() + ahead_ms

    async with world.engine(assets=usdt(daily_most=250), clock_ms=clock_ms) as engine:
        await world.ask(engine, "funding", "trading")
        assert await used(engine) == 0, "the ledger's clock says yesterday"
        ahead_ms = 0
        assert await used(engine) == 100


async def test_users_are_forgotten_and_loaded_again(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=250), limited_users_most=2) as engine:
        for user_id in (1, 2, 3, 4, 1):
            await used(engine, user_id)
        assert len(engine._parts.admission._sums) == 2
        world.wire.down.add(FREEZING)
        assert code(await world.ask(engine, "funding", FREEZING, user_id=2)) == "pending"
        for user_id in range(5, 20):
            await used(engine, user_id)
        calls = world.wire.names().count("history")
        assert await used(engine, 2) == 100
        assert world.wire.names().count("history") == calls, "whose transfers are under way is not forgotten"
        world.wire.down.clear()
        await world.heal(engine)


# First answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [{"daily_most": 99}, {"amount_most": 99}, {"amount_least": 101}, {"enabled": False}],
    ids=lambda limits: next(iter(limits)),
)
async def test_no_limit_hides_a_first_answer(world: World, limits: dict[str, Any]) -> None:
    async with world.engine() as engine:
        first = await world.ask(engine, "funding", "trading", key="done")
        refused = await world.ask(engine, "trading", "funding", amount=1_000, key="refused")
        assert (code(first), code(refused)) == ("committed", "failed")
    async with world.engine(assets=usdt(**limits)) as engine:
        again = await world.ask(engine, "funding", "trading", key="done")
        assert again.outcome == first.outcome.__class__(
            **{name: getattr(first.outcome, name) for name in first.outcome.__struct_fields__} | {"replayed": True}
        )
        if "daily_most" in limits or "enabled" in limits:
            also = await world.ask(engine, "trading", "funding", amount=1_000, key="refused")
            assert (code(also), also.outcome.message) == ("failed", refused.outcome.message)
        with pytest.raises(KeyReused):
            await engine.transfer(
                source="trading", target="funding", user_id=1, asset_id=1, amount=100, idempotency_key="done"
            )
        assert isinstance((await world.ask(engine, "funding", "trading", key="other")).answer, InvalidTransfer)
        assert engine.statistics().open_transfers == 0
    await world.check()


async def test_a_batch_of_refused_keys_is_looked_up_together(world: World) -> None:
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading", key="k3")
    async with world.engine(assets=usdt(enabled=False)) as engine:
        before = world.wire.calls
        outcomes = await engine.transfer_many(
            [
                TransferOrder(
                    source="funding", target="trading", user_id=1, asset_id=1, amount=100, idempotency_key=f"k{number}"
                )
                for number in range(40)
            ]
        )
        assert world.wire.calls - before <= 2
        assert [isinstance(outcome, TransferOutcome) for outcome in outcomes] == [number == 3 for number in range(40)]


async def test_a_key_that_comes_twice_in_a_line_is_looked_up_when_the_first_one_is_done(world: World) -> None:
    def order(amount: int, key: str | None) -> TransferOrder:
        return TransferOrder(
            source="funding", target="trading", user_id=1, asset_id=1, amount=amount, idempotency_key=key
        )

    async with world.engine(assets=usdt(daily_most=100)) as engine:
        too_much, first, other, again = await engine.transfer_many(
            [order(101, "too much"), order(60, "twice"), order(50, None), order(60, "twice")]
        )
    assert isinstance(too_much, InvalidTransfer)
    assert isinstance(first, TransferOutcome)
    assert isinstance(other, InvalidTransfer), "it waited until it was known that the first one is no repetition"
    assert isinstance(again, TransferOutcome)
    assert (first.replayed, again.replayed, again.req_id) == (False, True, first.req_id)


async def test_a_row_in_between_is_driven_on_whatever_the_limit_is_now(world: World) -> None:
    async with world.engine(node=1) as engine:
        world.wire.down.add(FREEZING)
        assert code(await world.ask(engine, "funding", FREEZING, key="slow")) == "pending"
        async with world.engine(node=2, assets=usdt(daily_most=99)) as second:
            assert code(await world.ask(second, "funding", FREEZING, key="slow")) == "committed"
            assert code(await world.ask(second, "funding", "trading", amount=1)) == "daily_limit_reached"


async def test_a_store_that_does_not_answer_is_a_fault_for_a_key_and_a_refusal_without(world: World) -> None:
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading", key="done")
    async with world.engine(assets=usdt(daily_most=99)) as engine:
        move = partial(engine.transfer, source="funding", target="trading", user_id=1, asset_id=1, amount=100)
        world.wire.next_fates["history"] = ["lose_request", "lose_request"]
        with pytest.raises(RecordsUnavailable):
            await move(idempotency_key="done")
        with pytest.raises(Overloaded) as refused:
            await move()
        assert refused.value.code is RefusalCode.UNAVAILABLE
        world.wire.next_fates["get"] = ["lose_request"]
        with pytest.raises(RecordsUnavailable):
            await move(idempotency_key="done")
        assert (await move(idempotency_key="done")).replayed


async def test_a_store_that_is_slow_is_waited_for_until_the_deadline(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=150)) as engine:
        stop = world.wire.stop("history")
        move = partial(engine.transfer, source="funding", target="trading", user_id=1, asset_id=1, amount=100)
        with pytest.raises(RecordsUnavailable):
            await move(idempotency_key="late")
        with pytest.raises(Overloaded):
            await move(deadline_ms=10)
        with pytest.raises(RecordsUnavailable):
            await engine.limits(1)
        assert engine._parts.admission._lines.of_user
        stop.released.set()
        await until(lambda: not engine._parts.admission._lines.of_user)
        assert world.wire.names().count("history") == 1, "all of them waited for one reading"
        assert engine.statistics().open_transfers == 0, "who has given up has no transfer"
        assert (await move(idempotency_key="late")).status is TransferStatus.COMMITTED


async def test_who_is_cancelled_in_line_leaves_nothing(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=150)) as engine:
        stop = world.wire.stop("history")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(world.ask, engine, "funding", "trading"))
            await stop.reached.wait()
            nursery.cancel_scope.cancel()
        stop.released.set()
        assert code(await world.ask(engine, "funding", "trading", amount=150)) == "committed"
    await world.check()


async def test_lines_are_bounded(world: World) -> None:
    async with world.engine(assets=usdt(daily_most=150), mailbox_capacity=3) as engine:
        world.wire.stop("history")
        answers: Answers = []
        for _ in range(5):
            order = TransferOrder(source="funding", target="trading", user_id=1, asset_id=1, amount=1)
            engine.submit(order, answers.append)
        assert [answer.code for answer in answers if isinstance(answer, Refused)] == [RefusalCode.OVERLOADED] * 2


async def test_a_line_ends_with_the_engine(world: World) -> None:
    answers: Answers = []
    async with world.engine(assets=usdt(daily_most=150)) as engine:
        world.wire.stop("history")
        for _ in range(3):
            order = TransferOrder(source="funding", target="trading", user_id=1, asset_id=1, amount=1)
            engine.submit(order, answers.append)
    assert [answer.code for answer in answers if isinstance(answer, Refused)] == [RefusalCode.SHUTTING_DOWN] * 3
    await world.check()
