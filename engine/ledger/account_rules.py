"""TigerBeetle's rules for creating one account. Pure: no clock, no storage."""

from tigerbeetle import Account, CreateAccountResult, CreateAccountStatus

from transfer_engine.engine.ledger.book import AccountState, Book
from transfer_engine.engine.ledger.flags import ACCOUNT_FLAGS_KNOWN, BOTH_LIMITS, U128_MAX


def create_account(book: Book, account: Account, flags: int, timestamp: int) -> CreateAccountResult:
    """Create one account, or say why not."""
    status = _account_refusal(book, account, flags)
    if status is None:
        state = AccountState(
            account.id,
            timestamp,
            account.user_data_128,
            account.user_data_64,
            account.user_data_32,
            account.ledger,
            account.code,
            0,
            0,
            0,
            0,
            flags,
            0,
            0,
        )
        book.record_created_account(state)
        return CreateAccountResult(timestamp, CreateAccountStatus.CREATED)
    if status is CreateAccountStatus.EXISTS:
        return CreateAccountResult(book.accounts[account.id].timestamp, status)
    return CreateAccountResult(timestamp, status)


def _account_refusal(book: Book, account: Account, flags: int) -> CreateAccountStatus | None:
    existing = book.accounts.get(account.id)
    checks = (
        (flags > ACCOUNT_FLAGS_KNOWN, CreateAccountStatus.RESERVED_FLAG),
        (account.id == 0, CreateAccountStatus.ID_MUST_NOT_BE_ZERO),
        (account.id == U128_MAX, CreateAccountStatus.ID_MUST_NOT_BE_INT_MAX),
        (existing is not None, None),
        (flags & BOTH_LIMITS == BOTH_LIMITS, CreateAccountStatus.FLAGS_ARE_MUTUALLY_EXCLUSIVE),
        (account.debits_pending != 0, CreateAccountStatus.DEBITS_PENDING_MUST_BE_ZERO),
        (account.debits_posted != 0, CreateAccountStatus.DEBITS_POSTED_MUST_BE_ZERO),
        (account.credits_pending != 0, CreateAccountStatus.CREDITS_PENDING_MUST_BE_ZERO),
        (account.credits_posted != 0, CreateAccountStatus.CREDITS_POSTED_MUST_BE_ZERO),
        (account.ledger == 0, CreateAccountStatus.LEDGER_MUST_NOT_BE_ZERO),
        (account.code == 0, CreateAccountStatus.CODE_MUST_NOT_BE_ZERO),
    )
    for failed, status in checks:
        if failed:
            return status or _account_exists(account, flags, book.accounts[account.id])
    return None


def _account_exists(account: Account, flags: int, existing: AccountState) -> CreateAccountStatus:
    # A closing transfer sets the existing account's flag: TigerBeetle, too, compares with the flags of now.
    checks = (
        (flags != existing.flags, CreateAccountStatus.EXISTS_WITH_DIFFERENT_FLAGS),
        (
            account.user_data_128 != existing.user_data_128,
            CreateAccountStatus.EXISTS_WITH_DIFFERENT_USER_DATA_128,
        ),
        (
            account.user_data_64 != existing.user_data_64,
            CreateAccountStatus.EXISTS_WITH_DIFFERENT_USER_DATA_64,
        ),
        (
            account.user_data_32 != existing.user_data_32,
            CreateAccountStatus.EXISTS_WITH_DIFFERENT_USER_DATA_32,
        ),
        (account.ledger != existing.ledger, CreateAccountStatus.EXISTS_WITH_DIFFERENT_LEDGER),
        (account.code != existing.code, CreateAccountStatus.EXISTS_WITH_DIFFERENT_CODE),
    )
    for failed, status in checks:
        if failed:
            return status
    return CreateAccountStatus.EXISTS
