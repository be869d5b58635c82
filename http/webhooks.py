"""Tells users' endpoints of their finished transfers: takes what the outbox holds, and says what came of it.

At least once: a message leaves the outbox when its endpoint has answered 2xx. One of each endpoint is under way at a
time, so its messages come in order; one that fails rests, longer each time, and those behind it wait, while all others
go on. Nothing here is durable. Cancellation, or a crash, at any wait leaves a message that may have arrived in the
outbox, and it is sent again.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec
import structlog
import trio

from transfer_engine.actors import Backoff
from transfer_engine.engine.outbox import Outbox
from transfer_engine.engine.outbox_queues import Waiting
from transfer_engine.engine.outcomes import Overloaded, RefusalCode
from transfer_engine.http.user_names import UserNames
from transfer_engine.http.webhook_network import GuardedNetwork, SystemResolver
from transfer_engine.http.webhook_sender import Delivery, WebhookSender
from transfer_engine.http.webhook_settings import WebhookSettings
from transfer_engine.schema.transfers import TransferRecord
from transfer_engine.schema.webhook_wire import FinishedTransfer, WebhookEvent
from transfer_engine.schema.webhooks import Endpoint, OutboxMessage

TESTS_MOST: Final = 4
"""Test messages under way at a time; more are refused."""

JITTER: Final = 0.2
"""Of a pause that is left to chance, so that what failed together does not come back together."""

_encode: Final = msgspec.json.Encoder().encode
_log: Final = structlog.stdlib.get_logger("transfer_engine.http")


class Sender(Protocol):
    """Sends one message once, see :class:`~transfer_engine.http.webhook_sender.WebhookSender`."""

    async def send(self, endpoint: Endpoint, message_id: str, body: bytes) -> Delivery:
        """Return what came of it; an exception is our own bug."""
        ...


class Attempts(msgspec.Struct):
    """What an endpoint did lately, since this process started. Times are Unix ms."""

    last_success_at: int | None = None
    last_failure_at: int | None = None
    last_failure: str | None = None


class Webhooks:
    """Delivers an outbox.

    Args:
        outbox: what is to be told.
        sender: how.
        names: how transfers are told.
        settings: pauses and bounds.
        clock_ms: the wall clock (Unix ms).
    """

    def __init__(
        self,
        outbox: Outbox,
        sender: Sender,
        names: UserNames,
        settings: WebhookSettings,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.outbox = outbox
        self._sender = sender
        self._names = names
        self._settings = settings
        self._clock_ms = clock_ms
        self._backoff = Backoff(first_ms=settings.retry_first_ms, most_ms=settings.retry_most_ms)
        self._attempts: dict[int, Attempts] = {}
        self._testing: set[int] = set()
        self._under_way = 0

    def __repr__(self) -> str:
        return f"<Webhooks {self._under_way} under way, {self.outbox!r}>"

    def attempts(self, user_id: int) -> Attempts:
        """Return what a user's endpoint did lately."""
        return self._attempts.get(user_id) or Attempts()

    def forget(self, user_id: int) -> None:
        """Forget what a user's endpoint did: he has another one, or none."""
        self._attempts.pop(user_id, None)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled; what is under way then stays in the outbox."""
        slots = trio.Semaphore(self._settings.concurrency)
        task_status.started()
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            while True:
                await slots.acquire()
                waiting = await self.outbox.queues.take()
                nursery.start_soon(self._deliver, waiting, slots)

    async def test(self, endpoint: Endpoint) -> Delivery:
        """Send a test message now, once, and return what came of it. Cancellation leaves it sent or not.

        Raises:
            Overloaded: one to this endpoint is under way, or too many to others.
        """
        user_id = endpoint.user_id
        if user_id in self._testing or len(self._testing) >= TESTS_MOST:
            what = "one to this endpoint is" if user_id in self._testing else f"{TESTS_MOST} are"
            raise Overloaded(RefusalCode.OVERLOADED, f"test messages: {what} under way, try again in some seconds")
        now_ms = self._clock_ms()
        event = WebhookEvent(type="webhook.test", timestamp=_iso(now_ms), data={"user_id": user_id})
        self._testing.add(user_id)
        try:
            delivery = await self._sender.send(endpoint, f"msg_test_{user_id}_{now_ms}", _encode(event))
        finally:
            self._testing.discard(user_id)
        self._note(user_id, delivery)
        return delivery

    def body(self, message: OutboxMessage) -> bytes:
        """Return the body that tells of a transfer: the same on every attempt."""
        record = TransferRecord(
            req_id=message.uuid,
            source=message.source,
            target=message.target,
            user_id=message.user_id,
            target_user_id=message.target_user_id,
            asset_id=message.asset_id,
            amount=message.amount,
            state=message.state,
            created_at=message.created_at,
            updated_at=message.updated_at,
            error=message.error,
            retry_count=0,
            fingerprint=0,
        )
        told = msgspec.structs.asdict(self._names.transfer(record))
        data = FinishedTransfer(**told, asset_id=message.asset_id, amount_minor=message.amount)
        return _encode(WebhookEvent(type="transfer.finished", timestamp=_iso(message.updated_at), data=data))

    async def _deliver(self, waiting: Waiting, slots: trio.Semaphore) -> None:
        self._under_way += 1
        try:
            await self._try(waiting)
        except Exception as error:  # noqa: BLE001  our bug: the message stays, the others go on
            _log.error("webhook failed", message=waiting.message.message_id, exc_info=error)
            self.outbox.failed(waiting, self._settings.retry_most_ms)
        finally:
            self._under_way -= 1
            slots.release()

    async def _try(self, waiting: Waiting) -> None:
        message = waiting.message
        user_id = message.to_user_id
        endpoint = self.outbox.endpoints.enabled.get(user_id)
        if endpoint is None:
            return  # its queue was dropped
        delivery = await self._sender.send(endpoint, message.message_id, self.body(message))
        if delivery.is_delivered:
            self._note(user_id, delivery)
            self.outbox.delivered(waiting)
            return
        if self.outbox.endpoints.enabled.get(user_id) is not endpoint:
            self.outbox.failed(waiting, 0)  # it was changed meanwhile: what the former one answered says nothing
            return
        self._note(user_id, delivery)
        _log.info(
            "webhook not delivered", message=message.message_id, attempt=waiting.attempts + 1, detail=delivery.detail
        )
        if delivery.is_gone:
            self.outbox.give_up(endpoint, "it answered 410 Gone")
        elif self._clock_ms() - message.entered_at >= self._settings.give_up_after_ms:
            hours = self._settings.give_up_after_ms / 3_600_000
            self.outbox.give_up(endpoint, f"a message could not be delivered for {hours:g} h: {delivery.detail}")
        self.outbox.failed(waiting, self._pause_ms(waiting.attempts + 1, delivery))

    def _pause_ms(self, attempt: int, delivery: Delivery) -> int:
        """Return how long to rest after so many failed attempts: what the endpoint asks for counts, within bounds."""
        pause_ms = self._backoff.ceiling_ms(attempt)
        if delivery.retry_after_s is not None:
            pause_ms = min(max(pause_ms, int(delivery.retry_after_s * 1000)), self._settings.retry_most_ms)
        return int(pause_ms * (1 - JITTER + JITTER * self._backoff.random()))

    def _note(self, user_id: int, delivery: Delivery) -> None:
        noted = self._attempts.setdefault(user_id, Attempts())
        if delivery.is_delivered:
            noted.last_success_at = self._clock_ms()
        else:
            noted.last_failure_at = self._clock_ms()
            noted.last_failure = delivery.detail


@asynccontextmanager
async def running_webhooks(
    outbox: Outbox, settings: WebhookSettings, names: UserNames, version: str
) -> AsyncIterator[Webhooks]:
    """Deliver an outbox for as long as the context lasts; what is under way at its end stays in the outbox."""
    network = GuardedNetwork(
        SystemResolver(settings.concurrency), allow_private_addresses=settings.allow_private_addresses
    )
    sender = WebhookSender(
        network,
        timeout_ms=settings.timeout_ms,
        connections_most=settings.concurrency + TESTS_MOST,
        allow_private_addresses=settings.allow_private_addresses,
        user_agent=f"transfer-engine/{version}",
    )
    webhooks = Webhooks(outbox, sender, names, settings)
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            await nursery.start(webhooks.run)
            yield webhooks
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await sender.aclose()


def _iso(unix_ms: int) -> str:
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
