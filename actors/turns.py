"""Turns: what is agreed between a pool and whoever begins an actor's messages without a task.

Names and no code: who owns the messages meanwhile is said here, and kept to by both sides.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

K = TypeVar("K")
M = TypeVar("M")


class Turn(Protocol):
    """What whoever has begun an actor's messages owes the pool: exactly one of these, once, later on."""

    def done(self) -> None:
        """All of them are answered, and leave the mailbox."""
        ...

    def crashed(self, error: Exception) -> None:
        """It failed, as if ``handle`` had raised this: after a backoff they are handled one at a time."""
        ...

    def hand_over(self) -> None:
        """It takes a task to go on: ``handle`` is given them, from the top."""
        ...


Begin = Callable[[K, list[M], Turn], bool]
"""Begins to handle a key's messages; False where it takes a task, and nothing was done. It may neither wait nor tell
the turn before it returns; what it raises is a crash, and the turn is not its any more."""
