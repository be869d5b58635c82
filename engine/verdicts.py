"""What the ledger's answers mean for a transfer: pure tables from statuses to verdicts.

Source: the answers of TigerBeetle 0.17 as tried against a server. A hold arbitrates: only its own answer may refuse
a transfer. A burnt post or void is no verdict, its next leg is. Whatever is not in these tables is our bug, never a
verdict: the transfer stays pending and an alert is raised.
"""

import enum
from collections.abc import Mapping
from typing import Final

from tigerbeetle import CreateAccountStatus, CreateTransferStatus


class HoldVerdict(enum.Enum):
    """What a hold's answer says about its transfer."""

    NEW = enum.auto()
    """The hold stands, and its id had never been seen: the key is new."""
    STANDS = enum.auto()
    """The hold stands since an earlier submission of the same body."""
    REFUSED = enum.auto()
    """Finally refused: the id is burnt, nothing can ever move under it."""
    REFUSED_BEFORE = enum.auto()
    """The id was burnt by an earlier submission; the reason is in the record, if anywhere."""
    OTHER_OWNER = enum.auto()
    """Another body owns the id (or a tombstone does): look it up."""
    UNDECIDED = enum.auto()
    """No verdict: stay pending, alert."""


class EndVerdict(enum.Enum):
    """What a post's or void's answer says, where the hold stands."""

    DONE = enum.auto()
    """This leg did it, now or before."""
    POSTED = enum.auto()
    """Another leg posted the hold."""
    VOIDED = enum.auto()
    """Another leg voided the hold, or it expired."""
    BURNT_BEFORE = enum.auto()
    """This leg was burnt by an earlier submission: go on to the next one."""
    BURNT_NOW = enum.auto()
    """This leg was burnt by this submission: the next one will do, once the reason is gone."""
    TAKEN = enum.auto()
    """Another body's event is under this leg: look up what it did to the hold."""
    UNDECIDED = enum.auto()
    """No verdict: stay pending, alert."""


_S: Final = CreateTransferStatus

HOLD_VERDICTS: Final[Mapping[int, HoldVerdict]] = {
    _S.CREATED: HoldVerdict.NEW,
    _S.EXISTS: HoldVerdict.STANDS,
    _S.ID_ALREADY_FAILED: HoldVerdict.REFUSED_BEFORE,
    _S.EXCEEDS_CREDITS: HoldVerdict.REFUSED,
    _S.EXCEEDS_DEBITS: HoldVerdict.REFUSED,
    _S.DEBIT_ACCOUNT_NOT_FOUND: HoldVerdict.REFUSED,
    _S.CREDIT_ACCOUNT_NOT_FOUND: HoldVerdict.REFUSED,
    _S.DEBIT_ACCOUNT_ALREADY_CLOSED: HoldVerdict.REFUSED,
    _S.CREDIT_ACCOUNT_ALREADY_CLOSED: HoldVerdict.REFUSED,
    **{status: HoldVerdict.OTHER_OWNER for status in _S if status.name.startswith("EXISTS_WITH_DIFFERENT_")},
}

END_VERDICTS: Final[Mapping[int, EndVerdict]] = {
    _S.CREATED: EndVerdict.DONE,
    _S.EXISTS: EndVerdict.DONE,
    _S.PENDING_TRANSFER_ALREADY_POSTED: EndVerdict.POSTED,
    _S.PENDING_TRANSFER_ALREADY_VOIDED: EndVerdict.VOIDED,
    _S.PENDING_TRANSFER_EXPIRED: EndVerdict.VOIDED,
    _S.ID_ALREADY_FAILED: EndVerdict.BURNT_BEFORE,
    _S.PENDING_TRANSFER_NOT_FOUND: EndVerdict.BURNT_NOW,
    _S.DEBIT_ACCOUNT_ALREADY_CLOSED: EndVerdict.BURNT_NOW,
    _S.CREDIT_ACCOUNT_ALREADY_CLOSED: EndVerdict.BURNT_NOW,
    **{status: EndVerdict.TAKEN for status in _S if status.name.startswith("EXISTS_WITH_DIFFERENT_")},
}

INSUFFICIENT_FUNDS: Final = "insufficient funds"

REFUSAL_REASONS: Final[Mapping[int, str]] = {
    _S.EXCEEDS_CREDITS: INSUFFICIENT_FUNDS,
    _S.EXCEEDS_DEBITS: "the target account may not receive so much",
    # Accounts are acknowledged before the first hold on them, so an id burnt before means too little money.
    _S.ID_ALREADY_FAILED: INSUFFICIENT_FUNDS,
    _S.DEBIT_ACCOUNT_NOT_FOUND: "the source account does not exist",
    _S.CREDIT_ACCOUNT_NOT_FOUND: "the target account does not exist",
    _S.DEBIT_ACCOUNT_ALREADY_CLOSED: "the source account is closed",
    _S.CREDIT_ACCOUNT_ALREADY_CLOSED: "the target account is closed",
}

ACKNOWLEDGED_ACCOUNT: Final = frozenset({CreateAccountStatus.CREATED, CreateAccountStatus.EXISTS})
"""Answers after which an account is there, as we asked for it."""


def hold_verdict(status: int) -> HoldVerdict:
    """Return what a hold's status means."""
    return HOLD_VERDICTS.get(status, HoldVerdict.UNDECIDED)


def end_verdict(status: int) -> EndVerdict:
    """Return what a post's or void's status means, where the hold of the same drive stands."""
    return END_VERDICTS.get(status, EndVerdict.UNDECIDED)


def status_name(status: int) -> str:
    """Return the ledger's own name of a status, for people."""
    try:
        return CreateTransferStatus(status).name.lower()
    except ValueError:
        return str(status)
