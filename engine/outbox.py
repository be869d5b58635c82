"""The outbox: who is to be told of which finished transfer, durable before anybody knows that it is finished.

A message is written in the same call as the transfer's last row, and before it: where the row is, the message is. It
lies in the journal, under a shard of the node's own, in the bucket of the logical clock. It needs no row of its own,
and no delete: the shard's mark says what was delivered, and a message that waits for long is written again in the
current bucket, so that it pins no old one. After a crash all that lies above the mark is delivered, once more or for
the first time.

In memory is what fits. When there is no more room, the log is left where it is from some sequence on, and read from
there once there is room again; until then the mark stays, too.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final

import msgspec
import trio

from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.endpoints import Endpoints
from transfer_engine.engine.leases import Lease
from transfer_engine.engine.outbox_limits import OutboxLimits, OutboxStatistics
from transfer_engine.engine.outbox_queues import Queues, Waiting
from transfer_engine.engine.outbox_unsettled import Unsettled
from transfer_engine.engine.records.protocol import (
    BUCKET_MS,
    OUTBOX_SHARDS,
    JournalBlob,
    Life,
    RecordStore,
    RecordsUnavailable,
)
from transfer_engine.schema.ids import SnowflakeGenerator
from transfer_engine.schema.transfers import TransferRecord
from transfer_engine.schema.webhooks import Endpoint, OutboxMessage, decode_messages, encode_messages

MESSAGES_IN_BLOB_MOST: Final = 512
"""Keeps a blob below 1 MiB: a message takes some 150 bytes, and at most 1,100."""

ERROR_CHARACTERS_MOST: Final = 200
"""Of a transfer's error that are told: a core may have answered anything."""

CARRY_AFTER_BUCKETS: Final = 6
"""A message that waits for so many buckets (a minute) is written again: after a crash no more than this is repeated."""

BLOBS_IN_WRITE_MOST: Final = 8
"""Bounds the memory of carrying many messages forward."""

CROWD_LEAST: Final = 1_000
"""Messages that wait for an endpoint which fails before it may be given up to make room for others."""

_SEQUENCE_BITS: Final = 40


class Entered(msgspec.Struct):
    """Messages on their way into the store."""

    bucket: int
    sequence: int
    """Of the last blob."""
    messages: list[OutboxMessage]
    blobs: list[JournalBlob]


class Outbox:
    """One engine's outbox.

    :meth:`enter`, :meth:`entered` and :meth:`abandoned` are the recorder's; :attr:`queues`, :meth:`delivered` and
    :meth:`failed` of whoever delivers; :meth:`sweep` a scanner's; :meth:`take_over` of who adopts.

    Args:
        life: whose shard it is.
        identifiers: the logical clock.
        store: where it is written.
        endpoints: who is to be told.
        lease: nothing is carried forward without it.
        alerts: told of faults.
        clock_ms: the wall clock (Unix ms).
        limits: its bounds.
    """

    def __init__(
        self,
        life: Life,
        identifiers: SnowflakeGenerator,
        store: RecordStore,
        endpoints: Endpoints,
        lease: Lease,
        alerts: Alerts,
        clock_ms: Callable[[], int],
        limits: OutboxLimits,
    ) -> None:
        self.queues = Queues()
        self.endpoints = endpoints
        self.limits = limits
        self.kick: Callable[[], None] = lambda: None
        """Asks for a sweep soon."""
        endpoints.on_change = self._endpoint_changed
        self._shard = OUTBOX_SHARDS + life.node
        self._identifiers = identifiers
        self._store = store
        self._lease = lease
        self._alerts = alerts
        self._clock_ms = clock_ms
        self._sequence = life.epoch << _SEQUENCE_BITS
        self._unsettled = Unsettled()
        self._is_begun = False
        self._doomed: dict[int, tuple[Endpoint, str]] = {}
        self._mark = 0
        self._refreshed_at = trio.current_time()
        self._delivered = self._failed = self._dropped = self._forwarded = 0

    def __repr__(self) -> str:
        return f"<Outbox shard {self._shard} {len(self.queues)} waiting, mark {self._mark}>"

    @property
    def current_bucket(self) -> int:
        """The bucket that an append goes to now."""
        return self._identifiers.advance() // BUCKET_MS

    @property
    def low_water_mark(self) -> int:
        """The lowest bucket that may hold a message that was not delivered."""
        lowest = self._unsettled.lowest_bucket
        return self.current_bucket if lowest is None else lowest

    def statistics(self) -> OutboxStatistics:
        """Return what the outbox holds, and did in this run."""
        return OutboxStatistics(
            endpoints=len(self.endpoints.enabled),
            disabled_endpoints=self.endpoints.disabled,
            waiting=len(self.queues),
            is_full=self._unsettled.unread is not None,
            delivered=self._delivered,
            failed_attempts=self._failed,
            dropped=self._dropped,
            carried_forward=self._forwarded,
            low_water_mark=self._mark,
        )

    # What the recorder does

    def tells(self, record: TransferRecord) -> bool:
        """Whether anybody is to be told of a transfer."""
        enabled = self.endpoints.enabled
        return record.user_id in enabled or record.target_user_id in enabled

    def enter(self, records: Iterable[TransferRecord]) -> Entered | None:
        """Return what to write before these last rows, or None where nobody is to be told.

        Call it before the write, and :meth:`entered` or :meth:`abandoned` after it: until then it counts as waiting.
        """
        enabled = self.endpoints.enabled
        if not enabled:
            return None
        messages: list[OutboxMessage] = []
        for record in records:
            user_id, target_user_id = record.user_id, record.target_user_id
            if user_id in enabled:
                messages.append(self._message(record, user_id))
            if target_user_id != user_id and target_user_id in enabled:
                messages.append(self._message(record, target_user_id))
        return self._enter(messages, self.current_bucket) if messages else None

    def entered(self, entered: Entered) -> None:
        """The messages are durable: have them delivered, in memory as long as there is room."""
        first = entered.blobs[0].sequence
        unsettled = self._unsettled
        unsettled.end(first)
        unsettled.is_certain(entered.messages)
        is_full = len(self.queues) + len(entered.messages) > self.limits.waiting_most
        if unsettled.unread is not None or is_full:
            unsettled.put_aside(entered.bucket, first, entered.sequence)
            return
        for message in entered.messages:
            self._load(message, entered.bucket)

    def abandoned(self, entered: Entered) -> None:
        """Whether the messages are durable is not known; nor is it of their rows.

        Where both are, nobody enters them again before the next life, which reads them; so they pin the mark until
        they are entered again, or nobody is to be told any more.
        """
        bucket = self._unsettled.end(entered.blobs[0].sequence)
        enabled = self.endpoints.enabled
        self._unsettled.doubt((message.key for message in entered.messages if message.to_user_id in enabled), bucket)

    def _message(self, record: TransferRecord, user_id: int) -> OutboxMessage:
        message = OutboxMessage.of(record, user_id, self._clock_ms())
        if len(message.error) > ERROR_CHARACTERS_MOST:
            message = msgspec.structs.replace(message, error=message.error[:ERROR_CHARACTERS_MOST] + "…")
        return message

    def _enter(self, messages: list[OutboxMessage], bucket: int) -> Entered:
        blobs = []
        for start in range(0, len(messages), MESSAGES_IN_BLOB_MOST):
            self._sequence += 1
            body = encode_messages(messages[start : start + MESSAGES_IN_BLOB_MOST])
            blobs.append(JournalBlob(shard=self._shard, bucket=bucket, sequence=self._sequence, body=body))
        self._unsettled.begin(blobs[0].sequence, bucket)
        return Entered(bucket, self._sequence, messages, blobs)

    def _load(self, message: OutboxMessage, bucket: int) -> None:
        """Have a durable message delivered, unless it waits already or nobody wants it."""
        user_id = message.to_user_id
        endpoint = self.endpoints.enabled.get(user_id)
        if endpoint is None or message in self.queues:
            return
        if self.queues.of_user(user_id) >= self.limits.endpoint_waiting_most:
            # It waits all the same: the endpoint's user may be about to change it, and then it stays enabled.
            self.give_up(endpoint, f"more than {self.limits.endpoint_waiting_most} messages waited for it")
        waiting = Waiting(message, bucket)
        rest_ms = min(message.due_at - self._clock_ms(), 3_600_000) if message.attempts else 0
        self.queues.add(waiting, rest_s=rest_ms / 1000)
        self._unsettled.load(bucket)

    async def take_over(self, messages: Sequence[OutboxMessage]) -> None:
        """Make messages of another outbox ours: durable in our shard, and on their way.

        Cancellation, or a crash, leaves it unknown whether they are durable here.

        Raises:
            RecordsUnavailable: likewise.
            LeaseLapsed: likewise: whoever adopts our shard perhaps does not find them.
        """
        wanted = [message for message in messages if message.to_user_id in self.endpoints.enabled]
        if not wanted:
            return
        self._lease.require()
        entered = self._enter(wanted, self.current_bucket)
        try:
            await self._store.write(entered.blobs, ())
            self._lease.require()
        except BaseException:
            self._unsettled.end(entered.blobs[0].sequence)  # they are where they were
            raise
        self.entered(entered)

    # What whoever delivers does

    def delivered(self, waiting: Waiting) -> None:
        """A message that was taken has arrived."""
        self._delivered += 1
        if self.queues.done(waiting):
            self._unsettled.unload(waiting.bucket)

    def failed(self, waiting: Waiting, rest_ms: int) -> None:
        """A message that was taken has not arrived, for sure or perhaps: it is tried again so much later."""
        self._failed += 1
        waiting.attempts += 1
        waiting.due_at = self._clock_ms() + rest_ms
        self.queues.rest(waiting, rest_ms / 1000)

    def give_up(self, endpoint: Endpoint, because: str) -> None:
        """Have an endpoint disabled, durably and soon; what waits for it is dropped then."""
        self._doomed[endpoint.user_id] = (endpoint, because)
        self.kick()

    def _endpoint_changed(self, user_id: int) -> None:
        if user_id in self.endpoints.enabled:
            self.queues.wake(user_id)
            return
        self._unsettled.forget_user(user_id)
        for waiting in self.queues.drop(user_id):
            self._unsettled.unload(waiting.bucket)
            self._dropped += 1

    # What happens from time to time

    async def sweep(self) -> None:
        """Look through what waits, and raise the mark; a store that does not answer ends it until the next time.

        Cancellation, or a crash, leaves at each of its waits: endpoints that are still enabled, and are given up again;
        messages in the store and not in memory, which the next life reads; messages in two buckets, of which the older
        one still counts; a mark that is lower than it could be.
        """
        try:
            if trio.current_time() - self._refreshed_at >= self.limits.refresh_ms / 1000:
                self._refreshed_at = trio.current_time()
                await self.endpoints.refresh()
            await self._disable()
            await self._read()
            await self._carry_forward()
            await self._raise_mark(self.low_water_mark)
        except RecordsUnavailable as error:
            self._alerts.warn("outbox_interrupted", error=str(error))

    async def close(self) -> None:
        """Say for the last time what was delivered. To be called when nothing is under way any more.

        What waits is written once more where the next life begins, so that only this is told again. Cancellation leaves
        it in two buckets, and the mark below both.
        """
        last_bucket = self._identifiers.ceiling_ms // BUCKET_MS
        try:
            if self._unsettled.unread is None:
                await self._forward([waiting for waiting in self.queues if waiting.bucket < last_bucket], last_bucket)
            lowest = self._unsettled.lowest_bucket
            await self._raise_mark(last_bucket if lowest is None else min(lowest, last_bucket))
        except RecordsUnavailable as error:
            self._alerts.warn("outbox_interrupted", error=str(error))

    async def _disable(self) -> None:
        for user_id, (endpoint, because) in list(self._doomed.items()):
            if self.endpoints.enabled.get(user_id) is endpoint:
                await self.endpoints.disable(endpoint, because)
                self._alerts.warn("webhook_endpoint_disabled", user_id=user_id, because=because)
            del self._doomed[user_id]

    async def _read(self) -> None:
        """Take what is in the store alone into memory, as much as there is room for."""
        unsettled = self._unsettled
        if not self._is_begun:
            unsettled.unread = (await self._store.low_water_mark(self._shard), 0)
            self._is_begun = True
        most = self.limits.waiting_most
        while unsettled.unread is not None and len(self.queues) <= most // 2:
            unread = unsettled.unread
            from_bucket, from_sequence = unread
            # What is on its way may land behind what is read: it is read the next time, and so is all after it.
            until = unsettled.first_in_flight(default=self._sequence + 1)
            position = (from_bucket, until)
            async with aclosing(self._store.read_journal(self._shard, from_bucket=from_bucket)) as blobs:
                async for blob in blobs:
                    if not from_sequence <= blob.sequence < until:
                        continue
                    if len(self.queues) >= most:
                        position = (blob.bucket, blob.sequence)
                        break
                    for message in self.messages(blob):
                        self._load(message, blob.bucket)
                    position = (blob.bucket, until)
            if unsettled.unread is not unread:
                continue  # what has landed meanwhile lies below
            is_read = unsettled.read_up_to(*position, is_all=position[1] == until)
            if not is_read and position[1] == until == unsettled.first_in_flight(default=0):
                break  # it waits for a write that has not been answered yet
        if unsettled.unread is not None and len(self.queues) > most // 2:
            user_id, waiting = self.queues.longest_failing()
            if waiting >= CROWD_LEAST and user_id in self.endpoints.enabled:
                self.give_up(self.endpoints.enabled[user_id], "it failed, and there was no room for what waited for it")

    async def _carry_forward(self) -> None:
        """Write again what has waited for long, so that it pins no old bucket."""
        if self._unsettled.unread is not None:
            return  # which pins the mark itself; and what is written now would be read twice
        oldest = self.current_bucket - CARRY_AFTER_BUCKETS
        lowest = self._unsettled.lowest_loaded
        if lowest is None or lowest >= oldest:
            return
        await self._forward([waiting for waiting in self.queues if waiting.bucket < oldest], self.current_bucket)

    async def _forward(self, waitings: Sequence[Waiting], bucket: int) -> None:
        """Write messages again, in a later bucket; without a lease not all of them.

        Whoever adopts this shard would not look for them where they are not yet.
        """
        for start in range(0, len(waitings), MESSAGES_IN_BLOB_MOST * BLOBS_IN_WRITE_MOST):
            part = waitings[start : start + MESSAGES_IN_BLOB_MOST * BLOBS_IN_WRITE_MOST]
            if not self._lease.is_held:
                return
            entered = self._enter(
                [
                    msgspec.structs.replace(waiting.message, attempts=waiting.attempts, due_at=waiting.due_at)
                    for waiting in part
                ],
                bucket,
            )
            try:
                await self._store.write(entered.blobs, ())
            finally:
                self._unsettled.end(entered.blobs[0].sequence)  # they still count where they were
            if self._lease.is_held:
                self._moved(part, bucket)

    def _moved(self, forwarded: Sequence[Waiting], bucket: int) -> None:
        still_waiting = set(self.queues)
        for waiting in forwarded:
            if waiting in still_waiting:
                self._unsettled.unload(waiting.bucket)
                waiting.bucket = bucket
                self._unsettled.load(bucket)
                self._forwarded += 1

    async def _raise_mark(self, mark: int) -> None:
        if mark > self._mark and self._lease.is_held:
            await self._store.raise_low_water_mark(self._shard, mark)
            self._mark = mark

    def messages(self, blob: JournalBlob) -> Sequence[OutboxMessage]:
        """Return what a blob holds; one that can't be read is an alert, and holds nothing."""
        try:
            return decode_messages(blob.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            place = f"shard {blob.shard}, bucket {blob.bucket}, sequence {blob.sequence}"
            self._alerts.critical("outbox_damaged", place=place, error=str(error))
            return ()
