"""Which refusal a transfer gets, once it is known that it gets one: TigerBeetle's order of precedence, as tables."""

from typing import Final

from tigerbeetle import CreateTransferStatus, Transfer

from transfer_engine.engine.ledger.book import (
    PENDING_STATUS_PENDING,
    PENDING_STATUS_POSTED,
    PENDING_STATUS_VOIDED,
    AccountState,
    Book,
    TransferState,
)
from transfer_engine.engine.ledger.flags import (
    BALANCING,
    CLOSED,
    CLOSING,
    NOT_WITH_POST_OR_VOID,
    NS_PER_S,
    PENDING,
    POST,
    POST_OR_VOID,
    U128_MAX,
    VOID,
)

Refusal = CreateTransferStatus

TRANSIENT_REFUSALS: Final = frozenset(
    {
        Refusal.DEBIT_ACCOUNT_NOT_FOUND,
        Refusal.CREDIT_ACCOUNT_NOT_FOUND,
        Refusal.PENDING_TRANSFER_NOT_FOUND,
        Refusal.EXCEEDS_CREDITS,
        Refusal.EXCEEDS_DEBITS,
        Refusal.DEBIT_ACCOUNT_ALREADY_CLOSED,
        Refusal.CREDIT_ACCOUNT_ALREADY_CLOSED,
    }
)
"""Refusals that might end otherwise another time, so their ids are burnt: ``ID_ALREADY_FAILED`` for ever."""


def misshapen(transfer: Transfer, flags: int) -> Refusal | None:
    """Say what is wrong with a transfer by itself."""
    instant = not flags & PENDING
    checks = (
        (transfer.debit_account_id == 0, Refusal.DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO),
        (transfer.debit_account_id == U128_MAX, Refusal.DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX),
        (transfer.credit_account_id == 0, Refusal.CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO),
        (transfer.credit_account_id == U128_MAX, Refusal.CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX),
        (transfer.debit_account_id == transfer.credit_account_id, Refusal.ACCOUNTS_MUST_BE_DIFFERENT),
        (transfer.pending_id != 0, Refusal.PENDING_ID_MUST_BE_ZERO),
        (instant and transfer.timeout != 0, Refusal.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER),
        (instant and flags & CLOSING != 0, Refusal.CLOSING_TRANSFER_MUST_BE_PENDING),
        (transfer.ledger == 0, Refusal.LEDGER_MUST_NOT_BE_ZERO),
        (transfer.code == 0, Refusal.CODE_MUST_NOT_BE_ZERO),
    )
    return next((status for failed, status in checks if failed), None)


def unfit_accounts(transfer: Transfer, debit: AccountState, credit: AccountState) -> Refusal | None:
    """Say why these accounts can't take this transfer."""
    checks = (
        (debit.ledger != credit.ledger, Refusal.ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER),
        (transfer.ledger != debit.ledger, Refusal.TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS),
        (debit.flags & CLOSED != 0, Refusal.DEBIT_ACCOUNT_ALREADY_CLOSED),
        (credit.flags & CLOSED != 0, Refusal.CREDIT_ACCOUNT_ALREADY_CLOSED),
    )
    return next((status for failed, status in checks if failed), None)


def overflow(amount: int, flags: int, debit: AccountState, credit: AccountState) -> Refusal:
    """Say which sum does not fit its number."""
    pending = flags & PENDING
    checks = (
        (pending and amount + debit.debits_pending > U128_MAX, Refusal.OVERFLOWS_DEBITS_PENDING),
        (pending and amount + credit.credits_pending > U128_MAX, Refusal.OVERFLOWS_CREDITS_PENDING),
        (amount + debit.debits_posted > U128_MAX, Refusal.OVERFLOWS_DEBITS_POSTED),
        (amount + credit.credits_posted > U128_MAX, Refusal.OVERFLOWS_CREDITS_POSTED),
        (amount + debit.debits_pending + debit.debits_posted > U128_MAX, Refusal.OVERFLOWS_DEBITS),
        (amount + credit.credits_pending + credit.credits_posted > U128_MAX, Refusal.OVERFLOWS_CREDITS),
    )
    return next((status for failed, status in checks if failed), Refusal.OVERFLOWS_TIMEOUT)


def misshapen_post_or_void(transfer: Transfer, flags: int) -> Refusal | None:
    """Say what is wrong with a post or a void by itself."""
    checks = (
        (flags & POST_OR_VOID == POST_OR_VOID, Refusal.FLAGS_ARE_MUTUALLY_EXCLUSIVE),
        (flags & NOT_WITH_POST_OR_VOID != 0, Refusal.FLAGS_ARE_MUTUALLY_EXCLUSIVE),
        (transfer.pending_id == 0, Refusal.PENDING_ID_MUST_NOT_BE_ZERO),
        (transfer.pending_id == U128_MAX, Refusal.PENDING_ID_MUST_NOT_BE_INT_MAX),
        (transfer.pending_id == transfer.id, Refusal.PENDING_ID_MUST_BE_DIFFERENT),
        (transfer.timeout != 0, Refusal.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER),
    )
    return next((status for failed, status in checks if failed), None)


def hold_refusal(transfer: Transfer, flags: int, amount: int, hold: TransferState, timestamp: int) -> Refusal | None:
    """Say why this transfer can't settle this hold. Zero fields mean: as in the hold."""
    if (
        hold.status == PENDING_STATUS_PENDING
        and transfer.debit_account_id in (0, hold.debit_account_id)
        and transfer.credit_account_id in (0, hold.credit_account_id)
        and transfer.ledger in (0, hold.ledger)
        and transfer.code in (0, hold.code)
        and (amount == hold.amount or (flags & POST and amount < hold.amount))
        and (not hold.timeout or hold.timestamp + hold.timeout * NS_PER_S > timestamp)
    ):
        return None
    checks = (
        (not hold.flags & PENDING, Refusal.PENDING_TRANSFER_NOT_PENDING),
        (
            transfer.debit_account_id not in (0, hold.debit_account_id),
            Refusal.PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID,
        ),
        (
            transfer.credit_account_id not in (0, hold.credit_account_id),
            Refusal.PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID,
        ),
        (transfer.ledger not in (0, hold.ledger), Refusal.PENDING_TRANSFER_HAS_DIFFERENT_LEDGER),
        (transfer.code not in (0, hold.code), Refusal.PENDING_TRANSFER_HAS_DIFFERENT_CODE),
        (amount > hold.amount, Refusal.EXCEEDS_PENDING_TRANSFER_AMOUNT),
        (flags & VOID and amount < hold.amount, Refusal.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT),
        (hold.status == PENDING_STATUS_POSTED, Refusal.PENDING_TRANSFER_ALREADY_POSTED),
        (hold.status == PENDING_STATUS_VOIDED, Refusal.PENDING_TRANSFER_ALREADY_VOIDED),
    )
    return next((status for failed, status in checks if failed), Refusal.PENDING_TRANSFER_EXPIRED)


def compare_with_existing(book: Book, transfer: Transfer, flags: int, existing: TransferState) -> Refusal:
    """Compare with the transfer that has this id."""
    if flags != existing.flags:
        return Refusal.EXISTS_WITH_DIFFERENT_FLAGS
    if transfer.pending_id != existing.pending_id:
        return Refusal.EXISTS_WITH_DIFFERENT_PENDING_ID
    if transfer.timeout != existing.timeout:
        return Refusal.EXISTS_WITH_DIFFERENT_TIMEOUT
    amount = transfer.amount
    same_amount = amount == existing.amount
    if flags & POST_OR_VOID:
        # What was left out means: as in the hold. What the existing one took from it must then be the hold's.
        hold = book.transfers[existing.pending_id]
        if (flags & POST and amount == U128_MAX) or (flags & VOID and not amount):
            same_amount = existing.amount == hold.amount
        debit_account_id = transfer.debit_account_id or hold.debit_account_id
        credit_account_id = transfer.credit_account_id or hold.credit_account_id
        user_data_128 = transfer.user_data_128 or hold.user_data_128
        user_data_64 = transfer.user_data_64 or hold.user_data_64
        user_data_32 = transfer.user_data_32 or hold.user_data_32
        ledger = transfer.ledger or hold.ledger
        code = transfer.code or hold.code
    else:
        if flags & BALANCING:
            # The amount is an upper limit: any limit that allows what was moved is the same transfer.
            same_amount = amount >= existing.amount
        debit_account_id = transfer.debit_account_id
        credit_account_id = transfer.credit_account_id
        user_data_128 = transfer.user_data_128
        user_data_64 = transfer.user_data_64
        user_data_32 = transfer.user_data_32
        ledger = transfer.ledger
        code = transfer.code
    checks = (
        (debit_account_id == existing.debit_account_id, Refusal.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID),
        (credit_account_id == existing.credit_account_id, Refusal.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID),
        (same_amount, Refusal.EXISTS_WITH_DIFFERENT_AMOUNT),
        (user_data_128 == existing.user_data_128, Refusal.EXISTS_WITH_DIFFERENT_USER_DATA_128),
        (user_data_64 == existing.user_data_64, Refusal.EXISTS_WITH_DIFFERENT_USER_DATA_64),
        (user_data_32 == existing.user_data_32, Refusal.EXISTS_WITH_DIFFERENT_USER_DATA_32),
        (ledger == existing.ledger, Refusal.EXISTS_WITH_DIFFERENT_LEDGER),
        (code == existing.code, Refusal.EXISTS_WITH_DIFFERENT_CODE),
    )
    return next((status for same, status in checks if not same), Refusal.EXISTS)
