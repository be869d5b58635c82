"""The production ledger: a TigerBeetle cluster, through its client's own bindings, for trio.

One session is shared by all callers; it has one request on its way at a time, so ``create_transfers`` calls are applied
in the order in which they were made. Reads do not wait behind writes that wait for their turn.

The client never gives a request up: deadlines are ours, and a request that was not answered in time stays with the
client and may be applied at any later moment. That is why its outcome is unknown, never failed, and why a request that
is asked again while its former self is still under way joins that one: an outage never piles up copies.

This file owns turns, deadlines and sessions; the bytes are ``packing``'s, the C memory is ``tigerbeetle_session``'s.
"""

import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
import trio
from tigerbeetle import (
    Account,
    AccountBalance,
    AccountFilter,
    CreateAccountResult,
    CreateTransferResult,
    Operation,
    PacketStatus,
    QueryFilter,
    Transfer,
)

from transfer_engine.actors import Backoff
from transfer_engine.engine.ledger import packing
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.ledger.tigerbeetle_addresses import parse_addresses, resolve_addresses
from transfer_engine.engine.ledger.tigerbeetle_session import CREATE_ACCOUNTS, CREATE_TRANSFERS, Packet, Session

_log: Final = structlog.stdlib.get_logger("transfer_engine.ledger")

_OK: Final = int(PacketStatus.OK)

_SESSION_ENDS: Final[Mapping[int, str]] = {
    PacketStatus.CLIENT_EVICTED: (
        "the session was evicted, as happens when more than 64 clients use one cluster; "
        "run fewer engines and tools against it"
    ),
    PacketStatus.CLIENT_RELEASE_TOO_LOW: (
        "the cluster is too new for this client: upgrade the `tigerbeetle` package to the release of the replicas"
    ),
    PacketStatus.CLIENT_RELEASE_TOO_HIGH: (
        "the cluster is too old for this client: upgrade the replicas, or install the `tigerbeetle` package of their "
        "release"
    ),
    PacketStatus.CLIENT_SHUTDOWN: "the session is closed",
}
"""Why a session ended, by the status that its packets are completed with."""

_REFUSALS: Final[Mapping[int, str]] = {
    PacketStatus.TOO_MUCH_DATA: (
        "the cluster takes smaller requests than this; start its replicas without a lower `--limit-request` than 1MiB"
    ),
    PacketStatus.INVALID_OPERATION: "the client does not know the operation; install a supported `tigerbeetle` package",
    PacketStatus.INVALID_DATA_SIZE: "the client refused the request's size; install a supported `tigerbeetle` package",
}
"""Why the client did not send a packet, by its status: it was certainly not applied."""


@dataclass(frozen=True, slots=True)
class TigerBeetleStatistics:
    """What a ledger of this kind did so far, and what it holds now."""

    in_flight: int
    """Requests that the client holds: sent to the cluster, or about to be."""
    waiting: int
    """Requests that wait for room in the client."""
    unclaimed: int
    """Of those in flight: whose caller gave up. Their outcome is unknown until they are answered."""
    sent: int
    completed: int
    events: int
    """Events of all requests sent."""
    joined: int
    """Requests that joined an earlier copy of themselves instead of being sent."""
    timeouts: int
    sessions_lost: int
    """Sessions that the cluster ended: evicted, or of a wrong release. Each was followed by another."""


@asynccontextmanager
async def open_tigerbeetle_ledger(
    *, cluster_id: int, addresses: Sequence[str], timeout_ms: int, concurrency: int = 32, close_ms: int = 2_000
) -> AsyncIterator["TigerBeetleLedger"]:
    """Open a ledger on this cluster; end its session at the end, waiting ``close_ms`` for that at most.

    ``addresses`` are the replicas' in their order, ``host:port`` each, or a port of this machine. Names are resolved
    once for each session. ``timeout_ms`` is how long a request may take before it counts as unknown; ``concurrency``
    how many requests the client may hold, answered or not.

    A cluster that is not there does not hinder opening: requests raise :class:`LedgerUnavailable` until it answers.
    So does opening itself if a name can't be resolved, or if this machine has no room for another client; trying
    again is the caller's. Raises :class:`ValueError`, naming the setting, for what can never work. Cancellation while
    it opens leaves nothing open.
    """
    ledger = TigerBeetleLedger(
        cluster_id=cluster_id,
        addresses=addresses,
        timeout_ms=timeout_ms,
        concurrency=concurrency,
        close_ms=close_ms,
    )
    try:
        await ledger.connect()
        yield ledger
    finally:
        await ledger.aclose()


class TigerBeetleLedger:
    """A :class:`~transfer_engine.engine.ledger.protocol.Ledger` in a cluster; made by :func:`open_tigerbeetle_ledger`.

    A call that is cancelled, or not answered in time, leaves its request where it is: one that still waited for room
    is taken back and was not sent; one within the client may be applied at any time. Its outcome is found by its ids.
    A request that the client answers with an error is not applied, unless its session ended: then it is unknown.
    """

    def __init__(
        self, *, cluster_id: int, addresses: Sequence[str], timeout_ms: int, concurrency: int, close_ms: int
    ) -> None:
        if not 0 <= cluster_id < 1 << 128:
            raise ValueError(
                f"tigerbeetle.cluster_id is {cluster_id}: give the number that its replicas were formatted with"
            )
        if timeout_ms < 1 or concurrency < 1 or close_ms < 0:
            raise ValueError(
                f"tigerbeetle.timeout_ms is {timeout_ms}, .concurrency {concurrency}, .close_ms {close_ms}: "
                "give at least 1, 1 and 0"
            )
        self._cluster_id = cluster_id
        self._addresses = parse_addresses(addresses)
        self._timeout_ms = timeout_ms
        self._concurrency = concurrency
        self._close_ms = close_ms
        self._place = f"TigerBeetle cluster {cluster_id} at {','.join(map(str, self._addresses))}"
        self._session: Session | None = None
        self._waiting: deque[Packet] = deque()
        self._unclaimed: list[Packet] = []
        self._backoff = Backoff(first_ms=100, most_ms=30_000)
        self._connecting = trio.Lock()
        self._losses_in_a_row = 0
        self._last_loss = ""
        self._next_session_at = 0.0
        self._closing = False
        self._sent = self._completed = self._events = self._joined = self._timeouts = self._sessions_lost = 0

    def __repr__(self) -> str:
        return f"<TigerBeetleLedger {self._place} {self.statistics()}>"

    def statistics(self) -> TigerBeetleStatistics:
        """Return the counters of this moment."""
        return TigerBeetleStatistics(
            in_flight=len(self._session.packets) if self._session else 0,
            waiting=len(self._waiting),
            unclaimed=len(self._unclaimed),
            sent=self._sent,
            completed=self._completed,
            events=self._events,
            joined=self._joined,
            timeouts=self._timeouts,
            sessions_lost=self._sessions_lost,
        )

    async def create_accounts(self, accounts: Sequence[Account]) -> list[CreateAccountResult]:
        """See :meth:`Ledger.create_accounts`."""
        reply = await self._ask(CREATE_ACCOUNTS, packing.pack_accounts(accounts), len(accounts))
        return packing.unpack_account_results(reply)

    async def create_transfers(self, transfers: Sequence[Transfer]) -> list[CreateTransferResult]:
        """See :meth:`Ledger.create_transfers`."""
        reply = await self._ask(CREATE_TRANSFERS, packing.pack_transfers(transfers), len(transfers))
        return packing.unpack_transfer_results(reply)

    async def lookup_accounts(self, account_ids: Sequence[int]) -> list[Account]:
        """See :meth:`Ledger.lookup_accounts`."""
        body = packing.pack_ids(account_ids)
        return packing.unpack_accounts(await self._ask(Operation.LOOKUP_ACCOUNTS, body, len(account_ids)))

    async def lookup_transfers(self, transfer_ids: Sequence[int]) -> list[Transfer]:
        """See :meth:`Ledger.lookup_transfers`."""
        body = packing.pack_ids(transfer_ids)
        return packing.unpack_transfers(await self._ask(Operation.LOOKUP_TRANSFERS, body, len(transfer_ids)))

    async def get_account_transfers(self, account_filter: AccountFilter) -> list[Transfer]:
        """See :meth:`Ledger.get_account_transfers`."""
        body = packing.pack_account_filter(account_filter)
        return packing.unpack_transfers(await self._ask(Operation.GET_ACCOUNT_TRANSFERS, body, 1))

    async def get_account_balances(self, account_filter: AccountFilter) -> list[AccountBalance]:
        """See :meth:`Ledger.get_account_balances`."""
        body = packing.pack_account_filter(account_filter)
        return packing.unpack_balances(await self._ask(Operation.GET_ACCOUNT_BALANCES, body, 1))

    async def query_accounts(self, query_filter: QueryFilter) -> list[Account]:
        """See :meth:`Ledger.query_accounts`."""
        body = packing.pack_query_filter(query_filter)
        return packing.unpack_accounts(await self._ask(Operation.QUERY_ACCOUNTS, body, 1))

    async def query_transfers(self, query_filter: QueryFilter) -> list[Transfer]:
        """See :meth:`Ledger.query_transfers`."""
        body = packing.pack_query_filter(query_filter)
        return packing.unpack_transfers(await self._ask(Operation.QUERY_TRANSFERS, body, 1))

    async def connect(self) -> None:
        """Open a session unless there is one. Cancellation leaves none opened. Raises :class:`LedgerUnavailable`."""
        async with self._connecting:
            if self._session is not None:
                return
            self._require_open()
            wait_s = self._next_session_at - trio.current_time()
            if wait_s > 0:
                raise LedgerUnavailable(
                    f"{self._place}: {self._last_loss}; the request was not sent, "
                    f"the next session opens in {wait_s * 1000:.0f} ms"
                )
            addresses = await resolve_addresses(self._addresses)
            self._require_open()
            self._session = Session(
                self._cluster_id,
                addresses,
                packets_max=self._concurrency,
                on_answered=self._on_answered,
                on_drained=self._hand_over,
            )

    async def aclose(self) -> None:
        """End the session; requests under way raise :class:`LedgerUnavailable`, and so do later ones.

        Its caller's cancellation does not interrupt it: it takes ``close_ms`` at most. A client that can't end by
        then is left to its thread, which does not keep the process alive.
        """
        self._closing = True
        session, self._session = self._session, None
        self._fail_waiting(f"{self._place}: the ledger was closed; the request was not sent")
        if session is None:
            return
        with trio.move_on_after(self._close_ms / 1000, shield=True) as scope:
            await trio.to_thread.run_sync(session.close, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
        if scope.cancelled_caught:
            _log.warning("tigerbeetle_close_abandoned", ledger=self._place, after_ms=self._close_ms)
            for packet in list(session.packets.values()):
                self._finish(packet, f"{self._place}: the ledger was closed; the outcome is unknown")
        session.drain()

    async def _ask(self, operation: int, body: bytearray, events: int) -> bytes:
        self._require_open()
        if not events:
            await trio.lowlevel.checkpoint()
            return b""
        packet: Packet | None = None
        with trio.move_on_after(self._timeout_ms / 1000):
            if self._unclaimed and (packet := self._take_unclaimed(operation, body)) is not None:
                self._joined += 1
                await self._wait(packet)
                if operation in (CREATE_ACCOUNTS, CREATE_TRANSFERS):
                    return _reply(packet)
                # It may have been read before others wrote what its asker now knows of: read again.
                packet = None
            if self._session is None:
                await self.connect()
            packet = Packet(operation, body, events)
            self._waiting.append(packet)
            self._hand_over()
            await self._wait(packet)
            return _reply(packet)
        self._timeouts += 1
        was_sent = packet is not None and packet.is_sent
        raise LedgerUnavailable(
            f"{self._place}: no answer within {self._timeout_ms} ms, "
            f"{'the outcome is unknown' if was_sent else 'the request was not sent'}; check that the replicas run and "
            "that tigerbeetle.addresses and tigerbeetle.cluster_id are theirs"
        )

    async def _wait(self, packet: Packet) -> None:
        """Return once the packet is answered. Cancellation leaves it unclaimed, or takes it back if it was not sent."""
        if packet.status is not None or packet.failure:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        packet.task = trio.lowlevel.current_task()

        def give_up(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            packet.task = None
            if packet.is_sent:
                self._unclaimed.append(packet)
            else:
                self._waiting.remove(packet)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    def _take_unclaimed(self, operation: int, body: bytearray) -> Packet | None:
        for index, packet in enumerate(self._unclaimed):
            if packet.operation == operation and packet.body == body:
                return self._unclaimed.pop(index)
        return None

    # An interrupt between handing a packet over and forgetting that it waits would hand it over twice.
    @trio.lowlevel.enable_ki_protection
    def _hand_over(self) -> None:
        """Hand to the client what waits, as far as there is room: first in, first out among those of an operation."""
        held_up: set[int] = set()
        for packet in list(self._waiting):
            if self._session is None or self._session.is_full:
                return
            if packet.operation in held_up:
                continue
            if not self._session.keeps_order(packet):
                held_up.add(packet.operation)
                continue
            if not self._session.submit(packet):
                self._lose_session(self._session, PacketStatus.CLIENT_EVICTED)
                return
            self._waiting.remove(packet)
            self._sent += 1
            self._events += packet.events

    def _on_answered(self, session: Session, packet: Packet) -> None:
        self._completed += 1
        status = packet.status or _OK
        if status == _OK:
            self._losses_in_a_row = 0
            self._finish(packet, "")
        elif status in _SESSION_ENDS:
            if session is self._session:
                self._lose_session(session, status)
            self._finish(packet, f"{self._place}: {_SESSION_ENDS[status]}; the outcome is unknown")
        else:
            reason = _REFUSALS.get(status, f"the client answered with the unknown status {status}")
            self._finish(packet, f"{self._place}: {reason}; the request was not applied")

    def _finish(self, packet: Packet, failure: str) -> None:
        packet.failure = failure
        if packet.task is not None:
            trio.lowlevel.reschedule(packet.task)
            packet.task = None
        elif packet in self._unclaimed:
            self._unclaimed.remove(packet)

    def _lose_session(self, session: Session, status: int) -> None:
        """Take leave of a session that the cluster ended; the next request opens another one, after a pause."""
        self._session = None
        self._sessions_lost += 1
        self._losses_in_a_row += 1
        self._last_loss = _SESSION_ENDS[status]
        pause_ms = self._backoff.delay_ms(self._losses_in_a_row)
        self._next_session_at = trio.current_time() + pause_ms / 1000
        _log.critical("tigerbeetle_session_lost", ledger=self._place, reason=self._last_loss, pause_ms=round(pause_ms))
        # Its end may have to wait for the network, and there may be no trio left to wait for it.
        threading.Thread(target=session.close, name="tigerbeetle session end", daemon=True).start()
        self._fail_waiting(f"{self._place}: {self._last_loss}; the request was not sent")

    def _fail_waiting(self, failure: str) -> None:
        while self._waiting:
            self._finish(self._waiting.popleft(), failure)

    def _require_open(self) -> None:
        if self._closing:
            raise LedgerUnavailable(f"{self._place}: the ledger is closed; the request was not sent")


def _reply(packet: Packet) -> bytes:
    if packet.failure:
        raise LedgerUnavailable(packet.failure)
    return packet.reply
