"""A bounded queue of messages that outlives the task which reads it.

Messages are peeked at, and leave only when they are answered; so a reader that crashes or is cancelled loses nothing.
Everything here is synchronous: who reads it, and when, is its owner's matter.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

import trio

M = TypeVar("M")


class MailboxFull(Exception):
    """The mailbox holds as many messages as it may: the message was not taken. Try again later."""


class Mailbox(Generic[M]):
    """First in, first out; at most ``capacity`` messages.

    Raises :class:`ValueError` if ``capacity`` is below one.
    """

    __slots__ = ("_capacity", "_messages")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a mailbox's capacity must be at least 1 message, not {capacity}")
        self._capacity = capacity
        # Most mailboxes are short-lived and hold one message: a deque would be 600 bytes of room for 64.
        self._messages: list[M] = []

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[M]:
        return iter(self._messages)

    def __repr__(self) -> str:
        return f"<Mailbox {len(self._messages)} of {self._capacity}>"

    @property
    def capacity(self) -> int:
        """The bound, in messages."""
        return self._capacity

    @trio.lowlevel.enable_ki_protection
    def put_nowait(self, message: M, *, admitted: bool = False) -> None:
        """Append ``message``.

        ``admitted`` ignores the bound: for work that was accepted in a former life and may not be refused any more.
        Raises :class:`MailboxFull` at capacity; then the message was not taken.
        """
        messages = self._messages
        if len(messages) >= self._capacity and not admitted:
            raise MailboxFull(f"the mailbox is full: {len(messages)} of {self._capacity} messages wait")
        messages.append(message)

    def peek(self, most: int) -> list[M]:
        """Return up to ``most`` messages, oldest first. They stay in the mailbox until :meth:`drop`."""
        return self._messages[:most]

    @trio.lowlevel.enable_ki_protection
    def drop(self, count: int) -> None:
        """Remove the ``count`` oldest messages: they are answered.

        Raises :class:`ValueError` if there are fewer; then none was removed.
        """
        messages = self._messages
        if not 0 <= count <= len(messages):
            raise ValueError(f"can't drop {count} messages of {len(messages)}")
        del messages[:count]
