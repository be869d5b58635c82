"""A naive transfer: two UPDATEs and an INSERT in one transaction of SQLite, the key unique.

WAL and full sync, as durable as the engine's own files. SQLite has one writer at a time, so one thread has the
connection: threads that fight for the lock are slower.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from uuid import uuid4

from fastapi.responses import JSONResponse

from transfer_engine.benchmarks.baselines.shapes import (
    ACCOUNTS,
    ASSET_ID,
    Balance,
    Opening,
    TransferBody,
    committed,
    failed,
    misused,
    replayed,
)

_SCHEMA: Final = """
CREATE TABLE accounts(
    user_id INTEGER, account TEXT, asset_id INTEGER, balance INTEGER NOT NULL CHECK (balance >= 0),
    PRIMARY KEY (user_id, account, asset_id)
) WITHOUT ROWID;
CREATE TABLE transfers(
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, req_id TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL,
    user_id INTEGER NOT NULL, asset_id INTEGER NOT NULL, amount INTEGER NOT NULL,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
"""
_INSERT: Final = (
    "INSERT INTO transfers(key, req_id, source, target, user_id, asset_id, amount) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (key) DO NOTHING"
)
_DEBIT: Final = (
    "UPDATE accounts SET balance = balance - ? WHERE user_id = ? AND account = ? AND asset_id = ? AND balance >= ?"
)
_CREDIT: Final = "UPDATE accounts SET balance = balance + ? WHERE user_id = ? AND account = ? AND asset_id = ?"
_FORMER: Final = "SELECT req_id, source, target, user_id, asset_id, amount FROM transfers WHERE key = ?"

R = TypeVar("R")


class SqliteStore:
    """One file.

    Args:
        path: of a file that does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1)

    async def open(self, opening: Opening) -> None:
        """Make the file and its accounts."""
        await self._run(partial(self._open, opening))

    async def transfer(self, body: TransferBody, key: str | None) -> JSONResponse:
        """Carry out one transfer and answer."""
        return await self._run(partial(self._transfer, body, key))

    async def balances(self) -> list[Balance]:
        """Return what every account has."""
        return await self._run(self._balances)

    async def servers(self) -> list[int]:
        """Return none: SQLite is in this process."""
        return []

    async def close(self) -> None:
        """Close the file."""
        await self._run(self._connection.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self, opening: Opening) -> None:
        connection = self._connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
        accounts = (
            (user, account, ASSET_ID, opening.funds) for user in range(1, opening.users + 1) for account in ACCOUNTS
        )
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO accounts VALUES (?, ?, ?, ?)", accounts)
        connection.execute("COMMIT")

    def _transfer(self, body: TransferBody, key: str | None) -> JSONResponse:
        req_id = str(uuid4())
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            taken = connection.execute(_INSERT, (
                key or req_id, req_id, body.source, body.target, body.user_id, body.asset_id, body.amount,
            ))  # fmt: skip
            if not taken.rowcount:
                return self._former(body, key)
            debited = connection.execute(_DEBIT, (body.amount, body.user_id, body.source, body.asset_id, body.amount))
            credited = connection.execute(_CREDIT, (body.amount, body.user_id, body.target, body.asset_id))
            if not debited.rowcount or not credited.rowcount:
                return failed(req_id, "Insufficient funds")
            connection.execute("COMMIT")
            return committed(req_id)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _former(self, body: TransferBody, key: str | None) -> JSONResponse:
        req_id, *former = self._connection.execute(_FORMER, (key,)).fetchone()
        is_same = former == [body.source, body.target, body.user_id, body.asset_id, body.amount]
        return replayed(req_id) if is_same else misused()

    def _balances(self) -> list[Balance]:
        rows = self._connection.execute("SELECT user_id, account, balance FROM accounts")
        return [Balance(user_id=user_id, account=account, balance=balance) for user_id, account, balance in rows]
