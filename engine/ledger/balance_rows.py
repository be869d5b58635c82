# ruff: noqa: S608  # the statement is put together from this package's own words; no value is in it
"""The rows of ``balances`` in the embedded ledger's file: written, and completed when the file is opened.

Synchronous; one thread at a time, inside the caller's transaction. Which rows are written when, and why the sum made
here is exact, is in ``late_balances``.
"""

import sqlite3
from dataclasses import dataclass
from typing import Final

from transfer_engine.engine.bulk_statements import BulkInsert
from transfer_engine.engine.ledger.book import AccountState
from transfer_engine.engine.ledger.columns import INTEGER_END, Value, to_wide
from transfer_engine.engine.ledger.late_balances import DueRows
from transfer_engine.engine.ledger.storage import ACCOUNT_COLUMNS, ACCOUNT_TABLES, account_from_row

_COLUMNS: Final = (  # as in a `ChangingPart`
    "debits_pending",
    "debits_posted",
    "credits_pending",
    "credits_posted",
    "flags",
    "transfer_last",
    "transfer_count",
)
_upsert_balances = BulkInsert(
    "balances",
    ("account", *_COLUMNS),
    "(account) DO UPDATE SET " + ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS),
)

_SELECT_LATE: Final = (
    "WITH moves (account, debit, credit, timestamp) AS ("
    "SELECT debit_account, amount, 0, timestamp FROM clock CROSS JOIN transfers WHERE timestamp > balances_until "
    "AND legs IS NOT NULL UNION ALL "
    "SELECT credit_account, 0, amount, timestamp FROM clock CROSS JOIN transfers WHERE timestamp > balances_until "
    "AND legs IS NOT NULL), "
    "late (account, debits, credits, last, moves) AS ("
    "SELECT m.account, sum(m.debit), sum(m.credit), max(m.timestamp), count(*) "
    "FROM moves m CROSS JOIN balances r ON r.account = m.account WHERE m.timestamp > r.transfer_last "
    "GROUP BY m.account) "
    f"SELECT {ACCOUNT_COLUMNS}, late.debits, late.credits, late.last, late.moves "
    f"FROM late CROSS JOIN {ACCOUNT_TABLES} WHERE a.timestamp = late.account"
)
"""A move's amount, and what it makes of the sums, are below 2^63."""


@dataclass(frozen=True, slots=True)
class LateRows:
    """What the rows of ``balances`` lack."""

    accounts: dict[int, AccountState]
    """By id, complete."""
    transfers: int
    """Rows of ``transfers`` that had to be looked at."""


def load_late(connection: sqlite3.Connection) -> LateRows:
    """Return the accounts with moves that their rows do not count."""
    accounts = {}
    for row in connection.execute(_SELECT_LATE):
        account = account_from_row(row)
        debits, credits_, last, moves = row[-4:]
        account.debits_posted += debits
        account.credits_posted += credits_
        account.transfer_last = last
        account.transfer_count += moves
        accounts[account.id] = account
    (transfers,) = connection.execute(
        "SELECT count(*) FROM clock CROSS JOIN transfers WHERE timestamp > balances_until"
    ).fetchone()
    return LateRows(accounts, transfers)


def save(connection: sqlite3.Connection, due: DueRows) -> None:
    """Write these accounts' rows, and the mark if it moves."""
    values: list[Value] = []
    for account in due.accounts:
        part = account.changing_part()
        values.append(account.timestamp)
        values += part if max(part) < INTEGER_END else map(to_wide, part)
    _upsert_balances.run(connection, values)
    if due.complete_until is not None:
        connection.execute("UPDATE clock SET balances_until = ?", (due.complete_until,))
