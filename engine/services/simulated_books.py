"""The books of a simulated core: what the contract of a core means in rows, durable in an SQLite file of its own.

Synchronous, and used by one thread at a time. Nothing here sleeps, loses replies or crashes on request: that is the
shell's part (:mod:`~transfer_engine.engine.services.simulated`). Each method is one transaction; where it raises
``sqlite3.Error`` its outcome is unknown, and asking again is safe.

One `req_id` names one operation here, a withdraw or a deposit, for ever; a call that takes it for anything else is a
foreign one. An answer that was final is given again whatever happened since: a withdraw that was taken and later rolled
back still answers Success, so that a replay goes the way that the first run went.
"""

import enum
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

import msgspec

from transfer_engine.engine.services.protocol import SUCCESS, Answer, CoreBalance, Failed, Pending, ServiceCall
from transfer_engine.schema.money import AMOUNT_MAX

APPLICATION_ID: Final = 0x5445_5343
"""SQLite's `application_id` of such a file: "TESC", as in schema/simulated_core.sql."""

VERSION: Final = 1
"""SQLite's `user_version` of such a file."""

BUSY_TIMEOUT_MS: Final = 1_000
"""How long one transaction waits for another process that writes the same file; then the call is to be asked again."""

INSUFFICIENT_FUNDS: Final = "insufficient funds"
NO_ROOM: Final = "the balance would exceed 2^63 - 1 minor units"
FOREIGN_BODY: Final = "this req_id was used before, with another body"

Side = Literal["withdraw", "deposit"]


class OperationState(enum.StrEnum):
    """What became of an operation."""

    WITHDRAWN = "withdrawn"
    """Taken: frozen, or (without a freeze) gone. May still be committed or rolled back."""
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    REVERSED = "reversed"
    """Rolled back after its commit: possible without a freeze only, and always a fault of the caller."""
    DEPOSITED = "deposited"
    REFUSED = "refused"
    FENCED = "fenced"
    """A rollback or cancel came first: no withdraw and no deposit will ever be taken."""


class Operation(msgspec.Struct, frozen=True):
    """One operation as the books know it. ``amount`` is in minor units.

    A fence has neither ``op`` nor body; an operation that was refused because its body is impossible has no body.
    ``reason`` is empty unless it was refused or fenced.
    """

    req_id: UUID
    op: Side | None
    user_id: int | None
    asset_id: int | None
    amount: int | None
    state: OperationState
    reason: str

    @property
    def answer(self) -> Answer:
        """What the withdraw or deposit itself was answered: final."""
        if self.state in (OperationState.REFUSED, OperationState.FENCED):
            return Failed(self.reason)
        return SUCCESS


class WrongFile(Exception):
    """A file that is not the books of this core: another program's, another core's, or another version's."""


_FIND: Final = "SELECT req_id, op, user_id, asset_id, amount, state, reason FROM operations WHERE req_id = ?"
_LIST: Final = "SELECT req_id, op, user_id, asset_id, amount, state, reason FROM operations ORDER BY req_id"
_INSERT: Final = "INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?, ?)"
_SET_STATE: Final = "UPDATE operations SET state = ? WHERE req_id = ?"
_BALANCE: Final = "SELECT available, held FROM balances WHERE user_id = ? AND asset_id = ?"
_SET_BALANCE: Final = "INSERT OR REPLACE INTO balances (user_id, asset_id, available, held) VALUES (?, ?, ?, ?)"
_BALANCES: Final = "SELECT asset_id, available, held FROM balances WHERE user_id = ? ORDER BY asset_id"
_TOTALS: Final = "SELECT available, held FROM balances WHERE asset_id = ?"
_FUND: Final = "INSERT INTO fundings (user_id, asset_id, amount) VALUES (?, ?, ?)"
_FUNDED: Final = "SELECT amount FROM fundings WHERE asset_id = ?"


class Books:
    """The operations and balances of one core, in one file.

    Args:
        name: the core's name; the file remembers it.
        path: the file; its folder must exist.
        freezes: whether withdraws freeze; the file remembers it too.

    Raises:
        WrongFile: the file is not the books of such a core.
        sqlite3.Error: the file can't be opened or written, or is damaged.
    """

    def __init__(self, *, name: str, path: Path, freezes: bool) -> None:
        self.freezes = freezes
        self.moves = 0
        """How often a call, since the file was opened, changed what a user may spend."""
        self._database = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(name)
        except BaseException:
            self._database.close()
            raise

    def _prepare(self, name: str) -> None:
        """Make the tables, or see that they are those of this core."""
        database = self._database
        tables, application_id, version = (
            database.execute(question).fetchone()[0]
            for question in ("SELECT count(*) FROM sqlite_schema", "PRAGMA application_id", "PRAGMA user_version")
        )
        if tables and (application_id, version) != (APPLICATION_ID, VERSION):
            raise WrongFile("this is not the file of a simulated core of this version: name another file")
        # Point of no return: the file is empty or ours, and is written to from here on.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        script = resources.files("transfer_engine.schema").joinpath("simulated_core.sql").read_text("utf-8")
        database.executescript(script)
        database.execute("INSERT OR IGNORE INTO core VALUES (1, ?, ?)", (name, self.freezes))
        found_name, found_freezes = database.execute("SELECT name, freezes FROM core").fetchone()
        if (found_name, bool(found_freezes)) != (name, self.freezes):
            kind = "with" if found_freezes else "without"
            raise WrongFile(
                f"this is the file of core {found_name!r} {kind} a freeze: open it as that, or name another file"
            )

    def close(self) -> None:
        """Close the file; every method raises ``sqlite3.ProgrammingError`` afterwards."""
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One atomic, durable change. IMMEDIATE: what is read in it can't be changed by another process meanwhile."""
        moves = self.moves
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            self.moves = moves
            if self._database.in_transaction:  # some errors have rolled back already
                self._database.execute("ROLLBACK")
            raise

    def withdraw(self, call: ServiceCall, *, refuse: str | None = None) -> Answer:
        """Take the amount. ``refuse`` is a reason to refuse it, unless it was answered before."""
        return self._transfer("withdraw", call, refuse)

    def deposit(self, call: ServiceCall, *, refuse: str | None = None) -> Answer:
        """Give the amount. ``refuse`` is a reason to refuse it, unless it was answered before."""
        return self._transfer("deposit", call, refuse)

    def commit(self, req_id: UUID) -> Answer:
        """Make a withdraw final. Pending where nothing is known of it: it may still be on its way."""
        with self._transaction():
            known = self.operation(req_id)
            if known is None:
                return Pending("no withdraw of this req_id has come yet")
            if known.op == "deposit":
                return Failed("this req_id names a deposit here")
            match known.state:
                case OperationState.WITHDRAWN:
                    self._end(known, OperationState.COMMITTED)
                    return SUCCESS
                case OperationState.COMMITTED | OperationState.REVERSED:
                    return SUCCESS
                case OperationState.ROLLED_BACK:
                    return Failed("the withdraw was rolled back")
                case _:
                    return Failed(f"nothing was withdrawn: {known.reason}")

    def rollback(self, req_id: UUID) -> Answer:
        """Undo a withdraw, or fence one that has not come."""
        with self._transaction():
            known = self.operation(req_id)
            if known is None:
                self._fence(req_id, "rolled back before it came")
                return SUCCESS
            if known.op == "deposit":
                return Failed("this req_id names a deposit here")
            match known.state:
                case OperationState.WITHDRAWN:
                    self._end(known, OperationState.ROLLED_BACK)
                case OperationState.COMMITTED if self.freezes:
                    return Failed("the withdraw was committed")
                case OperationState.COMMITTED:
                    if not self._has_room(known):
                        return Pending(NO_ROOM)  # owed, and there may be room later
                    self._end(known, OperationState.REVERSED)
                case _:
                    pass  # undone before, or there is nothing to undo
            return SUCCESS

    def cancel(self, req_id: UUID) -> Answer:
        """Fence a deposit that has not come."""
        with self._transaction():
            known = self.operation(req_id)
            if known is None:
                self._fence(req_id, "cancelled before it came")
                return SUCCESS
            if known.op == "withdraw":
                return Failed("this req_id names a withdraw here")
            return Failed("the deposit was taken") if known.state is OperationState.DEPOSITED else SUCCESS

    def fund(self, user_id: int, asset_id: int, amount: int) -> None:
        """Put money in from outside; not idempotent.

        Raises:
            ValueError: a number is out of range, or the balance has no room for the amount.
        """
        fault = _body_fault(user_id, asset_id, amount)
        if fault is not None:
            raise ValueError(fault)
        with self._transaction():
            available, held = self._balance(user_id, asset_id)
            if available + held + amount > AMOUNT_MAX:
                raise ValueError(f"amount is {amount}: {NO_ROOM}")
            self._database.execute(_FUND, (user_id, asset_id, amount))
            self._database.execute(_SET_BALANCE, (user_id, asset_id, available + amount, held))

    def operation(self, req_id: UUID) -> Operation | None:
        """Return the operation of a `req_id`, or None where nothing is known of it."""
        row = self._database.execute(_FIND, (req_id.bytes,)).fetchone()
        return None if row is None else _operation(row)

    def operations(self) -> list[Operation]:
        """Return all operations, by `req_id`."""
        return [_operation(row) for row in self._database.execute(_LIST)]

    def balances(self, user_id: int) -> list[CoreBalance]:
        """Return what a user holds, by asset."""
        return [
            CoreBalance(asset_id=asset_id, available=available, frozen=held if self.freezes else 0)
            for asset_id, available, held in self._database.execute(_BALANCES, (user_id,))
        ]

    def total(self, asset_id: int) -> int:
        """Return all money of an asset in the core, frozen included. Summed here: SQLite's sum() ends at 2^63."""
        rows = self._database.execute(_TOTALS, (asset_id,))
        return sum(available + (held if self.freezes else 0) for available, held in rows)

    def funded(self, asset_id: int) -> int:
        """Return all money of an asset that came in from outside."""
        return sum(amount for (amount,) in self._database.execute(_FUNDED, (asset_id,)))

    def _transfer(self, op: Side, call: ServiceCall, refuse: str | None) -> Answer:
        with self._transaction():
            known = self.operation(call.req_id)
            if known is not None:
                return _answer_again(known, op, call)
            body = (call.user_id, call.asset_id, call.amount)
            fault = _body_fault(*body)
            if fault is not None:  # its numbers may not even fit the columns
                return self._refuse(call.req_id, op, (None, None, None), fault)
            available, held = self._balance(call.user_id, call.asset_id)
            if refuse is not None:
                return self._refuse(call.req_id, op, body, refuse)
            if op == "withdraw":
                if available < call.amount:
                    return self._refuse(call.req_id, op, body, INSUFFICIENT_FUNDS)
                available, held, state = available - call.amount, held + call.amount, OperationState.WITHDRAWN
            else:
                if available + held + call.amount > AMOUNT_MAX:
                    return self._refuse(call.req_id, op, body, NO_ROOM)
                available, state = available + call.amount, OperationState.DEPOSITED
            self._database.execute(_INSERT, (call.req_id.bytes, op, *body, state.value, ""))
            self._database.execute(_SET_BALANCE, (call.user_id, call.asset_id, available, held))
            self.moves += 1
            return SUCCESS

    def _refuse(self, req_id: UUID, op: Side, body: tuple[int | None, int | None, int | None], reason: str) -> Failed:
        self._database.execute(_INSERT, (req_id.bytes, op, *body, OperationState.REFUSED.value, reason))
        return Failed(reason)

    def _fence(self, req_id: UUID, reason: str) -> None:
        self._database.execute(_INSERT, (req_id.bytes, None, None, None, None, OperationState.FENCED.value, reason))

    def _end(self, known: Operation, state: OperationState) -> None:
        """Commit a withdraw, or give its amount back: what it held is free again."""
        user_id, asset_id, amount = _body(known)
        available, held = self._balance(user_id, asset_id)
        if known.state is OperationState.WITHDRAWN:
            held -= amount
        if state is not OperationState.COMMITTED:
            available += amount
            self.moves += 1
        self._database.execute(_SET_STATE, (state.value, known.req_id.bytes))
        self._database.execute(_SET_BALANCE, (user_id, asset_id, available, held))

    def _has_room(self, known: Operation) -> bool:
        user_id, asset_id, amount = _body(known)
        return sum(self._balance(user_id, asset_id)) + amount <= AMOUNT_MAX

    def _balance(self, user_id: int, asset_id: int) -> tuple[int, int]:
        row: tuple[int, int] | None = self._database.execute(_BALANCE, (user_id, asset_id)).fetchone()
        return row or (0, 0)


def _body_fault(user_id: int, asset_id: int, amount: int) -> str | None:
    """Say what makes a body impossible, or None."""
    if not 1 <= amount <= AMOUNT_MAX:
        return f"amount is {amount}: it must be between 1 and 2^63 - 1 minor units"
    for name, number in (("user_id", user_id), ("asset_id", asset_id)):
        if not 0 <= number <= AMOUNT_MAX:
            return f"{name} is {number}: it must be between 0 and 2^63 - 1"
    return None


def _answer_again(known: Operation, op: Side, call: ServiceCall) -> Answer:
    """Answer a call whose `req_id` is known: as the first time, if it is the same call."""
    if known.state is OperationState.FENCED:
        return known.answer
    if (known.op, known.user_id, known.asset_id, known.amount) == (op, call.user_id, call.asset_id, call.amount):
        return known.answer
    if known.op == op and known.amount is None and _body_fault(call.user_id, call.asset_id, call.amount) is not None:
        return known.answer  # refused for an impossible body, which was not kept
    return Failed(FOREIGN_BODY)


def _body(known: Operation) -> tuple[int, int, int]:
    """Return the body of a withdraw that was taken: the table's checks see to it that it has one."""
    if known.user_id is None or known.asset_id is None or known.amount is None:
        raise sqlite3.IntegrityError(f"operation {known.req_id} is {known.state} and has no body")
    return known.user_id, known.asset_id, known.amount


def _operation(row: tuple[bytes, Side | None, int | None, int | None, int | None, str, str]) -> Operation:
    req_id, op, user_id, asset_id, amount, state, reason = row
    return Operation(
        req_id=UUID(bytes=req_id),
        op=op,
        user_id=user_id,
        asset_id=asset_id,
        amount=amount,
        state=OperationState(state),
        reason=reason,
    )
