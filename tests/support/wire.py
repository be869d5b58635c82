"""One engine's way to its backends: every call is recorded, and may be lost, delayed, stopped or cut at will.

A cut stands for the death of the engine's process: whatever was applied by then stays, whatever was not never comes.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import trio
from tigerbeetle import Account, CreateAccountResult, CreateTransferResult, QueryFilter, Transfer, TransferFlags

from support.inline_ledger import InlineLedger
from support.memory_records import MemoryRecords
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.legs import TOMBSTONE_CODE
from transfer_engine.engine.records.protocol import (
    OUTBOX_SHARDS,
    Claim,
    EndpointPage,
    JournalBlob,
    Life,
    RecordPage,
    RecordsUnavailable,
)
from transfer_engine.engine.services.protocol import Answer, CoreBalance, ServiceCall
from transfer_engine.engine.services.simulated import SimulatedCore
from transfer_engine.schema.ids import LEG_MAX
from transfer_engine.schema.transfers import TransferRecord, decode_intents
from transfer_engine.schema.webhooks import Endpoint

T = TypeVar("T")


class Entry(NamedTuple):
    """One thing that was asked of a backend: what, and for which transfer (0: none)."""

    name: str
    req_id: int
    time: float = 0.0


class ConnectionLost(Exception):
    """What a core's client raises."""


class Stop:
    """Stops the next call of a name, before or after it is applied, until it is released."""

    def __init__(self, name: str, *, after: bool) -> None:
        self.name = name
        self.after = after
        self.reached = trio.Event()
        self.released = trio.Event()

    async def here(self) -> None:
        self.reached.set()
        await self.released.wait()


class Wire:
    """One life's way to its backends.

    ``fates`` maps the number of a call (from 1) to ``lose_request``, ``lose_answer``, ``cut_before``, ``cut_after``,
    ``pause`` (before the call is applied) or ``pause_after``.
    ``scope`` is cancelled by a cut: it is the engine's.
    """

    def __init__(self, fates: dict[int, str] | None = None) -> None:
        self.fates = fates or {}
        self.calls = 0
        self.is_cut = False
        self.scope = trio.CancelScope()
        self.log: list[Entry] = []
        self.down: set[str] = set()
        """Names of backends (`ledger`, `records`, or a core's) that do not answer now."""
        self.fate_after_opening: tuple[int, str] = (0, "")
        self.forged: dict[str, Any] = {}
        """Answers by the name of a call, which is then not applied: what a backend must not answer, it may."""
        self.next_fates: dict[str, list[str]] = {}
        """Fates by the name of a call, for the next ones that have it."""
        self.interludes: dict[int, Callable[[], Awaitable[object]]] = {}
        """What somebody else does just before the n-th call."""
        self._stops: list[Stop] = []
        self._paused: trio.Event | None = None

    def pause(self) -> None:
        """Stop every call, before it is applied and before it is answered, until :meth:`resume`."""
        self._paused = trio.Event()

    def resume(self) -> None:
        """Let everything through that was stopped."""
        if self._paused is not None:
            self._paused.set()
            self._paused = None

    def names(self, req_id: UUID | None = None) -> list[str]:
        """Return what was asked, in order; of one transfer if it is named."""
        return [entry.name for entry in self.log if req_id is None or entry.req_id == req_id.int]

    def opened(self) -> None:
        """Count from here on: the engine is open."""
        number, fate = self.fate_after_opening
        if number > 0:
            self.fates[self.calls + number] = fate

    def times(self, name: str) -> list[float]:
        """Return when something was asked, by trio's clock."""
        return [entry.time for entry in self.log if entry.name == name]

    def stop(self, name: str, *, after: bool = False) -> Stop:
        """Stop the next call that has this name."""
        stop = Stop(name, after=after)
        self._stops.append(stop)
        return stop

    def cut(self) -> None:
        """The process is dead from now on."""
        self.is_cut = True
        self.scope.cancel()

    async def call(  # noqa: PLR0912  one branch a fate
        self, backend: str, entries: Sequence[Entry], apply: Callable[[], Awaitable[T]], fault: type[Exception]
    ) -> T:
        """Make a call, with the fate that it has."""
        self.calls += 1
        interlude = self.interludes.pop(self.calls, None)
        if interlude is not None:
            await interlude()
        fate = self.fates.pop(self.calls, "")
        for entry in entries:
            if self.next_fates.get(entry.name):
                fate = self.next_fates[entry.name].pop(0)
        stops = [stop for stop in self._stops if stop.name in {entry.name for entry in entries}]
        self._stops = [stop for stop in self._stops if stop not in stops]
        await trio.lowlevel.checkpoint()
        if fate == "pause":
            self.pause()
        if fate == "cut_before":
            self.cut()
        for stop in stops:
            if not stop.after:
                await stop.here()
        await self._alive()
        if fate == "lose_request" or backend in self.down:
            raise fault(f"{backend}: the request was lost")
        now = trio.current_time()
        self.log += [Entry(entry.name, entry.req_id, now) for entry in entries]
        answer = self.forged[entries[0].name] if entries and entries[0].name in self.forged else await apply()
        if fate == "cut_after":
            self.cut()
        if fate == "pause_after":
            self.pause()
        for stop in stops:
            if stop.after:
                await stop.here()
        await self._alive()
        if fate == "lose_answer":
            raise fault(f"{backend}: the answer was lost")
        return answer

    async def _alive(self) -> None:
        if self._paused is not None:
            await self._paused.wait()
        if self.is_cut:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()


def _name_of_event(transfer: Transfer) -> Entry:
    flags = int(transfer.flags)
    leg = transfer.id & LEG_MAX
    if flags & TransferFlags.PENDING:
        name = "hold"
    elif flags & TransferFlags.POST_PENDING_TRANSFER:
        name = "post" if leg == 2 else f"post {leg}"
    elif flags & TransferFlags.VOID_PENDING_TRANSFER:
        name = "void" if leg == 3 else f"void {leg}"
    else:
        name = "tombstone" if transfer.code == TOMBSTONE_CODE else "foreign"
    return Entry(name, transfer.id & ~LEG_MAX)


class WiredLedger:
    def __init__(self, ledger: InlineLedger, wire: Wire) -> None:
        self._ledger = ledger
        self._wire = wire

    async def _call(self, entries: Sequence[Entry], apply: Callable[[], Awaitable[T]]) -> T:
        return await self._wire.call("ledger", entries, apply, LedgerUnavailable)

    async def create_accounts(self, accounts: Sequence[Account]) -> list[CreateAccountResult]:
        return await self._call([Entry("accounts", 0)], lambda: self._ledger.create_accounts(accounts))

    async def create_transfers(self, transfers: Sequence[Transfer]) -> list[CreateTransferResult]:
        return await self._call(
            [_name_of_event(transfer) for transfer in transfers], lambda: self._ledger.create_transfers(transfers)
        )

    async def lookup_accounts(self, account_ids: Sequence[int]) -> list[Account]:
        return await self._call([Entry("lookup accounts", 0)], lambda: self._ledger.lookup_accounts(account_ids))

    async def lookup_transfers(self, transfer_ids: Sequence[int]) -> list[Transfer]:
        return await self._call([Entry("lookup", 0)], lambda: self._ledger.lookup_transfers(transfer_ids))

    async def query_accounts(self, query_filter: QueryFilter) -> list[Account]:
        return await self._call([Entry("query accounts", 0)], lambda: self._ledger.query_accounts(query_filter))

    async def query_transfers(self, query_filter: QueryFilter) -> list[Transfer]:
        return await self._call([Entry("query", 0)], lambda: self._ledger.query_transfers(query_filter))

    async def get_account_transfers(self, account_filter):  # type: ignore[no-untyped-def]
        return await self._call([Entry("query", 0)], lambda: self._ledger.get_account_transfers(account_filter))

    async def get_account_balances(self, account_filter):  # type: ignore[no-untyped-def]
        return await self._call([Entry("query", 0)], lambda: self._ledger.get_account_balances(account_filter))


class WiredRecords:
    def __init__(self, records: MemoryRecords, wire: Wire) -> None:
        self._records = records
        self._wire = wire

    async def _call(self, entries: Sequence[Entry], apply: Callable[[], Awaitable[T]]) -> T:
        return await self._wire.call("records", entries, apply, RecordsUnavailable)

    async def claims(self) -> list[Claim]:
        return await self._call([Entry("claims", 0)], self._records.claims)

    async def find_claim(self, node: int) -> Claim | None:
        return await self._call([Entry("find claim", 0)], lambda: self._records.find_claim(node))

    async def claim(self, node: int, owner: str, *, former: Claim | None, ceiling_ms: int) -> Life:
        return await self._call(
            [Entry("claim", 0)], lambda: self._records.claim(node, owner, former=former, ceiling_ms=ceiling_ms)
        )

    async def raise_ceiling(self, life: Life, ceiling_ms: int, *, beat: int) -> None:
        await self._call([Entry("ceiling", 0)], lambda: self._records.raise_ceiling(life, ceiling_ms, beat=beat))

    async def release(self, life: Life) -> None:
        await self._call([Entry("release", 0)], lambda: self._records.release(life))

    async def write(self, blobs: Sequence[JournalBlob], records: Sequence[TransferRecord]) -> None:
        entries = [
            Entry("intent", int.from_bytes(intent.req_id))
            for blob in blobs
            if blob.shard < OUTBOX_SHARDS
            for intent in decode_intents(blob.body)
        ]
        entries += [Entry("outbox", blob.sequence) for blob in blobs if blob.shard >= OUTBOX_SHARDS]
        entries += [Entry(f"row {record.state.value}", record.req_id.int) for record in records]
        await self._call(entries, lambda: self._records.write(blobs, records))

    async def get(self, req_id: int) -> TransferRecord | None:
        return await self._call([Entry("get", req_id)], lambda: self._records.get(req_id))

    async def get_many(self, req_ids: Sequence[int]) -> dict[int, TransferRecord]:
        entries = [Entry("get", req_id) for req_id in req_ids] or [Entry("get", 0)]
        return await self._call(entries, lambda: self._records.get_many(req_ids))

    async def history(self, user_id, *, limit, position=None):  # type: ignore[no-untyped-def]
        return await self._call(
            [Entry("history", 0)], lambda: self._records.history(user_id, limit=limit, position=position)
        )

    async def read_journal(self, shard: int, *, from_bucket: int):  # type: ignore[no-untyped-def]
        async def read() -> list[JournalBlob]:
            return [blob async for blob in self._records.read_journal(shard, from_bucket=from_bucket)]

        blobs = await self._call([Entry("journal", 0)], read)
        for blob in blobs:
            yield blob

    async def low_water_mark(self, shard: int) -> int:
        return await self._call([Entry("read mark", 0)], lambda: self._records.low_water_mark(shard))

    async def raise_low_water_mark(self, shard: int, bucket: int) -> None:
        await self._call([Entry("mark", 0)], lambda: self._records.raise_low_water_mark(shard, bucket))

    async def scan_records(self, *, position: int | None = None, limit: int) -> RecordPage:
        return await self._call([Entry("scan", 0)], lambda: self._records.scan_records(position=position, limit=limit))

    async def put_endpoint(self, endpoint: Endpoint) -> None:
        await self._call([Entry("endpoint", endpoint.user_id)], lambda: self._records.put_endpoint(endpoint))

    async def get_endpoint(self, user_id: int) -> Endpoint | None:
        return await self._call([Entry("get endpoint", user_id)], lambda: self._records.get_endpoint(user_id))

    async def scan_endpoints(self, *, position: int | None = None, limit: int) -> EndpointPage:
        return await self._call(
            [Entry("endpoints", 0)], lambda: self._records.scan_endpoints(position=position, limit=limit)
        )


class WiredCore:
    def __init__(self, core: SimulatedCore, wire: Wire) -> None:
        self.name = core.name
        self.freezes = core.freezes
        self._core = core
        self._wire = wire

    async def _call(self, name: str, req_id: UUID, apply: Callable[[], Awaitable[T]]) -> T:
        return await self._wire.call(self.name, [Entry(f"{self.name}.{name}", req_id.int)], apply, ConnectionLost)

    async def withdraw(self, call: ServiceCall) -> Answer:
        return await self._call("withdraw", call.req_id, lambda: self._core.withdraw(call))

    async def deposit(self, call: ServiceCall) -> Answer:
        return await self._call("deposit", call.req_id, lambda: self._core.deposit(call))

    async def commit(self, req_id: UUID) -> Answer:
        return await self._call("commit", req_id, lambda: self._core.commit(req_id))

    async def rollback(self, req_id: UUID) -> Answer:
        return await self._call("rollback", req_id, lambda: self._core.rollback(req_id))

    async def cancel(self, req_id: UUID) -> Answer:
        return await self._call("cancel", req_id, lambda: self._core.cancel(req_id))

    async def query(self, req_id: UUID) -> Answer:
        return await self._call("query", req_id, lambda: self._core.query(req_id))

    async def balances(self, user_id: int) -> list[CoreBalance]:
        return await self._core.balances(user_id)
