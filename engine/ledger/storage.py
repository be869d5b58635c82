"""The embedded ledger's file: loads the part of it that a batch touches, and saves what the batch made.

Synchronous; one thread at a time. The schema, with the reasons for its shape, is ``schema/ledger.sql``. No rules of
the ledger live here.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

from transfer_engine.engine.bulk_statements import BulkInsert, BulkSelect
from transfer_engine.engine.id_tree import Entry, IdTree, key_of
from transfer_engine.engine.ledger.book import (
    PENDING_STATUS_EXPIRED,
    PENDING_STATUS_NONE,
    PENDING_STATUS_POSTED,
    AccountState,
    Book,
    TakenMove,
    TransferState,
)
from transfer_engine.engine.ledger.columns import (
    INTEGER_END,
    Value,
    from_id,
    from_signed,
    from_wide,
    to_id,
    to_signed,
    to_wide,
)
from transfer_engine.engine.ledger.flags import NS_PER_S, PENDING, POST
from transfer_engine.engine.ledger.moves import LEG_MASK
from transfer_engine.engine.ledger.recent_ids import PREFIX_BYTES, PREFIX_SHIFT

ACCOUNT_COLUMNS: Final = (
    "a.id, a.timestamp, a.user_data_128, a.user_data_64, a.user_data_32, a.ledger, a.code, "
    "b.debits_pending, b.debits_posted, b.credits_pending, b.credits_posted, b.flags, "
    "b.transfer_last, b.transfer_count"
)
ACCOUNT_TABLES: Final = "accounts a JOIN balances b ON b.account = a.timestamp"

TRANSFER_COLUMNS: Final = (
    "t.id, d.id, c.id, t.amount, p.id, t.user_data_128, t.user_data_64, t.user_data_32, t.timeout, d.ledger, "
    "t.code, t.flags, t.timestamp, t.status, t.debit_previous, t.credit_previous, t.legs"
)
TRANSFER_TABLES: Final = (
    "transfers t JOIN accounts d ON d.timestamp = t.debit_account "
    "JOIN accounts c ON c.timestamp = t.credit_account LEFT JOIN transfers p ON p.timestamp = t.pending"
)

_TWICE: Final = "DO NOTHING"
"""What has a new timestamp in its key is there only if it is written twice by one statement."""

_select_accounts = BulkSelect(
    f"SELECT {ACCOUNT_COLUMNS} FROM {ACCOUNT_TABLES} WHERE a.id IN ({{keys}})"  # noqa: S608
)
_select_burnt = BulkSelect("SELECT id FROM burnt_ids WHERE timestamp IN ({keys})")
_select_transfers = BulkSelect(
    f"SELECT {TRANSFER_COLUMNS} FROM {TRANSFER_TABLES} WHERE t.timestamp IN ({{keys}})"  # noqa: S608
)
_insert_accounts = BulkInsert(
    "accounts", ("timestamp", "id", "user_data_128", "user_data_64", "user_data_32", "ledger", "code"), _TWICE
)
_insert_transfers = BulkInsert(
    "transfers",
    (
        "timestamp",
        "id",
        "debit_account",
        "credit_account",
        "amount",
        "pending",
        "user_data_128",
        "user_data_64",
        "user_data_32",
        "timeout",
        "code",
        "flags",
        "status",
        "debit_previous",
        "credit_previous",
    ),
    _TWICE,
)
_insert_moves = BulkInsert(
    "transfers",
    (
        "timestamp",
        "id",
        "legs",
        "debit_account",
        "credit_account",
        "amount",
        "user_data_64",
        "code",
        "debit_previous",
        "credit_previous",
    ),
    _TWICE,
)
_insert_burnt = BulkInsert("burnt_ids", ("timestamp", "id"), _TWICE)
_insert_expiries = BulkInsert("expiries", ("expires_at", "transfer"), _TWICE)
_insert_marks = BulkInsert("account_marks", ("account", "transfer"), _TWICE)
_insert_account_balances = BulkInsert(
    "account_balances",
    ("account", "timestamp", "debits_pending", "debits_posted", "credits_pending", "credits_posted"),
    _TWICE,
)


def account_from_row(row: tuple[Any, ...]) -> AccountState:
    """Build an account from ``ACCOUNT_COLUMNS``."""
    wide = from_wide
    return AccountState(
        from_id(row[0]),
        row[1],
        wide(row[2]),
        from_signed(row[3]),
        row[4],
        row[5],
        row[6],
        wide(row[7]),
        wide(row[8]),
        wide(row[9]),
        wide(row[10]),
        row[11],
        row[12],
        row[13],
    )


def transfers_from_row(row: tuple[Any, ...]) -> Iterator[TransferState]:
    """Build the transfer, or the two of a move, from ``TRANSFER_COLUMNS``."""
    legs = row[16]
    if legs is None:
        transfer_id = from_id(row[0])
        pending_id = 0 if row[4] is None else from_id(row[4])
        yield _transfer_from_row(row, transfer_id, pending_id, row[11], row[12], row[13])
        return
    first_id = from_id(row[0]) << PREFIX_SHIFT
    hold_id = first_id | legs >> 8
    yield _transfer_from_row(row, hold_id, 0, PENDING, row[12], PENDING_STATUS_POSTED)
    yield _transfer_from_row(row, first_id | legs & 0xFF, hold_id, POST, row[12] + 1, PENDING_STATUS_NONE)


def _transfer_from_row(
    row: tuple[Any, ...], transfer_id: int, pending_id: int, flags: int, timestamp: int, status: int
) -> TransferState:
    transfer = TransferState(
        transfer_id,
        from_id(row[1]),
        from_id(row[2]),
        from_wide(row[3]),
        pending_id,
        transfer_id & ~LEG_MASK if row[5] is None else from_wide(row[5]),
        from_signed(row[6]),
        row[7],
        row[8],
        row[9],
        row[10],
        flags,
        timestamp,
        status,
        row[14],
        row[15],
    )
    transfer.stored = True
    return transfer


def load_last_timestamp(connection: sqlite3.Connection) -> int:
    """Return the latest timestamp that the file knows (ns)."""
    (timestamp,) = connection.execute(
        "SELECT max((SELECT last_timestamp FROM clock), coalesce((SELECT max(timestamp) FROM accounts), 0), "
        "coalesce((SELECT timestamp + (legs IS NOT NULL) FROM transfers ORDER BY timestamp DESC LIMIT 1), 0))"
    ).fetchone()
    return int(timestamp)


def load_next_expiry(connection: sqlite3.Connection) -> int | None:
    """Return when the next hold expires (ns), if one will."""
    row = connection.execute("SELECT min(expires_at) FROM expiries").fetchone()
    return row[0] if row else None


def expires_at(hold: TransferState) -> int:
    """Return when a hold with a timeout expires (ns)."""
    return hold.timestamp + hold.timeout * NS_PER_S


def load_due_holds(connection: sqlite3.Connection, now_ns: int, limit: int) -> list[TransferState]:
    """Return the holds whose time is over, the oldest expiry first."""
    rows = connection.execute(
        f"SELECT {TRANSFER_COLUMNS} FROM expiries e JOIN {TRANSFER_TABLES} "  # noqa: S608
        "WHERE t.timestamp = e.transfer AND e.expires_at <= ? ORDER BY e.expires_at, e.transfer LIMIT ?",
        (now_ns, limit),
    ).fetchall()
    return [transfer for row in rows for transfer in transfers_from_row(row)]


def load_transfers(
    connection: sqlite3.Connection, ids: Collection[int], tree: IdTree
) -> tuple[dict[int, TransferState], set[int]]:
    """Return those of the transfers that exist, and those of the ids that are burnt."""
    return load_found(connection, tree.look_up(connection, {key_of(one >> PREFIX_SHIFT) for one in ids}), ids)


def prefix_key(prefix: int) -> bytearray:
    """Return a prefix of ids as it is stored."""
    return bytearray(prefix.to_bytes(PREFIX_BYTES, "big"))


def load_found(
    connection: sqlite3.Connection, entries: Iterable[Entry], ids: Collection[int]
) -> tuple[dict[int, TransferState], set[int]]:
    """Return those of the transfers that exist, and those of the ids that are burnt, of the rows that entries name."""
    rows = {row for _, row in entries}
    burnt = set()
    for (stored_id,) in _select_burnt.run(connection, [-row for row in rows if row < 0]):
        burnt_id = from_id(stored_id)
        if burnt_id in ids:
            burnt.add(burnt_id)
    found = {}
    for row in _select_transfers.run(connection, [row for row in rows if row > 0]):
        for transfer in transfers_from_row(row):
            if transfer.id in ids:
                found[transfer.id] = transfer
    return found, burnt


def load_accounts(connection: sqlite3.Connection, ids: Iterable[int]) -> list[AccountState]:
    """Return those of the accounts that exist, as their rows are; see ``late_balances``."""
    return list(map(account_from_row, _select_accounts.run(connection, [to_id(one) for one in ids])))


def save(connection: sqlite3.Connection, book: Book, last_timestamp: int) -> None:
    """Write what a batch made, but for balances, inside the transaction that the caller has begun."""
    if book.accounts_created:
        values: list[Value] = []
        for account in book.accounts_created:
            values += (
                account.timestamp,
                to_id(account.id),
                to_wide(account.user_data_128),
                to_signed(account.user_data_64),
                account.user_data_32,
                account.ledger,
                account.code,
            )
        _insert_accounts.run(connection, values)
    if book.moves:
        _save_moves(connection, book.moves)
    if book.created:
        _save_transfers(connection, book)
    if book.burnt_now:
        values = []
        for burnt_id, timestamp in book.burnt_now:
            values += (timestamp, to_id(burnt_id))
        _insert_burnt.run(connection, values)
    if book.marks:
        _insert_marks.run(connection, [value for mark in book.marks for value in mark])
    if book.balances:
        values = []
        for account_timestamp, timestamp, *balances in book.balances:
            values += (account_timestamp, timestamp, *map(to_wide, balances))
        _insert_account_balances.run(connection, values)
    if book.last_row != last_timestamp:
        connection.execute("UPDATE clock SET last_timestamp = ?", (last_timestamp,))


def _save_moves(connection: sqlite3.Connection, moves: list[TakenMove]) -> None:
    values: list[Value] = []
    for timestamp, move, debit, credit, debit_previous, credit_previous in moves:
        _, _, key, legs, _, _, amount, user_data_64, _, code = move
        values += (
            timestamp,
            key,
            legs,
            debit.timestamp,
            credit.timestamp,
            amount,
            user_data_64 if user_data_64 < INTEGER_END else to_signed(user_data_64),
            code,
            debit_previous,
            credit_previous,
        )
    _insert_moves.run(connection, values)


def _save_transfers(connection: sqlite3.Connection, book: Book) -> None:
    accounts = book.accounts
    transfers = book.transfers
    rows: list[Value] = []
    settled: dict[int, list[int]] = {}
    expiries: list[Value] = []
    for one in book.created:
        timestamp = one.timestamp
        user_data_128 = one.user_data_128
        pending = None
        if one.pending_id:
            hold = transfers[one.pending_id]
            pending = hold.timestamp
            if hold.stored:
                settled.setdefault(hold.status, []).append(pending)
                if hold.timeout:
                    _forget_expiry(connection, hold)
        elif one.timeout and one.status == 1:
            expiries += (expires_at(one), timestamp)
        rows += (
            timestamp,
            to_id(one.id),
            accounts[one.debit_account_id].timestamp,
            accounts[one.credit_account_id].timestamp,
            to_wide(one.amount),
            pending,
            (None if user_data_128 == one.id & ~LEG_MASK else to_wide(user_data_128)) if user_data_128 else 0,
            to_signed(one.user_data_64),
            one.user_data_32,
            one.timeout,
            one.code,
            one.flags,
            one.status,
            one.debit_previous,
            one.credit_previous,
        )
    _insert_transfers.run(connection, rows)
    _insert_expiries.run(connection, expiries)
    for status, holds in settled.items():
        _save_status(connection, status, holds)


def _forget_expiry(connection: sqlite3.Connection, hold: TransferState) -> None:
    connection.execute(
        "DELETE FROM expiries WHERE expires_at = ? AND transfer = ?",
        (expires_at(hold), hold.timestamp),
    )


def _save_status(connection: sqlite3.Connection, status: int, holds: list[int]) -> None:
    connection.execute(
        "UPDATE transfers SET status = ? WHERE timestamp IN (SELECT value FROM json_each(?))",
        (status, str(holds)),
    )


def save_expired(connection: sqlite3.Connection, expired: list[TransferState]) -> None:
    """Write that these holds have expired, the first of all that will, but for balances."""
    last = expired[-1]
    connection.execute(
        "DELETE FROM expiries WHERE (expires_at, transfer) <= (?, ?)", (expires_at(last), last.timestamp)
    )
    _save_status(connection, PENDING_STATUS_EXPIRED, [hold.timestamp for hold in expired])
