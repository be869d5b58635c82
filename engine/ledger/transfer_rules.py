"""TigerBeetle's rules for one event: what is refused, why, in which order, and what a taken event changes.

Here live only the rules: synchronous, against a :class:`Book`, no clock, no storage. Chains of linked events and
the batch around an event are in ``batch``. The rules and their precedence are those of TigerBeetle's
``src/state_machine.zig`` (0.17); the names are its own.

The common way through each function is short; what exactly was wrong is worked out only after it is known that
something is, in the order of precedence.
"""

from typing import Final

from tigerbeetle import CreateTransferResult, CreateTransferStatus, Transfer

from transfer_engine.engine.ledger.book import (
    PENDING_STATUS_EXPIRED,
    PENDING_STATUS_NONE,
    PENDING_STATUS_PENDING,
    PENDING_STATUS_POSTED,
    PENDING_STATUS_VOIDED,
    AccountState,
    Book,
    TransferState,
)
from transfer_engine.engine.ledger.flags import (
    BALANCING,
    BALANCING_CREDIT,
    BALANCING_DEBIT,
    CLOSED,
    CLOSING,
    CLOSING_CREDIT,
    CLOSING_DEBIT,
    CREDITS_MUST_NOT_EXCEED_DEBITS,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    HISTORY,
    NOT_WITH_POST_OR_VOID,
    NS_PER_S,
    PENDING,
    POST,
    POST_OR_VOID,
    TIMESTAMP_MAX,
    TRANSFER_FLAGS_KNOWN,
    U128_MAX,
    VOID,
)
from transfer_engine.engine.ledger.refusals import (
    TRANSIENT_REFUSALS,
    compare_with_existing,
    hold_refusal,
    misshapen,
    misshapen_post_or_void,
    overflow,
    unfit_accounts,
)

Refusal = CreateTransferStatus
_CREATED: Final = CreateTransferStatus.CREATED
_EXISTS: Final = CreateTransferStatus.EXISTS


def create_transfer(book: Book, transfer: Transfer, flags: int, timestamp: int) -> CreateTransferResult:
    """Apply one transfer of any kind, or say why not; burn its id if the reason may pass."""
    transfer_id = transfer.id
    if flags > TRANSFER_FLAGS_KNOWN:
        return CreateTransferResult(timestamp, Refusal.RESERVED_FLAG)
    if transfer_id == 0:
        return CreateTransferResult(timestamp, Refusal.ID_MUST_NOT_BE_ZERO)
    if transfer_id == U128_MAX:
        return CreateTransferResult(timestamp, Refusal.ID_MUST_NOT_BE_INT_MAX)
    existing = book.transfers.get(transfer_id)
    if existing is not None:
        status = compare_with_existing(book, transfer, flags, existing)
        return CreateTransferResult(existing.timestamp if status is _EXISTS else timestamp, status)
    if transfer_id in book.burnt:
        return CreateTransferResult(timestamp, Refusal.ID_ALREADY_FAILED)
    if flags & POST_OR_VOID:
        refusal = _post_or_void(book, transfer, flags, timestamp)
    else:
        refusal = _move(book, transfer, flags, timestamp)
    if refusal is None:
        return CreateTransferResult(timestamp, _CREATED)
    if refusal in TRANSIENT_REFUSALS:
        book.burn(transfer_id, timestamp)
    return CreateTransferResult(timestamp, refusal)


def _move(book: Book, transfer: Transfer, flags: int, timestamp: int) -> Refusal | None:
    """Apply a transfer that moves money at once, or a hold."""
    debit_id = transfer.debit_account_id
    credit_id = transfer.credit_account_id
    ledger = transfer.ledger
    timeout = transfer.timeout
    if (
        not debit_id
        or not credit_id
        or debit_id == credit_id
        or U128_MAX in (debit_id, credit_id)
        or transfer.pending_id
        or not ledger
        or not transfer.code
        or (not flags & PENDING and (timeout or flags & CLOSING))
    ):
        return misshapen(transfer, flags)

    debit = book.accounts.get(debit_id)
    if debit is None:
        return Refusal.DEBIT_ACCOUNT_NOT_FOUND
    credit = book.accounts.get(credit_id)
    if credit is None:
        return Refusal.CREDIT_ACCOUNT_NOT_FOUND
    if debit.ledger != ledger or credit.ledger != ledger or (debit.flags | credit.flags) & CLOSED:
        return unfit_accounts(transfer, debit, credit)

    amount = transfer.amount
    if flags & BALANCING:
        amount = _balancing_amount(amount, flags, debit, credit)
    debits = debit.debits_pending + debit.debits_posted + amount
    credits_ = credit.credits_pending + credit.credits_posted + amount
    if debits > U128_MAX or credits_ > U128_MAX or timestamp + timeout * NS_PER_S > TIMESTAMP_MAX:
        return overflow(amount, flags, debit, credit)
    if debit.flags & DEBITS_MUST_NOT_EXCEED_CREDITS and debits > debit.credits_posted:
        return Refusal.EXCEEDS_CREDITS
    if credit.flags & CREDITS_MUST_NOT_EXCEED_DEBITS and credits_ > credit.debits_posted:
        return Refusal.EXCEEDS_DEBITS

    # From here on the transfer is taken.
    book.before_change(debit, credit, None)
    status = PENDING_STATUS_NONE
    if flags & PENDING:
        status = PENDING_STATUS_PENDING
        debit.debits_pending += amount
        credit.credits_pending += amount
        if flags & CLOSING_DEBIT:
            debit.flags |= CLOSED
        if flags & CLOSING_CREDIT:
            credit.flags |= CLOSED
    else:
        debit.debits_posted += amount
        credit.credits_posted += amount
    book.record_created(
        TransferState(
            transfer.id,
            debit_id,
            credit_id,
            amount,
            0,
            transfer.user_data_128,
            transfer.user_data_64,
            transfer.user_data_32,
            timeout,
            ledger,
            transfer.code,
            flags,
            timestamp,
            status,
            debit.transfer_last,
            credit.transfer_last,
        ),
        debit,
        credit,
        history=bool((debit.flags | credit.flags) & HISTORY),
    )
    return None


def _balancing_amount(amount: int, flags: int, debit: AccountState, credit: AccountState) -> int:
    """Clamp to what balances the account: never below zero."""
    if flags & BALANCING_DEBIT:
        room = debit.credits_posted - debit.debits_posted - debit.debits_pending
        amount = min(amount, max(room, 0))
    if flags & BALANCING_CREDIT:
        room = credit.debits_posted - credit.credits_posted - credit.credits_pending
        amount = min(amount, max(room, 0))
    return amount


def _post_or_void(book: Book, transfer: Transfer, flags: int, timestamp: int) -> Refusal | None:
    """Settle a hold."""
    pending_id = transfer.pending_id
    if (
        flags & POST_OR_VOID == POST_OR_VOID
        or flags & NOT_WITH_POST_OR_VOID
        or not pending_id
        or pending_id in (U128_MAX, transfer.id)
        or transfer.timeout
    ):
        return misshapen_post_or_void(transfer, flags)
    hold = book.transfers.get(pending_id)
    if hold is None:
        return Refusal.PENDING_TRANSFER_NOT_FOUND
    amount = transfer.amount
    if (flags & POST and amount == U128_MAX) or (flags & VOID and not amount):
        amount = hold.amount
    debit = book.accounts[hold.debit_account_id]
    credit = book.accounts[hold.credit_account_id]
    refusal = hold_refusal(transfer, flags, amount, hold, timestamp)
    if refusal is not None:
        return refusal
    if (debit.flags | credit.flags) & CLOSED and flags & POST:
        return Refusal.DEBIT_ACCOUNT_ALREADY_CLOSED if debit.flags & CLOSED else Refusal.CREDIT_ACCOUNT_ALREADY_CLOSED

    # From here on the transfer is taken.
    book.before_change(debit, credit, hold)
    debit.debits_pending -= hold.amount
    credit.credits_pending -= hold.amount
    if flags & POST:
        hold.status = PENDING_STATUS_POSTED
        debit.debits_posted += amount
        credit.credits_posted += amount
    else:
        hold.status = PENDING_STATUS_VOIDED
        reopen(hold, debit, credit)
    book.record_created(
        TransferState(
            transfer.id,
            hold.debit_account_id,
            hold.credit_account_id,
            amount,
            pending_id,
            transfer.user_data_128 or hold.user_data_128,
            transfer.user_data_64 or hold.user_data_64,
            transfer.user_data_32 or hold.user_data_32,
            0,
            hold.ledger,
            hold.code,
            flags,
            timestamp,
            PENDING_STATUS_NONE,
            debit.transfer_last,
            credit.transfer_last,
        ),
        debit,
        credit,
        history=bool((debit.flags | credit.flags) & HISTORY),
    )
    return None


def reopen(hold: TransferState, debit: AccountState, credit: AccountState) -> None:
    """Take back the closing of accounts that a voided or expired hold had done."""
    if hold.flags & CLOSING_DEBIT:
        debit.flags &= ~CLOSED
    if hold.flags & CLOSING_CREDIT:
        credit.flags &= ~CLOSED


def expire(book: Book, hold: TransferState) -> None:
    """Give a hold back whose time is over."""
    debit = book.accounts[hold.debit_account_id]
    credit = book.accounts[hold.credit_account_id]
    debit.debits_pending -= hold.amount
    credit.credits_pending -= hold.amount
    hold.status = PENDING_STATUS_EXPIRED
    reopen(hold, debit, credit)
