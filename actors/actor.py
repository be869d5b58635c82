"""An actor outside of any task: its key, its mailbox, and what it remembers of its crashes.

It owns the messages until they are answered, and knows whether somebody is at them now. It never waits and never runs
anything: who does that, and when, is the pool's matter. Nothing that dies takes it along.
"""

import enum
from typing import Final, Generic, TypeVar

from transfer_engine.actors.mailbox import Mailbox

K = TypeVar("K")
M = TypeVar("M")


class Service(enum.Enum):
    """Who is at an actor's messages; there is always exactly one."""

    QUEUED = enum.auto()
    """Nobody yet: it stands in the pool's queue of those to be begun."""
    BEGUN = enum.auto()
    """Whoever began them, and will say so when they are answered: no task waits."""
    TASK = enum.auto()
    """A task; or nobody until the pool runs, and spawns one."""


QUEUED: Final = Service.QUEUED
BEGUN: Final = Service.BEGUN
TASK: Final = Service.TASK


class Trouble:
    """What an actor remembers of its crashes until the messages of the crashed batch are past."""

    __slots__ = ("alone", "attempts", "crashes", "error", "poison_crashes")

    def __init__(self, alone: int, error: Exception) -> None:
        self.alone = alone
        """Messages, from the oldest on, that are handled one at a time."""
        self.attempts = 0
        """Crashes in a row: what the backoff grows with."""
        self.crashes = 0
        """Crashes of the oldest message, handled alone."""
        self.poison_crashes = 0
        self.error = error


class Actor(Generic[K, M]):
    """A key's mailbox and its trouble."""

    __slots__ = ("begun", "crash", "key", "mailbox", "service", "trouble")

    def __init__(self, key: K, capacity: int, service: Service) -> None:
        self.key = key
        self.mailbox: Mailbox[M] = Mailbox(capacity)
        self.service = service
        self.begun = 0
        """The oldest messages that were begun, and are not answered yet."""
        self.crash: Exception | None = None
        """A crash of those that were begun; the task that comes next looks after it."""
        self.trouble: Trouble | None = None
