"""The embedded ledger's one writer: takes whole batches, applies the rules, makes each batch one durable commit.

Synchronous: whoever calls sees to it that one thread at a time does. After any fault the file is as before the batch,
and nothing in memory claims otherwise. Balances that moves changed are written later, see ``late_balances``.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from tigerbeetle import Account, CreateAccountResult, CreateTransferResult, Transfer

from transfer_engine.engine.id_tree import IdTree, key_of
from transfer_engine.engine.ledger import balance_rows, sqlite_file, storage
from transfer_engine.engine.ledger.batch import apply_accounts, apply_transfers
from transfer_engine.engine.ledger.book import AccountState, Book, Move, TransferState
from transfer_engine.engine.ledger.checkpoints import Checkpoints
from transfer_engine.engine.ledger.late_balances import LateBalances, LateLimits
from transfer_engine.engine.ledger.moves import find_moves, ids_of
from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX, LedgerDamaged, LedgerUnavailable
from transfer_engine.engine.ledger.recent_ids import PREFIX_SHIFT, load_recent_ids, merge_ids
from transfer_engine.engine.ledger.transfer_rules import expire
from transfer_engine.engine.ledger.wire import require_accounts_fit, require_batch_fits, require_transfers_fit
from transfer_engine.engine.recent_entries import Due

ACCOUNTS_CACHED_MAX: Final = 65_536
"""About 400 bytes each, and as much again for what readers are told of those that are moved."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class WriterStatistics:
    """What the writer has done since the file was opened."""

    batches: int
    events: int
    expired: int
    accounts_cached: int
    accounts_late: int
    """Whose rows of ``balances`` are still to be written; one in two generations counts twice."""
    last_timestamp: int
    """ns"""


class _AccountCache:
    """A bounded cache: two generations, so that a hit costs nothing but a promotion now and then."""

    def __init__(self, size_max: int) -> None:
        self._generation_max = max(size_max // 2, 1)
        self._young: dict[int, AccountState] = {}
        self._old: dict[int, AccountState] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, account_id: int) -> AccountState | None:
        account = self._young.get(account_id)
        if account is None:
            account = self._old.pop(account_id, None)
            if account is not None:
                self.put(account)
        return account

    def put(self, account: AccountState) -> None:
        if len(self._young) >= self._generation_max:
            self._old = self._young
            self._young = {}
        self._young[account.id] = account

    def clear(self) -> None:
        self._young = {}
        self._old = {}


class LedgerWriter:
    """Owns the writing connection, the clock and the cache of accounts."""

    def __init__(
        self,
        path: Path,
        *,
        clock_ns: Callable[[], int],
        accounts_cached_max: int,
        recent_ids_max: int,
        late_limits: LateLimits | None = None,
    ) -> None:
        self._path = path
        self._recent_ids_max = recent_ids_max
        self.ids = IdTree(recent_ids_max)
        self._clock_ns = clock_ns
        self._accounts = _AccountCache(accounts_cached_max)
        self.late = LateBalances(late_limits or LateLimits())
        self._checkpoints = Checkpoints(path)
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._batches = 0
        self._events = 0
        self._expired = 0
        self._last_timestamp = 0
        self._next_expiry: int | None = None
        self._connect()

    def statistics(self) -> WriterStatistics:
        """Return the counters of this moment."""
        return WriterStatistics(
            self._batches, self._events, self._expired, len(self._accounts), len(self.late), self._last_timestamp
        )

    def expiry_due(self) -> bool:
        """Say whether a hold's time is over that still counts as held. Any thread may ask."""
        return self._next_expiry is not None and self._next_expiry <= self._clock_ns()

    def create_accounts(self, accounts: Sequence[Account]) -> list[CreateAccountResult]:
        """Create accounts; durable when it returns."""
        require_accounts_fit(accounts)

        def apply(connection: sqlite3.Connection, timestamp_first: int) -> tuple[Book, list[CreateAccountResult]]:
            book = Book(self._load_accounts(connection, {account.id for account in accounts}), {}, set())
            return book, apply_accounts(book, accounts, timestamp_first)

        return self._commit_batch(len(accounts), apply)

    def create_transfers(self, transfers: Sequence[Transfer]) -> list[CreateTransferResult]:
        """Apply transfers; durable when it returns."""
        require_batch_fits(len(transfers))
        try:
            moves, others = find_moves(transfers)
        except TypeError:
            require_transfers_fit(transfers, range(len(transfers)))
            raise
        require_transfers_fit(transfers, others)

        def apply(connection: sqlite3.Connection, timestamp_first: int) -> tuple[Book, list[CreateTransferResult]]:
            book = self._load_book(connection, moves, [transfers[index] for index in others])
            return book, apply_transfers(book, transfers, timestamp_first, moves.values())

        return self._commit_batch(len(transfers), apply)

    def expire_due(self) -> None:
        """Give back the holds whose time is over, a bounded number a commit, until none is left."""
        while self.expiry_due():
            now_ns = self._clock_ns()
            expired, next_expiry = self._in_transaction(partial(self._expire, now_ns))
            self._next_expiry = next_expiry
            self._expired += expired

    def close(self) -> None:
        """Close the file; later calls raise :class:`LedgerUnavailable`.

        Late balances are written first, so that a file closed in peace says all of them to whoever reads it, and opens
        at once. If that fails nothing is lost: they are found again as after a kill.
        """
        self._checkpoints.wait()
        if self._connection is not None:
            with suppress(LedgerUnavailable, LedgerDamaged):
                self._in_transaction(self._save_late)
        self._closed = True
        self._disconnect()

    def _commit_batch(
        self, count: int, apply: Callable[[sqlite3.Connection, int], tuple[Book, list[_Result]]]
    ) -> list[_Result]:
        if not count:
            return []
        self.expire_due()
        # The first event's timestamp; strictly after all before it, whatever the clock does.
        timestamp_first = max(self._last_timestamp + 1, self._clock_ns())
        timestamp_last = timestamp_first + count - 1

        def work(connection: sqlite3.Connection) -> tuple[Book, list[_Result], Due | None]:
            book, results = apply(connection, timestamp_first)
            storage.save(connection, book, timestamp_last)
            self._save_balances(connection, book, book.accounts_changed(), timestamp_last)
            return book, results, merge_ids(connection, self.ids, book.ids_used, timestamp_first - 1)

        book, results, due = self._in_transaction(work)
        # Durable from here on, and so are the memory's copies.
        self._last_timestamp = timestamp_last
        self.ids.committed(due, book.ids_by_time())
        for account in book.accounts_created:
            self._accounts.put(account)
        for transfer in book.created:
            if transfer.timeout:
                self._note_expiry(storage.expires_at(transfer))
        self._batches += 1
        self._events += count
        self._checkpoints.after_commit(count)
        return results

    def _note_expiry(self, expires_at: int) -> None:
        if self._next_expiry is None or expires_at < self._next_expiry:
            self._next_expiry = expires_at

    def _expire(self, now_ns: int, connection: sqlite3.Connection) -> tuple[int, int | None]:
        """Return how many holds have expired, and when the next one will (ns)."""
        due = storage.load_due_holds(connection, now_ns, BATCH_EVENTS_MAX)
        if due:  # else what was to expire next has been posted or voided
            book = Book(self._load_accounts(connection, _accounts_of(due)), {}, set())
            for hold in due:
                expire(book, hold)
            storage.save_expired(connection, due)
            self._save_balances(connection, book, book.accounts_of(due), self._last_timestamp)
        return len(due), storage.load_next_expiry(connection)

    def _save_balances(self, connection: sqlite3.Connection, book: Book, changed: set[AccountState], last: int) -> None:
        """Write the rows that must not be late, or no longer may be; ``last``: the batch's last timestamp (ns)."""
        rows = len(book.moves) + len(book.created)
        balance_rows.save(connection, self.late.add_batch(book.accounts_moved(), changed, rows, last))

    def _save_late(self, connection: sqlite3.Connection) -> None:
        balance_rows.save(connection, self.late.all_due())

    def _load_book(self, connection: sqlite3.Connection, moves: dict[int, Move], others: Sequence[Transfer]) -> Book:
        """Load what a batch is about; leave in ``moves`` those only whose ids nothing else has."""
        account_ids = _accounts_of(others)
        for move in moves.values():
            account_ids.add(move[4])
            account_ids.add(move[5])
        ids = {transfer.id for transfer in others}
        ids.update([transfer.pending_id for transfer in others])
        keys = list(map(key_of, moves))
        for prefix in {one >> PREFIX_SHIFT for one in ids}:
            if prefix in moves:
                ids.update(ids_of(moves.pop(prefix)))
            else:
                keys.append(key_of(prefix))
        entries = self.ids.look_up_new(connection, keys)
        if entries:
            used = {key for key, _ in entries}
            for prefix in [prefix for prefix in moves if key_of(prefix) in used]:
                ids.update(ids_of(moves.pop(prefix)))
        found, burnt = storage.load_found(connection, entries, ids)
        if found:
            account_ids |= _accounts_of(found.values())
        return Book(self._load_accounts(connection, account_ids), found, burnt)

    def _load_accounts(self, connection: sqlite3.Connection, account_ids: set[int]) -> dict[int, AccountState]:
        cache = self._accounts
        accounts = {}
        missing = []
        for account_id in account_ids:
            account = cache.get(account_id)
            if account is None:
                account = self.late.get(account_id)
                if account is None:
                    missing.append(account_id)
                    continue
                cache.put(account)
            accounts[account_id] = account
        if missing:
            for account in storage.load_accounts(connection, missing):
                accounts[account.id] = account
                cache.put(account)
        return accounts

    def _in_transaction(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run ``work`` and commit, or leave the file as it was and forget what memory knows beyond it."""
        connection = self._connect()
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            # The rules have changed cached accounts; the file has not. A connection that failed is not trusted.
            self._accounts.clear()
            self._disconnect()
            if isinstance(error, sqlite3.Error):
                raise sqlite_file.translate(error, self._path) from error
            raise
        return result

    def _connect(self) -> sqlite3.Connection:
        if self._closed:
            raise LedgerUnavailable(f"{self._path}: the ledger is closed")
        if self._connection is None:
            connection = sqlite_file.open_file(self._path)
            try:
                self._last_timestamp = max(self._last_timestamp, storage.load_last_timestamp(connection))
                self._next_expiry = storage.load_next_expiry(connection)
                ids = IdTree(self._recent_ids_max)
                load_recent_ids(connection, ids)
                self.ids = ids  # complete: readers may be looking
                self._load_late(connection)
            except sqlite3.Error as error:
                connection.close()
                raise sqlite_file.translate(error, self._path) from error
            self._connection = connection
        return self._connection

    def _load_late(self, connection: sqlite3.Connection) -> None:
        found = balance_rows.load_late(connection)
        self._accounts.clear()
        self.late.begin(found.accounts, found.transfers, self._last_timestamp)

    def _disconnect(self) -> None:
        """Close the connection; an open transaction is rolled back by that."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                raise sqlite_file.translate(error, self._path) from error


def _accounts_of(transfers: Iterable[Transfer | TransferState]) -> set[int]:
    ids = set()
    for transfer in transfers:
        ids.add(transfer.debit_account_id)
        ids.add(transfer.credit_account_id)
    return ids
