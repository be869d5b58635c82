"""A client of the engine for trio programs: typed, and safe to repeat.

    async with Client("http://127.0.0.1:8080", token=token) as client:
        outcome = await client.transfer(source="funding", target="trading", user_id=4001, asset_id=1, amount=1_000_000)

Every call that moves money has a key, given or made, and keeps it and its body over all attempts: whatever connections,
proxies and servers do meanwhile, nothing moves twice. What is certain is returned, or raised as a refusal; what is not
certain is never called a failure: it is a ``pending`` outcome, or :class:`OutcomeUnknown` with the key to repeat it by.

A verdict on a transfer that was taken (also ``failed``: too little money, say) is an :class:`Outcome`. What was refused
before it was taken is an exception.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
import trio

from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client_attempts import Attempts
from transfer_engine.http.client_batches import BATCH_MOST, Batch, send_batch
from transfer_engine.http.client_calls import bounded
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
from transfer_engine.http.client_events import BalanceChanged, Event, Snapshot, TransferChanged
from transfer_engine.http.client_requests import encode, segment
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
)
from transfer_engine.http.client_subscriptions import Subscription
from transfer_engine.http.client_tokens import Token
from transfer_engine.http.client_transport import Answer, InvalidUrl
from transfer_engine.http.client_user_requests import History, UserRequests
from transfer_engine.http.client_user_results import (
    AssetLimits,
    InternalTransfer,
    Limits,
    RateLimit,
    UserAccount,
    UserBalance,
)
from transfer_engine.http.client_websocket import (
    IN_FLIGHT_MOST,
    PING_INTERVAL_S,
    WebSocketClient,
)
from transfer_engine.http.client_websocket import (
    PATH as WEBSOCKET_PATH,
)
from transfer_engine.http.client_wire import AssetsAnswer, BalancesAnswer, Entry, FlatBatchAnswer, Told
from transfer_engine.schema.transfers import TransferStatus
from transfer_engine.schema.user_wire import UserStatus

__all__ = [
    "AssetInfo",
    "AssetLimits",
    "Balance",
    "BalanceChanged",
    "BatchResult",
    "Client",
    "ClientError",
    "Event",
    "Health",
    "History",
    "InternalTransfer",
    "InvalidUrl",
    "Limits",
    "NoAnswer",
    "NotAnEngine",
    "NotFound",
    "Outcome",
    "OutcomeUnknown",
    "RateLimit",
    "Readiness",
    "Record",
    "Refusal",
    "Refused",
    "Resolution",
    "ServerFault",
    "Snapshot",
    "Subscription",
    "Token",
    "Transfer",
    "TransferChanged",
    "TransferRefused",
    "TransferStatus",
    "Unknown",
    "Unreachable",
    "UserAccount",
    "UserBalance",
    "UserStatus",
    "WebSocketClient",
]

_RESOLVE_BACKOFF: Final = Backoff(first_ms=50, most_ms=100)


class Client(UserRequests):
    """One server, and who asks it; an async context manager, to be used by any number of tasks at once.

    Args:
        url: such as ``http://127.0.0.1:8080``.
        token: a bearer token, or a callable (plain or async) that returns one: it is asked at first, and again when the
            server does not accept the former one any more.
        deadline_s: how long a call tries, unless it says otherwise.
        answer_s: how long one attempt waits for its answer; longer than the server's own ``deadline_ms``.
        connections_most: connections at a time.
        backoff: how long to wait between attempts; a server's ``Retry-After`` comes on top of it.
        waits_for_server: whether a call tries again where there is nobody to connect to.
        ssl_context: for ``https``; by default the usual authorities.

    Raises:
        InvalidUrl: the URL can't be used.
    """

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
        return await self._move(
            "/api/v1/transfer", body, self._outcome, _is_final, key=key, wait=wait, deadline_s=deadline_s
        )

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
                body = encode({"transfers": [item.keyed_body() for item in items]})
                noted.begin()
                answer = await self._transport.send("POST", "/api/v1/transfers/batch", body, moves_money=True)
                flat = self._decode(answer, FlatBatchAnswer).results
                try:
                    return [each.entry() for each in flat]
                except ValueError as error:
                    raise NotAnEngine(f"a result of a batch is none: {error}") from None

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
        return await self._move(
            "/api/v1/admin/credits", body, self._outcome, _is_final, key=key, wait=wait, deadline_s=deadline_s
        )

    async def get(self, req_id: UUID | str, *, deadline_s: float | None = None) -> Record:
        """Return what is known of a transfer. Cancellation leaves nothing behind.

        Raises:
            NotFound: there is none of this identifier, or it is another user's.
            Refused: the identifier is none.
            NoAnswer: the server did not answer.
        """
        return await self._read(f"/api/v1/transfer/{segment(req_id)}", Record, deadline_s)

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
        path = f"/api/v1/admin/transfers/{segment(req_id)}/resolve"
        body = encode({"action": action})

        async def attempt(attempts: Attempts) -> Answer:
            attempts.begin()
            try:
                return await self._transport.send("POST", path, body)
            except Refused as refused:
                # The engine is at the transfer for moments, again and again: between them there is little time.
                raise type(refused)(msgspec.structs.replace(refused.refusal, retry_after_s=None)) from None

        answer = await self._call(attempt, key=None, deadline_s=deadline_s, backoff=_RESOLVE_BACKOFF)
        return self._decode(answer, Resolution)

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

    def _outcome(self, answer: Answer, key: str) -> Outcome:
        return self._decode(answer, Told).outcome(key, is_replay=answer.is_replay)


def _is_final(outcome: Outcome) -> bool:
    return outcome.is_final
