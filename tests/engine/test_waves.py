"""Waves: who comes together is journaled together, and who comes alone does not wait."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from transfer_engine.engine import AssetSettings, Engine, Settings, TransferStatus, open_engine

CALLERS = 64
ROUNDS = 12


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    settings = Settings(data_dir=tmp_path, assets=(AssetSettings(asset_id=1, symbol="X", decimals=0),))
    async with open_engine(settings) as running:
        for user_id in range(1, CALLERS + 1):
            await running.credit(user_id=user_id, account="funding", asset_id=1, amount=ROUNDS)
        yield running


async def move(engine: Engine, user_id: int) -> None:
    outcome = await engine.transfer(source="funding", target="trading", user_id=user_id, asset_id=1, amount=1)
    assert outcome.status is TransferStatus.COMMITTED


async def test_callers_that_drift_apart_are_brought_together(engine: Engine) -> None:
    before = engine.statistics()

    async def call(user_id: int) -> None:
        for _ in range(ROUNDS):
            await trio.sleep(user_id / 60_000)  # as a client that takes its time to come back, each another one
            await move(engine, user_id)

    async with trio.open_nursery() as nursery:
        for user_id in range(1, CALLERS + 1):
            nursery.start_soon(call, user_id)
    after = engine.statistics()
    for name in ("journal", "submitter", "recorder"):
        flushes = getattr(after, name).flushes - getattr(before, name).flushes
        assert flushes < 2.5 * ROUNDS, f"{name} made {flushes} flushes of {CALLERS * ROUNDS} transfers"


async def test_who_comes_alone_waits_for_nobody(engine: Engine) -> None:
    """With a wave of many before it, one waits once; from then on nobody does."""
    async with trio.open_nursery() as nursery:
        for user_id in range(1, CALLERS + 1):
            nursery.start_soon(partial(move, engine, user_id))
    await move(engine, 1)
    before = engine.statistics().journal.flushes
    for _ in range(5):
        await move(engine, 1)
    assert engine.statistics().journal.flushes - before == 5
