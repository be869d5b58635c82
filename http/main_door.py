"""The main door: quart-trio on hypercorn.

The API's endpoints are answered right at the ASGI interface, where Quart has its middleware: its request context,
session and signals cost more than a transfer does, and the handlers need none of them. The rest (pages, the lifespan,
websockets) is Quart's. Nothing of HTTP is decided here: bodies are read within their bounds, the handlers answer.
"""

from typing import Final, cast

import trio
from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGISendCallable,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
    HTTPScope,
    Scope,
)
from quart_trio import QuartTrio

from transfer_engine.http.handlers import Api
from transfer_engine.http.messages import Request, Response
from transfer_engine.http.pages import Pages
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.settings import ServerSettings
from transfer_engine.http.targets import origin_path
from transfer_engine.http.websocket_asgi import serve_asgi_websocket
from transfer_engine.http.websocket_sessions import WebSockets

_DISCARDED_BYTES_MOST: Final = 1 << 20
"""How much of a body that is too large is read and dropped, so that its sender sees the answer before a reset."""


class _ClientGone(Exception):
    """The client left before its request was whole."""


class MainDoor(QuartTrio):
    """The ASGI application.

    When a client leaves, its request is answered all the same: what the engine took goes on anyway, and is bounded by
    the engine's deadline.
    """

    def __init__(self, api: Api, settings: ServerSettings, websockets: WebSockets | None = None) -> None:
        super().__init__(__name__, static_folder=None)
        self.register_blueprint(Pages(lambda: api.routes, api.version).blueprint())
        self._api = api
        self._websockets = websockets
        self._body_bytes_most = settings.body_bytes_most
        self._body_timeout_s = settings.body_timeout_ms / 1_000
        self._pages = self.url_map.bind("localhost")

    async def asgi_app(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer the API's requests, and those that nobody knows; hand Quart's own to it."""
        if scope["type"] == "http":
            path = origin_path(scope["path"])
            if self._api.has(path) or not self._pages.test(path, scope["method"]):
                await self._answer(scope, path, receive, send)
                return
        elif scope["type"] == "websocket" and self._websockets is not None:
            await serve_asgi_websocket(self._websockets, scope, receive, send)
            return
        await super().asgi_app(scope, receive, send)

    async def _answer(self, scope: HTTPScope, path: str, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        single = {b"content-type": b"", b"accept": b"", b"host": b"", b"origin": b""}
        traceparent = b""
        content_length = 0
        keys: tuple[bytes, ...] = ()
        authorization: tuple[bytes, ...] = ()
        forwarded_for: tuple[bytes, ...] = ()
        for name, value in scope["headers"]:
            if name in single:
                single[name] = value
            elif name == b"content-length":
                content_length = int(value)  # hypercorn has refused what is no number
            elif name == b"idempotency-key":
                keys = (*keys, value)
            elif name == b"authorization":
                authorization = (*authorization, value)
            elif name == b"traceparent":
                traceparent = value if not traceparent else b"doubled"
            elif name == b"x-forwarded-for":
                forwarded_for = (*forwarded_for, value)
        client = scope["client"]
        peer = client[0] if client is not None else ""
        bytes_most = self._api.body_bytes_most(path, self._body_bytes_most)
        try:
            if content_length > bytes_most:
                raise _too_large(bytes_most)
            with trio.fail_after(self._body_timeout_s):
                body = await _read(receive, bytes_most)
        except _ClientGone:
            return
        except (Rejected, trio.TooSlowError) as error:
            rejected = error if isinstance(error, Rejected) else self._too_slow()
            early = Request(
                scope["method"],
                path,
                traceparent=traceparent,
                peer=peer,
                forwarded_for=forwarded_for,
                host=single[b"host"],
            )
            await self._refuse(rejected, early, receive, send)
            return
        request = Request(
            scope["method"],
            path,
            body,
            single[b"content-type"],
            keys,
            scope["query_string"],
            single[b"accept"],
            authorization,
            traceparent,
            peer,
            forwarded_for,
            single[b"host"],
            single[b"origin"],
        )
        await _send(send, await self._api.answer(request))

    async def _refuse(
        self, rejected: Rejected, request: Request, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Answer before the request is whole, and read on for a while.

        Closing a socket with unread bytes in it would take the answer back. And somebody must receive until hypercorn
        says that it is over: its reader waits for room in a short queue, and would wait for ever.
        """
        await _send(send, self._api.refuse(rejected, request), more_follows=True)
        enough = trio.Event()

        async def discard() -> None:
            discarded = 0
            while True:
                event = await receive()
                if event["type"] != "http.request" or not event["more_body"]:
                    break
                discarded += len(event["body"])
                if discarded > _DISCARDED_BYTES_MOST:
                    enough.set()
            enough.set()

        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            nursery.start_soon(discard)
            with trio.move_on_after(self._body_timeout_s):
                await enough.wait()
            await send(_LAST_BODY)

    def _too_slow(self) -> Rejected:
        return Rejected(ProblemCode.BODY_TOO_SLOW, f"the body was not whole within {self._body_timeout_s:g} s")


async def _read(receive: ASGIReceiveCallable, bytes_most: int) -> bytes:
    body = b""
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise _ClientGone
        body = body + event["body"] if body else event["body"]
        if len(body) > bytes_most:
            raise _too_large(bytes_most)
        if not event["more_body"]:
            return body


def _too_large(bytes_most: int) -> Rejected:
    return Rejected(ProblemCode.BODY_TOO_LARGE, f"the body is larger than {bytes_most} bytes")


_LAST_BODY: Final = cast("HTTPResponseBodyEvent", {"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: ASGISendCallable, response: Response, *, more_follows: bool = False) -> None:
    headers = [
        (b"content-type", response.media_type),
        (b"content-length", b"%d" % len(response.body)),
        *response.headers,
    ]
    start: HTTPResponseStartEvent = {"type": "http.response.start", "status": response.status, "headers": headers}
    body: HTTPResponseBodyEvent = {
        "type": "http.response.body",
        "body": response.body,
        "more_body": more_follows,
    }
    await send(start)
    await send(body)
