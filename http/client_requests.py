"""What every call of the HTTP client goes through: attempts by one key and body, until there is an answer."""

import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote
from uuid import UUID

import msgspec

from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client_attempts import DEFAULT_BACKOFF, Attempts
from transfer_engine.http.client_calls import bounded, call
from transfer_engine.http.client_errors import NotAnEngine
from transfer_engine.http.client_results import new_key
from transfer_engine.http.client_tokens import Token, TokenSource
from transfer_engine.http.client_transport import Answer, Transport

Result = TypeVar("Result")

DEADLINE_S: Final = 30.0
ANSWER_S: Final = 10.0
CONNECT_S: Final = 5.0
CONNECTIONS_MOST: Final = 100

encode: Final = msgspec.json.Encoder().encode


class Requests:
    """Connections to one server; see :class:`~transfer_engine.http.client.Client` for the arguments."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: Token = None,
        deadline_s: float = DEADLINE_S,
        answer_s: float = ANSWER_S,
        connections_most: int = CONNECTIONS_MOST,
        backoff: Backoff = DEFAULT_BACKOFF,
        waits_for_server: bool = True,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._deadline_s = bounded(deadline_s, DEADLINE_S)
        self._backoff = backoff
        self._waits_for_server = waits_for_server
        self._transport = Transport(
            url,
            TokenSource(token),
            connections_most=connections_most,
            answer_s=answer_s,
            connect_s=min(CONNECT_S, answer_s),
            ssl_context=ssl_context,
        )

    def __repr__(self) -> str:
        return f"<Client of {self._transport.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.aclose()

    async def _move(
        self,
        path: str,
        body: dict[str, Any],
        told: Callable[[Answer, str], Result],
        is_final: Callable[[Result], bool],
        *,
        key: str | None,
        wait: bool,
        deadline_s: float | None,
    ) -> Result:
        """Ask for something that moves money, until it is answered; always with the same key and body."""
        name = new_key() if key is None else key
        content = encode(body)

        async def attempt(attempts: Attempts) -> Result:
            attempts.begin()
            answer = await self._transport.send(
                "POST", path, content, headers={"idempotency-key": name}, moves_money=True
            )
            return told(answer, name)

        is_pending = (lambda answer: not is_final(answer)) if wait else None
        return await self._call(attempt, key=name, deadline_s=deadline_s, is_pending=is_pending)

    async def _read(self, path: str, kind: type[Result], deadline_s: float | None) -> Result:
        return await self._ask("GET", path, kind, deadline_s)

    async def _ask(
        self, method: str, path: str, kind: type[Result], deadline_s: float | None, *, body: bytes | None = None
    ) -> Result:
        """Ask for something that may be repeated as it is."""

        async def attempt(attempts: Attempts) -> Answer:
            attempts.begin()
            return await self._transport.send(method, path, body)

        return self._decode(await self._call(attempt, key=None, deadline_s=deadline_s), kind)

    async def _call(
        self,
        attempt: Callable[[Attempts], Awaitable[Result]],
        *,
        key: str | None,
        deadline_s: float | None,
        is_pending: Callable[[Result], bool] | None = None,
        backoff: Backoff | None = None,
    ) -> Result:
        return await call(
            attempt,
            key=key,
            deadline_s=bounded(deadline_s, self._deadline_s),
            backoff=backoff or self._backoff,
            is_pending=is_pending,
            waits_for_server=self._waits_for_server,
        )

    def _decode(self, answer: Answer, kind: type[Result]) -> Result:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except msgspec.DecodeError as error:
            raise NotAnEngine(
                f"{self._transport.url} answered {answer.status}, but not like a transfer engine: check the address "
                f"({error})"
            ) from None


def segment(text: UUID | str) -> str:
    """Return a text as one segment of a path."""
    return quote(str(text), safe="")
