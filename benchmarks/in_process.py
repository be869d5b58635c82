"""The engine in process: closed loops of transfers, against SQLite's own floor in the same run."""

import os
import resource
import sqlite3
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec
import trio

from transfer_engine.engine import Engine, Settings, open_engine
from transfer_engine.engine.audit import AuditReport

AMOUNT = 1
ASSET_ID = 1
DEADLINE_MS = 60_000
"""The engine's own deadline in these runs: what is measured is the outcome, not how long callers wait."""


class Result(msgspec.Struct, frozen=True):
    """One run. Rates are transfers a second, CPU is of this process in µs a transfer, latencies are in ms."""

    name: str
    transfers: int
    seconds: float
    rate: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    outcomes: dict[str, int]
    rss_mib: float


def rss_mib() -> float:
    """Return the memory that this process has resident now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    if pages:
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


async def fund(engine: Engine, users: range, amount: int) -> None:
    """Credit every user's funding account, a thousand at a time."""
    left = iter(users)

    async def client() -> None:
        for user_id in left:
            await engine.credit(user_id=user_id, account="funding", asset_id=ASSET_ID, amount=amount)

    async with trio.open_nursery() as nursery:
        for _ in range(1_000):
            nursery.start_soon(client)


async def closed_loop(
    engine: Engine, *, name: str, users: range, in_flight: int, transfers: int, keyed: bool = False
) -> Result:
    """Send ``transfers`` from funding to trading with ``in_flight`` of them under way, users in turn."""
    latencies: list[float] = []
    outcomes: Counter[str] = Counter()
    left = transfers
    count = len(users)
    run = f"{time.time_ns()}"

    async def client(number: int) -> None:
        nonlocal left
        turn = number
        while left > 0:
            left -= 1
            key = f"{run}-{left}" if keyed else None
            began = time.perf_counter()
            outcome = await engine.transfer(
                source="funding",
                target="trading",
                user_id=users[turn % count],
                asset_id=ASSET_ID,
                amount=AMOUNT,
                idempotency_key=key,
            )
            latencies.append(time.perf_counter() - began)
            outcomes[outcome.status.value] += 1
            turn += in_flight

    cpu = time.process_time()
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(in_flight):
            nursery.start_soon(client, number)
    seconds = time.perf_counter() - began
    cpu = time.process_time() - cpu
    latencies.sort()
    return Result(
        name=name,
        transfers=transfers,
        seconds=seconds,
        rate=transfers / seconds,
        cpu_us=cpu / transfers * 1e6,
        p50_ms=latencies[len(latencies) // 2] * 1e3,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1e3,
        outcomes=dict(outcomes),
        rss_mib=rss_mib(),
    )


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


def check_books(report: AuditReport) -> None:
    """Print the audit's verdict; a run whose books don't hold is no run.

    Raises:
        SystemExit: an invariant is broken.
    """
    verdict = "hold" if report.holds else "ARE BROKEN"
    print(f"books: I1, I2, I3, I7 {verdict} over {report.ledger_transfers:,} ledger transfers")
    if not report.holds:
        for finding in report.findings:
            print(f"  {finding.invariant}: {finding.what}")
        raise SystemExit(1)


async def run_in_process(
    *, transfers: int, users: int, in_flight: int, keyed: bool
) -> tuple[list[Result], AuditReport]:
    """Run the many-users and the hot-user loops on a fresh embedded engine, then audit its books."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        async with open_engine(Settings(data_dir=Path(folder), deadline_ms=DEADLINE_MS)) as engine:
            everyone = range(1, users + 1)
            await fund(engine, everyone, 10**15)
            await closed_loop(engine, name="warm-up", users=everyone, in_flight=in_flight, transfers=transfers // 10)
            results.append(
                await closed_loop(
                    engine, name=f"{users} users", users=everyone, in_flight=in_flight, transfers=transfers, keyed=keyed
                )
            )
            results.append(
                await closed_loop(
                    engine,
                    name="one hot user",
                    users=range(1, 2),
                    in_flight=min(in_flight, engine.settings.mailbox_capacity),
                    transfers=transfers,
                    keyed=keyed,
                )
            )
            report = await engine.audit()
    return results, report
