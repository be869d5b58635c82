"""What waits to be sent through one websocket: bounded in bytes, written by one task, in the order in which it came."""

from collections import deque
from typing import Final

import trio

from transfer_engine.http.websocket_connection import Connection, ConnectionEnded, Message

SEND_BYTES_MOST: Final = 64 << 10
"""Messages that wait go out together, up to about so many bytes: a system call costs as much as ten answers."""

_OVERHEAD_BYTES: Final = 64
"""What a message that waits takes beside its content."""


class Outbox:
    """Messages on their way to one client.

    Whoever puts one in never waits. Beyond the bound it is full, once and for all: what is in it still goes out, and
    nothing is put in any more.
    """

    __slots__ = (
        "_connection",
        "_is_attending",
        "_is_closed",
        "_messages",
        "_sent",
        "_task",
        "_waiting_bytes",
        "_waiting_bytes_most",
        "sending_since",
    )

    def __init__(self, connection: Connection, *, waiting_bytes_most: int) -> None:
        self.sending_since: float | None = None
        """When the send under way began (trio's clock), if one is: how long a client may take is its owner's matter."""
        self._connection = connection
        self._messages: deque[Message] = deque()
        self._waiting_bytes = 0
        self._waiting_bytes_most = waiting_bytes_most
        self._is_closed = False
        self._is_attending = False
        self._sent = 0
        self._task: trio.lowlevel.Task | None = None
        connection.on_control = self._attend

    def __repr__(self) -> str:
        state = "closed, " if self._is_closed else ""
        return f"<Outbox {state}{len(self._messages)} messages, {self._waiting_bytes} bytes>"

    @property
    def has_room(self) -> bool:
        """Whether the next message is still within the bound."""
        return self._waiting_bytes < self._waiting_bytes_most

    @property
    def waiting_bytes(self) -> int:
        """What waits, in bytes of memory, more or less."""
        return self._waiting_bytes

    @property
    def sent(self) -> int:
        """How many messages were handed to the client's connection."""
        return self._sent

    def put(self, message: Message) -> None:
        """Put a message in; once it is closed it is dropped."""
        if self._is_closed:
            return
        self._messages.append(message)
        self._waiting_bytes += len(message) + _OVERHEAD_BYTES
        self._wake()

    def close(self) -> None:
        """Take nothing more; :meth:`run` returns once all of it is out."""
        self._is_closed = True
        self._wake()

    async def run(self) -> None:
        """Send until closed and empty. Cancellation leaves unsent what is in it.

        Raises:
            ConnectionEnded: the client has left.
        """
        messages = self._messages
        try:
            while True:
                if messages or self._is_attending:
                    await self._send_some()
                elif self._is_closed:
                    return
                else:
                    self._task = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._give_up)
        except ConnectionEnded:
            self._is_closed = True
            messages.clear()
            raise

    async def _send_some(self) -> None:
        self._is_attending = False
        messages = self._messages
        some = []
        size = 0
        while messages and size < SEND_BYTES_MOST:
            message = messages.popleft()
            some.append(message)
            size += len(message) + _OVERHEAD_BYTES
        self.sending_since = trio.current_time()
        await self._connection.send(some)
        self.sending_since = None
        self._waiting_bytes -= size
        self._sent += len(some)

    def _attend(self) -> None:
        if not self._is_closed:
            self._is_attending = True
            self._wake()

    def _wake(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
