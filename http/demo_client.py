"""Clients of a server under test: they write down what they ask before they send it, and what they are told."""

import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import httpx
import msgspec
import trio

from transfer_engine.http.demo_notes import Answer, Asked, Note, Notebook
from transfer_engine.schema.wire import BalancesResponse, RecordResponse, ResolveResponse, TransferResponse

ANSWER_S: Final = 30.0
"""How long an answer is waited for: far beyond the engine's own deadline, by which it answers ``pending``."""

HEAL_S: Final = 30.0
"""How long a server may take to end all that is under way."""

_LOOK_S: Final = 0.02
_AGAIN_S: Final = 0.05
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Made once: httpx would load every certificate authority for every client, and there is no TLS here."""


class _Problem(msgspec.Struct, frozen=True):
    code: str
    detail: str


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


class NoAnswer(Exception):
    """The connection ended before the answer came: what became of the request is unknown."""


class NotHealed(Exception):
    """Transfers were still under way when patience ended; the message says how many."""


class Client:
    """One client with connections of its own, of a server that may die at any time."""

    def __init__(self, http: httpx.AsyncClient, notebook: Notebook) -> None:
        self._http = http
        self._notebook = notebook

    async def ask(self, asked: Asked) -> Answer:
        """Send a transfer or credit, or send it again; note what is told.

        Raises:
            NoAnswer: the server went away; send it again by the same key once there is one.
        """
        note = self._notebook.note(asked)
        body: dict[str, Any] = {"user_id": asked.user_id, "asset_id": asked.asset_id, "amount": asked.amount}
        if asked.is_credit:
            path = "/api/v1/admin/credits"
            body["account"] = asked.target
        else:
            path = "/api/v1/transfer"
            body |= {"from": asked.source, "to": asked.target}
        note.sent += 1
        began = time.perf_counter()
        try:
            response = await self._http.send(self._request(path, body, **{"Idempotency-Key": asked.key}))
        except httpx.TransportError as error:
            raise NoAnswer(f"{asked.key}: {error!r}") from error
        answer = _read(response, took_ms=(time.perf_counter() - began) * 1000)
        note.answers.append(answer)
        return answer

    def _request(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Request:
        content = msgspec.json.encode(body)
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
        request = self._http.build_request("POST", path, headers=headers)
        request.stream = _Body(content)
        return request

    async def ask_until_decided(self, note: Note) -> None:
        """Send a request again, by its same key, until the answer is final.

        Raises:
            NoAnswer: the server went away.
            NotHealed: it was pending for too long.
        """
        with trio.move_on_after(HEAL_S):
            while note.verdict is None and not note.is_foreign:
                await self.ask(note.asked)
                if note.verdict is None:
                    await trio.sleep(_AGAIN_S)
            return
        raise NotHealed(f"{note.asked.key} has no final answer after {HEAL_S:g} s: {note.answers[-1:]}")

    async def behave(self, core: str, **behaviour: Any) -> None:
        """Tell a simulated core how to misbehave; nothing named: not at all."""
        response = await self._http.put(f"/api/v1/admin/simulated-cores/{core}/behaviour", json=behaviour)
        response.raise_for_status()

    async def record(self, asked: Asked) -> RecordResponse:
        """Return what the server says of a transfer by its `req_id`."""
        answer = await self._http.get(f"/api/v1/transfer/{UUID(int=asked.req_id)}")
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=RecordResponse)

    async def resolve(self, asked: Asked, action: str) -> ResolveResponse | None:
        """Carry out an operator's decision, ``post`` or ``void``; None where the engine can't now, or went away."""
        path = f"/api/v1/admin/transfers/{UUID(int=asked.req_id)}/resolve"
        try:
            answer = await self._http.send(self._request(path, {"action": action}))
        except httpx.TransportError:
            return None
        return msgspec.json.decode(answer.content, type=ResolveResponse) if answer.status_code == 200 else None

    async def balances(self, user_id: int) -> dict[tuple[str, int], int]:
        """Return what a user may spend, by account and asset."""
        response = await self._http.get(f"/api/v1/balances/{user_id}")
        response.raise_for_status()
        found = msgspec.json.decode(response.content, type=BalancesResponse).balances
        return {(balance.account, balance.asset_id): balance.available for balance in found}

    async def statistics(self) -> dict[str, Any]:
        """Return the engine's figures, as they came."""
        response = await self._http.get("/api/v1/admin/statistics")
        response.raise_for_status()
        figures: dict[str, Any] = response.json()
        return figures

    async def until(self, accept: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Look at the engine's figures until they are accepted; return them.

        Raises:
            NotHealed: they were not, in time.
        """
        figures: dict[str, Any] = {}
        with trio.move_on_after(HEAL_S):
            while True:
                figures = await self.statistics()
                if accept(figures):
                    return figures
                await trio.sleep(_LOOK_S)
        left = f"{figures.get('open_transfers')} transfers and {figures.get('unsettled_intents')} intents are left"
        raise NotHealed(f"{left} after {HEAL_S:g} s")

    async def healed(self) -> dict[str, Any]:
        """Wait until the engine is ready and nothing is under way; return its figures, or raise `NotHealed`."""
        (await self._http.get("/ready")).raise_for_status()
        return await self.until(lambda figures: not figures["open_transfers"] and not figures["unsettled_intents"])


@asynccontextmanager
async def open_client(
    url: str, notebook: Notebook, *, connections: int = 1, answer_s: float = ANSWER_S
) -> AsyncIterator[Client]:
    """Connect to a server, and wait ``answer_s`` for an answer; leaving the context closes the connections."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(
        base_url=url, timeout=answer_s, limits=limits, trust_env=False, verify=_NO_TLS
    ) as http:
        yield Client(http, notebook)


def _read(response: httpx.Response, *, took_ms: float) -> Answer:
    if response.status_code in {200, 201, 202}:
        told = msgspec.json.decode(response.content, type=TransferResponse)
        return Answer(
            http_status=response.status_code,
            status=told.status,
            code="",
            req_id=str(told.req_id),
            message=told.message,
            is_replay=response.headers.get("idempotent-replayed") == "true",
            took_ms=took_ms,
        )
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem(code="no_problem_details", detail=response.text[:200])
    return Answer(
        http_status=response.status_code,
        status=None,
        code=problem.code,
        req_id="",
        message=problem.detail,
        is_replay=False,
        took_ms=took_ms,
    )
