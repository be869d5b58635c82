"""The invariants, held against what a client was told and what the files say: pure functions, no I/O.

Each check looks for breaches of one invariant, and says what it looked at; a breach names the transfer or account.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

import msgspec

from transfer_engine.engine.services.simulated_books import OperationState
from transfer_engine.http.demo_books import Books, LedgerSide, Place
from transfer_engine.http.demo_notes import VERDICTS, Note, Notebook
from transfer_engine.schema.transfers import TransferState, TransferStatus

_NO_SIDE: Final = LedgerSide()
_TAKEN: Final = frozenset({OperationState.WITHDRAWN, OperationState.COMMITTED, OperationState.DEPOSITED})
_REFUSED: Final = frozenset({OperationState.REFUSED, OperationState.FENCED})
_REFUSED_AGAIN: Final = frozenset({"id_already_failed", "exists", "exists_with_different_flags"})
"""What the ledger says again to the hold of a transfer that failed: its id is burnt; it was held, and voided because
the source's core refused; it is a tombstone's."""


class Verdict(msgspec.Struct, frozen=True):
    """What became of one invariant."""

    invariant: str
    claim: str
    evidence: str
    breaches: list[str]

    @property
    def holds(self) -> bool:
        """Whether no breach was found."""
        return not self.breaches


class _Case:
    """The notes and the books side by side."""

    def __init__(self, notebook: Notebook, books: Books, figures: Mapping[str, Any] | None) -> None:
        self.notebook = notebook
        self.books = books
        self.figures = figures
        self.owners: dict[int, Note] = {note.asked.req_id: note for note in notebook if not note.is_foreign}

    def side(self, req_id: int) -> LedgerSide:
        return self.books.ledger.get(req_id, _NO_SIDE)

    def audited(self, invariant: str) -> list[str]:
        """Return the audit's own findings; those that it counted without keeping them are I1's."""
        found = [finding.what for finding in self.books.report.findings if finding.invariant == invariant]
        if invariant == "I1" and (more := self.books.report.breaches - len(self.books.report.findings)):
            found.append(f"{more} more breaches")
        return found


def check_invariants(notebook: Notebook, books: Books, figures: Mapping[str, Any] | None) -> list[Verdict]:
    """Return a verdict for each of I1 to I9.

    Args:
        notebook: everything that any client asked of the server, and was told.
        books: its files, after it has recovered, every request was sent again until it was decided, and it stopped.
        figures: the engine's statistics from before it stopped; None leaves I8 out.
    """
    case = _Case(notebook, books, figures)
    report = books.report
    failed = sum(row.state is TransferState.FAILED for row in books.rows.values())
    queues = len({note.asked.user_id for note in notebook if note.asked.turn is not None})
    verdicts = [
        Verdict(
            "I1",
            "no money made, lost or below zero",
            f"{report.accounts:,} accounts, {report.ledger_transfers:,} events",
            [*case.audited("I1"), *_core_money(case)],
        ),
        Verdict(
            "I2",
            "moved once, from source to target",
            f"{report.posted:,} moved, {len(books.balances):,} balances",
            [*case.audited("I2"), *_balances(case), *_bodies(case)],
        ),
        Verdict(
            "I3",
            "records and ledger agree",
            f"{report.records:,} records",
            [*case.audited("I3"), *_ends(case)],
        ),
        Verdict(
            "I4",
            "what clients were told still holds",
            f"{notebook.answers:,} answers",
            list(_told(case)),
        ),
        Verdict(
            "I5",
            "commit and rollback, never both",
            f"{report.posted:,} posts, {report.voided:,} voids",
            list(_exclusions(case)),
        ),
        Verdict(
            "I6",
            "each user's transfers in order",
            f"{queues:,} users in turn",
            list(_turns(case)),
        ),
        Verdict(
            "I7",
            "all has ended, nothing is held",
            f"{report.open_holds:,} holds, {report.unfinished_records:,} records open",
            [*case.audited("I7"), *_leftovers(case)],
        ),
        Verdict(
            "I9",
            "nothing unknown was told as failed",
            f"{failed:,} failed, asked again",
            list(_failures(case)),
        ),
    ]
    if figures is not None:
        waiting = Verdict("I8", "nothing left waiting in memory", "mailboxes, journal, buffers", list(_memory(figures)))
        verdicts.insert(-1, waiting)
    return verdicts


def _name(req_id: int) -> str:
    return str(UUID(int=req_id))


def _core_money(case: _Case) -> Iterator[str]:
    """I1, beyond our ledger: a core has what our omnibus account says that it has."""
    for (core, asset_id), (has, should) in case.books.core_money.items():
        if has != should:
            yield f"core {core} has {has} of asset {asset_id}, and its omnibus account says {should}"


def _balances(case: _Case) -> Iterator[str]:
    """I2: every balance is what the client's own notes of what was committed add up to.

    Of an abandoned request the client does not know; there the record stands in.
    """
    expected: defaultdict[Place, int] = defaultdict(int)
    for note in case.notebook:
        asked = note.asked
        row = case.books.rows.get(asked.req_id) if note.is_abandoned else None
        is_committed = row is not None and row.state is TransferState.COMMITTED
        if note.verdict is TransferStatus.COMMITTED or is_committed:
            expected[asked.target, asked.user_id, asked.asset_id] += asked.amount
            if not asked.is_credit:
                expected[asked.source, asked.user_id, asked.asset_id] -= asked.amount
    for place in sorted(expected.keys() | case.books.balances.keys()):
        has, should = case.books.balances.get(place, 0), expected.get(place, 0)
        if has != should:
            service, user_id, asset_id = place
            yield f"user {user_id} has {has} of asset {asset_id} in {service}; what was told adds up to {should}"


def _bodies(case: _Case) -> Iterator[str]:
    """I2: every record is of a body that was asked for, and so is every operation of a core."""
    for req_id, row in case.books.rows.items():
        note = case.owners.get(req_id)
        if note is None:
            yield f"{_name(req_id)} has a record, and nobody asked for it"
        elif note.asked.fingerprint != row.fingerprint:
            yield f"{_name(req_id)}: the record is of another body than the one that was asked for"
    for core, operations in case.books.operations.items():
        for req_id, operation in operations.items():
            row_of = case.books.rows.get(req_id)
            if row_of is None:
                yield f"{_name(req_id)}: core {core} knows it, and there is no record"
            elif core not in (row_of.source, row_of.target):
                yield f"{_name(req_id)}: core {core} knows it, and is neither its source nor its target"
            elif operation.amount is not None and (operation.user_id, operation.asset_id, operation.amount) != (
                row_of.user_id if row_of.source == core else row_of.target_user_id,
                row_of.asset_id,
                row_of.amount,
            ):
                yield f"{_name(req_id)}: core {core} moved another amount than the record says"


def _ends(case: _Case) -> Iterator[str]:
    """I3: committed if and only if posted; else nothing moved, in the ledger or in a core."""
    for req_id, row in case.books.rows.items():
        side = case.side(req_id)
        if row.state.is_terminal and (row.state is TransferState.COMMITTED) is not bool(side.posts):
            did = "posted it" if side.posts else "did not post it"
            yield f"{_name(req_id)} is {row.state.value}, and the ledger {did}"
        if row.state is TransferState.ROLLED_BACK and not side.voids:
            yield f"{_name(req_id)} is rolled_back, and the ledger did not void it"
        for core in {row.source, row.target} & case.books.operations.keys():
            operation = case.books.operations[core].get(req_id)
            is_taken = operation is not None and operation.state in _TAKEN
            if row.state.is_terminal and is_taken is not (row.state is TransferState.COMMITTED):
                state = "nothing" if operation is None else operation.state.value
                yield f"{_name(req_id)} is {row.state.value}, and core {core} says {state}"


def _told(case: _Case) -> Iterator[str]:
    """I4: every answer names its transfer, no two final ones differ, and the records and the ledger say the same."""
    for note in case.notebook:
        req_id = note.asked.req_id
        statuses = {answer.status for answer in note.answers if answer.status in VERDICTS}
        if len(statuses) > 1:
            yield f"{note.asked.key} was told {' and '.join(sorted(map(str, statuses)))}"
        if any(answer.status is not None and answer.req_id != _name(req_id) for answer in note.answers):
            yield f"{note.asked.key} was told of another transfer than {_name(req_id)}"
        if statuses and note.is_foreign:
            yield f"{note.asked.key} was told that another body owns it, and a verdict"
        row = case.books.rows.get(req_id)
        for status in statuses:
            if row is None:
                yield f"{note.asked.key} was told {status}, and there is no record"
            elif row.state.value != status:
                yield f"{note.asked.key} was told {status}, and its record says {row.state.value}"
            if (status is TransferStatus.COMMITTED) is not bool(case.side(req_id).posts):
                did = "posted it" if case.side(req_id).posts else "did not post it"
                yield f"{note.asked.key} was told {status}, and the ledger {did}"


def _exclusions(case: _Case) -> Iterator[str]:
    """I5: one end for each hold, and the cores on the same side of it."""
    for req_id, side in case.books.ledger.items():
        if side.posts + side.voids > 1:
            yield f"{_name(req_id)} has {side.posts} posts and {side.voids} voids"
        for core, operations in case.books.operations.items():
            operation = operations.get(req_id)
            if operation is None:
                continue
            state = operation.state
            if side.posts and state not in {OperationState.COMMITTED, OperationState.DEPOSITED}:
                yield f"{_name(req_id)} is posted, and core {core} says {state.value}"
            if side.voids and state in _TAKEN:
                yield f"{_name(req_id)} is voided, and core {core} says {state.value}"
            if state is OperationState.REVERSED:
                yield f"{_name(req_id)}: core {core} committed it, and rolled it back"


def _turns(case: _Case) -> Iterator[str]:
    """I6: of a client that sent one at a time, the holds lie in the ledger in the order of sending."""
    queues: defaultdict[int, list[Note]] = defaultdict(list)
    for note in case.notebook:
        if note.asked.turn is not None:
            queues[note.asked.user_id].append(note)
    for user_id, notes in queues.items():
        notes.sort(key=lambda note: note.asked.turn or 0)
        latest, latest_key = 0, ""
        for note in notes:
            held_at = case.side(note.asked.req_id).held_at
            if held_at and held_at < latest:
                yield f"user {user_id}: {note.asked.key} was asked for after {latest_key}, and held before it"
            if held_at:
                latest, latest_key = held_at, note.asked.key


def _leftovers(case: _Case) -> Iterator[str]:
    """I7: all that was asked for is decided, recorded once, and nothing is held anywhere."""
    for note in case.notebook.undecided:
        yield f"{note.asked.key} has no final answer: {note.answers[-1:]}"
    for note in case.notebook:
        if note.verdict is not None and note.asked.req_id not in case.books.rows:
            yield f"{note.asked.key} was decided, and has no record"
    for place, amount in case.books.held.items():
        yield f"{amount} of asset {place[2]} of user {place[1]} are held in {place[0]}"
    for req_id, side in case.books.ledger.items():
        if req_id not in case.books.rows:
            yield f"{_name(req_id)} is in the ledger, and has no record"
        if side.held_at and not side.posts + side.voids:
            yield f"{_name(req_id)} is still held"
    for core, operations in case.books.operations.items():
        open_ones = Counter(operation.state for operation in operations.values())[OperationState.WITHDRAWN]
        if open_ones:
            yield f"core {core}: {open_ones} withdraws are neither committed nor rolled back"


def _memory(figures: Mapping[str, Any]) -> Iterator[str]:
    """I8, as far as it shows from outside: what was taken in was let go."""
    left = {
        "open transfers": figures["open_transfers"],
        "unsettled intents": figures["unsettled_intents"],
        "drives": figures["drives_under_way"],
        "messages in mailboxes": figures["users"]["messages_waiting"],
        "ledger units": figures["submitter"]["entries_waiting"] + figures["submitter"]["entries_in_flight"],
        "accounts to open": figures["account_opener"]["entries_waiting"],
        "rows to write": figures["recorder"]["entries_waiting"] + figures["recorder"]["entries_in_flight"],
    }
    for what, number in left.items():
        if number:
            yield f"{number} {what} are left"


def _failures(case: _Case) -> Iterator[str]:
    """I9: what failed was refused for good by the ledger or a core, and not by anybody's silence."""
    for req_id, row in case.books.rows.items():
        source = case.books.operations.get(row.source, {}).get(req_id)
        target = case.books.operations.get(row.target, {}).get(req_id)
        side = case.side(req_id)
        if row.state is TransferState.FAILED:
            again = case.books.refused_again.get(req_id, "not asked")
            if again not in _REFUSED_AGAIN:
                yield f"{_name(req_id)} failed, and the ledger now says {again} to its hold"
            if side.held_at and not side.voids:
                yield f"{_name(req_id)} failed, and its hold was not voided"
            if side.voids and (source is None or source.state not in _REFUSED):
                yield f"{_name(req_id)} failed after its hold, and its source's core did not refuse it"
        is_core = row.target in case.books.operations
        if row.state is TransferState.ROLLED_BACK and is_core and (target is None or target.state not in _REFUSED):
            yield f"{_name(req_id)} was rolled back, and its target did not refuse it"
