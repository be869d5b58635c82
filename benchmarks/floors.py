"""Floors: what the same machine does with less, in the same run, so that a run can be read as ratios to them.

Of an engine: its ledger client, its record store and both in a transfer's order, on backends of the run's own kind;
bare SQLite where the ledger is embedded; one message to an actor and its answer. Of a door: see ``door_floors``.

Backends are given ready-made events, blobs and rows through the engine's own clients. What that leaves in the books is
no transfer of any engine: floors are measured after the books were checked, and on a cluster that serves nothing else.
"""

import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio
from tigerbeetle import CreateTransferStatus, Transfer

from transfer_engine.benchmarks.asking import until_answered
from transfer_engine.benchmarks.door_floors import http_floor, websocket_floor
from transfer_engine.benchmarks.hop_floors import actor_hop, channel_round_trip
from transfer_engine.benchmarks.measures import Meter, Usage
from transfer_engine.benchmarks.plan import Target
from transfer_engine.benchmarks.result import Floor
from transfer_engine.benchmarks.supply import ASSET_ID, Group, Supply
from transfer_engine.engine import Settings
from transfer_engine.engine.backends import open_backends
from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX, Ledger
from transfer_engine.engine.legs import account_id, new_account
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.settings import EXTERNAL_CODE

GROUP: Final = 500
"""Transfers in one write of the record store and, for the pair, in one batch of the ledger, where no run says what
its flushes were."""
EVENTS_A_TRANSFER: Final = 2
"""A hold and a post."""


class Sizes(msgspec.Struct, frozen=True):
    """How much each floor does: by default a second or two on a small machine."""

    ledger_transfers: int = 40_000
    records_transfers: int = 20_000
    sqlite_events: int = 100_000
    hops: int = 200_000
    door_seconds: float = 2.0


async def floors_for(
    target: Target,
    *,
    settings: Settings | None = None,
    in_flight: int = 2_000,
    flush_transfers: float = GROUP,
    sizes: Sizes | None = None,
) -> tuple[Floor, ...]:
    """Measure the floors that belong to a target, one after the other.

    Call it when the run's books are checked and its own load is over; a door's floor is a process of its own. A server
    that runs already (``target.url``) has the floors of its door.

    Args:
        target: what they are floors of.
        settings: of the engine in process, as the run resolved them (its cluster, its keyspace). SQLite's files are
            written in a folder of the floors' own. Without settings: the embedded default.
        in_flight: of the run's load, in transfers.
        flush_transfers: transfers in one of the run's flushes, on average.
        sizes: how much each does.

    Raises:
        RuntimeError: a backend refused what a floor asked, or a door's floor did not start.
        whatever :func:`transfer_engine.engine.backends.open_backends` raises.
    """
    sizes = sizes or Sizes()
    if target.kind == "http":
        return (await http_floor(target, seconds=sizes.door_seconds),)
    if target.kind == "websocket":
        return (await websocket_floor(target, in_flight=in_flight, seconds=sizes.door_seconds),)
    return await engine_floors(
        settings or Settings(), in_flight=in_flight, flush_transfers=flush_transfers, sizes=sizes
    )


async def engine_floors(
    settings: Settings, *, in_flight: int, flush_transfers: float = GROUP, sizes: Sizes | None = None
) -> tuple[Floor, ...]:
    """Measure what is below an engine with these settings; see :func:`floors_for`."""
    sizes = sizes or Sizes()
    group = min(max(round(flush_transfers), 1), BATCH_EVENTS_MAX // EVENTS_A_TRANSFER)
    group = min(group, sizes.ledger_transfers, sizes.records_transfers)
    ledger_lanes = settings.tigerbeetle.flushes_most if settings.ledger == "tigerbeetle" else 1
    records_lanes = settings.cassandra.flushes_most if settings.records == "cassandra" else 1
    floors = []
    with tempfile.TemporaryDirectory(prefix="benchmark-floors-") as folder:
        apart = settings.model_copy(update={"data_dir": Path(folder) / "backends"})
        async with open_backends(apart) as (_, ledger, records):
            supply = Supply()
            await open_floor_accounts(ledger, supply)
            full = min(BATCH_EVENTS_MAX // EVENTS_A_TRANSFER, sizes.ledger_transfers)
            floors.append(await ledger_floor(ledger, supply, sizes.ledger_transfers, full, ledger_lanes))
            floors.append(await ledger_floor(ledger, supply, sizes.ledger_transfers, group, ledger_lanes))
            floors.append(await records_floor(records, supply, sizes.records_transfers, group, records_lanes))
            lanes = max(in_flight // group, 1)
            floors.append(await pair_floor(ledger, records, supply, sizes.records_transfers, group, lanes))
    if settings.ledger == "embedded":
        floors.append(await trio.to_thread.run_sync(sqlite_floor, sizes.sqlite_events))
    floors.append(await actor_hop(sizes.hops, in_flight))
    floors.append(await channel_round_trip(sizes.hops, in_flight))
    return tuple(floors)


async def open_floor_accounts(ledger: Ledger, supply: Supply) -> None:
    """Make the supply's accounts and give them money.

    Raises:
        RuntimeError: the ledger refused some of it.
    """
    accounts = [account_id(0, ASSET_ID, EXTERNAL_CODE), *supply.accounts]
    await ledger.create_accounts([new_account(number) for number in accounts])
    await _apply(ledger, supply.funding())


async def ledger_floor(ledger: Ledger, supply: Supply, transfers: int, group: int, in_flight: int) -> Floor:
    """Apply hold + post pairs, so many transfers in a batch; counts events."""
    groups = supply.groups(transfers, group)

    async def write(one: Group) -> None:
        await _apply(ledger, one.events)

    usage = await _write_all(groups, write, in_flight)
    count = sum(len(one.events) for one in groups)
    name = f"ledger client, batches of {EVENTS_A_TRANSFER * group:,}"
    return _floor(name, "events", count, usage, things_a_transfer=EVENTS_A_TRANSFER)


async def records_floor(records: RecordStore, supply: Supply, transfers: int, group: int, in_flight: int) -> Floor:
    """Write a group's intents and rows, each as one write; counts rows."""
    groups = supply.groups(transfers, group)

    async def write(one: Group) -> None:
        await until_answered(partial(records.write, one.blobs, []))
        await until_answered(partial(records.write, [], one.records))

    usage = await _write_all(groups, write, in_flight)
    return _floor(f"record store with intents, groups of {group:,}", "rows", _transfers(groups), usage)


async def pair_floor(
    ledger: Ledger, records: RecordStore, supply: Supply, transfers: int, group: int, in_flight: int
) -> Floor:
    """Do all that is written of a transfer, in its order (intent, ledger, row), in groups; counts transfers."""
    groups = supply.groups(transfers, group)

    async def write(one: Group) -> None:
        await until_answered(partial(records.write, one.blobs, []))
        await _apply(ledger, one.events)
        await until_answered(partial(records.write, [], one.records))

    usage = await _write_all(groups, write, in_flight)
    return _floor(f"both in order, groups of {group:,}", "transfers", _transfers(groups), usage)


def sqlite_floor(events: int, group: int = 1_000) -> Floor:
    """Do a ledger's three statements an event on bare SQLite: WAL, full sync, in groups; counts events."""
    with tempfile.TemporaryDirectory(prefix="benchmark-floors-") as folder:
        connection = sqlite3.connect(Path(folder) / "floor.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(
            "CREATE TABLE transfers(id BLOB PRIMARY KEY, debit INT, credit INT, amount INT) WITHOUT ROWID"
        )
        connection.execute("CREATE TABLE accounts(id INTEGER PRIMARY KEY, debits INT, credits INT)")
        connection.executemany("INSERT INTO accounts VALUES (?, 0, 0)", [(number,) for number in range(2_000)])
        began, cpu_s = time.perf_counter(), time.thread_time()
        for start in range(0, events, group):
            connection.execute("BEGIN IMMEDIATE")
            for number in range(start, min(start + group, events)):
                debit, credit = number % 1_000, 1_000 + number % 1_000
                connection.execute("INSERT INTO transfers VALUES (?, ?, ?, 1)", (number.to_bytes(16), debit, credit))
                connection.execute("UPDATE accounts SET debits = debits + 1 WHERE id = ?", (debit,))
                connection.execute("UPDATE accounts SET credits = credits + 1 WHERE id = ?", (credit,))
            connection.execute("COMMIT")
        seconds, cpu_s = time.perf_counter() - began, time.thread_time() - cpu_s
        connection.close()
    return Floor(
        name=f"bare SQLite, groups of {group:,}",
        rate=events / seconds,
        unit="events",
        cpu_us=cpu_s / events * 1e6,
        things_a_transfer=EVENTS_A_TRANSFER,
    )


async def _write_all(groups: Sequence[Group], write: Callable[[Group], Awaitable[None]], in_flight: int) -> Usage:
    left = iter(groups)

    async def writer() -> None:
        for group in left:
            await write(group)

    meter = Meter()
    async with trio.open_nursery() as nursery:
        for _ in range(min(in_flight, len(groups))):
            nursery.start_soon(writer)
    return meter.read()


async def _apply(ledger: Ledger, events: Sequence[Transfer]) -> None:
    results = await ledger.create_transfers(events)
    refused = {result.status.name for result in results if result.status is not CreateTransferStatus.CREATED}
    if refused:
        raise RuntimeError(f"the ledger refused events of a floor: {', '.join(sorted(refused))}")


def _transfers(groups: Sequence[Group]) -> int:
    return sum(len(one.records) for one in groups)


def _floor(name: str, unit: str, count: int, usage: Usage, *, things_a_transfer: float = 1.0) -> Floor:
    return Floor(
        name=name,
        rate=count / usage.seconds,
        unit=unit,
        cpu_us=usage.cpu_us(count),
        things_a_transfer=things_a_transfer,
    )
