"""Accounts and transfers of one test, on a ledger that may be shared: every test has ids and a ledger of its own."""

from random import SystemRandom

import tigerbeetle as tb
from tigerbeetle import CreateAccountStatus, CreateTransferStatus, TransferFlags

from transfer_engine.engine.ledger.protocol import AMOUNT_MAX, Ledger

LIMITED = tb.AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS
PENDING = TransferFlags.PENDING
POST = TransferFlags.POST_PENDING_TRANSFER
VOID = TransferFlags.VOID_PENDING_TRANSFER
LINKED = TransferFlags.LINKED


class Books:
    """What a test says to a ledger, in few words. Amounts are minor units."""

    def __init__(self, ledger: Ledger) -> None:
        random = SystemRandom()
        self.ledger = ledger
        self.ledger_number = random.randrange(1, 2**32 - 1)
        self._id = random.randrange(2**100, 2**126) << 1 & ~15

    def new_id(self) -> int:
        """Return an id whose low four bits are zero: a move's, whose legs are `id | leg`."""
        self._id += 16
        return self._id

    async def account(self, flags: int = 0, *, funds: int = 0) -> int:
        """Make an account, with so much money on it, and return its id."""
        account = tb.Account(id=self.new_id(), ledger=self.ledger_number, code=1, flags=tb.AccountFlags(flags))
        [result] = await self.ledger.create_accounts([account])
        assert result.status == CreateAccountStatus.CREATED
        if funds:
            outside = await self.account()
            await self.must_submit(self.transfer(outside, account.id, funds))
        return account.id

    async def pair(self, *, funds: int = 1000) -> tuple[int, int]:
        """Make two accounts that may not be overdrawn, the first with money."""
        return await self.account(LIMITED, funds=funds), await self.account(LIMITED)

    def transfer(self, debit: int, credit: int, amount: int, flags: int = 0, **fields: int) -> tb.Transfer:
        return tb.Transfer(
            **{
                "id": self.new_id(),
                "debit_account_id": debit,
                "credit_account_id": credit,
                "amount": amount,
                "ledger": self.ledger_number,
                "code": 10,
                "flags": TransferFlags(flags),
                **fields,
            }
        )

    def hold(self, move: int, debit: int, credit: int, amount: int, flags: int = PENDING, **fields: int) -> tb.Transfer:
        """Return the first leg of a move."""
        return self.transfer(debit, credit, amount, flags, id=move | 1, user_data_128=move, **fields)

    def post(self, move: int, debit: int, credit: int, leg: int = 2) -> tb.Transfer:
        """Return a leg that posts the hold of a move; it carries the accounts, ledger and code."""
        return self.transfer(debit, credit, AMOUNT_MAX, POST, id=move | leg, pending_id=move | 1, user_data_128=move)

    def void(self, move: int, debit: int, credit: int, leg: int = 3) -> tb.Transfer:
        """Return a leg that voids the hold of a move; it carries the accounts, ledger and code."""
        return self.transfer(debit, credit, 0, VOID, id=move | leg, pending_id=move | 1, user_data_128=move)

    async def submit(self, *transfers: tb.Transfer) -> list[CreateTransferStatus]:
        """Send one batch; return the statuses."""
        return [result.status for result in await self.ledger.create_transfers(transfers)]

    async def must_submit(self, *transfers: tb.Transfer) -> None:
        assert set(await self.submit(*transfers)) == {CreateTransferStatus.CREATED}

    async def balance(self, account_id: int) -> tuple[int, int]:
        """Return what an account has, and how much of that is held."""
        [account] = await self.ledger.lookup_accounts([account_id])
        return account.credits_posted - account.debits_posted, account.debits_pending
