"""Floors: what the ledger client, the record store and both together do with no engine on top.

They are given ready-made events, blobs and rows of the engine's own shapes, through the engine's own clients. What they
leave in the books is no transfer of any engine: a floor is measured after the books were checked, and on a cluster that
serves nothing else.
"""

import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
import trio
from tigerbeetle import CreateTransferStatus, Transfer

from transfer_engine.benchmarks.asking import until_answered
from transfer_engine.benchmarks.measures import Meter, Usage
from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX, Ledger
from transfer_engine.engine.legs import LedgerBody, account_id, new_account
from transfer_engine.engine.records.protocol import BUCKET_MS, JournalBlob, RecordStore
from transfer_engine.engine.settings import DEFAULT_SERVICES, EXTERNAL_CODE
from transfer_engine.schema.ids import NODE_MAX, POSTS, SnowflakeGenerator, issued_req_id
from transfer_engine.schema.transfers import Intent, TransferRecord, TransferState, body_fingerprint, encode_intents

GROUP: Final = 500
"""Transfers in one write of the record store and, for the pair, in one batch of the ledger."""
INTENTS_IN_BLOB: Final = 100
_USERS: Final = range(1 << 40, (1 << 40) + 1_000)
"""Beyond the users of any load."""
_ASSET_ID: Final = 1
_FUNDS: Final = 10**15
_AHEAD_MS: Final = 3_600_000
_FUNDING: Final = DEFAULT_SERVICES[0]
_TRADING: Final = DEFAULT_SERVICES[1]


class Floor(msgspec.Struct, frozen=True):
    """What a floor did: so many things in so much time."""

    count: int
    usage: Usage

    @property
    def rate(self) -> float:
        """Things a second."""
        return self.count / self.usage.seconds

    @property
    def cpu_us(self) -> float:
        """This process's CPU for each, in µs."""
        return self.usage.cpu_us(self.count)


class Supply:
    """Makes transfers of users of its own: their ledger events, intents and rows. Identifiers are of the last node."""

    def __init__(self) -> None:
        self._identifiers = SnowflakeGenerator(node=NODE_MAX, clock_ms=_now_ms, after_ms=_now_ms())
        self._identifiers.raise_ceiling(_now_ms() + _AHEAD_MS)
        self._made = 0
        self._blobs = time.time_ns()
        self.accounts = [
            account_id(user_id, _ASSET_ID, code) for user_id in _USERS for code in (_FUNDING.code, _TRADING.code)
        ]

    def funding(self) -> list[Transfer]:
        """Return the events that give every user enough."""
        return [
            Transfer(
                id=self._req_id() | 1,
                debit_account_id=account_id(0, _ASSET_ID, EXTERNAL_CODE),
                credit_account_id=account_id(user_id, _ASSET_ID, _FUNDING.code),
                amount=_FUNDS,
                ledger=_ASSET_ID,
                code=1,
            )
            for user_id in _USERS
        ]

    def group(self, transfers: int) -> "Group":
        """Return so many transfers, ready to be written."""
        intents, records, events = [], [], []
        for _ in range(transfers):
            record, intent = self._one()
            body = LedgerBody(
                req_id=record.req_id.int,
                debit_account_id=account_id(record.user_id, _ASSET_ID, _FUNDING.code),
                credit_account_id=account_id(record.user_id, _ASSET_ID, _TRADING.code),
                asset_id=_ASSET_ID,
                amount=1,
                fingerprint=record.fingerprint,
            )
            records.append(record)
            intents.append(intent)
            events += [body.hold(), body.post(POSTS[0])]
        blobs = []
        for start in range(0, transfers, INTENTS_IN_BLOB):
            self._blobs += 1
            body_bytes = encode_intents(intents[start : start + INTENTS_IN_BLOB])
            bucket = self._identifiers.logical_ms // BUCKET_MS
            blobs.append(JournalBlob(shard=NODE_MAX, bucket=bucket, sequence=self._blobs, body=body_bytes))
        return Group(events=events, blobs=blobs, records=records)

    def groups(self, transfers: int, size: int) -> "list[Group]":
        """Return so many transfers in groups of one size."""
        return [self.group(size) for _ in range(max(transfers // size, 1))]

    def _req_id(self) -> int:
        return issued_req_id(self._identifiers.issue())

    def _one(self) -> tuple[TransferRecord, Intent]:
        user_id = _USERS[self._made % len(_USERS)]
        self._made += 1
        now_ms = _now_ms()
        req_id = self._req_id()
        intent = Intent(
            req_id=req_id.to_bytes(16),
            source=_FUNDING.name,
            target=_TRADING.name,
            user_id=user_id,
            target_user_id=user_id,
            asset_id=_ASSET_ID,
            amount=1,
            accepted_at=now_ms,
            fingerprint=0,
        )
        mark = body_fingerprint(intent)
        record = TransferRecord(
            req_id=UUID(int=req_id),
            source=_FUNDING.name,
            target=_TRADING.name,
            user_id=user_id,
            target_user_id=user_id,
            asset_id=_ASSET_ID,
            amount=1,
            state=TransferState.COMMITTED,
            created_at=now_ms,
            updated_at=now_ms,
            error="",
            retry_count=0,
            fingerprint=mark,
        )
        return record, msgspec.structs.replace(intent, fingerprint=mark)


class Group(msgspec.Struct, frozen=True):
    """Some transfers as they are written: two events, a place in a blob and a row each."""

    events: list[Transfer]
    blobs: list[JournalBlob]
    records: list[TransferRecord]


async def open_floor_accounts(ledger: Ledger, supply: Supply) -> None:
    """Make the supply's accounts and give them money.

    Raises:
        RuntimeError: the ledger refused some of it.
    """
    accounts = [account_id(0, _ASSET_ID, EXTERNAL_CODE), *supply.accounts]
    await ledger.create_accounts([new_account(number) for number in accounts])
    await _apply(ledger, supply.funding())


async def ledger_floor(ledger: Ledger, supply: Supply, *, transfers: int, batch: int, in_flight: int) -> Floor:
    """Apply hold + post pairs in batches of at most ``batch`` events; counts events."""
    groups = supply.groups(transfers, min(batch, BATCH_EVENTS_MAX) // 2)

    async def write(group: Group) -> None:
        await _apply(ledger, group.events)

    usage = await _write_all(groups, write, in_flight)
    return Floor(count=sum(len(group.events) for group in groups), usage=usage)


async def records_floor(records: RecordStore, supply: Supply, *, transfers: int, in_flight: int) -> Floor:
    """Write a group's intents and rows, each as one write; counts rows."""
    groups = supply.groups(transfers, GROUP)

    async def write(group: Group) -> None:
        await until_answered(partial(records.write, group.blobs, []))
        await until_answered(partial(records.write, [], group.records))

    usage = await _write_all(groups, write, in_flight)
    return Floor(count=sum(len(group.records) for group in groups), usage=usage)


async def pair_floor(ledger: Ledger, records: RecordStore, supply: Supply, *, transfers: int, in_flight: int) -> Floor:
    """Do all that is written of a transfer, in its order (intent, ledger, row), in groups; counts transfers."""
    groups = supply.groups(transfers, GROUP)

    async def write(group: Group) -> None:
        await until_answered(partial(records.write, group.blobs, []))
        await _apply(ledger, group.events)
        await until_answered(partial(records.write, [], group.records))

    usage = await _write_all(groups, write, in_flight)
    return Floor(count=sum(len(group.records) for group in groups), usage=usage)


async def _write_all(groups: Sequence[Group], write: Callable[[Group], Awaitable[None]], in_flight: int) -> Usage:
    left = iter(groups)

    async def writer() -> None:
        for group in left:
            await write(group)

    meter = Meter()
    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(writer)
    return meter.read()


async def _apply(ledger: Ledger, events: Sequence[Transfer]) -> None:
    results = await ledger.create_transfers(events)
    refused = {result.status.name for result in results if result.status is not CreateTransferStatus.CREATED}
    if refused:
        raise RuntimeError(f"the ledger refused events of a floor: {', '.join(sorted(refused))}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def sqlite_floor(events: int = 40_000, group: int = 1_000) -> float:
    """Return how many ledger events a second bare SQLite does: three statements each, WAL, full sync, in groups."""
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "floor.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(
            "CREATE TABLE transfers(id BLOB PRIMARY KEY, debit INT, credit INT, amount INT) WITHOUT ROWID"
        )
        connection.execute("CREATE TABLE accounts(id INTEGER PRIMARY KEY, debits INT, credits INT)")
        connection.executemany("INSERT INTO accounts VALUES (?, 0, 0)", [(number,) for number in range(2_000)])
        began = time.perf_counter()
        for start in range(0, events, group):
            connection.execute("BEGIN IMMEDIATE")
            for number in range(start, start + group):
                debit, credit = number % 1_000, 1_000 + number % 1_000
                connection.execute("INSERT INTO transfers VALUES (?, ?, ?, 1)", (number.to_bytes(16), debit, credit))
                connection.execute("UPDATE accounts SET debits = debits + 1 WHERE id = ?", (debit,))
                connection.execute("UPDATE accounts SET credits = credits + 1 WHERE id = ?", (credit,))
            connection.execute("COMMIT")
        seconds = time.perf_counter() - began
        connection.close()
    return events / seconds
