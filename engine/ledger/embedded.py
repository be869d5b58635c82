"""The embedded ledger: TigerBeetle's rules on one SQLite file, no server.

Writes run one batch at a time in a thread of their own, in the order in which they were called; each batch is one
durable commit. Reads run beside them on connections of their own and see whole, answered batches. This file owns
threads and turns; batches are the ``writer``'s, the file's shape is in ``storage``.
"""

import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio
from tigerbeetle import (
    Account,
    AccountBalance,
    AccountFilter,
    CreateAccountResult,
    CreateTransferResult,
    QueryFilter,
    Transfer,
)

from transfer_engine.engine.ledger import queries, sqlite_file
from transfer_engine.engine.ledger.late_balances import LateLimits
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.ledger.recent_ids import IDS_MAX
from transfer_engine.engine.ledger.wire import require_ids_fit
from transfer_engine.engine.ledger.writer import ACCOUNTS_CACHED_MAX, LedgerWriter, WriterStatistics
from transfer_engine.engine.writer_thread import WriterThread

READERS_MAX: Final = 4

_Answer = TypeVar("_Answer")
_Event = TypeVar("_Event")


@asynccontextmanager
async def open_embedded_ledger(
    path: Path,
    *,
    clock_ns: Callable[[], int] = time.time_ns,
    accounts_cached_max: int = ACCOUNTS_CACHED_MAX,
    recent_ids_max: int = IDS_MAX,
    late_limits: LateLimits | None = None,
) -> AsyncIterator["EmbeddedLedger"]:
    """Open the ledger in this file, which is made if it is missing; close it at the end.

    ``clock_ns`` is the wall clock (ns since 1970) for timestamps and expiry. The file must belong to one process at a
    time: the caller locks it. Raises :class:`LedgerDamaged` if the file is not a readable ledger, and
    :class:`LedgerUnavailable` if it can't be opened or written. Cancellation while it opens leaves nothing open.
    """
    writer = await trio.to_thread.run_sync(
        partial(
            LedgerWriter,
            path,
            clock_ns=clock_ns,
            accounts_cached_max=accounts_cached_max,
            recent_ids_max=recent_ids_max,
            late_limits=late_limits,
        )
    )
    ledger = EmbeddedLedger(path, writer)
    try:
        yield ledger
    finally:
        await ledger.aclose()


class EmbeddedLedger:
    """A :class:`~transfer_engine.engine.ledger.protocol.Ledger` in this process; made by :func:`open_embedded_ledger`.

    A call that is cancelled while it waits for its turn was not applied. Once its batch has begun it runs to its end
    and is answered; cancellation is then seen by the caller's next checkpoint.
    """

    def __init__(self, path: Path, writer: LedgerWriter) -> None:
        self._path = path
        self._writer = writer
        self._readers: deque[sqlite3.Connection] = deque()
        self._writer_thread = WriterThread(f"ledger {path.name}")
        self._read_turn = trio.CapacityLimiter(READERS_MAX)
        self._closing = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<EmbeddedLedger {str(self._path)!r} {self._writer.statistics()}>"

    def statistics(self) -> WriterStatistics:
        """Return the counters of this moment."""
        return self._writer.statistics()

    async def create_accounts(self, accounts: Sequence[Account]) -> list[CreateAccountResult]:
        """See :meth:`Ledger.create_accounts`."""
        return await self._write(partial(self._writer.create_accounts, accounts))

    async def create_transfers(self, transfers: Sequence[Transfer]) -> list[CreateTransferResult]:
        """See :meth:`Ledger.create_transfers`."""
        return await self._write(partial(self._writer.create_transfers, transfers))

    async def lookup_accounts(self, account_ids: Sequence[int]) -> list[Account]:
        """See :meth:`Ledger.lookup_accounts`."""
        require_ids_fit(account_ids)
        return await self._read(partial(queries.lookup_accounts, late=self._writer.late), account_ids)

    async def lookup_transfers(self, transfer_ids: Sequence[int]) -> list[Transfer]:
        """See :meth:`Ledger.lookup_transfers`."""
        require_ids_fit(transfer_ids)
        return await self._read(partial(queries.lookup_transfers, ids=self._writer.ids), transfer_ids)

    async def get_account_transfers(self, account_filter: AccountFilter) -> list[Transfer]:
        """See :meth:`Ledger.get_account_transfers`."""
        return await self._read(partial(queries.get_account_transfers, late=self._writer.late), account_filter)

    async def get_account_balances(self, account_filter: AccountFilter) -> list[AccountBalance]:
        """See :meth:`Ledger.get_account_balances`."""
        return await self._read(partial(queries.get_account_balances, late=self._writer.late), account_filter)

    async def query_accounts(self, query_filter: QueryFilter) -> list[Account]:
        """See :meth:`Ledger.query_accounts`."""
        return await self._read(partial(queries.query_accounts, late=self._writer.late), query_filter)

    async def query_transfers(self, query_filter: QueryFilter) -> list[Transfer]:
        """See :meth:`Ledger.query_transfers`."""
        return await self._read(partial(queries.query_transfers, ids=self._writer.ids), query_filter)

    async def aclose(self) -> None:
        """Wait for the calls under way, then close the file. Later calls raise :class:`LedgerUnavailable`.

        Its caller's cancellation does not interrupt it: what is under way takes milliseconds.
        """
        with trio.CancelScope(shield=True):
            if self._closing:
                return
            self._closing = True
            # Every reader's place taken means that no read is under way.
            places = [object() for _ in range(READERS_MAX)]
            for place in places:
                await self._read_turn.acquire_on_behalf_of(place)
            try:
                await self._writer_thread.run(self._close)
                await self._writer_thread.close()
            finally:
                for place in places:
                    self._read_turn.release_on_behalf_of(place)

    def _close(self) -> None:
        self._closed = True
        while self._readers:
            self._readers.pop().close()
        self._writer.close()

    async def _write(self, work: Callable[[], _Answer]) -> _Answer:
        self._require_open()
        return await self._writer_thread.run(work)

    async def _read(self, query: Callable[[sqlite3.Connection, _Event], _Answer], event: _Event) -> _Answer:
        self._require_open()
        if self._writer.expiry_due():
            # TigerBeetle expires holds by itself; here whoever looks next does.
            await self._write(self._writer.expire_due)
        return await trio.to_thread.run_sync(self._run_query, query, event, limiter=self._read_turn)

    def _run_query(self, query: Callable[[sqlite3.Connection, _Event], _Answer], event: _Event) -> _Answer:
        if self._closed:
            raise self._closed_error()
        try:
            connection = self._readers.pop() if self._readers else sqlite_file.connect(self._path, read_only=True)
            try:
                answer = query(connection, event)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise sqlite_file.translate(error, self._path) from error
        self._readers.append(connection)
        return answer

    def _require_open(self) -> None:
        if self._closing:
            raise self._closed_error()

    def _closed_error(self) -> LedgerUnavailable:
        return LedgerUnavailable(f"{self._path}: the ledger is closed")
