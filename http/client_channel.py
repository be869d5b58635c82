"""The connection of a websocket client: made again whenever it breaks, with all that was not answered sent again.

Requests go out in the order in which they were put, also again over the next connection. One task owns the connection
and writes it: whoever gives a request up leaves every frame whole.
"""

import math
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import trio
import trio_websocket

from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client_errors import ClientError, NotAnEngine, Refusal, Refused, TransferRefused
from transfer_engine.http.client_events import Heard, hear
from transfer_engine.http.client_tokens import TokenSource
from transfer_engine.http.client_transport import problem_of, reason_of

CONNECT_S: Final = 3.0
"""For TCP, TLS and the handshake together; one that is cut in the middle is noticed only by this."""
MESSAGE_BYTES_MOST: Final = 64 << 20
_CLOSE_S: Final = 0.05
"""For sending the farewell: whoever cancels has ended the task, too, that would hear the answer to it."""
_MESSAGES_WAITING: Final = 64
_TOKEN_REFUSED: Final = frozenset({401, 4001})
"""The handshake's status, and the close code, of a token that is not accepted (any more)."""
_TOO_LARGE: Final = 1009

_CAN_NOT_CONNECT: Final = (
    trio_websocket.HandshakeError,
    trio_websocket.ConnectionRejected,
    trio.TooSlowError,
    trio.BrokenResourceError,
    OSError,
)

_encode: Final = msgspec.msgpack.Encoder().encode


class Request:
    """A request until it is answered or given up; ``is_once``: not sent again where its connection breaks."""

    __slots__ = ("frame", "id", "is_once", "on_answer", "on_lost", "on_sent")

    def __init__(
        self,
        number: int,
        frame: bytes,
        *,
        on_answer: Callable[[Heard | ClientError], None],
        on_sent: Callable[[], None],
        on_lost: Callable[[], None],
        is_once: bool,
    ) -> None:
        self.id = number
        self.frame = frame
        self.on_answer = on_answer
        self.on_sent = on_sent
        self.on_lost = on_lost
        self.is_once = is_once


class Channel:
    """Requests out, answers and events in, over one connection after the other.

    Args:
        url: ``ws`` or ``wss``.
        token: who asks.
        backoff: between connections.
        ping_interval_s: how long a silent server is waited for before it is asked whether it lives, and then again
            before the connection is given up.
        ssl_context: for ``wss``.
        on_connected: called when a connection was made, before anything is sent over it.
        on_event: called with each message that answers no request, and its bytes.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        backoff: Backoff,
        ping_interval_s: float,
        ssl_context: ssl.SSLContext | None,
        on_connected: Callable[[], None],
        on_event: Callable[[Heard, bytes], None],
    ) -> None:
        self.url = url
        self.connections = 0
        """How many have been made."""
        self.trouble = ""
        """Why there is no connection now, where there is none."""
        self._token = token
        self._backoff = backoff
        self._ping_interval_s = ping_interval_s
        self._ssl_context = ssl_context
        parsed = urlsplit(url)
        self._address = parsed.hostname or ""
        self._port = parsed.port or (80 if ssl_context is None else 443)
        self._host = parsed.netloc.rpartition("@")[2]
        self._resource = parsed.path + (f"?{parsed.query}" if parsed.query else "")
        self._on_connected = on_connected
        self._on_event = on_event
        self._unsent: dict[int, Request] = {}
        self._sent: dict[int, Request] = {}
        self._largest: Request | None = None
        """Of those that were sent over this connection, also where it was answered or given up since."""
        self._last_id = 0
        self._work = trio.Event()
        self._heard_at = 0.0

    def __repr__(self) -> str:
        return f"<Channel to {self.url}: {len(self._sent)} sent, {len(self._unsent)} to be sent>"

    @property
    def under_way(self) -> int:
        """How many requests have no answer."""
        return len(self._sent) + len(self._unsent)

    def put(
        self,
        op: str,
        body: dict[str, Any],
        *,
        on_answer: Callable[[Heard | ClientError], None] = lambda _: None,
        on_sent: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
        is_once: bool = False,
    ) -> Request:
        """Have a request sent; never waits. The callbacks must not raise.

        Args:
            op: its operation.
            body: its other members.
            on_answer: called once with its answer, or with an error that the connection met because of it.
            on_sent: called before it is sent, each time.
            on_lost: called when a connection broke over which it was sent, or was to be sent once.
            is_once: whether it is dropped then.
        """
        self._last_id += 1
        frame = _encode({"op": op, "id": self._last_id, **body})
        request = Request(self._last_id, frame, on_answer=on_answer, on_sent=on_sent, on_lost=on_lost, is_once=is_once)
        self._unsent[request.id] = request
        self._work.set()
        return request

    def drop(self, request: Request) -> None:
        """Give a request up: it is not sent (again), and its answer is nobody's."""
        self._unsent.pop(request.id, None)
        self._sent.pop(request.id, None)

    async def run(self) -> None:
        """Connect, and again, until cancelled; cancellation closes the connection and leaves requests unanswered."""
        failed = 0
        while True:
            made = self.connections
            await self._serve_once()
            self._lose()
            failed = 1 if self.connections > made else failed + 1
            await self._backoff.sleep(failed)

    async def _serve_once(self) -> None:
        try:
            token = await self._token.current()
        except Exception as error:  # noqa: BLE001  the caller's own callable: it may do better the next time
            self.trouble = f"there is no token for {self.url} ({error!r})"
            return
        refusal: Exception | None = None
        try:
            await self._connect_and_exchange(token)
        except _CAN_NOT_CONNECT as error:
            refusal = error
        except BaseExceptionGroup as group:  # the library's own task may hear of it first
            known, others = group.split(_CAN_NOT_CONNECT)
            if others is not None:
                raise
            refusal = _first(known)
        if isinstance(refusal, trio_websocket.ConnectionRejected):
            await self._rejected(refusal, token)
        elif refusal is not None:
            self.trouble = f"no connection to {self.url} ({reason_of(refusal)})"

    async def _connect_and_exchange(self, token: str | None) -> None:
        headers = [(b"authorization", b"Bearer " + token.encode("ascii"))] if token is not None else []
        with trio.fail_after(CONNECT_S) as patience:
            stream = await self._open_stream()
            try:
                async with trio.open_nursery() as nursery:
                    connection = await trio_websocket.wrap_client_stream(
                        nursery,
                        stream,
                        self._host,
                        self._resource,
                        extra_headers=headers,
                        message_queue_size=_MESSAGES_WAITING,
                        max_message_size=MESSAGE_BYTES_MOST,
                    )
                    patience.deadline = math.inf
                    self.connections += 1
                    self.trouble = ""
                    try:
                        await self._exchange(connection, token)
                    finally:
                        with trio.move_on_after(_CLOSE_S, shield=True):
                            await connection.aclose()
                    if connection.closed is not None and connection.closed.code in _TOKEN_REFUSED:
                        await self._renewed(token)
                    nursery.cancel_scope.cancel()
            finally:  # the library leaves it open where the handshake fails
                await trio.aclose_forcefully(stream)

    async def _open_stream(self) -> "trio.SocketStream | trio.SSLStream[trio.SocketStream]":
        stream = await trio.open_tcp_stream(self._address, self._port)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        if self._ssl_context is None:
            return stream
        secured = trio.SSLStream(stream, self._ssl_context, server_hostname=self._address, https_compatible=True)
        try:
            await secured.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(secured)
            raise
        return secured

    async def _exchange(self, connection: trio_websocket.WebSocketConnection, token: str | None) -> None:
        """Send and receive until the connection breaks."""
        self._on_connected()
        self._largest = None
        self._heard_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, connection)
            nursery.start_soon(self._keep_alive, connection, nursery.cancel_scope)
            try:
                await self._read(connection, token)
            except trio_websocket.ConnectionClosed as closed:
                self.trouble = f"{self.url} closed the connection: {closed.reason}"
                if closed.reason is not None and closed.reason.code == _TOO_LARGE:
                    self._refuse_largest(str(closed.reason.reason))
            nursery.cancel_scope.cancel()

    async def _read(self, connection: trio_websocket.WebSocketConnection, token: str | None) -> None:
        while True:
            message = await connection.get_message()
            self._heard_at = trio.current_time()
            if not isinstance(message, bytes):
                continue  # binary frames are answered by binary ones
            try:
                heard = hear(message)
            except msgspec.DecodeError:
                self._fail_all(NotAnEngine(f"{self.url} sent what is no message: check the address"))
                return
            request = self._sent.pop(heard.id, None) if isinstance(heard.id, int) else None
            if request is not None:
                if _is_unauthenticated(heard) and await self._renewed(token):
                    self._unsent = {request.id: request, **self._unsent}
                    return  # this connection has begun with a token that has expired
                request.on_answer(heard)
            elif heard.id is None:
                self._on_event(heard, message)

    async def _write(self, connection: trio_websocket.WebSocketConnection) -> None:
        try:
            while True:
                while self._unsent:
                    number = next(iter(self._unsent))
                    request = self._unsent.pop(number)
                    self._sent[number] = request
                    if self._largest is None or len(request.frame) > len(self._largest.frame):
                        self._largest = request
                    request.on_sent()
                    await connection.send_message(request.frame)
                self._work = trio.Event()
                await self._work.wait()
        except trio_websocket.ConnectionClosed:
            pass  # the reader hears of it too, after what came before it

    async def _keep_alive(self, connection: trio_websocket.WebSocketConnection, scope: trio.CancelScope) -> None:
        """Give a connection up whose other end does not answer."""
        while True:
            await trio.sleep(self._ping_interval_s)
            if trio.current_time() - self._heard_at < self._ping_interval_s:
                continue
            with trio.move_on_after(self._ping_interval_s) as patience:
                try:
                    await connection.ping()
                except trio_websocket.ConnectionClosed:
                    return
            if patience.cancelled_caught:
                self.trouble = f"{self.url} did not answer a ping"
                scope.cancel()

    async def _rejected(self, rejected: trio_websocket.ConnectionRejected, token: str | None) -> None:
        """Take a handshake that was answered by no: what the server says of it is every request's answer."""
        status = rejected.status_code
        self.trouble = f"{self.url} refused the connection ({status})"
        if status in _TOKEN_REFUSED and await self._renewed(token):
            return
        if status < 500:
            error = problem_of(self.url, status, rejected.body or b"", moves_money=True)
            if not (isinstance(error, Refused) and error.retryable):
                self._fail_all(error)

    async def _renewed(self, token: str | None) -> bool:
        """Get another token than this one; False where there is none."""
        try:
            return await self._token.renew(token)
        except Exception as error:  # noqa: BLE001  the caller's own callable: it may do better the next time
            self.trouble = f"there is no token for {self.url} ({error!r})"
            return False

    def _lose(self) -> None:
        """Put what was sent and not answered before what was not sent, for the next connection."""
        sent, unsent = self._sent, self._unsent
        for request in sent.values():
            request.on_lost()
        for request in unsent.values():
            if request.is_once:
                request.on_lost()
        self._sent = {}
        self._unsent = {number: each for number, each in sorted((sent | unsent).items()) if not each.is_once}

    def _fail_all(self, error: ClientError) -> None:
        failed = [*self._sent.values(), *self._unsent.values()]
        self._sent, self._unsent = {}, {}
        for request in failed:
            request.on_answer(error)

    def _refuse_largest(self, reason: str) -> None:
        """End the request that was too large for the server: sent again, it would only break the next connection.

        Where that one was given up, nobody is told: any other may have been taken.
        """
        request = self._largest
        if request is not None and request.id in self._sent:
            self.drop(request)
            request.on_answer(TransferRefused(Refusal("body_too_large", reason or "the message is too large")))


def _first(error: BaseException | None) -> Exception | None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else None


def _is_unauthenticated(heard: Heard) -> bool:
    return heard.error is not None and heard.error.code == "unauthenticated"
