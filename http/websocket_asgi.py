"""Websockets of the main door: hypercorn's, with what they lack.

hypercorn takes compressed frames (a few KiB of them unpack to as many MiB), says nothing to a client whose frames are
wrong, keeps to itself whether a client still answers, and sends each message by itself. Its websocket class has no
settings for these, so that :func:`install` puts another one in its place.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import hypercorn.protocol.h2
import hypercorn.protocol.h11
import trio
from hypercorn.protocol.events import Body, Data, Event, Request, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WSStream
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, ConnectionState, WebsocketScope
from wsproto.connection import ConnectionState as FrameState
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, TextMessage
from wsproto.utilities import LocalProtocolError

from transfer_engine.http.messages import Request as HandlerRequest
from transfer_engine.http.problems import Rejected
from transfer_engine.http.targets import origin_path
from transfer_engine.http.websocket_connection import (
    CODE_OF_FAULT,
    CloseCode,
    ConnectionEnded,
    MessageRefused,
    reason_that_fits,
)
from transfer_engine.http.websocket_connection import Message as WebSocketMessage
from transfer_engine.http.websocket_sessions import WebSockets

STATE: Final = "transfer_engine.websocket"
"""Where an ASGI scope's ``state`` has the frames behind it."""

_CLOSE_S: Final = 2.0
"""How long a client may take to answer that the connection is closed."""


class Frames(WSStream):
    """hypercorn's end of one websocket."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.last_heard_at = trio.current_time()
        self._is_refused = False
        self._decided = trio.Event()

    async def handle(self, event: Event) -> None:
        """Take what comes from the client."""
        if isinstance(event, Request):
            headers = [header for header in event.headers if header[0].lower() != b"sec-websocket-extensions"]
            event = replace(event, headers=headers, state=ConnectionState({**event.state, STATE: self}))
        else:
            self.last_heard_at = trio.current_time()
            if isinstance(event, Body | Data) and not self.closed:
                await self._decided.wait()  # who speaks before he is answered is not read before
                if self._is_refused or not self.handshake.accepted:
                    return  # behind what is wrong nothing can be read any more
        await super().handle(event)

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """Take what comes from the application."""
        try:
            await super().app_send(message)
        finally:
            if self.state is not ASGIWebsocketState.HANDSHAKE or message is None:
                self._decided.set()

    async def send_together(self, messages: Sequence[WebSocketMessage], *, is_pinging: bool) -> None:
        """Send messages in one write."""
        parts = []
        try:
            if is_pinging:
                parts.append(self.connection.send(Ping()))
            for message in messages:
                event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
                parts.append(self.connection.send(event))
        except LocalProtocolError:  # the client has said goodbye meanwhile
            raise ConnectionEnded from None
        if self.closed:
            raise ConnectionEnded
        await self.send(Data(stream_id=self.stream_id, data=b"".join(parts)))

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            if isinstance(event, Message):
                try:
                    self.buffer.extend(event)
                except FrameTooLargeError:
                    reason = f"a message is larger than {self.buffer.max_length} bytes"
                    await self._refuse(MessageRefused(CloseCode.TOO_LARGE, reason))
                    return
                if event.message_finished:
                    await self._put(self.buffer.to_message())
                    self.buffer.clear()
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                if self.connection.state is FrameState.REMOTE_CLOSING:
                    await self._send_wsproto_event(event.response())
                    await self.send(StreamClosed(stream_id=self.stream_id))
                elif self.connection.state is FrameState.CLOSED:
                    await self.send(StreamClosed(stream_id=self.stream_id))
                else:
                    code = CODE_OF_FAULT.get(event.code, CloseCode.PROTOCOL_ERROR)
                    await self._refuse(MessageRefused(code, event.reason or ""))
                return

    async def _refuse(self, refused: MessageRefused) -> None:
        self._is_refused = True
        self.buffer.clear()
        await self._put({"type": "websocket.receive", "refused": refused})

    async def _put(self, message: dict[str, Any]) -> None:
        if self.app_put is not None:
            await self.app_put(message)


def install() -> None:
    """Have hypercorn use :class:`Frames` for its websockets, over HTTP/1.1 and HTTP/2."""
    hypercorn.protocol.h11.WSStream = Frames  # type: ignore[assignment, attr-defined]
    hypercorn.protocol.h2.WSStream = Frames  # type: ignore[assignment, attr-defined]


class AsgiConnection:
    """A websocket that was accepted at the ASGI interface."""

    def __init__(self, frames: Frames, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self.on_control: Callable[[], None] = lambda: None
        self._frames = frames
        self._receive = receive
        self._send = send
        self._is_pinging = False

    @property
    def last_heard_at(self) -> float:
        """When the client last proved to be there (trio's clock)."""
        return self._frames.last_heard_at

    async def receive(self) -> Sequence[WebSocketMessage]:
        """Return the message that has come; see :class:`~transfer_engine.http.websocket_connection.Connection`."""
        event: Any = await self._receive()
        if event["type"] != "websocket.receive":
            raise ConnectionEnded
        if "refused" in event:
            raise event["refused"]
        text = event["text"]
        return (text if text is not None else event["bytes"],)

    async def send(self, messages: Sequence[WebSocketMessage]) -> None:
        """Send messages, in order, in one write."""
        is_pinging, self._is_pinging = self._is_pinging, False
        await self._frames.send_together(messages, is_pinging=is_pinging)

    def ping(self) -> None:
        """Have the next :meth:`send` ask the client for a sign of life."""
        self._is_pinging = True
        self.on_control()

    async def close(self, code: int, reason: str) -> None:
        """Close, and wait for the client to do so for a moment."""
        with trio.move_on_after(_CLOSE_S):
            await self._send({"type": "websocket.close", "code": int(code), "reason": reason_that_fits(reason)})
            while (await self._receive())["type"] == "websocket.receive":
                pass


async def serve_asgi_websocket(
    websockets: WebSockets, scope: WebsocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Answer a handshake, and serve the websocket to its end, if it is to be one. Cancellation cuts it."""
    await receive()  # that it wants to connect
    request = _request_of(scope)
    try:
        admitted = await websockets.admit(request)
    except Rejected as rejected:
        response = websockets.refusal(request, rejected)
        headers = [
            (b"content-type", response.media_type),
            (b"content-length", b"%d" % len(response.body)),
            *response.headers,
        ]
        await send({"type": "websocket.http.response.start", "status": response.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": response.body, "more_body": False})
        return
    await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
    state: Any = scope["state"]
    await websockets.serve(AsgiConnection(state[STATE], receive, send), admitted)


def _request_of(scope: WebsocketScope) -> HandlerRequest:
    """Return a handshake as the gate sees it."""
    single = {b"host": b"", b"origin": b"", b"traceparent": b""}
    authorization: tuple[bytes, ...] = ()
    forwarded_for: tuple[bytes, ...] = ()
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = (*authorization, value)
        elif name == b"x-forwarded-for":
            forwarded_for = (*forwarded_for, value)
        elif name in single:
            single[name] = value
    client = scope["client"]
    return HandlerRequest(
        method="GET",
        path=origin_path(scope["path"]),
        query=scope["query_string"],
        authorization=authorization,
        traceparent=single[b"traceparent"],
        peer=client[0] if client is not None else "",
        forwarded_for=forwarded_for,
        host=single[b"host"],
        origin=single[b"origin"],
    )
