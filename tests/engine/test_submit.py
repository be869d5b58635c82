"""Transfers without a task each: callbacks and batches, held to what a waiting caller is told."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from support.engines import UNLIMITED_ASSETS
from transfer_engine.engine import (
    Engine,
    KeyReused,
    Refused,
    Settings,
    TransferOrder,
    TransferOutcome,
    TransferStatus,
    open_engine,
)
from transfer_engine.engine.callers import Answer


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with open_engine(Settings(data_dir=tmp_path, assets=UNLIMITED_ASSETS)) as running:
        await running.credit(user_id=1, account="funding", asset_id=1, amount=10_000_000)
        yield running


def order(key: str | None, amount: int = 1_000_000, *, target: str = "trading", user_id: int = 1) -> TransferOrder:
    return TransferOrder(
        source="funding", target=target, user_id=user_id, asset_id=1, amount=amount, idempotency_key=key
    )


def statuses(outcomes: list[TransferOutcome | Refused]) -> list[str]:
    return [outcome.code if isinstance(outcome, Refused) else outcome.status for outcome in outcomes]


async def test_each_transfer_of_a_batch_has_its_own_outcome_in_the_given_order(engine: Engine) -> None:
    outcomes = await engine.transfer_many(
        [
            order("a"),
            order("b", amount=0),
            order("c", target="nowhere"),
            order("d", amount=2_000_000, user_id=2),
            order("a"),
            order("a", amount=3_000_000),
            order(None),
        ]
    )
    assert statuses(outcomes) == [
        "committed",
        "amount_not_positive",
        "unknown_service",
        "failed",
        "committed",
        "key_reused",
        "committed",
    ]
    first, joined = outcomes[0], outcomes[4]
    assert isinstance(first, TransferOutcome)
    assert isinstance(joined, TransferOutcome)
    assert (first.replayed, joined.replayed, joined.req_id) == (False, True, first.req_id)
    assert {balance.account: balance.available for balance in await engine.balances(1)} == {
        "funding": 8_000_000,
        "trading": 2_000_000,
    }


async def test_a_batch_takes_one_trip_through_the_submitter(engine: Engine) -> None:
    before = engine.statistics().submitter.flushes
    outcomes = await engine.transfer_many([order(f"k{number}", amount=1_000) for number in range(300)])
    assert set(statuses(outcomes)) == {"committed"}
    assert engine.statistics().submitter.flushes - before == 1


async def test_money_spent_in_the_order_of_the_batch(engine: Engine) -> None:
    outcomes = await engine.transfer_many([order(f"o{number}", amount=4_000_000) for number in range(4)])
    assert statuses(outcomes) == ["committed", "committed", "failed", "failed"]


async def test_an_empty_batch_is_answered(engine: Engine) -> None:
    assert await engine.transfer_many([]) == []


async def test_the_callback_is_called_once_with_the_outcome(engine: Engine) -> None:
    answers: list[Answer | Exception] = []
    engine.submit(order("x"), answers.append)
    assert answers == []
    outcome = await engine.transfer(
        source="funding", target="trading", user_id=1, asset_id=1, amount=1_000_000, idempotency_key="x"
    )
    assert outcome.status is TransferStatus.COMMITTED
    [answer] = answers
    assert isinstance(answer, TransferOutcome)
    assert answer.req_id == outcome.req_id


async def test_a_contested_key_is_called_back_when_it_is_decided(engine: Engine) -> None:
    answers: list[Answer | Exception] = []
    is_decided = trio.Event()

    def decided(answer: Answer | Exception) -> None:
        answers.append(answer)
        is_decided.set()

    engine.submit(order("y"), answers.append)
    engine.submit(order("y", amount=7), decided)
    with trio.fail_after(5):
        await is_decided.wait()
    assert [type(answer) for answer in answers] == [TransferOutcome, KeyReused]


async def test_a_callback_that_fails_is_an_alert_and_nobody_elses_trouble(engine: Engine) -> None:
    def fail(_answer: Answer | Exception) -> None:
        raise RuntimeError("the caller's own fault")

    engine.submit(order("z"), fail)
    outcome = await engine.transfer(
        source="funding", target="trading", user_id=1, asset_id=1, amount=1_000_000, idempotency_key="z"
    )
    assert outcome.status is TransferStatus.COMMITTED
    assert engine.statistics().alerts["caller_failed"] == 1


async def test_callbacks_are_called_when_the_engine_ends(tmp_path: Path) -> None:
    answers: list[Answer | Exception] = []
    with trio.CancelScope() as scope:
        async with open_engine(Settings(data_dir=tmp_path, assets=UNLIMITED_ASSETS)) as running:
            running.submit(order("k"), answers.append)
            scope.cancel()
            await trio.sleep_forever()
    [answer] = answers
    assert isinstance(answer, TransferOutcome)
    assert answer.status is TransferStatus.PENDING


async def test_a_fault_of_one_transfer_is_its_own_answer(engine: Engine) -> None:
    answers: list[Answer | Exception] = []
    nobody = msgspec.structs.replace(order("a"), subject=None)
    engine.submit(nobody, answers.append)
    assert len(answers) == 1
    assert not isinstance(answers[0], Refused | TransferOutcome)
    assert statuses(await engine.transfer_many([order("b")])) == ["committed"]
