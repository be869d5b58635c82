"""Books against records: what the ledger says of a transfer, what its row says, and how the two may differ.

What lives here is pure: no clock, no I/O. :mod:`transfer_engine.engine.comparison` reads both sides and asks this file.

A refusal leaves nothing in the ledger, so a ``failed`` row needs nothing there. Everything else has its place in both:
a hold that was posted is a ``committed`` row, one that was voided a ``rolled_back`` or ``failed`` one (the ledger alone
can't always tell which: nothing moved in either), a tombstone a ``failed`` one.
"""

import enum
from collections.abc import Container, Iterable, Iterator
from typing import Final
from uuid import UUID

import msgspec
from tigerbeetle import Transfer, TransferFlags

from transfer_engine.engine.legs import TOMBSTONE_CODE, TRANSFER_CODE, owner_of
from transfer_engine.engine.services.registry import Service, ServiceKind, ServiceRegistry
from transfer_engine.schema.ids import HOLD, LEG_MAX, POSTS, VOIDS, is_req_id
from transfer_engine.schema.transfers import TransferRecord, TransferState, body_fingerprint

_PENDING: Final = int(TransferFlags.PENDING)
_POST: Final = int(TransferFlags.POST_PENDING_TRANSFER)
_VOID: Final = int(TransferFlags.VOID_PENDING_TRANSFER)
_NS_IN_MS: Final = 1_000_000


class Difference(enum.StrEnum):
    """How books and records differ, the worst first."""

    OTHER_END = "other_end"
    """The row says another end than the ledger: what a client was told is not what happened."""
    ROW_WITHOUT_END = "row_without_end"
    """The row says that something happened in the ledger, and the ledger knows nothing of it."""
    OTHER_BODY = "other_body"
    """Accounts, amount, user or fingerprint differ, or only a part was posted."""
    UNREADABLE_ROW = "unreadable_row"
    """The row can't be understood, an unknown state for one: nothing is guessed from it."""
    FOREIGN_TRANSFER = "foreign_transfer"
    """A ledger transfer that no engine makes: another code, or an id that is no leg of what it names."""
    UNKNOWN_SERVICE = "unknown_service"
    """An account whose code is no service's."""
    UNKNOWN_ASSET = "unknown_asset"
    """A ledger number that no asset has."""
    STRANDED_HOLD = "stranded_hold"
    """A hold is open, and nothing will end it: no intent, or for too long no row."""
    OTHER_TIMES = "other_times"
    """The row's times are not the ledger's."""
    UNFINISHED_ROW = "unfinished_row"
    """The ledger ended it, and its row is not terminal."""
    MISSING_ROW = "missing_row"
    """The ledger ended it, and it has no row."""


class Mismatch(msgspec.Struct, frozen=True):
    """One difference; ``req_id`` is the transfer's, or the ledger's own id of a transfer that is none of ours."""

    difference: Difference
    req_id: UUID
    what: str


class Legs:
    """What the ledger has of one transfer; each is None where it has none."""

    __slots__ = ("end", "hold", "req_id", "tombstone")

    def __init__(self, req_id: int) -> None:
        self.req_id = req_id
        self.hold: Transfer | None = None
        self.end: Transfer | None = None
        """The post or void that ended the hold."""
        self.tombstone: Transfer | None = None

    @property
    def is_posted(self) -> bool:
        """Whether the amount has moved."""
        return self.end is not None and int(self.end.flags) & _POST != 0

    @property
    def ended_at_ms(self) -> int | None:
        """When the ledger ended it (Unix ms), or None where it has not."""
        last = self.end or self.tombstone
        return None if last is None else last.timestamp // _NS_IN_MS

    @property
    def created_at_ms(self) -> int | None:
        """When its hold, or tombstone, was taken (Unix ms)."""
        first = self.hold or self.tombstone
        return None if first is None else first.timestamp // _NS_IN_MS


def sort_legs(transfers: Iterable[Transfer], into: dict[int, Legs]) -> list[Mismatch]:
    """Put ledger transfers together by the transfer that they are legs of; return those that are none."""
    strangers = []
    for transfer in transfers:
        if not _sort(transfer, into):
            what = f"code {transfer.code}, flags {int(transfer.flags)}, amount {transfer.amount}: no engine's transfer"
            strangers.append(Mismatch(Difference.FOREIGN_TRANSFER, UUID(int=transfer.id), what))
    return strangers


def _sort(transfer: Transfer, into: dict[int, Legs]) -> bool:
    leg = transfer.id & LEG_MAX
    req_id = transfer.id ^ leg
    flags = int(transfer.flags)
    if transfer.user_data_128 != req_id or not is_req_id(req_id):
        return False
    legs = into.get(req_id) or Legs(req_id)
    if transfer.code == TRANSFER_CODE:
        if leg == HOLD and flags == _PENDING:
            legs.hold = transfer
        elif leg > HOLD and flags == (_VOID if leg & 1 else _POST) and transfer.pending_id == req_id | HOLD:
            legs.end = transfer
        else:
            return False
    elif transfer.code == TOMBSTONE_CODE and leg == HOLD and not flags and not transfer.amount:
        legs.tombstone = transfer
    else:
        return False
    into[req_id] = legs
    return True


class Rules:
    """What the comparison must know beside the two sides: the services, and the assets that exist."""

    __slots__ = ("assets", "registry")

    def __init__(self, registry: ServiceRegistry, assets: Container[int]) -> None:
        self.registry = registry
        self.assets = assets

    def sides(self, leg: Transfer) -> tuple[Service, int, Service, int] | None:
        """Return source, its user (0: everybody's account), target and its user; None for accounts of nobody."""
        source, source_user = self._owner(leg.debit_account_id, leg.ledger)
        target, target_user = self._owner(leg.credit_account_id, leg.ledger)
        if source is None or target is None:
            return None
        return source, source_user, target, target_user

    def _owner(self, account_id: int, ledger: int) -> tuple[Service | None, int]:
        user_id, asset_id, code = owner_of(account_id)
        service = self.registry.by_code(code)
        if service is not None and (asset_id != ledger or (service.kind is ServiceKind.WALLET) is not bool(user_id)):
            service = None
        return service, user_id


def compare(legs: Legs, row: TransferRecord | None, rules: Rules, *, until_ms: int) -> Iterator[Mismatch]:
    """Yield how a transfer's legs and row differ.

    What the ledger ended after ``until_ms`` (Unix ms) may still lack its row. An open hold with an unfinished row or
    none is under way: no difference by itself.
    """
    uuid = UUID(int=legs.req_id)
    hold, end = legs.hold, legs.end
    first = hold or legs.tombstone
    if first is None:
        if end is not None:
            yield Mismatch(Difference.FOREIGN_TRANSFER, uuid, f"leg {end.id:#x} ends a hold that is not there")
        return
    if first.ledger not in rules.assets:
        yield Mismatch(Difference.UNKNOWN_ASSET, uuid, f"its ledger is {first.ledger}: no asset has this number")
    if rules.sides(first) is None:
        accounts = f"accounts {first.debit_account_id:#x} and {first.credit_account_id:#x}"
        yield Mismatch(Difference.UNKNOWN_SERVICE, uuid, f"{accounts}: one is no service's of the settings")
    elif row is not None and hold is not None and not _is_of_body(row, hold, rules.registry):
        yield Mismatch(Difference.OTHER_BODY, uuid, "the ledger's hold is of another body than the row")
    if hold is not None and end is not None and end.amount != hold.amount:
        yield Mismatch(Difference.OTHER_BODY, uuid, f"{end.amount} of a hold of {hold.amount} was ended")
    state = _compare_state(legs, row, until_ms)
    if state is not None:
        yield Mismatch(state[0], uuid, state[1])
    elif row is not None and row.state.is_terminal and end is not None:
        said, true = (row.created_at, row.updated_at), (legs.created_at_ms, legs.ended_at_ms)
        if said != true:
            yield Mismatch(Difference.OTHER_TIMES, uuid, f"its row says {said}, the ledger {true} (Unix ms)")


def _compare_state(legs: Legs, row: TransferRecord | None, until_ms: int) -> tuple[Difference, str] | None:
    ended_at_ms = legs.ended_at_ms
    if ended_at_ms is None:
        if row is not None and row.state.is_terminal:
            return Difference.OTHER_END, f"its row says {row.state.value}, and its hold is open"
        return None
    end = "posted" if legs.is_posted else "voided" if legs.end is not None else "cancelled by a tombstone"
    if row is not None and row.state.is_terminal:
        if row.state in possible_states(legs):
            return None
        return Difference.OTHER_END, f"its row says {row.state.value}, and the ledger that it was {end}"
    if ended_at_ms > until_ms:
        return None
    if row is None:
        return Difference.MISSING_ROW, f"the ledger says that it was {end}, and it has no row"
    return Difference.UNFINISHED_ROW, f"the ledger says that it was {end}, and its row {row.state.value}"


def possible_states(legs: Legs) -> frozenset[TransferState]:
    """Return the terminal states that the ledger's end allows."""
    if legs.is_posted:
        return _POSTED
    return _VOIDED if legs.end is not None else _CANCELLED


_POSTED: Final = frozenset({TransferState.COMMITTED})
_VOIDED: Final = frozenset({TransferState.ROLLED_BACK, TransferState.FAILED})
_CANCELLED: Final = frozenset({TransferState.FAILED})


def _is_of_body(row: TransferRecord, hold: Transfer, registry: ServiceRegistry) -> bool:
    source, target = registry.find(row.source), registry.find(row.target)
    return (
        source is not None
        and target is not None
        and hold.debit_account_id == source.account_id(row.user_id, row.asset_id)
        and hold.credit_account_id == target.account_id(row.target_user_id, row.asset_id)
        and hold.ledger == row.asset_id
        and hold.amount == row.amount
        and hold.user_data_64 == row.fingerprint == body_fingerprint(row)
    )


def compare_row(row: TransferRecord, found: Container[int]) -> Mismatch | None:
    """Tell whether a row says more than the ledger; ``found`` has the ids of :func:`legs_of_row` that are there.

    This is the records' side of the comparison: for rows of which no ledger transfer leads to them.
    """
    if any(leg_id in found for leg_id in legs_of_row(row)) or row.state is TransferState.FAILED:
        return None
    return Mismatch(
        Difference.ROW_WITHOUT_END, row.req_id, f"its row says {row.state.value}, and the ledger knows nothing of that"
    )


def legs_of_row(row: TransferRecord) -> list[int]:
    """Return the ledger ids of which one must exist for what a row says; none for a ``failed`` one."""
    req_id = row.req_id.int
    if row.state is TransferState.FAILED:
        return []
    if row.state is TransferState.COMMITTED:
        return [req_id | leg for leg in POSTS]
    if row.state is TransferState.ROLLED_BACK:
        return [req_id | leg for leg in VOIDS]
    return [req_id | HOLD]
