"""The part of the ledger that one batch touches, in memory.

Plain state: accounts, transfers, burnt ids, and what a batch added. No rules, no storage. The rules change it only
through :meth:`Book.record_created` and friends, so that a broken chain can be taken back whole.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from transfer_engine.engine.id_tree import Entry, key_of
from transfer_engine.engine.ledger.flags import HISTORY
from transfer_engine.engine.ledger.recent_ids import PREFIX_SHIFT

PENDING_STATUS_NONE: Final = 0
PENDING_STATUS_PENDING: Final = 1
PENDING_STATUS_POSTED: Final = 2
PENDING_STATUS_VOIDED: Final = 3
PENDING_STATUS_EXPIRED: Final = 4

MARK_EVERY_ROWS: Final = 32
"""Every so many rows of one account (transfers, or moves), a mark lets a reader enter the account's chain there."""


ChangingPart = tuple[int, int, int, int, int, int, int]
"""Debits pending and posted, credits pending and posted, flags, last transfer, count: see :class:`AccountState`."""


class AccountState:
    """One account: what is fixed, its balances, and the head of its chain of transfers."""

    __slots__ = (
        "code",
        "credits_pending",
        "credits_posted",
        "debits_pending",
        "debits_posted",
        "flags",
        "id",
        "ledger",
        "published",
        "published_before",
        "timestamp",
        "transfer_count",
        "transfer_last",
        "user_data_32",
        "user_data_64",
        "user_data_128",
    )

    def __init__(  # noqa: PLR0917  # keyword arguments cost more than the rest of it
        self,
        id: int,  # noqa: A002  # TigerBeetle's name
        timestamp: int,
        user_data_128: int,
        user_data_64: int,
        user_data_32: int,
        ledger: int,
        code: int,
        debits_pending: int,
        debits_posted: int,
        credits_pending: int,
        credits_posted: int,
        flags: int,
        transfer_last: int,
        transfer_count: int,
    ) -> None:
        self.id = id
        self.timestamp = timestamp
        self.user_data_128 = user_data_128
        self.user_data_64 = user_data_64
        self.user_data_32 = user_data_32
        self.ledger = ledger
        self.code = code
        self.debits_pending = debits_pending
        self.debits_posted = debits_posted
        self.credits_pending = credits_pending
        self.credits_posted = credits_posted
        self.flags = flags
        self.transfer_last = transfer_last
        self.transfer_count = transfer_count
        self.published: ChangingPart | None = None
        self.published_before: ChangingPart | None = None

    def __repr__(self) -> str:
        return (
            f"<AccountState {self.id:#x} debits {self.debits_posted}+{self.debits_pending} "
            f"credits {self.credits_posted}+{self.credits_pending} flags {self.flags:#x}>"
        )

    def changing_part(self) -> ChangingPart:
        """Return what a transfer may change, for :meth:`restore`."""
        return (
            self.debits_pending,
            self.debits_posted,
            self.credits_pending,
            self.credits_posted,
            self.flags,
            self.transfer_last,
            self.transfer_count,
        )

    def restore(self, changing_part: ChangingPart) -> None:
        """Put back what :meth:`changing_part` returned."""
        (
            self.debits_pending,
            self.debits_posted,
            self.credits_pending,
            self.credits_posted,
            self.flags,
            self.transfer_last,
            self.transfer_count,
        ) = changing_part

    def publish(self) -> None:
        """Let readers have the changing part as it is now, and for older snapshots what they had before."""
        self.published_before = self.published
        self.published = self.changing_part()

    def published_by(self, timestamp: int) -> ChangingPart | None:
        """Return what was published last of those whose last transfer is not after a timestamp (ns)."""
        part = self.published
        return part if part is None or part[5] <= timestamp else self.published_before

    def catch_up(self, part: ChangingPart) -> None:
        """Take over what was published of this account, unless this is as late or later."""
        if part[5] > self.transfer_last:
            self.restore(part)


class TransferState:
    """One transfer as it was applied (amount resolved, fields inherited from its hold), and a hold's outcome."""

    __slots__ = (
        "amount",
        "code",
        "credit_account_id",
        "credit_previous",
        "debit_account_id",
        "debit_previous",
        "flags",
        "id",
        "ledger",
        "pending_id",
        "status",
        "stored",
        "timeout",
        "timestamp",
        "user_data_32",
        "user_data_64",
        "user_data_128",
    )

    def __init__(  # noqa: PLR0917  # keyword arguments cost more than the rest of it
        self,
        id: int,  # noqa: A002  # TigerBeetle's name
        debit_account_id: int,
        credit_account_id: int,
        amount: int,
        pending_id: int,
        user_data_128: int,
        user_data_64: int,
        user_data_32: int,
        timeout: int,
        ledger: int,
        code: int,
        flags: int,
        timestamp: int,
        status: int,
        debit_previous: int,
        credit_previous: int,
    ) -> None:
        self.id = id
        self.debit_account_id = debit_account_id
        self.credit_account_id = credit_account_id
        self.amount = amount
        self.pending_id = pending_id
        self.user_data_128 = user_data_128
        self.user_data_64 = user_data_64
        self.user_data_32 = user_data_32
        self.timeout = timeout
        self.ledger = ledger
        self.code = code
        self.flags = flags
        self.timestamp = timestamp
        self.status = status
        self.debit_previous = debit_previous
        self.credit_previous = credit_previous
        self.stored = False

    def __repr__(self) -> str:
        return f"<TransferState {self.id:#x} amount {self.amount} flags {self.flags:#x} status {self.status}>"


Move = tuple[int, int, bytearray, int, int, int, int, int, int, int]
"""What a hold and its post say (see ``moves``): the hold's index in the batch; the prefix of both ids, as a number and
as it is stored; the last bytes of both, ``hold << 8 | post``; debit account, credit account, amount, ``user_data_64``,
ledger, code. A plain tuple: one is made for each transfer of money.
"""

TakenMove = tuple[int, Move, AccountState, AccountState, int, int]
"""A move that was applied: the hold's timestamp (the post's is the next one), what it says, debit account, credit
account, and the rows before it in the chains of both.
"""


@dataclass(slots=True)
class _ChainStart:
    """Where an open chain began, and how to take it back."""

    created: int
    accounts_created: int
    marks: int
    balances: int
    before: list[tuple[AccountState, tuple[int, int, int, int, int, int, int]]] = field(default_factory=list)
    holds: list[TransferState] = field(default_factory=list)


class Book:
    """What one batch reads, and what it adds."""

    __slots__ = (
        "_chain",
        "accounts",
        "accounts_created",
        "balances",
        "burnt",
        "burnt_now",
        "created",
        "marks",
        "moves",
        "transfers",
    )

    def __init__(self, accounts: dict[int, AccountState], transfers: dict[int, TransferState], burnt: set[int]) -> None:
        self.accounts = accounts
        self.transfers = transfers
        self.burnt = burnt
        self.burnt_now: list[tuple[int, int]] = []
        """Ids burnt by this batch, each with the timestamp of its refusal."""
        self.created: list[TransferState] = []
        self.moves: list[TakenMove] = []
        """Two transfers each, which are in no other list; nothing else of the batch is about them."""
        self.accounts_created: list[AccountState] = []
        self.marks: list[tuple[int, int]] = []
        """(account, transfer) timestamps."""
        self.balances: list[tuple[int, int, int, int, int, int]] = []
        """(account, timestamp, debits pending, posted, credits pending, posted) of accounts with history."""
        self._chain: _ChainStart | None = None

    def chain_open(self) -> None:
        """Remember this point: what follows stands or falls together."""
        self._chain = _ChainStart(len(self.created), len(self.accounts_created), len(self.marks), len(self.balances))

    def chain_keep(self) -> None:
        """Let the chain's events stand."""
        self._chain = None

    def chain_discard(self) -> None:
        """Take back everything since :meth:`chain_open`."""
        chain = self._chain
        if chain is None:
            return
        self._chain = None
        for account, changing_part in reversed(chain.before):
            account.restore(changing_part)
        for hold in chain.holds:
            hold.status = PENDING_STATUS_PENDING
        for transfer in self.created[chain.created :]:
            del self.transfers[transfer.id]
        for account in self.accounts_created[chain.accounts_created :]:
            del self.accounts[account.id]
        del self.created[chain.created :]
        del self.accounts_created[chain.accounts_created :]
        del self.marks[chain.marks :]
        del self.balances[chain.balances :]

    def before_change(self, debit: AccountState, credit: AccountState, hold: TransferState | None) -> None:
        """Note what the next event changes, in case its chain breaks later."""
        chain = self._chain
        if chain is not None:
            chain.before.append((debit, debit.changing_part()))
            chain.before.append((credit, credit.changing_part()))
            if hold is not None:
                chain.holds.append(hold)

    def burn(self, id: int, timestamp: int) -> None:  # noqa: A002
        """Refuse this id for ever. Stands even if the event's chain is taken back."""
        if id not in self.burnt:
            self.burnt.add(id)
            self.burnt_now.append((id, timestamp))

    def ids_by_time(self) -> list[Entry]:
        """Return entries for the ids that this batch used up (see ``recent_ids``), in the order of their timestamps."""
        entries = [(key_of(taken[1][1]), taken[0]) for taken in self.moves]
        if self.created or self.burnt_now:
            entries += [(key_of(one.id >> PREFIX_SHIFT), one.timestamp) for one in self.created]
            entries += [(key_of(burnt_id >> PREFIX_SHIFT), -timestamp) for burnt_id, timestamp in self.burnt_now]
            entries.sort(key=lambda entry: abs(entry[1]))
        return entries

    @property
    def ids_used(self) -> int:
        """How many entries :meth:`ids_by_time` returns."""
        return len(self.moves) + len(self.created) + len(self.burnt_now)

    @property
    def last_row(self) -> int:
        """The latest timestamp (ns) that a row of this batch tells of; 0: none does."""
        return max(
            self.moves[-1][0] + 1 if self.moves else 0,
            self.created[-1].timestamp if self.created else 0,
            self.accounts_created[-1].timestamp if self.accounts_created else 0,
        )

    def accounts_moved(self) -> dict[int, AccountState]:
        """Return the accounts of this batch's moves by their ids."""
        moved = {}
        for _, move, debit, credit, _, _ in self.moves:
            moved[move[4]] = debit
            moved[move[5]] = credit
        return moved

    def accounts_changed(self) -> set[AccountState]:
        """Return the accounts that were created, or changed by anything but a move."""
        return self.accounts_of(self.created).union(self.accounts_created)

    def accounts_of(self, transfers: Iterable[TransferState]) -> set[AccountState]:
        """Return the accounts of these transfers."""
        accounts = self.accounts
        found = set()
        for transfer in transfers:
            found.add(accounts[transfer.debit_account_id])
            found.add(accounts[transfer.credit_account_id])
        return found

    def record_created_account(self, account: AccountState) -> None:
        """Add an account."""
        self.accounts[account.id] = account
        self.accounts_created.append(account)

    def record_created(
        self, transfer: TransferState, debit: AccountState, credit: AccountState, *, history: bool
    ) -> None:
        """Add a transfer, after its amounts are on its accounts, and move the heads of their chains to it."""
        timestamp = transfer.timestamp
        debit.transfer_last = credit.transfer_last = timestamp
        debit.transfer_count += 1
        credit.transfer_count += 1
        self.transfers[transfer.id] = transfer
        self.created.append(transfer)
        if not debit.transfer_count % MARK_EVERY_ROWS:
            self.marks.append((debit.timestamp, timestamp))
        if not credit.transfer_count % MARK_EVERY_ROWS:
            self.marks.append((credit.timestamp, timestamp))
        if history:
            self._record_balances(debit, credit, timestamp)

    def _record_balances(self, debit: AccountState, credit: AccountState, timestamp: int) -> None:
        for account in (debit, credit):
            if account.flags & HISTORY:
                self.balances.append((account.timestamp, timestamp, *account.changing_part()[:4]))
