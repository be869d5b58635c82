"""The main door: quart-trio on hypercorn.

The API's endpoints are answered right at the ASGI interface, where Quart has its middleware: its request context,
session and signals cost more than a transfer does, and the handlers need none of them. Everything else (pages, the
lifespan, websockets) is Quart's. Nothing of HTTP is decided here: bodies are read within their bounds, the handlers
answer.
"""

from typing import Final, cast
from urllib.parse import urlsplit

import trio
from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGISendCallable,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
    HTTPScope,
    Scope,
)
from quart import Response as QuartResponse
from quart import request as quart_request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from transfer_engine.http.handlers import Api
from transfer_engine.http.messages import Request, Response
from transfer_engine.http.problems import Flavour, ProblemCode, Rejected, problem_of_rejection
from transfer_engine.http.settings import ServerSettings

_DISCARDED_BYTES_MOST: Final = 1 << 20
"""How much of a body that is too large is read and dropped, so that its sender sees the answer before a reset."""


class _ClientGone(Exception):
    """The client left before its request was whole."""


class MainDoor(QuartTrio):
    """The ASGI application.

    When a client leaves, its request is answered all the same: what the engine took goes on anyway, and is bounded by
    the engine's deadline.
    """

    def __init__(self, api: Api, settings: ServerSettings) -> None:
        super().__init__(__name__, static_folder=None)
        self._api = api
        self._body_bytes_most = settings.body_bytes_most
        self._body_timeout_s = settings.body_timeout_ms / 1_000
        self.register_error_handler(HTTPException, self._quart_problem)

    async def asgi_app(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer the API's requests; hand everything else to Quart."""
        if scope["type"] == "http":
            path = scope["path"]
            if path[:1] != "/":  # a target in absolute form, as through a proxy
                path = urlsplit(path).path
            if path.startswith("/api/") or self._api.has(path):
                await self._answer(scope, path, receive, send)
                return
        await super().asgi_app(scope, receive, send)

    async def _answer(self, scope: HTTPScope, path: str, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        content_type = b""
        content_length = 0
        keys: tuple[bytes, ...] = ()
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value
            elif name == b"content-length":
                content_length = int(value)  # hypercorn has refused what is no number
            elif name == b"idempotency-key":
                keys = (*keys, value)
        try:
            if content_length > self._body_bytes_most:
                raise self._too_large()
            with trio.fail_after(self._body_timeout_s):
                body = await self._read(receive)
        except _ClientGone:
            return
        except (Rejected, trio.TooSlowError) as error:
            rejected = error if isinstance(error, Rejected) else self._too_slow()
            response = problem_of_rejection(rejected).response(self._api.flavour(path))
            await _send(send, response, more_follows=True)
            await self._discard(receive)
            await send(_LAST_BODY)
            return
        await _send(send, await self._api.answer(Request(scope["method"], path, body, content_type, keys)))

    async def _read(self, receive: ASGIReceiveCallable) -> bytes:
        body = b""
        while True:
            event = await receive()
            if event["type"] != "http.request":
                raise _ClientGone
            body = body + event["body"] if body else event["body"]
            if len(body) > self._body_bytes_most:
                raise self._too_large()
            if not event["more_body"]:
                return body

    async def _discard(self, receive: ASGIReceiveCallable) -> None:
        """Read on for a while: closing a socket with unread bytes in it would take the answer back."""
        discarded = 0
        with trio.move_on_after(self._body_timeout_s):
            while discarded < _DISCARDED_BYTES_MOST:
                event = await receive()
                if event["type"] != "http.request" or not event["more_body"]:
                    return
                discarded += len(event["body"])

    def _too_large(self) -> Rejected:
        return Rejected(ProblemCode.BODY_TOO_LARGE, f"the body is larger than {self._body_bytes_most} bytes")

    def _too_slow(self) -> Rejected:
        return Rejected(ProblemCode.BODY_TOO_SLOW, f"the body was not whole within {self._body_timeout_s:g} s")

    async def _quart_problem(self, error: HTTPException) -> QuartResponse:
        """Tell Quart's own errors as problem details too."""
        if error.code == 405:
            code, detail = ProblemCode.METHOD_NOT_ALLOWED, f"{quart_request.method[:16]} is not allowed here"
        elif error.code == 404:
            code, detail = ProblemCode.NO_SUCH_PATH, "there is nothing at this path"
        else:
            code, detail = ProblemCode.INTERNAL, "the server met an error of its own"
        headers = tuple((name.encode(), value.encode()) for name, value in error.get_headers() if name == "Allow")
        response = problem_of_rejection(Rejected(code, detail, headers=headers)).response(Flavour.PLAIN)
        answer = QuartResponse(response.body, status=response.status, content_type=response.media_type.decode())
        for name, value in response.headers:
            answer.headers[name.decode()] = value.decode()
        return answer


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
