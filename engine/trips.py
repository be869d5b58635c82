"""Trips: a user's transfers between wallets, carried from their intents to their last rows by callbacks.

Nearly every transfer takes no more than this: its intent durable, hold and post answered `created`, its last row
written. Each of the three is a group commit, and what comes between them takes no waiting: so the journal's answer
hands a trip on to the ledger, the ledger's hands it on to the records, and no task is woken for either. Accounts that
are not known yet are opened in between.

It owns the order of the steps (intent, lease, accounts, ledger), and no state: what a transfer has got to is in the
transfer. It never waits, never repeats and never decides what is different from the plain case: whatever that is (a
core, a lapse of the lease, a refused account, a crash) is left to the coordinator's handler, in a task, which goes on
with the same transfers from the top. What a death leaves behind is what the coordinator's leaves.
"""

from collections.abc import Callable, Iterator, Sequence

from tigerbeetle import CreateTransferResult

from transfer_engine.actors import Turn
from transfer_engine.engine import crash_points
from transfer_engine.engine.leases import Lease
from transfer_engine.engine.open_transfers import Custody, OpenTransfer
from transfer_engine.engine.recorder import Recorder
from transfer_engine.engine.submitter import Submitter
from transfer_engine.schema.ids import POSTS

_FIRST_POST = POSTS[0]
_QUEUED = Custody.QUEUED

Read = Callable[[OpenTransfer, CreateTransferResult, CreateTransferResult], None]
"""Reads the ledger's answers to a transfer's hold and post."""


class Trips:
    """Begins trips.

    Args:
        submitter: the way to the ledger.
        recorder: the way to the journal.
        lease: whether this engine may still ask anything of anyone.
        read: given the ledger's answers.
    """

    def __init__(self, submitter: Submitter, recorder: Recorder, lease: Lease, read: Read) -> None:
        self.submitter = submitter
        self.recorder = recorder
        self.lease = lease
        self.read = read

    def begin(self, _user_id: int, transfers: list[OpenTransfer], turn: Turn) -> bool:
        """Begin the trip of some of a user's transfers, in order; False where they are none that can be carried so.

        What was not journaled before is journaled with all that comes now. ``turn`` is told when each of them has its
        end on the way to the store, or a task of its own.
        """
        if not self.lease.is_held:
            return False
        is_journaled = True
        for transfer in transfers:
            if transfer.custody is not _QUEUED or transfer.source.core is not None or transfer.target.core is not None:
                return False
            is_journaled &= transfer.is_journaled
        if is_journaled:
            return False  # of a former life, or after a crash: rare
        trip = _Trip(self, transfers, turn)
        crash_points.reach("before_intent")
        self.recorder.journal_nowait(trip.to_journal, trip.journaled)
        return True


class _Trip:
    """One user's transfers on their trip."""

    __slots__ = ("_transfers", "_trips", "_turn", "to_journal")

    def __init__(self, trips: Trips, transfers: list[OpenTransfer], turn: Turn) -> None:
        self._trips = trips
        self._transfers = transfers
        self._turn = turn
        self.to_journal = [transfer for transfer in transfers if not transfer.is_journaled]

    def journaled(self, _: None, error: Exception | None) -> None:
        """The intents are durable, or nobody knows."""
        if error is not None:
            self._turn.crashed(error)
            return
        for transfer in self.to_journal:
            transfer.is_journaled = True
        crash_points.reach("after_intent")
        try:
            trips = self._trips
            if not trips.lease.is_held:
                self._turn.hand_over()
            elif self._are_accounts_known():
                self._submit()
            else:
                bodies = [transfer.body for transfer in self._transfers]
                ids = [id_ for body in bodies for id_ in (body.debit_account_id, body.credit_account_id)]
                trips.submitter.open_accounts_nowait(ids, self._opened)
        except Exception as fault:  # noqa: BLE001  as if the handler had raised it
            self._turn.crashed(fault)

    def _opened(self) -> None:
        """The accounts are open, or some of them can't be: the handler finds out why."""
        try:
            if self._trips.lease.is_held and self._are_accounts_known():
                self._submit()
            else:
                self._turn.hand_over()
        except Exception as fault:  # noqa: BLE001  as above
            self._turn.crashed(fault)

    def _are_accounts_known(self) -> bool:
        knows = self._trips.submitter.are_known
        return all(knows(item.body.debit_account_id, item.body.credit_account_id) for item in self._transfers)

    def _submit(self) -> None:
        """Send the events of all transfers to the ledger, as one unit."""
        events = []
        for transfer in self._transfers:
            body = transfer.body
            events.append(body.hold())
            events.append(body.post(_FIRST_POST))
        self._trips.submitter.submit_nowait(events, self._answered)

    def _answered(self, results: list[CreateTransferResult] | None, error: Exception | None) -> None:
        if results is None:
            self._turn.crashed(error or RuntimeError("the ledger's answer is lost"))
            return
        crash_points.reach("after_ledger")
        try:
            self._read(results)
        except Exception as fault:  # noqa: BLE001  as above
            self._turn.crashed(fault)
        else:
            self._turn.done()

    def _read(self, results: Sequence[CreateTransferResult]) -> None:
        read = self._trips.read
        answers: Iterator[CreateTransferResult] = iter(results)
        for transfer in self._transfers:
            read(transfer, next(answers), next(answers))
