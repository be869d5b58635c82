"""The embedded ledger without threads: its writer and queries, called in the task that asks, on a file in memory.

So trio's autojump clock works. It outlives the engines that are opened on it. It can be told to forge answers;
everything else is the real thing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import trio
from tigerbeetle import (
    Account,
    CreateAccountResult,
    CreateTransferResult,
    CreateTransferStatus,
    Transfer,
    TransferFlags,
)

from transfer_engine.engine.ledger.embedded import EmbeddedLedger
from transfer_engine.engine.ledger.recent_ids import IDS_MAX
from transfer_engine.engine.ledger.writer import ACCOUNTS_CACHED_MAX, LedgerWriter

T = TypeVar("T")

CLOSE_DEBIT = TransferFlags.PENDING | TransferFlags.CLOSING_DEBIT
CLOSE_CREDIT = TransferFlags.PENDING | TransferFlags.CLOSING_CREDIT
_FOREIGN_ID = 1 << 127
"""Ids of transfers that no engine made lie above this one: they have no shape of a leg's."""


class InlineLedger(EmbeddedLedger):
    """A ledger in memory.

    ``forge`` may return a status for an event: then that is its answer, and the event is not applied.
    """

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        path = Path(":memory:")
        writer = LedgerWriter(path, clock_ns=clock_ns, accounts_cached_max=ACCOUNTS_CACHED_MAX, recent_ids_max=IDS_MAX)
        super().__init__(path, writer)
        self._foreign = _FOREIGN_ID
        self.forge: Callable[[Transfer], CreateTransferStatus | None] = _forge_nothing
        self.batches: list[list[Transfer]] = []
        """Every `create_transfers`, as it was asked."""

    async def create_transfers(self, transfers: Sequence[Transfer]) -> list[CreateTransferResult]:
        self.batches.append(list(transfers))
        forged = [self.forge(transfer) for transfer in transfers]
        genuine = [transfer for transfer, status in zip(transfers, forged, strict=True) if status is None]
        answers = iter(await super().create_transfers(genuine))
        return [next(answers) if status is None else CreateTransferResult(1, status) for status in forged]

    async def _write(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return work()

    async def _read(self, query: Callable[[Any, Any], T], event: Any) -> T:
        # A database in memory has one connection: the writer's.
        await trio.lowlevel.checkpoint()
        self._writer.expire_due()
        return query(self._writer._connect(), event)

    # What tests do behind the engine's back.

    async def open_accounts(self, *accounts: Account) -> list[CreateAccountResult]:
        """Create accounts."""
        return await self.create_accounts(accounts)

    async def account(self, account_id: int) -> Account | None:
        """Return an account, or None."""
        found = await self.lookup_accounts([account_id])
        return found[0] if found else None

    async def foreign(
        self,
        debit_account_id: int,
        credit_account_id: int,
        *,
        amount: int = 0,
        flags: TransferFlags = TransferFlags.NONE,
        asset_id: int = 1,
    ) -> int:
        """Make a transfer that no engine made, and return its id."""
        self._foreign += 16
        transfer = Transfer(
            id=self._foreign,
            debit_account_id=debit_account_id,
            credit_account_id=credit_account_id,
            amount=amount,
            ledger=asset_id,
            code=9,
            flags=flags,
        )
        await self._must_create(transfer)
        return self._foreign

    async def undo(self, hold_id: int) -> None:
        """Void a hold of :meth:`foreign`: what it closed is open again."""
        self._foreign += 16
        [hold] = await self.lookup_transfers([hold_id])
        await self._must_create(
            Transfer(
                id=self._foreign, pending_id=hold_id, amount=hold.amount, flags=TransferFlags.VOID_PENDING_TRANSFER
            )
        )

    async def _must_create(self, transfer: Transfer) -> None:
        [answer] = await super().create_transfers([transfer])
        if answer.status is not CreateTransferStatus.CREATED:
            raise ValueError(f"the ledger answered {answer.status.name} to {transfer}")


def _forge_nothing(_transfer: Transfer) -> CreateTransferStatus | None:
    return None
