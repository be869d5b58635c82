"""Named points at which the process kills itself: only for tests of recovery.

``Settings.crash_at`` arms one point; nothing here does anything in an engine that was not told to crash.
"""

import os
import signal
from typing import Final, Literal, get_args

CrashPoint = Literal[
    "before_intent",
    "after_intent",
    "after_ledger",
    "before_rows",
    "between_rows",
    "after_hold",
    "before_core_rollback",
    "after_core_rollback",
    "during_recovery",
]
CRASH_POINTS: Final = frozenset(get_args(CrashPoint))
"""Every name that can be armed."""


class _Armed:
    """One point, and how often it is still passed alive (plus one)."""

    def __init__(self, name: str, passings: int) -> None:
        self.name = name
        self.passings = passings


_armed: _Armed | None = None


def arm(spec: str | None) -> None:
    """Arm the point ``name`` or ``name@n``: its n-th passing kills the process. None disarms.

    Raises:
        ValueError: the name is unknown, or n is no positive integer.
    """
    global _armed  # noqa: PLW0603 - one global read is all that an unarmed point may cost
    if spec is None:
        _armed = None
        return
    name, separator, count = spec.partition("@")
    if name not in CRASH_POINTS:
        raise ValueError(f"crash_at: unknown point {name!r}; known are {', '.join(sorted(CRASH_POINTS))}")
    if separator and not (count.isascii() and count.isdigit() and int(count) > 0):
        raise ValueError(f"crash_at: {spec!r} must be NAME or NAME@N, with N a positive integer")
    _armed = _Armed(name, int(count) if separator else 1)


def reach(name: CrashPoint) -> None:
    """Pass a point: kill the process (SIGKILL) if it is armed and this is the n-th passing."""
    if _armed is not None and _armed.name == name:
        _armed.passings -= 1
        if _armed.passings == 0:
            os.kill(os.getpid(), signal.SIGKILL)
