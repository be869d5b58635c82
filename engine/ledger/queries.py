# ruff: noqa: S608  # statements are put together from this package's own words; values are always bound
"""TigerBeetle's lookups and filters as SQL, on a connection that only reads. Synchronous; no rules of the ledger.

An invalid filter finds nothing, as in TigerBeetle. A limit above what fits one reply is the caller's mistake and
raises, as TigerBeetle's client does.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

from tigerbeetle import (
    Account,
    AccountBalance,
    AccountFilter,
    AccountFlags,
    QueryFilter,
    Transfer,
    TransferFlags,
)

from transfer_engine.engine.id_tree import IdTree
from transfer_engine.engine.ledger.book import AccountState, TransferState
from transfer_engine.engine.ledger.columns import from_id, from_wide, to_id, to_signed, to_wide
from transfer_engine.engine.ledger.flags import HISTORY, TIMESTAMP_MAX, U128_MAX
from transfer_engine.engine.ledger.late_balances import LateBalances
from transfer_engine.engine.ledger.moves import LEG_MASK
from transfer_engine.engine.ledger.storage import (
    TRANSFER_COLUMNS,
    TRANSFER_TABLES,
    load_accounts,
    load_transfers,
    prefix_key,
    transfers_from_row,
)
from transfer_engine.engine.ledger.wire import require_limit_fits

_DEBITS: Final = 1
_CREDITS: Final = 2
_ACCOUNT_REVERSED: Final = 4
_QUERY_REVERSED: Final = 1

_ACCOUNT_FLAGS: Final = {flags: AccountFlags(flags) for flags in range(64)}
_TRANSFER_FLAGS: Final = {flags: TransferFlags(flags) for flags in range(512)}


def to_account(state: AccountState) -> Account:
    """Return the account as TigerBeetle's client does."""
    return Account(
        state.id,
        state.debits_pending,
        state.debits_posted,
        state.credits_pending,
        state.credits_posted,
        state.user_data_128,
        state.user_data_64,
        state.user_data_32,
        state.ledger,
        state.code,
        _ACCOUNT_FLAGS[state.flags],
        state.timestamp,
    )


def to_transfer(state: TransferState) -> Transfer:
    """Return the transfer as TigerBeetle's client does."""
    return Transfer(
        state.id,
        state.debit_account_id,
        state.credit_account_id,
        state.amount,
        state.pending_id,
        state.user_data_128,
        state.user_data_64,
        state.user_data_32,
        state.timeout,
        state.ledger,
        state.code,
        _TRANSFER_FLAGS[state.flags],
        state.timestamp,
    )


def lookup_accounts(connection: sqlite3.Connection, account_ids: Sequence[int], late: LateBalances) -> list[Account]:
    """Return the accounts found, in the order asked; an id asked twice is answered twice."""
    found = {state.id: state for state in _load_accounts(connection, set(account_ids), late)}
    return [to_account(found[one]) for one in account_ids if one in found]


def _load_accounts(
    connection: sqlite3.Connection, account_ids: Collection[int], late: LateBalances
) -> list[AccountState]:
    """Return those of the accounts that exist, all as they were at one moment."""

    def fix_snapshot() -> int:
        (timestamp,) = connection.execute("SELECT coalesce(max(timestamp), 0) FROM transfers").fetchone()
        return int(timestamp)

    # The first SELECT of a transaction fixes what all of them see.
    connection.execute("BEGIN")
    try:
        parts = late.published(account_ids, fix_snapshot)
        accounts = load_accounts(connection, account_ids)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    for account in accounts:
        if account.id in parts:
            account.catch_up(parts[account.id])
    return accounts


def lookup_transfers(connection: sqlite3.Connection, transfer_ids: Sequence[int], ids: IdTree) -> list[Transfer]:
    """Return the transfers found, in the order asked; an id asked twice is answered twice."""
    found, _burnt = load_transfers(connection, set(transfer_ids), ids)
    return [to_transfer(found[one]) for one in transfer_ids if one in found]


def query_accounts(connection: sqlite3.Connection, query_filter: QueryFilter, late: LateBalances) -> list[Account]:
    """Return accounts by timestamp, all as they were at one moment.

    Reads all accounts of the time range: for people and audits.
    """
    window = _window(query_filter, _QUERY_REVERSED, _QUERY_REVERSED)
    if window is None:
        return []
    lowest, highest, descending = window
    conditions, values = _conditions(
        ("a.user_data_128", to_wide(query_filter.user_data_128)),
        ("a.user_data_64", to_signed(query_filter.user_data_64)),
        ("a.user_data_32", query_filter.user_data_32),
        ("a.ledger", query_filter.ledger),
        ("a.code", query_filter.code),
    )
    # What a filter asks for never changes, so these accounts are still the right ones when their balances are read.
    ids = connection.execute(
        f"SELECT a.id FROM accounts a WHERE a.timestamp BETWEEN ? AND ? {conditions} "
        f"ORDER BY a.timestamp {descending} LIMIT ?",
        (lowest, highest, *values, query_filter.limit),
    ).fetchall()
    return lookup_accounts(connection, [from_id(one) for (one,) in ids], late)


def query_transfers(connection: sqlite3.Connection, query_filter: QueryFilter, ids: IdTree) -> list[Transfer]:
    """Return transfers by timestamp.

    By ``user_data_128`` this is a lookup; without it, it reads all transfers of the time range.
    """
    window = _window(query_filter, _QUERY_REVERSED, _QUERY_REVERSED)
    if window is None:
        return []
    lowest, highest, descending = window
    conditions, values = _conditions(
        ("t.user_data_64", to_signed(query_filter.user_data_64)),
        ("t.user_data_32", query_filter.user_data_32),
        ("d.ledger", query_filter.ledger),
        ("t.code", query_filter.code),
    )
    wanted = query_filter.user_data_128
    if wanted:
        own = _own_transfers(connection, ids, wanted) if not wanted & LEG_MASK else []
        conditions += (
            "AND t.timestamp IN (SELECT value FROM json_each(?) UNION ALL SELECT timestamp FROM transfers "
            "WHERE user_data_128 IS NOT NULL AND user_data_128 <> 0 AND user_data_128 = ?) "
        )
        values += [str(own), to_wide(wanted)]
    rows = connection.execute(
        f"SELECT {TRANSFER_COLUMNS} FROM {TRANSFER_TABLES} WHERE t.timestamp BETWEEN ? AND ? {conditions} "
        f"ORDER BY t.timestamp {descending} LIMIT ?",
        # A row before the range may be a move whose post is in it.
        (lowest - 1, highest, *values, query_filter.limit + 1),
    )
    found = _transfers_within(rows, lowest, highest, descending=bool(descending))
    return [to_transfer(transfer) for transfer in found[: query_filter.limit]]


def _transfers_within(
    rows: Iterable[tuple[Any, ...]], lowest: int, highest: int, *, descending: bool
) -> list[TransferState]:
    """Return the transfers of rows, which are in the order asked for, that are in a time range."""
    found = []
    for row in rows:
        transfers = list(transfers_from_row(row))
        if descending:
            transfers.reverse()
        found += [one for one in transfers if lowest <= one.timestamp <= highest]
    return found


def _own_transfers(connection: sqlite3.Connection, ids: IdTree, user_data_128: int) -> list[int]:
    """Return the timestamps of the transfers whose ``user_data_128`` is implied by their id."""
    legs = range(user_data_128, user_data_128 + LEG_MASK + 1)
    found, _burnt = load_transfers(connection, legs, ids)
    return [one.timestamp for one in found.values() if one.user_data_128 == user_data_128]


def get_account_transfers(
    connection: sqlite3.Connection, account_filter: AccountFilter, late: LateBalances
) -> list[Transfer]:
    """Return an account's transfers by timestamp."""
    return [to_transfer(state) for state in _account_transfers(connection, account_filter, late)]


def get_account_balances(
    connection: sqlite3.Connection, account_filter: AccountFilter, late: LateBalances
) -> list[AccountBalance]:
    """Return the balances after each of an account's transfers, if the account keeps its history."""
    accounts = load_accounts(connection, [account_filter.account_id])
    if not accounts or not accounts[0].flags & HISTORY:
        return []
    timestamps = [state.timestamp for state in _account_transfers(connection, account_filter, late)]
    rows = connection.execute(
        "SELECT timestamp, debits_pending, debits_posted, credits_pending, credits_posted FROM account_balances "
        "WHERE account = ? AND timestamp IN (SELECT value FROM json_each(?))",
        (accounts[0].timestamp, str(timestamps)),
    )
    found = {
        row[0]: AccountBalance(from_wide(row[1]), from_wide(row[2]), from_wide(row[3]), from_wide(row[4]), row[0])
        for row in rows.fetchall()
    }
    return [found[timestamp] for timestamp in timestamps]


def _account_transfers(
    connection: sqlite3.Connection, account_filter: AccountFilter, late: LateBalances
) -> list[TransferState]:
    window = _window(account_filter, _ACCOUNT_REVERSED, _DEBITS | _CREDITS | _ACCOUNT_REVERSED)
    sides = int(account_filter.flags) & (_DEBITS | _CREDITS)
    if window is None or not sides or account_filter.account_id in (0, U128_MAX):
        return []
    accounts = _load_accounts(connection, [account_filter.account_id], late)
    if not accounts or not accounts[0].transfer_count:
        return []
    account = accounts[0]
    lowest, highest, descending = window
    conditions, values = _conditions(
        ("t.user_data_64", to_signed(account_filter.user_data_64)),
        ("t.user_data_32", account_filter.user_data_32),
        ("t.code", account_filter.code),
    )
    wanted = account_filter.user_data_128
    if wanted:
        own = wanted if not wanted & LEG_MASK else U128_MAX
        conditions += (
            "AND (t.user_data_128 = ? OR (t.user_data_128 IS NULL AND ("
            "t.id BETWEEN ? AND ? OR (t.id = ? AND t.legs >> 8 BETWEEN ? AND ?)))) "
        )
        legs = own & 0xFF
        values += [to_wide(wanted), to_id(own), to_id(own | LEG_MASK), prefix_key(own >> 8), legs, legs | LEG_MASK]
    if sides != _DEBITS | _CREDITS:
        conditions += f"AND t.{'debit' if sides == _DEBITS else 'credit'}_account = ? "
        values.append(account.timestamp)
    statement = _CHAIN + conditions + "LIMIT ?"
    found: list[TransferState] = []
    # A row before the range may be a move whose post is in it.
    for start, end in _segments(connection, account, lowest - 1, highest, descending=bool(descending)):
        # Walking back gives the latest first. Ascending, a whole segment is needed before its oldest is known.
        limit = account_filter.limit - len(found) if descending else -1
        rows = connection.execute(
            statement, (account.timestamp, start, account.timestamp, end, end, highest, *values, limit)
        ).fetchall()
        in_order = rows if descending else reversed(rows)
        found += _transfers_within(in_order, lowest, highest, descending=bool(descending))
        if len(found) >= account_filter.limit:
            break
    return found[: account_filter.limit]


_CHAIN: Final = (
    "WITH RECURSIVE chain (timestamp, previous) AS ("
    "SELECT timestamp, iif(debit_account = ?, debit_previous, credit_previous) FROM transfers WHERE timestamp = ? "
    "UNION ALL "
    "SELECT t.timestamp, iif(t.debit_account = ?, t.debit_previous, t.credit_previous) "
    "FROM chain CROSS JOIN transfers t ON t.timestamp = chain.previous WHERE t.timestamp >= ?) "
    f"SELECT {TRANSFER_COLUMNS} FROM chain CROSS JOIN transfers t ON t.timestamp = chain.timestamp "
    "CROSS JOIN accounts d ON d.timestamp = t.debit_account CROSS JOIN accounts c ON c.timestamp = t.credit_account "
    "LEFT JOIN transfers p ON p.timestamp = t.pending WHERE t.timestamp BETWEEN ? AND ? "
)
"""The transfers of one account from one of them back in time; see the schema."""


def _segments(
    connection: sqlite3.Connection, account: AccountState, lowest: int, highest: int, *, descending: bool
) -> Iterator[tuple[int, int]]:
    """Yield where to enter the account's chain, and how far back to follow it, so that all between is visited."""
    if descending:
        (mark,) = connection.execute(
            "SELECT min(transfer) FROM account_marks WHERE account = ? AND transfer >= ?",
            (account.timestamp, highest),
        ).fetchone()
        yield mark or account.transfer_last, lowest
        return
    marks = connection.execute(
        "SELECT transfer FROM account_marks WHERE account = ? AND transfer BETWEEN ? AND ? ORDER BY transfer",
        (account.timestamp, lowest, account.transfer_last),
    )
    for (mark,) in marks:
        yield mark, lowest
        lowest = mark + 1
        if lowest > highest:
            return
    if account.transfer_last >= lowest:
        yield account.transfer_last, lowest


def _window(one: QueryFilter | AccountFilter, reversed_flag: int, flags_known: int) -> tuple[int, int, str] | None:
    """Return the time range, both ends in it, and the word for its direction; None if the filter is invalid."""
    flags = int(one.flags)
    lowest, highest = one.timestamp_min, one.timestamp_max
    if max(lowest, highest) > TIMESTAMP_MAX or (highest and lowest > highest) or not one.limit or flags & ~flags_known:
        return None
    require_limit_fits(one.limit)
    return lowest or 1, highest or TIMESTAMP_MAX, "DESC" if flags & reversed_flag else ""


def _conditions(*columns: tuple[str, int | bytearray]) -> tuple[str, list[Any]]:
    """Return the SQL for the columns that are filtered by: zero means any value."""
    wanted = [(column, value) for column, value in columns if value]
    return "".join(f"AND {column} = ? " for column, _ in wanted), [value for _, value in wanted]
