"""`kill -9` at every named point, on TigerBeetle and Cassandra: the invariants hold, and no debit is unrecorded."""

from pathlib import Path

import pytest

from support.journals import read_evidence
from support.killing import Lives
from support.production import Pair
from transfer_engine.engine.crash_points import CRASH_POINTS

PASSINGS = {
    "before_intent": (17, 1),
    "after_intent": (90, 1),
    "after_ledger": (17, 1),
    "after_hold": (60, 1),
    "before_rows": (90, 1),
    "between_rows": (17, 1),
    "before_core_rollback": (4, 1),
    "after_core_rollback": (4, 1),
    "during_recovery": (1,),
}
"""At which passings each point kills, life after life: the second may die while it recovers from the first."""


def test_every_point_is_tried() -> None:
    assert PASSINGS.keys() == CRASH_POINTS


@pytest.mark.parametrize("point", sorted(CRASH_POINTS - {"during_recovery"}))
async def test_killed_at(pair: Pair, tmp_path: Path, point: str) -> None:
    lives = await Lives.funded(tmp_path, lives=len(PASSINGS[point]), users=9, backends=pair.backends())
    for passing in PASSINGS[point]:
        await lives.live_until(f"{point}@{passing}")
        assert (await read_evidence(lives.settings)).unrecorded == set()
    await lives.recover()
    assert (await read_evidence(lives.settings)).unfinished == set()
    assert lives.alerts == []
