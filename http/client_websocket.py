"""A websocket client: many requests at once over one connection, which is made again whenever it breaks.

What was sent and has no answer when a connection breaks is sent again over the next one, in the same order and by the
same keys; subscriptions go on behind the last event that came. No call sees any of that, unless its deadline passes.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import msgspec
import trio

from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client_attempts import Attempts
from transfer_engine.http.client_batches import BATCH_MOST, Batch, send_batch
from transfer_engine.http.client_calls import bounded, call
from transfer_engine.http.client_channel import Channel
from transfer_engine.http.client_errors import ClientError, NotAnEngine, Refused
from transfer_engine.http.client_events import Heard, Subscribed, event_of
from transfer_engine.http.client_results import Balance, BatchResult, Outcome, Record, Transfer, new_key
from transfer_engine.http.client_subscriptions import Subscription
from transfer_engine.http.client_tokens import TokenSource
from transfer_engine.http.client_wire import BalancesAnswer, BatchAnswer, Entry, Told

PATH: Final = "/api/v1/ws"
IN_FLIGHT_MOST: Final = 512
EVENTS_WAITING_MOST: Final = 10_000
PING_INTERVAL_S: Final = 10.0
_RESUME_AGAIN_S: Final = 0.5


class WebSocketClient:
    """One connection to a server at a time; made by ``Client.websocket()``.

    May be used by any number of tasks at once; at most ``in_flight_most`` requests are under way, others wait in turn.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        nursery: trio.Nursery,
        deadline_s: float,
        backoff: Backoff,
        in_flight_most: int,
        ping_interval_s: float,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._nursery = nursery
        self._deadline_s = deadline_s
        self._backoff = backoff
        self._places = trio.Semaphore(in_flight_most)
        self._subscriptions: list[Subscription] = []
        self._channel = Channel(
            url,
            token,
            backoff=backoff,
            ping_interval_s=ping_interval_s,
            ssl_context=ssl_context,
            on_connected=self._resume_all,
            on_event=self._take_event,
        )
        nursery.start_soon(self._channel.run)

    def __repr__(self) -> str:
        return f"<WebSocketClient of {self._channel.url}: {self._channel.under_way} requests under way>"

    @property
    def connections(self) -> int:
        """How many connections have been made."""
        return self._channel.connections

    async def transfer(
        self,
        *,
        source: str,
        target: str,
        asset_id: int,
        amount: int,
        user_id: int | None = None,
        to_user_id: int | None = None,
        key: str | None = None,
        wait: bool = False,
        deadline_s: float | None = None,
    ) -> Outcome:
        """Move an amount (minor units) between two accounts; as ``Client.transfer``, whose errors it raises.

        Without ``user_id`` it is the token's own user's. Cancellation leaves the transfer as it is: not begun, under
        way or done; other calls go on.
        """
        item = Transfer(
            source=source,
            target=target,
            asset_id=asset_id,
            amount=amount,
            user_id=user_id,
            to_user_id=to_user_id,
            key=new_key() if key is None else key,
        )

        async def attempt(attempts: Attempts) -> Outcome:
            told: Told = await self._ask("transfer", item.keyed_body(), Told, attempts, moves_money=True)
            return told.outcome(item.key, is_replay=told.replayed)

        return await call(
            attempt,
            key=item.key,
            deadline_s=bounded(deadline_s, self._deadline_s),
            backoff=self._backoff,
            is_pending=(lambda outcome: not outcome.is_final) if wait else None,
        )

    async def transfer_many(
        self, transfers: Sequence[Transfer], *, wait: bool = False, deadline_s: float | None = None
    ) -> list[BatchResult]:
        """Move many amounts, in frames of up to 1,000; return what became of each, in their order.

        One that is refused does not keep the others. ``deadline_s`` is each frame's. Cancellation leaves each transfer
        as it is; ask again by the same keys.

        Raises:
            Refused, Unreachable: of a first frame nothing was taken.
        """
        results: list[BatchResult] = []
        for start in range(0, len(transfers), BATCH_MOST):
            batch = Batch(transfers[start : start + BATCH_MOST], self._backoff, waits=wait)

            async def send(items: Sequence[Transfer], noted: Batch = batch) -> Sequence[Entry]:
                body = {"transfers": [item.keyed_body() for item in items]}
                answer: BatchAnswer = await self._ask("batch", body, BatchAnswer, noted, moves_money=True)
                return answer.results

            results += await send_batch(batch, send, deadline_s=bounded(deadline_s, self._deadline_s))
        return results

    async def get(self, req_id: UUID | str, *, deadline_s: float | None = None) -> Record:
        """Return what is known of a transfer; raises as ``Client.get``. Cancellation leaves nothing behind."""
        record: Record = await self._read("get", {"req_id": str(req_id)}, Record, deadline_s)
        return record

    async def balances(self, user_id: int | None = None, *, deadline_s: float | None = None) -> list[Balance]:
        """Return a user's accounts, the token's own by default. Cancellation leaves nothing behind."""
        answer: BalancesAnswer = await self._read("balances", _user(user_id), BalancesAnswer, deadline_s)
        return answer.balances

    async def ping(self, *, deadline_s: float | None = None) -> None:
        """Return when the server has answered. Cancellation leaves nothing behind; raises NoAnswer."""
        await self._read("ping", {}, None, deadline_s)

    @asynccontextmanager
    async def subscribe(
        self, user_id: int | None = None, *, waiting_most: int = EVENTS_WAITING_MOST, deadline_s: float | None = None
    ) -> AsyncIterator[Subscription]:
        """Be told of a user's transfers and balances (the token's own by default), as an async iterator of events.

        It begins with a snapshot and goes on over any number of connections, behind the last event that came. Leaving
        the context ends it. One subscription a user at a time; ``waiting_most`` events may wait to be taken.

        Raises:
            NotFound, Refused: it is another user.
            NoAnswer: the server did not answer.
            ValueError: there is one already.
        """
        if any(each.user_id == user_id for each in self._subscriptions):
            raise ValueError(f"there is a subscription of user {user_id} already: use that one")
        subscription = Subscription(user_id, waiting_most=waiting_most, resume=self._resume)

        def on_answer(heard: Heard | ClientError) -> None:
            self._subscribed(subscription, heard)

        self._subscriptions.append(subscription)
        try:
            await self._read("subscribe", _user(user_id), Subscribed, deadline_s, on_answer=on_answer)
            yield subscription
        finally:
            self._subscriptions.remove(subscription)
            told = subscription.told_user_id
            if told is not None and all(each.told_user_id != told for each in self._subscriptions):
                self._channel.put("unsubscribe", _user(told), is_once=True)

    async def _read(
        self,
        op: str,
        body: dict[str, Any],
        kind: Any,
        deadline_s: float | None,
        *,
        on_answer: Callable[[Heard | ClientError], None] | None = None,
    ) -> Any:
        """Ask for something that may be repeated as it is."""

        async def attempt(attempts: Attempts) -> Any:
            return await self._ask(op, body, kind, attempts, moves_money=False, on_answer=on_answer)

        return await call(attempt, key=None, deadline_s=bounded(deadline_s, self._deadline_s), backoff=self._backoff)

    async def _ask(
        self,
        op: str,
        body: dict[str, Any],
        kind: Any,
        noted: Attempts | Batch,
        *,
        moves_money: bool,
        on_answer: Callable[[Heard | ClientError], None] | None = None,
    ) -> Any:
        """Send one request and return what its answer says; it is sent again over each connection until it has one."""
        answered = trio.Event()
        answers: list[Heard | ClientError] = []

        def take(answer: Heard | ClientError) -> None:
            if on_answer is not None:
                on_answer(answer)
            answers.append(answer)
            answered.set()

        async with self._places:
            request = self._channel.put(op, body, on_answer=take, on_sent=noted.begin, on_lost=noted.lose)
            try:
                await answered.wait()
            finally:
                if not answers:
                    noted.hint(self._channel.trouble)
                    self._channel.drop(request)
        return _decoded(answers[0], kind, op, moves_money=moves_money)

    # Subscriptions: all of it is called by the channel, or by who takes events.

    def _resume_all(self) -> None:
        """Go on with every subscription over a connection that was just made."""
        for subscription in self._subscriptions:
            if subscription.is_established:
                self._resume(subscription)

    def _resume(self, subscription: Subscription) -> None:
        """Ask for a subscription's events behind the last one that came."""
        subscription.is_established = False
        body = _user(subscription.user_id)
        if subscription.stream is not None and subscription.after is not None:
            body |= {"stream": subscription.stream, "after": subscription.after}

        def on_answer(heard: Heard | ClientError) -> None:
            self._subscribed(subscription, heard)

        def on_lost() -> None:
            subscription.is_established = True  # and so resumed over the next connection

        self._channel.put("subscribe", body, on_answer=on_answer, on_lost=on_lost, is_once=True)

    def _subscribed(self, subscription: Subscription, heard: Heard | ClientError) -> None:
        """Take the answer to a subscription: the first one, or one that was resumed."""
        is_first = subscription.stream is None
        try:
            told: Subscribed = _decoded(heard, Subscribed, "subscribe", moves_money=False)
        except Refused as refused:
            if is_first:
                return  # whoever waits for it raises it
            if not refused.retryable:
                subscription.end(refused)
                return
            self._nursery.start_soon(self._resume_later, subscription)
        except ClientError:
            if not is_first:
                self._nursery.start_soon(self._resume_later, subscription)
        else:
            subscription.begin(told)

    async def _resume_later(self, subscription: Subscription) -> None:
        await trio.sleep(_RESUME_AGAIN_S)
        if subscription in self._subscriptions:
            self._resume(subscription)

    def _take_event(self, heard: Heard, message: bytes) -> None:
        try:
            event = event_of(heard, message)
        except msgspec.DecodeError:
            return  # of a kind that this client does not know
        if event is None:
            return
        for subscription in self._subscriptions:
            if subscription.expects(event) and not subscription.put(event):
                self._resume(subscription)


def _decoded(answer: Heard | ClientError, kind: Any, op: str, *, moves_money: bool) -> Any:
    """Return what an answer says, or raise what it means."""
    if isinstance(answer, ClientError):
        raise answer
    if not answer.ok:
        if answer.error is None:
            raise NotAnEngine(f"the answer to {op} says neither yes nor no")
        raise answer.error.exception(moves_money=moves_money)
    if kind is None:
        return None
    try:
        return msgspec.msgpack.decode(answer.data, type=kind)
    except msgspec.DecodeError as error:
        raise NotAnEngine(f"the answer to {op} is something else: {error}") from None


def _user(user_id: int | None) -> dict[str, Any]:
    return {} if user_id is None else {"user_id": user_id}
