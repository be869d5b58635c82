"""One client's socket at the express door: waiting for it, reading and writing, without a step more than that takes.

Plain and non-blocking, waited for by `trio.lowlevel`: a stream's checkpoints would cost as much as a request does. The
connection's task is *parked* while there is nothing for it to do: the door's readiness calls ``_ready`` then, which may
do the task's work, or wake it.
"""

import enum
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from transfer_engine.http.express import ExpressDoor

_READ_BYTES: Final = 64 << 10


class Phase(enum.Enum):
    """What a connection is doing."""

    IDLE = "idle"
    """Nothing of a request has come."""
    READING_HEAD = "reading head"
    READING_BODY = "reading body"
    ANSWERING = "answering"
    """The engine has its time, and its deadline."""
    SENDING = "sending"
    """The client does not read as fast as it is answered."""
    LINGERING = "lingering"
    """The last answer is out; what still comes is dropped."""
    OVER = "over"


class Gone(Exception):
    """The client has left, or is given up."""


class ExpressSocket:
    """What a connection knows of its socket.

    Attributes:
        phase: what it is doing.
        deadline: until when its client has time (s, the door's clock).
    """

    def __init__(self, door: "ExpressDoor", connected: socket.socket) -> None:
        self.phase = Phase.IDLE
        self.deadline = door.now + door.keep_alive_s
        self._door = door
        self._socket = connected
        self._is_watched = False
        self._is_parked = False
        """The task waits for something to read, and callbacks may do its work."""
        self._is_expired = False
        self._task: trio.lowlevel.Task | None = None

    def expire(self) -> None:
        """Wake it where it waits for its client; it finds out why. Where it waits for the engine nothing happens."""
        if not self._is_parked:
            trio.lowlevel.notify_closing(self._socket)
        elif self.phase is not Phase.ANSWERING:
            self._is_expired = True
            self._wake()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Have :meth:`_ready` called meanwhile; behind it the connection is over."""
        self._is_watched = self._door.readiness.watch(self._socket, self._ready)
        try:
            yield
        finally:
            self._door.readiness.forget(self._socket)
            self.phase = Phase.OVER
            self.deadline = math.inf

    def _ready(self, is_last: bool = True) -> None:
        """Look what may have come; ``is_last`` says that an end may be part of it, which is not told again."""
        raise NotImplementedError

    async def _wait_readable(self) -> None:
        """Wait until there is something for the task to do; callbacks may answer requests meanwhile.

        Raises:
            ClosedResourceError: the deadline is over, or the door stops.
        """
        if not self._is_watched:
            await trio.lowlevel.wait_readable(self._socket)
            return

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._is_parked = False
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._is_parked = True
        self._ready()  # what has come before was told to nobody
        if self._is_parked:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
        else:
            await trio.lowlevel.checkpoint()
        if self._is_expired:
            self._is_expired = False
            raise trio.ClosedResourceError

    def _wake(self) -> None:
        """Let the task go on; what it is to look at is in the attributes."""
        self._is_parked = False
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _receive_now(self) -> bytes | None:
        """Return what has come: None for nothing yet, empty for nothing any more."""
        try:
            return self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    async def _send(self, data: bytes, sent: int = 0) -> None:
        """Send all; the client has its time to read it.

        Raises:
            Gone: it has left, or did not read in time.
        """
        view = memoryview(data)
        is_first = True
        while sent < len(data):
            try:
                sent += self._socket.send(view[sent:])
            except BlockingIOError:
                pass
            except OSError:
                raise Gone from None
            if sent == len(data):
                return
            if is_first:
                is_first = False
                self.phase = Phase.SENDING
                self.deadline = self._door.now + self._door.send_timeout_s
            try:
                await trio.lowlevel.wait_writable(self._socket)
            except trio.ClosedResourceError:
                raise Gone from None
