"""A client of the engine for trio programs: typed, and safe to repeat.

    async with Client("http://127.0.0.1:8080", token=token) as client:
        outcome = await client.transfer(source="funding", target="trading", user_id=4001, asset_id=1, amount=1_000_000)

Every call that moves money has a key, given or made, and keeps it and its body over all attempts: whatever connections,
proxies and servers do meanwhile, nothing moves twice. What is certain is returned, or raised as a refusal; what is not
certain is never called a failure: it is a ``pending`` outcome, or :class:`OutcomeUnknown` with the key to repeat it by.

A verdict on a transfer that was taken (also ``failed``: too little money, say) is an :class:`Outcome`. What was refused
before it was taken is an exception.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote
from uuid import UUID

import msgspec
import trio

from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client_attempts import DEFAULT_BACKOFF, Attempts
from transfer_engine.http.client_batches import BATCH_MOST, Batch, send_batch
from transfer_engine.http.client_calls import bounded, call
from transfer_engine.http.client_errors import (
    ClientError,
    NoAnswer,
    NotAnEngine,
    NotFound,
    OutcomeUnknown,
    Refusal,
    Refused,
    ServerFault,
    TransferRefused,
    Unreachable,
)
from transfer_engine.http.client_results import (
    AssetInfo,
    Balance,
    BatchResult,
    Health,
    Outcome,
    Readiness,
    Record,
    Resolution,
    Transfer,
    Unknown,
    new_key,
)
from transfer_engine.http.client_tokens import Token, TokenSource
from transfer_engine.http.client_transport import Answer, InvalidUrl, Transport
from transfer_engine.http.client_websocket import (
    IN_FLIGHT_MOST,
    PING_INTERVAL_S,
    WebSocketClient,
)
from transfer_engine.http.client_websocket import (
    PATH as WEBSOCKET_PATH,
)
from transfer_engine.http.client_wire import AssetsAnswer, BalancesAnswer, BatchAnswer, Entry, Told
from transfer_engine.schema.transfers import TransferStatus

__all__ = [
    "AssetInfo",
    "Balance",
    "BatchResult",
    "Client",
    "ClientError",
    "Health",
    "InvalidUrl",
    "NoAnswer",
    "NotAnEngine",
    "NotFound",
    "Outcome",
    "OutcomeUnknown",
    "Readiness",
    "Record",
    "Refusal",
    "Refused",
    "Resolution",
    "ServerFault",
    "Transfer",
    "TransferRefused",
    "TransferStatus",
    "Unknown",
    "Unreachable",
]

Result = TypeVar("Result")

DEADLINE_S: Final = 30.0
ANSWER_S: Final = 10.0
CONNECT_S: Final = 5.0
CONNECTIONS_MOST: Final = 100

_encode: Final = msgspec.json.Encoder().encode


class Client:
    """One server, and who asks it; an async context manager, to be used by any number of tasks at once.

    Args:
        url: such as ``http://127.0.0.1:8080``.
        token: a bearer token, or a callable (plain or async) that returns one: it is asked at first, and again when the
            server does not accept the former one any more.
        deadline_s: how long a call tries, unless it says otherwise.
        answer_s: how long one attempt waits for its answer; longer than the server's own ``deadline_ms``.
        connections_most: connections at a time.
        backoff: how long to wait between attempts; a server's ``Retry-After`` comes on top of it.
        ssl_context: for ``https``; by default the usual authorities.

    Raises:
        InvalidUrl: the URL can't be used.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: Token = None,
        deadline_s: float = DEADLINE_S,
        answer_s: float = ANSWER_S,
        connections_most: int = CONNECTIONS_MOST,
        backoff: Backoff = DEFAULT_BACKOFF,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._deadline_s = bounded(deadline_s, DEADLINE_S)
        self._backoff = backoff
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

    async def transfer(
        self,
        *,
        source: str,
        target: str,
        user_id: int,
        asset_id: int,
        amount: int,
        key: str | None = None,
        wait: bool = False,
        deadline_s: float | None = None,
    ) -> Outcome:
        """Move an amount (minor units) between two accounts of a user.

        Cancellation leaves the transfer as it is: not begun, under way or done. Ask again by the same key.

        Args:
            source: the service that holds the money, such as ``funding``.
            target: the service that gets it, such as ``trading``.
            user_id: whose money.
            asset_id: which asset.
            amount: minor units.
            key: the caller's own name of it; made where it is left out, and then in :attr:`Outcome.key`.
            wait: whether a ``pending`` outcome is waited for; at the deadline it is returned as it is.
            deadline_s: of all attempts together, in seconds.

        Raises:
            TransferRefused: nothing moved, and nothing will.
            OutcomeUnknown: nobody knows; repeat it by the same key.
            Unreachable: nothing was ever sent.
        """
        body = Transfer(source=source, target=target, user_id=user_id, asset_id=asset_id, amount=amount).body()
        return await self._move("/api/v1/transfer", body, key=key, wait=wait, deadline_s=deadline_s)

    async def transfer_many(
        self, transfers: Sequence[Transfer], *, wait: bool = False, deadline_s: float | None = None
    ) -> list[BatchResult]:
        """Move many amounts, in batches of up to 1,000; return what became of each, in their order.

        One that is refused does not keep the others; those that may be taken later, and those of which nobody knows,
        are sent again. ``deadline_s`` is each batch's. Cancellation leaves each transfer as it is; ask by its key.

        Raises:
            Refused, Unreachable: of a first batch nothing was taken.
        """
        results: list[BatchResult] = []
        for start in range(0, len(transfers), BATCH_MOST):
            batch = Batch(transfers[start : start + BATCH_MOST], self._backoff, waits=wait)

            async def send(items: Sequence[Transfer], noted: Batch = batch) -> Sequence[Entry]:
                body = _encode({"transfers": [item.keyed_body() for item in items]})
                noted.begin()
                answer = await self._transport.send("POST", "/api/v1/transfers/batch", body, moves_money=True)
                return self._decode(answer, BatchAnswer).results

            results += await send_batch(batch, send, deadline_s=bounded(deadline_s, self._deadline_s))
        return results

    async def credit(
        self,
        *,
        user_id: int,
        account: str,
        asset_id: int,
        amount: int,
        key: str | None = None,
        wait: bool = False,
        deadline_s: float | None = None,
    ) -> Outcome:
        """Take a deposit (minor units) from outside; for admins. Errors and cancellation as :meth:`transfer`'s."""
        body = {"user_id": user_id, "account": account, "asset_id": asset_id, "amount": amount}
        return await self._move("/api/v1/admin/credits", body, key=key, wait=wait, deadline_s=deadline_s)

    async def get(self, req_id: UUID | str, *, deadline_s: float | None = None) -> Record:
        """Return what is known of a transfer. Cancellation leaves nothing behind.

        Raises:
            NotFound: there is none of this identifier, or it is another user's.
            Refused: the identifier is none.
            NoAnswer: the server did not answer.
        """
        return await self._read(f"/api/v1/transfer/{_segment(req_id)}", Record, deadline_s)

    async def balances(self, user_id: int, *, deadline_s: float | None = None) -> list[Balance]:
        """Return a user's accounts, in minor units. Cancellation leaves nothing behind.

        Raises:
            NotFound: it is another user.
            NoAnswer: the server did not answer.
        """
        return (await self._read(f"/api/v1/balances/{user_id}", BalancesAnswer, deadline_s)).balances

    async def assets(self, *, deadline_s: float | None = None) -> list[AssetInfo]:
        """Return the engine's assets. Cancellation leaves nothing behind; raises NoAnswer."""
        return (await self._read("/api/v1/assets", AssetsAnswer, deadline_s)).assets

    async def resolve(
        self, req_id: UUID | str, action: Literal["post", "void"], *, deadline_s: float | None = None
    ) -> Resolution:
        """End a transfer that does not end by itself; for admins. Said again, the same decision does no more.

        While the engine itself is at the transfer it is asked again. Cancellation leaves a decision that was sent.

        Raises:
            NotFound: there is no such transfer.
            Refused: it can't be decided so.
            NoAnswer: the server did not answer; the decision may have been carried out.
        """
        path = f"/api/v1/admin/transfers/{_segment(req_id)}/resolve"
        return await self._ask("POST", path, Resolution, deadline_s, body=_encode({"action": action}))

    async def statistics(self, *, deadline_s: float | None = None) -> dict[str, Any]:
        """Return the engine's figures, as they come; for admins. Cancellation leaves nothing behind."""
        return await self._read("/api/v1/admin/statistics", dict[str, Any], deadline_s)

    async def health(self, *, deadline_s: float | None = None) -> Health:
        """Return that the process answers, and its version. Cancellation leaves nothing behind; raises NoAnswer."""
        return await self._read("/health", Health, deadline_s)

    async def ready(self, *, deadline_s: float | None = None) -> Readiness:
        """Return whether transfers can be taken now, part by part: the first answer, whatever it is.

        Cancellation leaves nothing behind; raises NoAnswer.
        """

        async def attempt(attempts: Attempts) -> Answer:
            attempts.begin()
            return await self._transport.send("GET", "/ready", expected=(503,))

        answer = await self._call(attempt, key=None, deadline_s=deadline_s)
        return self._decode(answer, Readiness)

    @asynccontextmanager
    async def websocket(
        self,
        *,
        in_flight_most: int = IN_FLIGHT_MOST,
        ping_interval_s: float = PING_INTERVAL_S,
        deadline_s: float | None = None,
    ) -> AsyncIterator[WebSocketClient]:
        """Open a websocket with the same address, token and rules; leaving the context closes it.

        Args:
            in_flight_most: requests that may be under way; calls beyond wait in turn.
            ping_interval_s: how long a silent connection is trusted.
            deadline_s: how long a call tries, unless it says otherwise.
        """
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            websocket = WebSocketClient(
                "ws" + self._transport.url.removeprefix("http") + WEBSOCKET_PATH,
                self._transport.token,
                nursery=nursery,
                deadline_s=bounded(deadline_s, self._deadline_s),
                backoff=self._backoff,
                in_flight_most=in_flight_most,
                ping_interval_s=ping_interval_s,
                ssl_context=self._transport.ssl_context,
            )
            try:
                yield websocket
            except Exception as error:  # noqa: BLE001  raised again below: in here it would come out in a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _move(
        self, path: str, body: dict[str, Any], *, key: str | None, wait: bool, deadline_s: float | None
    ) -> Outcome:
        """Ask for something that moves money, until it is answered; always with the same key and body."""
        name = new_key() if key is None else key
        content = _encode(body)

        async def attempt(attempts: Attempts) -> Outcome:
            attempts.begin()
            answer = await self._transport.send(
                "POST", path, content, headers={"idempotency-key": name}, moves_money=True
            )
            return self._decode(answer, Told).outcome(name, is_replay=answer.is_replay)

        is_pending = _is_pending if wait else None
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
    ) -> Result:
        return await call(
            attempt,
            key=key,
            deadline_s=bounded(deadline_s, self._deadline_s),
            backoff=self._backoff,
            is_pending=is_pending,
        )

    def _decode(self, answer: Answer, kind: type[Result]) -> Result:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except msgspec.DecodeError:
            raise NotAnEngine(
                f"{self._transport.url} answered {answer.status}, but not like a transfer engine: check the address"
            ) from None


def _is_pending(outcome: Outcome) -> bool:
    return not outcome.is_final


def _segment(text: UUID | str) -> str:
    return quote(str(text), safe="")
