"""One HTTP request of the client and its answer, by httpx: driver's errors become the client's own here."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import httpx
import msgspec
import trio

from transfer_engine.http.client_errors import (
    NoAnswer,
    NotAnEngine,
    Refusal,
    Refused,
    ServerFault,
    Unreachable,
    refused,
)
from transfer_engine.http.client_tokens import TokenSource

_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Made once: httpx would load every certificate authority for every client, also for one that speaks plain HTTP."""

_KNOWN_UNTAKEN: Final = frozenset({"overloaded", "shutting_down"})
"""Codes of a 503 that always say that nothing was taken."""

_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_USAGE: Final = (httpx.InvalidURL, httpx.UnsupportedProtocol)

_RETRY_AFTER_MOST_S: Final = 3_600.0


class InvalidUrl(ValueError):
    """The address is no URL that the client can use."""


class _Body(httpx.AsyncByteStream):
    """A request's body in one piece. httpx's own is an async generator, left half read where a server dies."""

    def __init__(self, content: bytes) -> None:
        self._left = [content]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class _Problem(msgspec.Struct, frozen=True):
    """What of a problem detail decides; everything else in it may be whatever it likes."""

    code: int | str
    detail: str
    retryable: bool = False
    field: str | None = None
    status: int | str = 0
    name: str | None = None

    @property
    def word(self) -> str:
        """The stable code as a word: where ``code`` is a number, the word stands beside it."""
        return self.name or str(self.code)


class Answer(msgspec.Struct, frozen=True):
    """A successful answer."""

    status: int
    body: bytes
    is_replay: bool


class Transport:
    """Connections to one server; :meth:`aclose` closes them.

    Args:
        url: where the server is; what follows the authority is put before every path.
        token: who asks.
        connections_most: connections at a time; calls beyond wait for one.
        answer_s: how long one answer is waited for, and how long between two of its bytes.
        connect_s: how long a connection may take.
        ssl_context: for ``https``; by default the usual authorities.

    Raises:
        InvalidUrl: not an ``http`` or ``https`` URL.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        connections_most: int,
        answer_s: float,
        connect_s: float,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise InvalidUrl(f"{url!r} is no URL: {error}") from None
        if parsed.scheme not in {"http", "https"}:
            raise InvalidUrl(f"{url!r} must begin with http:// or https://")
        if not parsed.host:
            raise InvalidUrl(f"{url!r} names no host")
        self.url = url.rstrip("/")
        self.token = token
        is_tls = parsed.scheme == "https"
        self.ssl_context = (ssl_context or ssl.create_default_context()) if is_tls else None
        self._answer_s = answer_s
        self._connect_s = connect_s
        self._places = trio.Semaphore(connections_most)
        self._free: list[httpx.AsyncClient] = []
        self._made: list[httpx.AsyncClient] = []

    async def aclose(self) -> None:
        """Close all connections; requests under way end unanswered."""
        for http in self._made:
            await http.aclose()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx.AsyncClient]:
        """Wait for a place, and yield a client of one connection, the last one that was used if one is free.

        httpx's own pool looks at every connection for every request: with 64 of them that costs milliseconds.
        """
        async with self._places:
            http = self._free.pop() if self._free else self._new_connection()
            try:
                yield http
            finally:
                self._free.append(http)

    def _new_connection(self) -> httpx.AsyncClient:
        # Proxies in the environment are for the world, not for an engine at an address that the caller named.
        http = httpx.AsyncClient(
            timeout=httpx.Timeout(self._answer_s, connect=self._connect_s, pool=None),
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            verify=self.ssl_context or _NO_TLS,
            trust_env=False,
        )
        self._made.append(http)
        return http

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        moves_money: bool = False,
        expected: tuple[int, ...] = (),
    ) -> Answer:
        """Send one request, with another token once more if the first one is not accepted.

        ``expected`` are statuses beyond 2xx that come with an answer rather than a problem.

        Cancellation closes its connection: the server may have got the request.

        Raises:
            Refused: the server refused; nothing was taken.
            NoAnswer: whatever else there is; see there.
        """
        token = await self.token.current()
        response = await self._exchange(method, path, body, headers, token)
        if response.status_code == 401 and await self.token.renew(token):
            response = await self._exchange(method, path, body, headers, await self.token.current())
        if response.is_success or response.status_code in expected:
            return Answer(
                status=response.status_code,
                body=response.content,
                is_replay=response.headers.get("idempotent-replayed") == "true",
            )
        raise problem_of(
            self.url,
            response.status_code,
            response.content,
            _retry_after_s(response.headers.get("retry-after")),
            moves_money=moves_money,
        )

    async def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None, token: str | None
    ) -> httpx.Response:
        sent = {"accept": "application/json, application/problem+json", **(headers or {})}
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        if body is not None:
            sent.setdefault("content-type", "application/json")
            sent["content-length"] = str(len(body))
        try:
            async with self._connection() as http:
                request = http.build_request(method, self.url + path, headers=sent)
                request.stream = _Body(body or b"")
                return await http.send(request)
        except _USAGE as error:
            raise InvalidUrl(f"{self.url!r} is no URL that can be used: {error}") from None
        except (UnicodeEncodeError, httpx.LocalProtocolError):
            raise ValueError("the key has characters in it that can't be sent: use printable ASCII") from None
        except httpx.HTTPError as error:
            raise Unreachable(
                f"no answer from {self.url} ({reason_of(error)}): is the engine running?",
                was_sent=not isinstance(error, _NOT_SENT),
            ) from error


def problem_of(
    url: str, status: int, body: bytes, retry_after_s: float | None = None, *, moves_money: bool = False
) -> Refused | NoAnswer:
    """Return what an HTTP answer that is no success means."""
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.DecodeError:
        if status >= 500:
            return ServerFault(f"{url} answered {status}", retry_after_s=retry_after_s)
        if status == 429:  # somebody before the engine, who speaks of nothing but the rate
            refusal = Refusal("rate_limited", "too many requests", None, True, retry_after_s, status)
            return refused(refusal, moves_money=moves_money)
        return NotAnEngine(f"{url} answered {status}, but not like a transfer engine: check the address")
    if status >= 500 and problem.status != "failed" and problem.word not in _KNOWN_UNTAKEN:
        return ServerFault(f"{problem.detail} ({problem.word})", code=problem.word, retry_after_s=retry_after_s)
    refusal = Refusal(
        code=problem.word,
        detail=problem.detail,
        field=problem.field,
        is_retryable=problem.retryable or status in {429, 503},
        retry_after_s=retry_after_s,
        http_status=status,
    )
    return refused(refusal, moves_money=moves_money)


def reason_of(error: BaseException) -> str:
    """Return what an error says, or the first of its causes that says anything: libraries wrap them in silence."""
    cause: BaseException | None = error
    while cause is not None:
        if str(cause):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _retry_after_s(value: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` names; dates and nonsense are left out."""
    if value is None or not (value.isascii() and value.isdigit()) or len(value) > 9:
        return None
    return min(float(value), _RETRY_AFTER_MOST_S)
