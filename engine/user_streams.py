"""What is known of one user's stream: who subscribes to it, and what they were told."""

from typing import TYPE_CHECKING

from transfer_engine.engine.stream_rings import OnMessage, Ring, StreamEvent, StreamSnapshot

if TYPE_CHECKING:
    from uuid import UUID


class Subscription:
    """Somebody is told of a user, until he unsubscribes.

    Attributes:
        stream_id: the stream that is told.
        user_id: whose it is.
        stream: itself; the streams' own.
        missed: the events behind the one that was resumed after; those that come are told after these. None where
            nothing is resumed: a snapshot is told first.
    """

    def __init__(self, stream: "UserStream", on_message: OnMessage, missed: list[StreamEvent] | None) -> None:
        self.stream_id = stream.ring.stream_id
        self.user_id = stream.user_id
        self.missed = missed
        self.stream = stream
        self._on_message = on_message

    def __repr__(self) -> str:
        return f"<Subscription to {self.stream_id} of user {self.user_id}>"

    def tell(self, message: StreamEvent | StreamSnapshot) -> None:
        """Hand a message over."""
        self._on_message(message)


class UserStream:
    """One user's stream."""

    __slots__ = ("changed", "known", "live", "open", "ring", "user_id", "waiting")

    def __init__(self, user_id: int, ring: Ring) -> None:
        self.user_id = user_id
        self.ring = ring
        self.live: dict[Subscription, None] = {}
        self.waiting: dict[Subscription, None] = {}
        """Those who have yet to get their snapshot."""
        self.changed: dict[int, UUID] = {}
        """Accounts to be read, by the last transfer told that touches them."""
        self.known: dict[int, tuple[int, int]] | None = None
        """What was told of each account; None before the first snapshot."""
        self.open: set[int] = set()
        """Transfers that were told, and not their end."""

    @property
    def is_wanted(self) -> bool:
        """Whether anybody subscribes."""
        return bool(self.live or self.waiting)
