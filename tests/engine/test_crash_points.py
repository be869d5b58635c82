"""Crash points do nothing until one is armed; then its n-th passing is the process's last."""

import signal
import subprocess
import sys

import pytest

from transfer_engine.engine import crash_points

PROGRAM = """
import sys
from transfer_engine.engine.crash_points import arm, reach
arm(sys.argv[1] or None)
for number in range(4):
    reach("before_intent")
    print("intent", number, flush=True)
    reach("after_intent")
"""


def run(spec: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, spec], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("spec", "intents", "returncode"),
    [
        ("", 4, 0),
        ("before_intent", 0, -signal.SIGKILL),
        ("after_intent", 1, -signal.SIGKILL),
        ("before_intent@3", 2, -signal.SIGKILL),
        ("after_intent@4", 4, -signal.SIGKILL),
        ("after_intent@5", 4, 0),
        ("after_ledger", 4, 0),
    ],
)
def test_the_armed_passing_is_the_last(spec: str, intents: int, returncode: int) -> None:
    assert run(spec) == (returncode, [f"intent {number}" for number in range(intents)])


def test_every_point_can_be_armed_and_disarmed() -> None:
    for name in crash_points.CRASH_POINTS:
        crash_points.arm(name)
        crash_points.arm(f"{name}@12")
        crash_points.arm(None)
        crash_points.reach(name)  # would be the end of this process


@pytest.mark.parametrize("spec", ["", "somewhere", "somewhere@2", "@2", "before intent"])
def test_an_unknown_name_is_refused_with_those_that_are_known(spec: str) -> None:
    with pytest.raises(ValueError, match=r"crash_at: unknown point .*after_core_rollback, .*during_recovery"):
        crash_points.arm(spec)


@pytest.mark.parametrize("count", ["", "0", "-1", "x", "1.5", "٣", "1@2"])
def test_a_count_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(ValueError, match="N a positive integer"):
        crash_points.arm(f"before_intent@{count}")
