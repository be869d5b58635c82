"""What a pool says of itself."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a pool is doing and has done."""

    name: str
    running: bool
    closed: bool
    actors: int
    """Actors with messages: keys whose mailbox is not empty."""
    tasks_spare: int
    """Tasks that wait for an actor to serve."""
    messages_waiting: int
    """Messages in all mailboxes, those being handled included."""
    messages_handled: int
    messages_refused: int
    """Not taken: a mailbox or the pool was full, or the pool was closed."""
    messages_poisoned: int
    """Set aside, because they crashed their handler too often."""
    crashes: int
    """Handler and poison callbacks that raised."""
    last_error: str | None
