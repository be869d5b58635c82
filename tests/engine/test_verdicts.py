"""The tables from the ledger's statuses to verdicts, held against a table of the tests' own."""

import pytest
from tigerbeetle import CreateTransferStatus

from transfer_engine.engine.verdicts import (
    HOLD_VERDICTS,
    REFUSAL_REASONS,
    EndVerdict,
    HoldVerdict,
    end_verdict,
    hold_verdict,
    status_name,
)

HOLDS = {
    "CREATED": "NEW",
    "EXISTS": "STANDS",
    "ID_ALREADY_FAILED": "REFUSED_BEFORE",
    # Burnt: the documentation's list of transient refusals, of which a hold can get these.
    "EXCEEDS_CREDITS": "REFUSED",
    "EXCEEDS_DEBITS": "REFUSED",
    "DEBIT_ACCOUNT_NOT_FOUND": "REFUSED",
    "CREDIT_ACCOUNT_NOT_FOUND": "REFUSED",
    "DEBIT_ACCOUNT_ALREADY_CLOSED": "REFUSED",
    "CREDIT_ACCOUNT_ALREADY_CLOSED": "REFUSED",
}
ENDS = {
    "CREATED": "DONE",
    "EXISTS": "DONE",
    "PENDING_TRANSFER_ALREADY_POSTED": "POSTED",
    "PENDING_TRANSFER_ALREADY_VOIDED": "VOIDED",
    "PENDING_TRANSFER_EXPIRED": "VOIDED",
    "ID_ALREADY_FAILED": "BURNT_BEFORE",
    "PENDING_TRANSFER_NOT_FOUND": "BURNT_NOW",
    "DEBIT_ACCOUNT_ALREADY_CLOSED": "BURNT_NOW",
    "CREDIT_ACCOUNT_ALREADY_CLOSED": "BURNT_NOW",
}


@pytest.mark.parametrize("status", CreateTransferStatus, ids=lambda status: status.name)
def test_every_status_of_a_hold(status: CreateTransferStatus) -> None:
    expected = (
        "OTHER_OWNER" if status.name.startswith("EXISTS_WITH_DIFFERENT_") else HOLDS.get(status.name, "UNDECIDED")
    )
    assert hold_verdict(status) is HoldVerdict[expected]


@pytest.mark.parametrize("status", CreateTransferStatus, ids=lambda status: status.name)
def test_every_status_of_a_post_or_void(status: CreateTransferStatus) -> None:
    expected = "TAKEN" if status.name.startswith("EXISTS_WITH_DIFFERENT_") else ENDS.get(status.name, "UNDECIDED")
    assert end_verdict(status) is EndVerdict[expected]


def test_a_status_that_nobody_knows_is_no_verdict() -> None:
    assert hold_verdict(4_242) is HoldVerdict.UNDECIDED
    assert end_verdict(4_242) is EndVerdict.UNDECIDED
    assert status_name(4_242) == "4242"
    assert status_name(CreateTransferStatus.EXCEEDS_CREDITS) == "exceeds_credits"


def test_every_refusal_has_a_reason_for_people() -> None:
    refused = {
        status
        for status, verdict in HOLD_VERDICTS.items()
        if verdict in {HoldVerdict.REFUSED, HoldVerdict.REFUSED_BEFORE}
    }
    assert set(REFUSAL_REASONS) == refused
    assert all(REFUSAL_REASONS.values())
    assert REFUSAL_REASONS[CreateTransferStatus.EXCEEDS_CREDITS] == "insufficient funds"
