"""Orders over websockets, single transfers or batches, pipelined: callers share a few sockets.

What the callers of one socket have to send at a moment goes out in one write, as what the server answers comes in one:
a frame by itself would cost two system calls on either side. Frames are MessagePack, written by hand (``frames.py``).

How deep: the server counts a batch as its transfers. It takes 1,024 of them unanswered on a connection
(``websocket.in_flight_most``), and lets 2,048 wait whatever they would wait for (``waiting_least``); beyond that it
refuses what would wait for more than a third of its deadline. So the load's bound is its transfers under way over all
sockets (``Closed.in_flight``, 2,000 by default): full group commits, and never a refusal, however slow the backends.
"""

import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import trio

from transfer_engine.benchmarks.frames import PATH, Refused, Socket, frame, open_socket
from transfer_engine.benchmarks.http_sender import ANSWER_S, REACHED_S, item_of
from transfer_engine.benchmarks.http_wire import Address
from transfer_engine.benchmarks.outcomes import CUT, TIMED_OUT, UNREACHABLE, UNREADABLE, Told, outcome_of
from transfer_engine.benchmarks.plan import ASSET_ID
from transfer_engine.benchmarks.sending import Order
from transfer_engine.benchmarks.side_tasks import side_tasks
from transfer_engine.http.websocket_messages import TransferCall
from transfer_engine.schema.wire import TransferItem

UNANSWERED_MOST: Final = 1_024
"""Transfers of one connection: what the server lets be unanswered by default."""
_PAUSE_S: Final = 0.05
_WATCH_S: Final = 0.25


class _Batch(msgspec.Struct, frozen=True, gc=False):
    id: int
    transfers: list[TransferItem]
    op: str = "batch"


class _Data(msgspec.Struct, frozen=True, gc=False):
    status: str | None = None
    replayed: bool = False
    results: list["_Entry"] | None = None


class _Entry(msgspec.Struct, frozen=True, gc=False):
    data: Told | None = None
    error: Told | None = None


class _Answer(msgspec.Struct, frozen=True, gc=False):
    id: int | str | None = None
    data: _Data | None = None
    error: Told | None = None


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Answer).decode


class _Call:
    """A frame that waits for its answer."""

    __slots__ = ("answer", "sent_at", "task")

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task = task
        self.sent_at = 0.0
        self.answer: _Answer | str | None = None
        """Or, by its outcome's name, why there is none."""


class Line:
    """One socket, opened again after a fault, and the frames that wait on it."""

    def __init__(self, sender: "WebsocketSender") -> None:
        self._sender = sender
        self._calls: dict[int, _Call] = {}
        self._unsent: list[bytes] = []
        self._has_unsent = trio.Event()
        self._socket: Socket | None = None
        self._is_late = False
        self._opened = trio.Event()
        self._next = 0
        self.reason = ""
        """Why there is no socket."""

    def __repr__(self) -> str:
        return f"<Line {'open' if self._socket is not None else 'closed'}, {len(self._calls)} unanswered>"

    @property
    def unanswered(self) -> int:
        """How many frames wait for their answers."""
        return len(self._calls)

    async def opened(self) -> bool:
        """Wait until there is a socket; False: nobody was there for too long."""
        if self._socket is None:
            with trio.move_on_after(self._sender.reached_s):
                await self._opened.wait()
        return self._socket is not None

    async def ask(self, orders: Sequence[Order], *, is_batch: bool) -> _Answer | str:
        """Send orders in one frame; return the answer. Cancellation leaves the frame to be answered for nobody."""
        if not await self.opened():
            return UNREACHABLE
        self._next += 1
        number = self._next
        if is_batch:
            data = _encode(_Batch(number, [item_of(order) for order in orders]))
        else:
            data = _encode(call_of(number, orders[0]))
        self._calls[number] = call = _Call(trio.lowlevel.current_task())
        call.sent_at = time.perf_counter()
        if not self._unsent:
            self._has_unsent.set()
        self._unsent.append(frame(data))

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._calls.pop(number, None)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return call.answer if call.answer is not None else CUT

    async def run(self) -> None:
        """Keep a socket open, until cancelled."""
        try:
            while True:
                try:
                    self._socket = await self._sender.open()
                except (OSError, Refused) as error:
                    self.reason = str(error)
                    await trio.sleep(_PAUSE_S)
                    continue
                self._is_late = False
                self._opened.set()
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._send, self._socket, nursery.cancel_scope)
                        await self._receive(self._socket)
                        nursery.cancel_scope.cancel()
                finally:
                    self._close(TIMED_OUT if self._is_late else CUT)
        finally:
            self._end_all(CUT)

    def give_up_late(self, latest: float) -> None:
        """Let what was sent before ``latest`` end as timed out: by a new connection, as nothing else stops it."""
        oldest = next(iter(self._calls.values()), None)
        if oldest is not None and oldest.sent_at < latest and self._socket is not None:
            self._is_late = True
            self._socket.cut()

    async def _send(self, socket: Socket, scope: trio.CancelScope) -> None:
        """Send what the callers of a moment have put in, together."""
        try:
            while True:
                await self._has_unsent.wait()
                self._has_unsent = trio.Event()
                data, self._unsent = b"".join(self._unsent), []
                await socket.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            scope.cancel()

    async def _receive(self, socket: Socket) -> None:
        try:
            while messages := await socket.receive():
                for message in messages:
                    try:
                        answer = _decode(message)
                    except msgspec.MsgspecError:
                        continue  # a notice; an answer that can't be read times out
                    if isinstance(answer.id, int) and (call := self._calls.pop(answer.id, None)) is not None:
                        call.answer = answer
                        trio.lowlevel.reschedule(call.task)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # its frames are unanswered

    def _close(self, outcome: str) -> None:
        if self._socket is not None:
            self._socket.cut()
        self._socket = None
        self._opened = trio.Event()
        self._has_unsent = trio.Event()
        self._unsent = []
        self._end_all(outcome)

    def _end_all(self, outcome: str) -> None:
        calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.answer = outcome
            trio.lowlevel.reschedule(call.task)


def call_of(number: int, order: Order) -> TransferCall:
    """Return one transfer as a frame's message."""
    return TransferCall(
        id=number,
        source=order.source,
        target=order.target,
        asset_id=ASSET_ID,
        amount=order.amount,
        user_id=order.user_id,
        idempotency_key=order.key,
    )


class WebsocketCaller:
    """A place on a socket."""

    def __init__(self, line: Line, *, is_batch: bool) -> None:
        self._line = line
        self._is_batch = is_batch

    async def send(self, orders: Sequence[Order]) -> Sequence[str]:
        """Send orders in one frame; return what became of each. Cancellation leaves outcomes unknown."""
        answer = await self._line.ask(orders, is_batch=self._is_batch)
        if isinstance(answer, str):
            return [answer] * len(orders)
        data = answer.data
        if answer.error is not None:
            return [outcome_of(answer.error)] * len(orders)
        if data is None:
            return [UNREADABLE] * len(orders)
        if not self._is_batch:
            return (outcome_of(Told(data.status, None, data.replayed)),)
        if data.results is None or len(data.results) != len(orders):
            return [UNREADABLE] * len(orders)
        return [outcome_of(entry.data or entry.error or Told()) for entry in data.results]


class WebsocketSender:
    """A door's websocket that is up.

    Args:
        address: of the door.
        batch: transfers in a frame; 1: no batch.
        connections: sockets; callers have places on them in turn.
        token: what the handshake proves itself by; None: nothing.
        answer_s: a socket on which an answer takes longer is given up: what waits on it is a fault.
        reached_s: for so long a caller waits for a socket.
        trusted: whose certificates are trusted; None: those that the system trusts.
    """

    def __init__(
        self,
        address: Address,
        *,
        batch: int = 1,
        connections: int = 16,
        token: str | None = None,
        answer_s: float = ANSWER_S,
        reached_s: float = REACHED_S,
        trusted: ssl.SSLContext | None = None,
    ) -> None:
        self.callers_most = connections * max(UNANSWERED_MOST // batch, 1)
        self.reached_s = reached_s
        self._address = address
        self._trusted = trusted or (ssl.create_default_context() if address.is_tls else None)
        self._batch = batch
        self._answer_s = answer_s
        self._headers = f"Authorization: Bearer {token}\r\n" if token is not None else ""
        self.lines = [Line(self) for _ in range(connections)]

    @asynccontextmanager
    async def caller(self, index: int) -> AsyncIterator[WebsocketCaller]:
        """Take a place on a socket.

        Raises:
            OSError: the server can't be reached, or opens no websocket.
        """
        line = self.lines[index % len(self.lines)]
        if not await line.opened():
            raise OSError(f"{self._address.authority} opens no websocket: {line.reason}")
        yield WebsocketCaller(line, is_batch=self._batch > 1)

    async def open(self) -> Socket:
        """Open a socket."""
        address = self._address
        return await open_socket(
            address.port, self._headers, host=address.host, path=address.path + PATH, trusted=self._trusted
        )

    async def watch(self) -> None:
        """Let frames time out, until cancelled."""
        while True:
            await trio.sleep(_WATCH_S)
            for line in self.lines:
                line.give_up_late(time.perf_counter() - self._answer_s)


@asynccontextmanager
async def websocket_sender(
    address: Address,
    *,
    batch: int = 1,
    connections: int = 16,
    token: str | None = None,
    answer_s: float = ANSWER_S,
    reached_s: float = REACHED_S,
    trusted: ssl.SSLContext | None = None,
) -> AsyncIterator[WebsocketSender]:
    """Yield a sender, see :class:`WebsocketSender`; its sockets are open while the context lasts."""
    sender = WebsocketSender(
        address,
        batch=batch,
        connections=connections,
        token=token,
        answer_s=answer_s,
        reached_s=reached_s,
        trusted=trusted,
    )
    async with side_tasks(sender.watch, *(line.run for line in sender.lines)):
        yield sender
