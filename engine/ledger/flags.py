"""TigerBeetle's flags and bounds as plain integers: arithmetic on an ``IntFlag`` costs half a microsecond."""

from typing import Final

from tigerbeetle import AccountFlags, TransferFlags

U128_MAX: Final = (1 << 128) - 1
TIMESTAMP_MAX: Final = (1 << 63) - 1
NS_PER_S: Final = 1_000_000_000

ACCOUNT_FLAGS_KNOWN: Final = 0x3F
DEBITS_MUST_NOT_EXCEED_CREDITS: Final = int(AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS)
CREDITS_MUST_NOT_EXCEED_DEBITS: Final = int(AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS)
BOTH_LIMITS: Final = DEBITS_MUST_NOT_EXCEED_CREDITS | CREDITS_MUST_NOT_EXCEED_DEBITS
HISTORY: Final = int(AccountFlags.HISTORY)
CLOSED: Final = int(AccountFlags.CLOSED)

TRANSFER_FLAGS_KNOWN: Final = 0x1FF
PENDING: Final = int(TransferFlags.PENDING)
POST: Final = int(TransferFlags.POST_PENDING_TRANSFER)
VOID: Final = int(TransferFlags.VOID_PENDING_TRANSFER)
BALANCING_DEBIT: Final = int(TransferFlags.BALANCING_DEBIT)
BALANCING_CREDIT: Final = int(TransferFlags.BALANCING_CREDIT)
CLOSING_DEBIT: Final = int(TransferFlags.CLOSING_DEBIT)
CLOSING_CREDIT: Final = int(TransferFlags.CLOSING_CREDIT)
POST_OR_VOID: Final = POST | VOID
BALANCING: Final = BALANCING_DEBIT | BALANCING_CREDIT
CLOSING: Final = CLOSING_DEBIT | CLOSING_CREDIT
NOT_WITH_POST_OR_VOID: Final = PENDING | BALANCING | CLOSING
