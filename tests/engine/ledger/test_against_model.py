"""The embedded ledger against an independent model: every answer, every balance, every lookup, after every step."""

import shutil
import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from support.ledger_connections import fail_next_commit
from support.ledger_events import EventGenerator
from support.ledger_model import LedgerModel
from transfer_engine.engine.ledger import queries, sqlite_file
from transfer_engine.engine.ledger.late_balances import LateLimits
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.ledger.writer import LedgerWriter

START_NS = 1_700_000_000_000_000_000
SEEDS = st.integers(0, 2**64 - 1)
LATE_LIMITS = st.builds(
    LateLimits, accounts_most=st.integers(1, 9), transfers_most=st.integers(1, 30), slice_least=st.integers(1, 4)
)


class LedgerMachine(RuleBasedStateMachine):
    """Random batches to both; the clock goes where it likes, and the file is closed, reopened, or copied mid-life."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="ledger-model-"))
        self.path = self.directory / "0.ledger"
        self.now_ns = START_NS
        self.last_timestamp = 0
        self.late_limits = LateLimits()
        self.model = LedgerModel()
        self.generate = EventGenerator(Random(0), self.model, base=0x10_0000)
        self.open()

    def open(self) -> None:
        # So little memory that nearly every batch has to load, evict and merge.
        self.writer = LedgerWriter(
            self.path,
            clock_ns=lambda: self.now_ns,
            accounts_cached_max=2,
            recent_ids_max=12,
            late_limits=self.late_limits,
        )
        self.reader = sqlite_file.connect(self.path, read_only=True)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()

    def teardown(self) -> None:
        self.close()
        shutil.rmtree(self.directory)

    def timestamps_for(self, batch) -> int:
        self.model.expire(self.now_ns)
        first = max(self.now_ns, self.last_timestamp + 1)
        self.last_timestamp = first + len(batch) - 1
        return first

    @initialize(late_limits=LATE_LIMITS)
    def start_with_accounts_and_money(self, late_limits: LateLimits) -> None:
        self.late_limits = late_limits
        self.reopen()
        self.create_accounts(self.generate.first_accounts())
        self.create_transfers(self.generate.first_money())

    def create_accounts(self, batch) -> None:
        expected = self.model.create_accounts(batch, self.timestamps_for(batch))
        assert [(one.timestamp, one.status) for one in self.writer.create_accounts(batch)] == expected

    def create_transfers(self, batch) -> None:
        expected = self.model.create_transfers(batch, self.timestamps_for(batch))
        assert [(one.timestamp, one.status) for one in self.writer.create_transfers(batch)] == expected

    @rule(seed=SEEDS)
    def submit_accounts(self, seed: int) -> None:
        self.generate.random.seed(seed)
        self.create_accounts(self.generate.batch(self.generate.account))

    @rule(seed=SEEDS)
    def submit_transfers(self, seed: int) -> None:
        self.generate.random.seed(seed)
        self.create_transfers(self.generate.batch(self.generate.transfer))

    @rule(seed=SEEDS)
    def submit_more_transfers(self, seed: int) -> None:
        self.submit_transfers(seed)

    @rule(seed=SEEDS)
    def submit_moves(self, seed: int) -> None:
        self.generate.random.seed(seed)
        self.create_transfers(self.generate.moves())

    @rule(seed=SEEDS)
    def submit_more_moves(self, seed: int) -> None:
        self.submit_moves(seed)

    @rule(seed=SEEDS)
    def submit_near_the_top(self, seed: int) -> None:
        self.generate.random.seed(seed)
        self.create_transfers(self.generate.near_the_top())

    @rule(moment=st.sampled_from([1, 10**6, 10**9 - 1, 10**9, 3 * 10**9, -1, -(10**9)]))
    def let_time_pass(self, moment: int) -> None:
        self.now_ns += moment

    @rule()
    def reopen(self) -> None:
        self.close()
        self.open()
        # What was refused last leaves no row, and yet its timestamp is not used again.
        assert self.writer.statistics().last_timestamp == self.last_timestamp

    @rule()
    def lose_the_process(self) -> None:
        """Go on with a copy of the files, as another process would find them."""
        number = int(self.path.stem) + 1
        copy = self.directory / f"{number}.ledger"
        shutil.copy(self.path, copy)
        shutil.copy(f"{self.path}-wal", f"{copy}-wal")
        self.close()
        self.path = copy
        self.open()

    @rule(seed=SEEDS, lands=st.booleans())
    def fail_a_commit(self, seed: int, lands: bool) -> None:
        """Its caller does not know if the batch is there. Balances are read as it is; ids when it is open again."""
        self.generate.random.seed(seed)
        batch = self.generate.moves() or self.generate.batch(self.generate.transfer)
        fail_next_commit(self.writer, lands=lands)
        with pytest.raises(LedgerUnavailable):
            self.writer.create_transfers(batch)
        if lands:
            self.model.create_transfers(batch, self.timestamps_for(batch))
        self.accounts_agree()
        self.writer._connect()

    @rule(seed=SEEDS)
    def read_an_account(self, seed: int) -> None:
        self.generate.random.seed(seed)
        for _ in range(10):
            wanted = self.generate.account_filter()
            late = self.writer.late
            expected = self.model.get_account_transfers(wanted)
            assert queries.get_account_transfers(self.reader, wanted, late) == expected
            expected = self.model.get_account_balances(wanted)
            assert queries.get_account_balances(self.reader, wanted, late) == expected

    @rule(seed=SEEDS)
    def query(self, seed: int) -> None:
        self.generate.random.seed(seed)
        for _ in range(10):
            wanted = self.generate.query_filter([0, 0, 1, 2])
            assert queries.query_transfers(self.reader, wanted, self.writer.ids) == self.model.query_transfers(wanted)
            assert queries.query_accounts(self.reader, wanted, self.writer.late) == self.model.query_accounts(wanted)

    def look_after_expiry(self) -> None:
        self.model.expire(self.now_ns)
        self.writer.expire_due()

    def accounts_agree(self) -> None:
        ids = self.generate.account_ids[::-1]
        expected = [self.model.accounts[one] for one in ids if one in self.model.accounts]
        assert queries.lookup_accounts(self.reader, ids, self.writer.late) == expected

    @invariant()
    def books_agree(self) -> None:
        self.look_after_expiry()
        self.accounts_agree()
        ids = self.generate.transfer_ids
        expected = [self.model.transfers[one] for one in ids if one in self.model.transfers]
        assert queries.lookup_transfers(self.reader, ids, self.writer.ids) == expected

    @invariant()
    def nothing_superfluous_is_kept(self) -> None:
        kept = self.model.accounts_with_history()
        rows = self.reader.execute("SELECT count(*) FROM account_balances").fetchone()
        assert rows == (sum(len(self.model.history[one]) for one in kept),)
        waiting = sum(
            outcome == "pending" and self.model.transfers[hold].timeout > 0
            for hold, outcome in self.model.outcome_of_hold.items()
        )
        assert self.reader.execute("SELECT count(*) FROM expiries").fetchone() == (waiting,)

    @invariant()
    def no_money_appears(self) -> None:
        accounts = list(self.model.accounts.values())
        assert sum(one.debits_posted for one in accounts) == sum(one.credits_posted for one in accounts)
        assert sum(one.debits_pending for one in accounts) == sum(one.credits_pending for one in accounts)


TestLedgerAgainstModel = LedgerMachine.TestCase
TestLedgerAgainstModel.settings = settings(
    max_examples=100, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
