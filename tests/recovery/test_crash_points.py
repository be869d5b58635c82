"""`kill -9` at every named point of a real server under a load on all pairs of services: the invariants hold."""

import pytest

from support.killing import Lives
from transfer_engine.engine.crash_points import CRASH_POINTS

PASSINGS = {
    "before_intent": (17, 1, 90),
    "after_intent": (17, 1, 90),
    "after_ledger": (17, 1, 90),
    "after_hold": (17, 1, 60),
    "before_rows": (17, 1, 90),
    "between_rows": (17, 1, 90),
    "before_core_rollback": (4, 1, 7),
    "after_core_rollback": (4, 1, 7),
    "during_recovery": (2, 1, 3),
}
"""At which passings each point kills, life after life: the second may die while it recovers from the first."""


def test_every_point_is_tried() -> None:
    assert PASSINGS.keys() == CRASH_POINTS


@pytest.mark.parametrize("point", sorted(CRASH_POINTS - {"during_recovery"}))
async def test_killed_at(lives: Lives, point: str) -> None:
    for passing in PASSINGS[point]:
        await lives.live_until(f"{point}@{passing}")
    await lives.recover()
    assert lives.alerts == []
