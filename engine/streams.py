"""Streams: what happens to a user's transfers and balances, told to those who subscribe, in one gapless numbering.

A stream exists while somebody subscribes to its user, and for a while after that, so that a client that was cut off
may go on where it was. It belongs to this run of the engine: another engine's, or a former run's, is unknown here, and
whoever asks for it begins anew, with a snapshot.

Transfers are told when a state of theirs is durable. Balances are read from the ledger by one actor, some hundreds of
users at a time, after what moved them: many transfers of a busy user make one event for each account, of its value
now. All reads go one after the other, snapshots' too: nothing that is told of an account is older than what was told
of it before. While the ledger does not answer transfers are told all the same, and balances follow.

Accounts that lie in a core are not read: cores have no ledger to be asked for hundreds of users.
"""

import secrets
from collections.abc import Iterable
from uuid import UUID

import msgspec
import trio
from tigerbeetle import Account

from transfer_engine.actors import Backoff
from transfer_engine.engine.admission import USER_ID_MAX
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.balances import balance_of, held_in
from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX, Ledger, LedgerUnavailable
from transfer_engine.engine.open_transfers import OpenTransfer, OpenTransfers
from transfer_engine.engine.outcomes import Balance, InvalidTransfer, Overloaded, RefusalCode, Refused, TransferOutcome
from transfer_engine.engine.services.registry import ServiceKind, ServiceRegistry
from transfer_engine.engine.stream_rings import OnMessage, Ring, StreamEvent, StreamSnapshot
from transfer_engine.engine.stream_settings import StreamSettings
from transfer_engine.engine.user_streams import Subscription, UserStream
from transfer_engine.schema.ids import is_keyed
from transfer_engine.schema.transfers import TransferRecord

_NOTHING = (0, 0)
"""What an account holds that does not exist yet."""

_UNLIKE = (-1, -1)
"""What is known of an account of which subscribers were told different things: whatever is read next is told."""


class StreamsStatistics(msgspec.Struct, frozen=True):
    """What the streams are doing and have done in this run."""

    streams: int
    subscriptions: int
    retained: int
    """Streams that nobody subscribes to now."""
    waiting: int
    """Streams whose balances are to be read."""
    events: int
    snapshots: int
    reads: int
    """Look-ups of the ledger that were answered."""
    failed_reads: int


class Streams:
    """All streams of an engine, and the actor that reads the balances for them.

    Args:
        ledger: where balances are.
        registry: whose accounts.
        asset_ids: the assets that a user may hold.
        open_transfers: those under way.
        alerts: told of faults of subscribers, and of the ledger.
        settings: their bounds.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        registry: ServiceRegistry,
        asset_ids: Iterable[int],
        open_transfers: OpenTransfers,
        alerts: Alerts,
        settings: StreamSettings,
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._asset_ids = tuple(asset_ids)
        self._open_transfers = open_transfers
        self._alerts = alerts
        self._settings = settings
        self._run_name = secrets.token_hex(8)
        self._made = 0
        self._by_user: dict[int, UserStream] = {}
        self._left: dict[UserStream, float] = {}
        """Those that nobody subscribes to, by when they are dropped, the first one first."""
        self._to_read: dict[UserStream, None] = {}
        self._bytes = 0
        """What the events of all streams take, more or less."""
        self._wake = trio.Event()
        self._backoff = Backoff(first_ms=50, most_ms=5_000)
        self._events = self._snapshots = self._reads = self._failed_reads = 0

    def __repr__(self) -> str:
        return f"<Streams of {len(self._by_user)} users, {len(self._to_read)} to be read>"

    # Subscribing.

    def subscribe(
        self, user_id: int, on_message: OnMessage, *, stream: str | None = None, after: int | None = None
    ) -> Subscription:
        """Have a user's events told; see :meth:`transfer_engine.engine.Engine.subscribe`."""
        if type(user_id) is not int or not 1 <= user_id <= USER_ID_MAX:
            raise InvalidTransfer(
                RefusalCode.INVALID_USER_ID, f"user_id must be an integer from 1 to {USER_ID_MAX}", field="user_id"
            )
        found = self._by_user.get(user_id)
        if found is None:
            found = self._new_stream(user_id)
        elif len(found.live) + len(found.waiting) >= self._settings.subscriptions_most:
            raise Overloaded(RefusalCode.OVERLOADED, f"user {user_id} is subscribed to too often: try again later")
        self._left.pop(found, None)
        missed = None
        if stream == found.ring.stream_id and after is not None and found.known is not None:
            missed = found.ring.after(after)
        subscription = Subscription(found, on_message, missed)
        if missed is not None:
            found.live[subscription] = None
        else:
            found.waiting[subscription] = None
            self._read_soon(found)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Tell nothing more; a second time does nothing."""
        stream = subscription.stream
        stream.live.pop(subscription, None)
        stream.waiting.pop(subscription, None)
        if not stream.is_wanted and self._by_user.get(stream.user_id) is stream:
            self._left.setdefault(stream, trio.current_time() + self._settings.retention_ms / 1_000)
            self._wake.set()

    def statistics(self) -> StreamsStatistics:
        """Return what the streams are doing."""
        return StreamsStatistics(
            streams=len(self._by_user),
            subscriptions=sum(len(stream.live) + len(stream.waiting) for stream in self._by_user.values()),
            retained=len(self._left),
            waiting=len(self._to_read),
            events=self._events,
            snapshots=self._snapshots,
            reads=self._reads,
            failed_reads=self._failed_reads,
        )

    # Being told, by who makes states durable. It costs two look-ups where nobody subscribes, and never raises.

    def note(self, transfer: OpenTransfer) -> None:
        """Tell a state of a transfer that is durable now."""
        if self._by_user:
            intent = transfer.intent
            source_stream = self._by_user.get(intent.user_id)
            target_stream = self._by_user.get(intent.target_user_id)
            if source_stream is not None or target_stream is not None:
                try:
                    self._note(transfer, source_stream, target_stream)
                except Exception as error:  # noqa: BLE001  whoever ends transfers must not be ended by who listens
                    self._alerts.critical("stream_failed", transfer=transfer, error=repr(error), exc_info=error)

    def note_closed(self, transfer: OpenTransfer, answer: TransferOutcome | Refused) -> None:
        """Tell the end of a transfer whose last row is another one's, if it was ever told that it is under way.

        One that was refused is none; one that had ended before it was asked for again was told then.
        """
        if self._by_user:
            try:
                self._note_closed(transfer, answer)
            except Exception as error:  # noqa: BLE001  as above
                self._alerts.critical("stream_failed", transfer=transfer, error=repr(error), exc_info=error)

    def _note_closed(self, transfer: OpenTransfer, answer: TransferOutcome | Refused) -> None:
        for user_id in {transfer.intent.user_id, transfer.intent.target_user_id}:
            stream = self._by_user.get(user_id)
            if stream is None:
                continue
            was_told = transfer.req_id in stream.open
            stream.open.discard(transfer.req_id)
            if isinstance(answer, TransferOutcome) and (was_told or transfer.is_recovered):
                record = msgspec.structs.replace(
                    transfer.record(),
                    state=answer.state,
                    error=answer.message or "",
                    created_at=answer.created_at or transfer.created_at,
                    updated_at=answer.updated_at or transfer.updated_at,
                )
                self._tell_transfer(stream, transfer, record)

    def _note(self, transfer: OpenTransfer, source: UserStream | None, target: UserStream | None) -> None:
        record = transfer.record()
        if source is not None:
            self._tell_transfer(source, transfer, record)
        if target is not None and target is not source:
            self._tell_transfer(target, transfer, record)

    def _tell_transfer(self, stream: UserStream, transfer: OpenTransfer, record: TransferRecord) -> None:
        if record.state.is_terminal:
            stream.open.discard(transfer.req_id)
        else:
            stream.open.add(transfer.req_id)
        self._publish(stream, record.req_id, record)
        for service, user_id in ((transfer.source, record.user_id), (transfer.target, record.target_user_id)):
            if service.kind is ServiceKind.WALLET and user_id == stream.user_id:
                stream.changed[service.account_id(user_id, record.asset_id)] = record.req_id
        self._read_soon(stream)

    def _publish(self, stream: UserStream, req_id: UUID, what: TransferRecord | Balance) -> None:
        ring = stream.ring
        before = ring.bytes
        event = ring.append(req_id, what)
        if self._bytes + ring.bytes - before > self._settings.all_bytes_most:
            ring.trim(self._settings.all_bytes_most // len(self._by_user))
        self._bytes += ring.bytes - before
        self._events += 1
        for subscription in tuple(stream.live):
            if subscription in stream.live:  # nobody before him had him leave
                self._hand_over(subscription, event)

    def _hand_over(self, subscription: Subscription, message: StreamEvent | StreamSnapshot) -> None:
        try:
            subscription.tell(message)
        except Exception as error:  # noqa: BLE001  a subscriber's fault is not the engine's
            self._alerts.critical("subscriber_failed", subscription=repr(subscription), error=repr(error))
            self.unsubscribe(subscription)

    # Reading balances.

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read what is to be read until cancelled; what was not told then is read by the next run."""
        task_status.started()
        failures = 0
        while True:
            await self._until_work()
            group = self._take_group()
            if not group:
                continue
            try:
                await self._read(group)
            except LedgerUnavailable as error:
                failures += 1
                self._failed_reads += 1
                self._alerts.warn("balances_not_read", streams=len(group), error=str(error), attempt=failures)
                await self._backoff.sleep(failures)
            else:
                failures = 0
                await trio.sleep(self._settings.read_interval_ms / 1_000)

    async def _until_work(self) -> None:
        """Wait until there is something to read; drop what was retained for long enough meanwhile."""
        while not self._to_read:
            self._wake = trio.Event()
            first = next(iter(self._left.values()), None)
            with trio.CancelScope() as scope:
                if first is not None:
                    scope.deadline = first
                await self._wake.wait()
            self._drop_retained(trio.current_time())
        self._drop_retained(trio.current_time())

    def _drop_retained(self, now: float) -> None:
        while self._left:
            stream, until = next(iter(self._left.items()))
            if until > now:
                break
            self._drop(stream)

    def _drop(self, stream: UserStream) -> None:
        self._left.pop(stream, None)
        self._to_read.pop(stream, None)
        del self._by_user[stream.user_id]
        self._bytes -= stream.ring.bytes

    def _take_group(self) -> dict[UserStream, dict[int, UUID]]:
        """Take streams to be read, with what has changed in them."""
        group: dict[UserStream, dict[int, UUID]] = {}
        room = BATCH_EVENTS_MAX
        accounts_of_one = len(self._registry.wallets) * len(self._asset_ids)
        while (
            self._to_read and len(group) < self._settings.users_in_read_most and (not group or room >= accounts_of_one)
        ):
            stream = next(iter(self._to_read))
            del self._to_read[stream]
            if stream.known is None and not stream.waiting:
                stream.changed.clear()  # nobody was told anything yet: the first snapshot will hold it
                continue
            group[stream], stream.changed = stream.changed, {}
            room -= accounts_of_one if stream.waiting else len(group[stream])
        return group

    async def _read(self, group: dict[UserStream, dict[int, UUID]]) -> None:
        """Read a group's accounts, and tell what has changed.

        Cancellation, and a ledger that does not answer, leave it to be read again.
        """
        wanted: dict[UserStream, tuple[int, ...]] = {}
        # Who comes while the ledger is asked gets his snapshot from the next read: this one may not have all accounts.
        waiting = {stream: tuple(stream.waiting) for stream in group}
        for stream, changed in group.items():
            wanted[stream] = self._account_ids(stream.user_id) if waiting[stream] else tuple(changed)
        try:
            accounts = await self._look_up([account_id for ids in wanted.values() for account_id in ids])
        except BaseException:
            for stream, changed in group.items():
                if self._by_user.get(stream.user_id) is stream:
                    stream.changed = {**changed, **stream.changed}
                    self._read_soon(stream)
            raise
        self._reads += 1
        for stream, changed in group.items():
            held = {
                account_id: held_in(accounts[account_id]) for account_id in wanted[stream] if account_id in accounts
            }
            self._tell_balances(stream, held, changed)
            if waiting[stream]:
                self._tell_snapshot(stream, held, waiting[stream])
            if stream.waiting:
                self._read_soon(stream)

    async def _look_up(self, account_ids: list[int]) -> dict[int, Account]:
        found = {}
        for start in range(0, len(account_ids), BATCH_EVENTS_MAX):
            for account in await self._ledger.lookup_accounts(account_ids[start : start + BATCH_EVENTS_MAX]):
                found[account.id] = account
        return found

    def _tell_balances(self, stream: UserStream, held: dict[int, tuple[int, int]], changed: dict[int, UUID]) -> None:
        """Tell what accounts hold that a transfer has touched, where that differs from what was told before.

        What differs without a transfer that was told is told when that is: it then has its cause.
        """
        known = stream.known
        if known is None:
            stream.known = held
            return
        for account_id, req_id in changed.items():
            holds = held.get(account_id)
            if holds is not None and known.get(account_id, _NOTHING) != holds:
                known[account_id] = holds
                self._publish(stream, req_id, balance_of(account_id, holds, self._registry))

    def _tell_snapshot(
        self, stream: UserStream, held: dict[int, tuple[int, int]], waiting: tuple[Subscription, ...]
    ) -> None:
        transfers = [
            transfer
            for transfer in self._open_transfers.of_user(stream.user_id)
            # A key that was sent again may be another body's, or have ended long ago: the ledger has not said yet. And
            # what has left no trace may yet be turned away.
            if transfer.owns_key or (transfer.has_trace and not is_keyed(transfer.req_id))
        ]
        for account_id, holds in held.items():
            if stream.known is not None and stream.known.get(account_id) != holds:
                stream.known[account_id] = _UNLIKE
        snapshot = StreamSnapshot(
            stream=stream.ring.stream_id,
            seq=stream.ring.seq,
            user_id=stream.user_id,
            balances=[balance_of(account_id, holds, self._registry) for account_id, holds in held.items()],
            transfers=[transfer.record() for transfer in transfers],
        )
        stream.open.update(transfer.req_id for transfer in transfers)
        for subscription in waiting:
            if subscription in stream.waiting:  # he has not left meanwhile
                del stream.waiting[subscription]
                stream.live[subscription] = None
                self._snapshots += 1
                self._hand_over(subscription, snapshot)

    def _account_ids(self, user_id: int) -> tuple[int, ...]:
        return tuple(
            wallet.account_id(user_id, asset_id) for wallet in self._registry.wallets for asset_id in self._asset_ids
        )

    def _read_soon(self, stream: UserStream) -> None:
        self._to_read[stream] = None
        self._wake.set()

    def _new_stream(self, user_id: int) -> UserStream:
        settings = self._settings
        if len(self._by_user) >= settings.streams_most:
            if not self._left:
                raise Overloaded(
                    RefusalCode.OVERLOADED, f"{len(self._by_user)} users are subscribed to: try again later"
                )
            self._drop(next(iter(self._left)))
        self._made += 1
        ring = Ring(f"{self._run_name}.{self._made}", events_most=settings.events_most, bytes_most=settings.bytes_most)
        stream = self._by_user[user_id] = UserStream(user_id, ring)
        return stream
