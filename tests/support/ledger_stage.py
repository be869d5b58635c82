"""A ledger of a few accounts on a file, its writer, and a reader beside it, for tests of when its rows are written."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import tigerbeetle as tb
from tigerbeetle import TransferFlags

from support.ledger_connections import WatchedConnection
from transfer_engine.engine.ledger import queries, sqlite_file
from transfer_engine.engine.ledger.late_balances import LateLimits
from transfer_engine.engine.ledger.paging import every_one
from transfer_engine.engine.ledger.protocol import AMOUNT_MAX
from transfer_engine.engine.ledger.writer import LedgerWriter

ACCOUNTS = range(1, 9)
_HEADS = (
    "SELECT coalesce(max(t.timestamp), 0), count(t.timestamp) FROM accounts a "
    "LEFT JOIN transfers t ON a.timestamp IN (t.debit_account, t.credit_account) "
    "GROUP BY a.timestamp ORDER BY a.timestamp"
)
"""The last row of each account and their number, from the rows themselves."""


class Stage:
    """A ledger of a few accounts, its writer, and a reader beside it."""

    def __init__(self, path: Path, limits: LateLimits) -> None:
        self.path = path
        self.limits = limits
        self.now_ns = 10**18
        self.writer = self.open(path)
        self.reader = sqlite_file.connect(path, read_only=True)
        self.next_move = 0
        self.writer.create_accounts([tb.Account(id=one, ledger=1, code=1) for one in ACCOUNTS])

    def open(self, path: Path) -> LedgerWriter:
        return LedgerWriter(
            path, clock_ns=lambda: self.now_ns, accounts_cached_max=2, recent_ids_max=64, late_limits=self.limits
        )

    def transfer(self, debit: int, credit: int, amount: int, flags: int = 0, *, timeout: int = 0) -> tb.Transfer:
        self.next_move += 256  # moves whose ids differ in more than the last byte
        return tb.Transfer(
            id=self.next_move | 1,
            debit_account_id=debit,
            credit_account_id=credit,
            amount=amount,
            user_data_128=self.next_move,
            timeout=timeout,
            ledger=1,
            code=1,
            flags=TransferFlags(flags),
        )

    def move(self, debit: int, credit: int, amount: int) -> list[tb.Transfer]:
        hold = self.transfer(debit, credit, amount, TransferFlags.PENDING)
        post = tb.Transfer(
            id=hold.id + 1,
            debit_account_id=debit,
            credit_account_id=credit,
            amount=AMOUNT_MAX,
            pending_id=hold.id,
            user_data_128=hold.user_data_128,
            ledger=1,
            code=1,
            flags=TransferFlags.POST_PENDING_TRANSFER,
        )
        return [hold, post]

    def some_events(self, random: Random) -> list[tb.Transfer]:
        """Mostly moves; now and then a single transfer, a hold that will expire, or one that closes its account."""
        events = []
        for _ in range(random.randint(1, 5)):
            debit, credit = random.sample(ACCOUNTS, 2)
            kind = random.random()
            if kind < 0.7:
                events += self.move(debit, credit, random.randint(0, 9))
            elif kind < 0.8:
                events.append(self.transfer(debit, credit, random.randint(0, 9)))
            elif kind < 0.95:
                events.append(self.transfer(debit, credit, random.randint(0, 9), TransferFlags.PENDING, timeout=1))
            else:
                flags = TransferFlags.PENDING | TransferFlags.CLOSING_CREDIT
                events.append(self.transfer(debit, credit, 0, flags, timeout=1))
        return events

    def let_time_pass(self) -> None:
        """Let some of the holds expire."""
        self.now_ns += 4 * 10**8
        self.writer.expire_due()

    def look(self) -> list[tb.Account]:
        """What a reader sees of all accounts; their money adds up."""
        found = queries.lookup_accounts(self.reader, ACCOUNTS, self.writer.late)
        assert found == queries.query_accounts(self.reader, every_one(), self.writer.late)
        assert len(found) == len(ACCOUNTS)
        assert sum(one.debits_posted for one in found) == sum(one.credits_posted for one in found)
        assert sum(one.debits_pending for one in found) == sum(one.credits_pending for one in found)
        return found

    def look_after_a_kill(self) -> list[tb.Account]:
        """What another process would see, if this one died now; nothing is closed."""
        copy = self.path.with_suffix(".copy")
        shutil.copy(self.path, copy)
        shutil.copy(f"{self.path}-wal", f"{copy}-wal")
        writer = self.open(copy)
        try:
            found = queries.lookup_accounts(writer._connect(), ACCOUNTS, writer.late)
        finally:
            writer.close()
        with closing(sqlite3.connect(copy)) as connection:
            heads = connection.execute("SELECT transfer_last, transfer_count FROM balances ORDER BY account").fetchall()
            assert heads == connection.execute(_HEADS).fetchall()
        copy.unlink()
        return found

    def lose_the_connection(self) -> None:
        """What is in memory is found again from the file, as after a kill."""
        self.writer._disconnect()
        self.writer._connect()

    def rows(self) -> list[tuple[int, int]]:
        """The two posted sums that are in the file, in the order of the accounts."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute("SELECT debits_posted, credits_posted FROM balances ORDER BY account").fetchall()

    def transfers_after_the_mark(self) -> int:
        rows = self.reader.execute("SELECT count(*) FROM transfers, clock WHERE timestamp > balances_until")
        return int(rows.fetchone()[0])

    @contextmanager
    def watched(self, watch: Callable[[str, bool], None]) -> Iterator[None]:
        """Call ``watch`` with each statement of the writer, before (False) and after (True) it."""
        connection = self.writer._connect()
        self.writer._connection = WatchedConnection(  # type: ignore[assignment]
            connection, before=lambda statement: watch(statement, False), after=lambda statement: watch(statement, True)
        )
        yield
        self.writer._connection = connection

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@contextmanager
def stage(directory: Path, limits: LateLimits) -> Iterator[Stage]:
    directory.mkdir(exist_ok=True)
    path = directory / "ledger.sqlite"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    with closing(Stage(path, limits)) as one:
        yield one
