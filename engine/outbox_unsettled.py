"""What of an outbox's log is not settled: on its way, in memory, in the store alone, or perhaps in the store.

Synchronous. A bucket below all of these holds nothing that somebody is still to be told: it may be dropped.
"""

from collections import Counter
from collections.abc import Iterable

from transfer_engine.schema.webhooks import OutboxMessage

Key = tuple[bytes, int]
"""What a message is known by; see :attr:`OutboxMessage.key`."""


class Unsettled:
    """Counts by bucket what pins an outbox's mark.

    Attributes:
        unread: from which bucket and sequence on the log is in the store alone, None where all of it is in memory too;
            at first all that former lives left.
    """

    def __init__(self) -> None:
        self.unread: tuple[int, int] | None = (0, 0)
        self._last_put_aside = 0
        """The highest sequence that was left in the store alone."""
        self._loaded: Counter[int] = Counter()
        self._in_flight: dict[int, int] = {}
        """Buckets of what is on its way, by the first sequence."""
        self._uncertain: dict[Key, int] = {}
        """Buckets in which messages perhaps lie whose write was given up, and that were not written again yet."""

    @property
    def lowest_bucket(self) -> int | None:
        """The lowest bucket that may hold a message that somebody is still to be told; None where there is none."""
        unread = () if self.unread is None else (self.unread[0],)
        return min((*self._loaded, *self._in_flight.values(), *self._uncertain.values(), *unread), default=None)

    @property
    def lowest_loaded(self) -> int | None:
        """The lowest bucket that holds a message which is in memory."""
        return min(self._loaded, default=None)

    def load(self, bucket: int) -> None:
        """A message of a bucket is in memory."""
        self._loaded[bucket] += 1

    def unload(self, bucket: int) -> None:
        """A message of a bucket needs nobody any more, or is counted in another one."""
        self._loaded[bucket] -= 1
        if not self._loaded[bucket]:
            del self._loaded[bucket]

    def begin(self, first: int, bucket: int) -> None:
        """A write is on its way, from this sequence on."""
        self._in_flight[first] = bucket

    def end(self, first: int) -> int:
        """A write is not on its way any more; return its bucket."""
        return self._in_flight.pop(first)

    def first_in_flight(self, default: int) -> int:
        """Return the lowest sequence that is on its way."""
        return min(self._in_flight, default=default)

    def put_aside(self, bucket: int, first: int, last: int) -> None:
        """What was written from one sequence to another is in the store alone."""
        if self.unread is None:
            self.unread = (bucket, first)
        elif first <= self.unread[1]:
            self.unread = (min(bucket, self.unread[0]), first)
        self._last_put_aside = max(self._last_put_aside, last)

    def read_up_to(self, bucket: int, sequence: int, *, is_all: bool) -> bool:
        """The store's log is in memory below a place; return whether that is all of it.

        ``is_all`` says that there was no more when it was read.
        """
        is_read = is_all and self._last_put_aside < sequence
        self.unread = None if is_read else (bucket, sequence)
        return is_read

    def doubt(self, keys: Iterable[Key], bucket: int) -> None:
        """Messages are perhaps in a bucket, and perhaps so is the row for whose sake they are."""
        for key in keys:
            self._uncertain.setdefault(key, bucket)

    def is_certain(self, messages: Iterable[OutboxMessage]) -> None:
        """Messages are in the store, and counted: where else they may be matters no more."""
        if self._uncertain:
            for message in messages:
                self._uncertain.pop(message.key, None)

    def forget_user(self, user_id: int) -> None:
        """Nobody is to tell a user anything: where his messages may be matters no more."""
        if self._uncertain:
            self._uncertain = {key: bucket for key, bucket in self._uncertain.items() if key[1] != user_id}
