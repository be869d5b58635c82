"""Reads everything that a stopped server left in its data directory, for the check of the invariants.

Nothing of what the engine knew in memory is asked: only its files. The ledger is also asked once more for every
transfer whose row says `failed`: a hold that is refused for good is refused again, whatever happens.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from tigerbeetle import Account, CreateTransferStatus, Transfer, TransferFlags

from transfer_engine.engine.audit import AuditReport, audit
from transfer_engine.engine.backends import open_backends
from transfer_engine.engine.ledger.paging import account_pages, transfer_pages
from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX, Ledger
from transfer_engine.engine.legs import LedgerBody, owner_of
from transfer_engine.engine.records.paging import record_pages
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.services.registry import ServiceRegistry
from transfer_engine.engine.services.simulated import SimulatedCore
from transfer_engine.engine.services.simulated_books import Operation
from transfer_engine.engine.settings import Settings
from transfer_engine.schema.ids import LEG_MAX
from transfer_engine.schema.transfers import TransferRecord, TransferState

_PENDING: Final = int(TransferFlags.PENDING)
_POST: Final = int(TransferFlags.POST_PENDING_TRANSFER)
_VOID: Final = int(TransferFlags.VOID_PENDING_TRANSFER)

Place = tuple[str, int, int]
"""Where money lies: service, user (0: everybody's), asset."""


class LedgerSide(msgspec.Struct):
    """What the ledger has of one transfer: its hold (ledger timestamp, ns, 0 for none) and how that ended."""

    held_at: int = 0
    posts: int = 0
    voids: int = 0


class Books(msgspec.Struct, frozen=True):
    """Everything that a data directory says, and the engine's own audit of it."""

    report: AuditReport
    ledger: dict[int, LedgerSide]
    """By `req_id`."""
    rows: dict[int, TransferRecord]
    operations: dict[str, dict[int, Operation]]
    """The simulated cores' own books, by core and `req_id`."""
    balances: dict[Place, int]
    """What lies where for good, in minor units, of users in wallets and cores; zeros are left out."""
    held: dict[Place, int]
    """What is held or frozen; zeros are left out."""
    core_money: dict[tuple[str, int], tuple[int, int]]
    """By core and asset: what the core has without what it was funded with, and what our omnibus account says."""
    refused_again: dict[int, str]
    """What the ledger says now to the hold of each transfer that failed, by `req_id`."""


async def read_books(settings: Settings, users: Iterable[int]) -> Books:
    """Read a data directory that no engine uses.

    Args:
        settings: what the server ran with.
        users: whose balances are read from the cores.

    Raises:
        DataDirUnusable: an engine still uses it.
        LedgerDamaged, RecordsDamaged, SimulatedCoreUnavailable: a file can't be read.
    """
    async with open_backends(settings) as (registry, ledger, records):
        report = await audit(ledger, records, registry)
        rows = await _rows(records)
        cores = {name: core for name, core in registry.cores.items() if isinstance(core, SimulatedCore)}
        balances: dict[Place, int] = {}
        held: dict[Place, int] = {}
        omnibus: dict[tuple[str, int], int] = {}
        for account in await _accounts(ledger):
            user_id, asset_id, code = owner_of(account.id)
            service = registry.by_code(code)
            name = service.name if service is not None else f"code {code}"
            balance = account.credits_posted - account.debits_posted
            if user_id:
                _put(balances, (name, user_id, asset_id), balance)
            else:
                omnibus[name, asset_id] = balance
            _put(held, (name, user_id, asset_id), account.debits_pending)
        operations = {}
        for name, core in cores.items():
            operations[name] = {operation.req_id.int: operation for operation in await core.operations()}
            for user_id in users:
                for held_there in await core.balances(user_id):
                    _put(balances, (name, user_id, held_there.asset_id), held_there.available + held_there.frozen)
                    _put(held, (name, user_id, held_there.asset_id), held_there.frozen)
        core_money = {
            (name, asset.asset_id): (
                await core.total(asset.asset_id) - await core.funded(asset.asset_id),
                omnibus.get((name, asset.asset_id), 0),
            )
            for name, core in cores.items()
            for asset in settings.assets
        }
        return Books(
            report=report,
            ledger=await _ledger_sides(ledger),
            rows=rows,
            operations=operations,
            balances=balances,
            held=held,
            core_money=core_money,
            # The last of all: where it is answered otherwise than it should be, it may have changed the ledger.
            refused_again=await _ask_again(ledger, registry, rows),
        )


def _put(places: dict[Place, int], place: Place, amount: int) -> None:
    if amount:
        places[place] = amount


async def _rows(records: RecordStore) -> dict[int, TransferRecord]:
    rows: dict[int, TransferRecord] = {}
    async for page in record_pages(records):
        rows |= {row.req_id.int: row for row in page}
    return rows


async def _ledger_sides(ledger: Ledger) -> dict[int, LedgerSide]:
    sides: dict[int, LedgerSide] = {}
    async for page in transfer_pages(ledger):
        for transfer in page:
            _enter(sides.setdefault(transfer.id & ~LEG_MAX, LedgerSide()), transfer)
    return sides


def _enter(side: LedgerSide, transfer: Transfer) -> None:
    flags = int(transfer.flags)
    if flags & _PENDING:
        side.held_at = transfer.timestamp
    elif flags & _POST:
        side.posts += 1
    elif flags & _VOID:
        side.voids += 1


async def _accounts(ledger: Ledger) -> list[Account]:
    return [account async for page in account_pages(ledger) for account in page]


async def _ask_again(ledger: Ledger, registry: ServiceRegistry, rows: dict[int, TransferRecord]) -> dict[int, str]:
    failed = [req_id for req_id, row in rows.items() if row.state is TransferState.FAILED]
    answers: dict[int, str] = {}
    for start in range(0, len(failed), BATCH_EVENTS_MAX):
        part = failed[start : start + BATCH_EVENTS_MAX]
        results = await ledger.create_transfers([_hold(rows[req_id], registry) for req_id in part])
        for req_id, result in zip(part, results, strict=True):
            answers[req_id] = CreateTransferStatus(result.status).name.lower()
    return answers


def _hold(row: TransferRecord, registry: ServiceRegistry) -> Transfer:
    return LedgerBody(
        req_id=row.req_id.int,
        debit_account_id=registry[row.source].account_id(row.user_id, row.asset_id),
        credit_account_id=registry[row.target].account_id(row.target_user_id, row.asset_id),
        asset_id=row.asset_id,
        amount=row.amount,
        fingerprint=row.fingerprint,
    ).hold()
