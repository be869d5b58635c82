"""The ledger events of a transfer: a hold, then a post or a void, each under a leg id of its own.

An event is a pure function of (`req_id`, body, leg): no clock and no engine in it, so every engine and every retry
submits the same one. Posts and voids carry both accounts, the ledger and the code, so that they can't touch a hold
of another body under the same key.
"""

from typing import Final

from tigerbeetle import Account, AccountFlags, Transfer, TransferFlags

from transfer_engine.engine.ledger.protocol import AMOUNT_MAX
from transfer_engine.schema.ids import HOLD

TRANSFER_CODE: Final = 1
"""`code` of every leg of a transfer."""

TOMBSTONE_CODE: Final = 2
"""`code` of a tombstone: the zero-amount transfer that takes a hold's id, so that nothing can move under it."""

WALLET_FLAGS: Final = AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS
OMNIBUS_FLAGS: Final = AccountFlags.NONE

_PENDING: Final = TransferFlags.PENDING
_POST: Final = TransferFlags.POST_PENDING_TRANSFER
_VOID: Final = TransferFlags.VOID_PENDING_TRANSFER


class LedgerBody:
    """The part of a transfer that the ledger sees: two accounts, an asset, an amount, and whose they are."""

    __slots__ = ("amount", "asset_id", "credit_account_id", "debit_account_id", "fingerprint", "req_id")

    def __init__(
        self,
        *,
        req_id: int,
        debit_account_id: int,
        credit_account_id: int,
        asset_id: int,
        amount: int,
        fingerprint: int,
    ) -> None:
        self.req_id = req_id
        self.debit_account_id = debit_account_id
        self.credit_account_id = credit_account_id
        self.asset_id = asset_id
        self.amount = amount
        self.fingerprint = fingerprint

    def hold(self) -> Transfer:
        """Return the pending transfer that arbitrates between all other legs."""
        return Transfer(
            id=self.req_id | HOLD,
            debit_account_id=self.debit_account_id,
            credit_account_id=self.credit_account_id,
            amount=self.amount,
            user_data_128=self.req_id,
            user_data_64=self.fingerprint,
            ledger=self.asset_id,
            code=TRANSFER_CODE,
            flags=_PENDING,
        )

    def post(self, leg: int) -> Transfer:
        """Return a post of the hold, of its whole amount."""
        return self._end(leg, _POST, AMOUNT_MAX)

    def void(self, leg: int) -> Transfer:
        """Return a void of the hold.

        It carries the body's own amount: TigerBeetle answers a void with ``AMOUNT_MAX`` by
        ``exceeds_pending_transfer_amount``, and one with another amount than the hold's is refused, as it should be.
        """
        return self._end(leg, _VOID, self.amount)

    def tombstone(self) -> Transfer:
        """Return the zero-amount transfer that takes the hold's id for good."""
        return Transfer(
            id=self.req_id | HOLD,
            debit_account_id=self.debit_account_id,
            credit_account_id=self.credit_account_id,
            user_data_128=self.req_id,
            user_data_64=self.fingerprint,
            ledger=self.asset_id,
            code=TOMBSTONE_CODE,
        )

    def _end(self, leg: int, flags: TransferFlags, amount: int) -> Transfer:
        return Transfer(
            id=self.req_id | leg,
            debit_account_id=self.debit_account_id,
            credit_account_id=self.credit_account_id,
            amount=amount,
            pending_id=self.req_id | HOLD,
            user_data_128=self.req_id,
            user_data_64=self.fingerprint,
            ledger=self.asset_id,
            code=TRANSFER_CODE,
            flags=flags,
        )


def account_id(user_id: int, asset_id: int, code: int) -> int:
    """Return the ledger id of an account: user (64 bits), asset (32 bits), service code (16 bits), from the top.

    Omnibus and external accounts have user 0.
    """
    return user_id << 64 | asset_id << 16 | code


def owner_of(ledger_account_id: int) -> tuple[int, int, int]:
    """Return (user, asset, service code) of an account id."""
    return ledger_account_id >> 64, (ledger_account_id >> 16) & 0xFFFF_FFFF, ledger_account_id & 0xFFFF


def new_account(ledger_account_id: int) -> Account:
    """Return the account to create: a user's may never go below zero, an omnibus one may."""
    user_id, asset_id, code = owner_of(ledger_account_id)
    return Account(
        id=ledger_account_id,
        user_data_64=user_id,
        ledger=asset_id,
        code=code,
        flags=WALLET_FLAGS if user_id else OMNIBUS_FLAGS,
    )
