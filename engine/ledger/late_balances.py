"""Which accounts' rows of ``balances`` are written late, when they are, and what readers are told meanwhile.

Moves touch accounts all over that table, and each page of it would be a page more in the commit. The rows of
``transfers`` make what was moved durable anyway. So a move only puts its two accounts into a *generation*, in memory. A
full one is *frozen*, and written off a slice at a time, neighbours together, while the next one fills. Whatever else
changes an account (a hold or another single transfer, an expiry, its creation) writes its row at once, as it is then.
No SQL here.

Opening the file adds the missing moves to the rows, exactly, because of what holds after every commit:

1. *A row is its account just after the row's* ``transfer_last``, and whatever expired since. A row is only ever written
   whole, in the commit of a batch or of expiries, with the account as it is at the end of that.
2. *All that is after* ``transfer_last`` *are moves.* Every other transfer of the account wrote the row in its own
   commit, together with the moves before it, so ``transfer_last`` is not before such a transfer. An expiry, which has
   no row of its own, wrote the row as well, and raised ``transfer_last`` only together with the moves up to there.
3. *All moves after* ``transfer_last`` *are after* ``clock.balances_until``. That mark is only ever raised to the moment
   of a freeze, once all of the frozen generation is written; whoever had moves by then that were not in his row was in
   that generation.

So an account is its row, plus the amount of each move after the mark that is after ``transfer_last``: by 1 and 2 no
move is counted twice, by 3 none is left out, and a move changes nothing but the two posted sums, the head of the
account's chain and its length. Rows, mark and transfers are of one commit, so it holds wherever a crash comes.
``account_marks`` are never late. When the process dies, all that is here dies too and is found again by that sum; the
same after a failed commit.

A reader sees whole batches: its snapshot of the file, and of late accounts what they were in that snapshot. So before
its commit a batch publishes the accounts that it moved, beside what they were before; the last transfer in the reader's
snapshot tells which of the two it is. Between fixing the snapshot and asking here, nothing may be published: that is
what the lock is for, and it is never held while a commit is under way. Where a row is as late as what is published, the
row counts; so a generation need not be told whose rows have been written meanwhile. The writer's thread and those of
readers use this; no task of the event loop may wait here.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter

from transfer_engine.engine.ledger.book import AccountState, ChangingPart

_timestamp = attrgetter("timestamp")


@dataclass(frozen=True, slots=True)
class LateLimits:
    """How late balances may be."""

    accounts_most: int = 32_768
    """In one generation, of which there are two; about 800 bytes each where the cache does not have them as well."""
    transfers_most: int = 32_768
    """Rows of ``transfers`` in one generation. Opening the file adds up those of two, in 0.1 to 0.4 s, by accounts."""
    slice_least: int = 2_048
    """Accounts written by one commit, even if fewer would do: the more, the more of them share a page."""


@dataclass(frozen=True, slots=True)
class DueRows:
    """What a commit must write into ``balances``."""

    accounts: list[AccountState]
    """In the order of their timestamps."""
    complete_until: int | None
    """The mark (ns) to be set in the same commit, if it moves."""


class LateBalances:
    """The accounts whose rows may be late. All but :meth:`published` is for the writer's thread."""

    def __init__(self, limits: LateLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._filling: dict[int, AccountState] = {}
        self._filling_transfers = 0
        self._filled_until = 0
        self._frozen: dict[int, AccountState] = {}
        """All of that generation, until the next one is frozen: readers need its last slice until that is committed."""
        self._frozen_transfers = 0
        self._frozen_until: int | None = None
        """None: it has been written off."""
        self._unwritten: Iterator[AccountState] = iter(())
        """Of the frozen generation, in the order of timestamps."""
        self._unwritten_count = 0

    def __len__(self) -> int:
        """Return how many accounts are still to be written; one in both generations counts twice."""
        return len(self._filling) + self._unwritten_count

    def begin(self, found: Mapping[int, AccountState], transfers: int, until: int) -> None:
        """Forget everything, and begin with what the file says, into which nothing is being written.

        ``found``: its late accounts by id. ``transfers``: the rows after its mark. ``until``: its last timestamp (ns).
        """
        for account in found.values():
            account.publish()
        with self._lock:
            self._filling = dict(found)
            self._filling_transfers = transfers
            self._filled_until = until
            self._freeze()
        if not transfers:
            self._frozen_until = None

    def get(self, account_id: int) -> AccountState | None:
        """Return an account that may be late: then this is its only true state."""
        account = self._filling.get(account_id)
        return self._frozen.get(account_id) if account is None else account

    def add_batch(
        self, moved: Mapping[int, AccountState], changed: Collection[AccountState], transfers: int, until: int
    ) -> DueRows:
        """Take and publish what a batch did; return what its commit must write. If that fails, :meth:`begin` again.

        ``moved``: the accounts of its moves, by id. ``changed``: those that anything else has changed. ``transfers``:
        its rows. ``until``: its last timestamp (ns).
        """
        with self._lock:
            if self._frozen_until is None and self._fullness() >= 1:
                self._freeze()
            for account in moved.values():
                account.publish()
            self._filling.update(moved)
        self._filling_transfers += transfers
        self._filled_until = until
        due = self._next_slice()
        complete_until = None
        if not self._unwritten_count:
            complete_until, self._frozen_until = self._frozen_until, None
        return DueRows(sorted({*changed, *due}, key=_timestamp) if changed else due, complete_until)

    def all_due(self) -> DueRows:
        """Return what makes all rows complete: the last that is asked of this object, before the file is closed."""
        accounts = sorted({*self._filling.values(), *self._unwritten}, key=_timestamp)
        is_complete = not self._filling_transfers and self._frozen_until is None
        return DueRows(accounts, None if is_complete else self._filled_until)

    def published(self, account_ids: Iterable[int], fix_snapshot: Callable[[], int]) -> dict[int, ChangingPart]:
        """Fix a reader's snapshot, and return what may be later in it than the rows of these accounts.

        ``fix_snapshot`` returns the timestamp (ns) of the last transfer in it. Any thread may ask but the event loop's.
        """
        parts = {}
        with self._lock:
            last_transfer = fix_snapshot()
            for account_id in account_ids:
                account = self.get(account_id)
                if account is not None:
                    part = account.published_by(last_transfer)
                    if part is not None:
                        parts[account_id] = part
        return parts

    def _fullness(self) -> float:
        """Return how full the generation is; 1: it must be frozen, so the one before must be written off."""
        limits = self._limits
        # A frozen one that is too long, as after a crash, leaves less room: opening the file would read both.
        too_long = 0 if self._frozen_until is None else max(self._frozen_transfers - limits.transfers_most, 0)
        return max(
            len(self._filling) / limits.accounts_most, (self._filling_transfers + too_long) / limits.transfers_most
        )

    def _next_slice(self) -> list[AccountState]:
        """Return what keeps pace: of the frozen generation no more is left unwritten than the next one has room."""
        left = int(len(self._frozen) * max(1 - self._fullness(), 0))
        behind = self._unwritten_count - left
        if behind <= 0:
            return []
        due = list(islice(self._unwritten, max(behind, self._limits.slice_least)))
        self._unwritten_count -= len(due)
        return due

    def _freeze(self) -> None:
        self._frozen = self._filling
        self._frozen_transfers = self._filling_transfers
        self._frozen_until = self._filled_until
        self._unwritten = iter(sorted(self._frozen.values(), key=_timestamp))
        self._unwritten_count = len(self._frozen)
        self._filling = {}
        self._filling_transfers = 0
