"""The audit: checks the invariants from the ledger's own books, and compares them with the records.

It trusts nothing that the engine remembers: balances are added up again from the ledger's transfers, every hold is
followed to its end, and each row is held against that. Memory is bounded by the holds that are open at one time.
"""

from collections import Counter, defaultdict
from contextlib import aclosing
from typing import Final

import msgspec
from tigerbeetle import Account, Transfer, TransferFlags

from transfer_engine.engine.ledger.paging import account_pages, transfer_pages
from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.legs import TOMBSTONE_CODE, owner_of
from transfer_engine.engine.records.paging import record_pages
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.services.registry import ServiceRegistry
from transfer_engine.schema.ids import HOLD, LEG_MAX
from transfer_engine.schema.transfers import TransferRecord, TransferState, body_fingerprint

FINDINGS_MOST: Final = 50
"""Findings that are kept word for word; all are counted."""

_PENDING: Final = int(TransferFlags.PENDING)
_POST: Final = int(TransferFlags.POST_PENDING_TRANSFER)
_VOID: Final = int(TransferFlags.VOID_PENDING_TRANSFER)


class Finding(msgspec.Struct, frozen=True):
    """One breach of one invariant."""

    invariant: str
    what: str


class AuditReport(msgspec.Struct, frozen=True):
    """What was looked at and what was found; ``holds`` says whether every invariant does."""

    accounts: int
    ledger_transfers: int
    posted: int
    voided: int
    open_holds: int
    records: int
    unfinished_records: int
    breaches: int
    findings: list[Finding]

    @property
    def holds(self) -> bool:
        """Whether no invariant is broken."""
        return self.breaches == 0


class _Hold:
    __slots__ = ("amount", "credit_account_id", "debit_account_id", "fingerprint")

    def __init__(self, transfer: Transfer) -> None:
        self.amount = transfer.amount
        self.debit_account_id = transfer.debit_account_id
        self.credit_account_id = transfer.credit_account_id
        self.fingerprint = transfer.user_data_64


class _Audit:
    def __init__(self, ledger: Ledger, records: RecordStore, registry: ServiceRegistry, *, is_healed: bool) -> None:
        self.ledger = ledger
        self.records = records
        self.registry = registry
        self.is_healed = is_healed
        self.findings: list[Finding] = []
        self.breaches = 0
        self.ledger_transfers = self.posted = self.voided = 0
        self.account_count = self.record_count = self.unfinished = 0
        self.debits: defaultdict[int, int] = defaultdict(int)
        self.credits: defaultdict[int, int] = defaultdict(int)
        self.held: defaultdict[int, int] = defaultdict(int)
        self.open: dict[int, _Hold] = {}
        self.rows_behind_ends: Counter[TransferState] = Counter()
        self.rows: Counter[TransferState] = Counter()

    def found(self, invariant: str, what: str) -> None:
        self.breaches += 1
        if len(self.findings) < FINDINGS_MOST:
            self.findings.append(Finding(invariant, what))

    async def follow_transfers(self) -> None:
        """Add up every transfer of the books, and hold each end against its row."""
        async with aclosing(transfer_pages(self.ledger)) as pages:
            async for page in pages:
                ended: dict[int, tuple[_Hold, bool]] = {}
                for transfer in page:
                    self.ledger_transfers += 1
                    self._follow(transfer, ended)
                await self._compare(ended)

    def _follow(self, transfer: Transfer, ended: dict[int, tuple[_Hold, bool]]) -> None:
        req_id, leg = transfer.id & ~LEG_MAX, transfer.id & LEG_MAX
        flags = int(transfer.flags)
        if transfer.user_data_128 != req_id:
            self.found("I2", f"ledger transfer {transfer.id:#x} is not a leg of the transfer that it names")
        if flags & _PENDING and leg == HOLD:
            self.open[req_id] = _Hold(transfer)
            self.held[transfer.debit_account_id] += transfer.amount
        elif flags & (_POST | _VOID):
            hold = self.open.pop(req_id, None)
            if hold is None or transfer.pending_id != req_id | HOLD:
                self.found("I2", f"leg {transfer.id:#x} ends a hold that is not open: it moved twice, or without one")
                return
            self.held[hold.debit_account_id] -= hold.amount
            if flags & _POST:
                self.posted += 1
                self.debits[hold.debit_account_id] += transfer.amount
                self.credits[hold.credit_account_id] += transfer.amount
                if transfer.amount != hold.amount:
                    self.found("I2", f"leg {transfer.id:#x} posted {transfer.amount} of a hold of {hold.amount}")
            else:
                self.voided += 1
            ended[req_id] = (hold, bool(flags & _POST))
        elif transfer.code != TOMBSTONE_CODE or transfer.amount != 0:
            self.found("I2", f"ledger transfer {transfer.id:#x} is neither a leg nor a tombstone")

    async def _compare(self, ended: dict[int, tuple[_Hold, bool]]) -> None:
        """I3 and I7: the ledger's ends agree with the rows, one to one."""
        rows = await self.records.get_many(list(ended))
        for req_id, (hold, is_posted) in ended.items():
            row = rows.get(req_id)
            if row is None:
                if self.is_healed:
                    self.found("I7", f"transfer {req_id:#x} ended in the ledger and has no row")
                continue
            self._compare_body(row, hold)
            self.rows_behind_ends[row.state] += 1
            if not row.state.is_terminal:
                if self.is_healed:
                    self.found("I7", f"{row.req_id} ended in the ledger, and its row says {row.state.value}")
            elif (row.state is TransferState.COMMITTED) is not is_posted:
                self.found(
                    "I3", f"{row.req_id} is {row.state.value}, and the ledger {'posted' if is_posted else 'voided'} it"
                )

    def _compare_body(self, row: TransferRecord, hold: _Hold) -> None:
        source, target = self.registry.find(row.source), self.registry.find(row.target)
        if (
            source is None
            or target is None
            or hold.debit_account_id != source.account_id(row.user_id, row.asset_id)
            or hold.credit_account_id != target.account_id(row.target_user_id, row.asset_id)
            or hold.amount != row.amount
            or not hold.fingerprint == row.fingerprint == body_fingerprint(row)
        ):
            self.found("I2", f"{row.req_id}: the ledger's hold is of another body than the row")

    async def check_accounts(self) -> None:
        """I1: all balances sum to zero, none of a user's is below it, and they are what the transfers add up to."""
        posted: defaultdict[int, int] = defaultdict(int)
        pending: defaultdict[int, int] = defaultdict(int)
        async with aclosing(account_pages(self.ledger)) as pages:
            async for page in pages:
                for account in page:
                    self.account_count += 1
                    posted[account.ledger] += account.credits_posted - account.debits_posted
                    pending[account.ledger] += account.credits_pending - account.debits_pending
                    self._check_account(account)
        for asset_id in posted:
            if posted[asset_id] or pending[asset_id]:
                self.found("I1", f"asset {asset_id}: balances sum to {posted[asset_id]}, pending {pending[asset_id]}")

    def _check_account(self, account: Account) -> None:
        user_id, asset_id, code = owner_of(account.id)
        name = f"account of user {user_id}, asset {asset_id}, code {code}"
        if user_id and account.credits_posted < account.debits_posted + account.debits_pending:
            self.found("I1", f"{name} is below zero")
        if account.debits_posted != self.debits[account.id] or account.credits_posted != self.credits[account.id]:
            self.found("I1", f"{name}: its balance is not what its transfers add up to")
        if account.debits_pending != self.held[account.id]:
            self.found("I1", f"{name}: {account.debits_pending} held, and its holds add up to {self.held[account.id]}")

    async def check_records(self) -> None:
        """I3 and I7, from the rows' side: what they say ended did, and what they say was refused never moved."""
        async for rows in record_pages(self.records):
            self.record_count += len(rows)
            refused = []
            for row in rows:
                self.rows[row.state] += 1
                if not row.state.is_terminal:
                    self.unfinished += 1
                    if self.is_healed:
                        self.found("I7", f"{row.req_id} is still {row.state.value}")
                elif row.state is TransferState.FAILED:
                    refused.append(row.req_id.int | HOLD)
                elif row.req_id.int in self.open:
                    self.found("I3", f"{row.req_id} is {row.state.value}, and its hold is open")
            for hold in await self.ledger.lookup_transfers(refused):
                if hold.code != TOMBSTONE_CODE and hold.id & ~LEG_MAX in self.open:
                    self.found("I3", f"transfer {hold.id & ~LEG_MAX:#x} is failed, and its hold is open")
        for state in (TransferState.COMMITTED, TransferState.ROLLED_BACK):
            surplus = self.rows[state] - self.rows_behind_ends[state]
            if surplus:
                self.found("I3", f"{surplus} rows are {state.value}, and the ledger knows no end of theirs")
        if self.is_healed:
            for req_id in self.open:
                self.found("I7", f"transfer {req_id:#x} is still held")


async def audit(
    ledger: Ledger, records: RecordStore, registry: ServiceRegistry, *, is_healed: bool = True
) -> AuditReport:
    """Check I1, I2, I3 and (where everything should have ended: ``is_healed``) I7.

    Run it on an engine at rest: it reads page by page, and what moves meanwhile would be reported. Cancellation
    leaves nothing behind.
    """
    work = _Audit(ledger, records, registry, is_healed=is_healed)
    await work.follow_transfers()
    await work.check_accounts()
    await work.check_records()
    return AuditReport(
        accounts=work.account_count,
        ledger_transfers=work.ledger_transfers,
        posted=work.posted,
        voided=work.voided,
        open_holds=len(work.open),
        records=work.record_count,
        unfinished_records=work.unfinished,
        breaches=work.breaches,
        findings=work.findings,
    )
