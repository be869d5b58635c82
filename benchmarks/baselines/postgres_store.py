"""The same naive transfer on PostgreSQL: two UPDATEs and an INSERT in one transaction, through asyncpg's pool.

Transfers of one user go both ways at once, so the accounts are updated in the order of their names: else they would
deadlock. Statements are prepared once a connection, as asyncpg does by itself.
"""

from typing import Final
from uuid import uuid4

import asyncpg
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

POOL: Final = 16
"""Connections: more than a small server has cores, fewer than make it slower."""

_SCHEMA: Final = """
DROP TABLE IF EXISTS baseline_accounts, baseline_transfers;
CREATE TABLE baseline_accounts(
    user_id bigint, account text, asset_id int, balance bigint NOT NULL CHECK (balance >= 0),
    PRIMARY KEY (user_id, account, asset_id)
);
CREATE TABLE baseline_transfers(
    id bigserial PRIMARY KEY, key text NOT NULL UNIQUE, req_id text NOT NULL, source text NOT NULL,
    target text NOT NULL, user_id bigint NOT NULL, asset_id int NOT NULL, amount bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
"""
_INSERT: Final = (
    "INSERT INTO baseline_transfers(key, req_id, source, target, user_id, asset_id, amount) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (key) DO NOTHING RETURNING 1"
)
_UPDATE: Final = (
    "UPDATE baseline_accounts SET balance = balance + $1 WHERE user_id = $2 AND account = $3 AND asset_id = $4"
)
_FORMER: Final = "SELECT req_id, source, target, user_id, asset_id, amount FROM baseline_transfers WHERE key = $1"
_SERVERS: Final = (
    "SELECT pid FROM pg_stat_activity WHERE inet_server_addr() IS NULL OR inet_server_addr() << '127.0.0.0/8'"
)


class PostgresStore:
    """Two tables of a database, made anew.

    Args:
        dsn: of the database, as libpq writes it.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def open(self, opening: Opening) -> None:
        """Connect, and make the tables and accounts."""
        self._pool = await asyncpg.create_pool(self._dsn, min_size=POOL, max_size=POOL)
        accounts = [
            (user, account, ASSET_ID, opening.funds) for user in range(1, opening.users + 1) for account in ACCOUNTS
        ]
        async with self._pool.acquire() as connection:
            await connection.execute(_SCHEMA)
            await connection.copy_records_to_table("baseline_accounts", records=accounts)

    async def transfer(self, body: TransferBody, key: str | None) -> JSONResponse:
        """Carry out one transfer and answer."""
        req_id = str(uuid4())
        transfer = (body.source, body.target, body.user_id, body.asset_id, body.amount)
        changes = sorted([(body.source, -body.amount), (body.target, body.amount)])
        async with self._pool.acquire() as connection:
            try:
                async with connection.transaction():
                    if not await connection.fetchval(_INSERT, key or req_id, req_id, *transfer):
                        former_id, *former = await connection.fetchrow(_FORMER, key)
                        return replayed(former_id) if tuple(former) == transfer else misused()
                    for account, change in changes:
                        await _update(connection, change, body.user_id, account, body.asset_id)
            except (asyncpg.CheckViolationError, _NoAccount):
                return failed(req_id, "Insufficient funds")
        return committed(req_id)

    async def balances(self) -> list[Balance]:
        """Return what every account has."""
        async with self._pool.acquire() as connection:
            rows = await connection.fetch("SELECT user_id, account, balance FROM baseline_accounts")
        return [Balance(**dict(row)) for row in rows]

    async def servers(self) -> list[int]:
        """Return PostgreSQL's processes, where they are on this machine."""
        async with self._pool.acquire() as connection:
            return [row["pid"] for row in await connection.fetch(_SERVERS)]

    async def close(self) -> None:
        """Disconnect; the tables stay until they are made anew."""
        await self._pool.close()


class _NoAccount(Exception):
    """There is no such account; the transaction is rolled back."""


async def _update(connection: asyncpg.pool.PoolConnectionProxy, *change: object) -> None:
    if await connection.execute(_UPDATE, *change) != "UPDATE 1":
        raise _NoAccount
