"""Whether the books hold after a run. A run whose books don't is no run, whatever its speed.

Where the run began on empty books the whole audit is made. Where it did not (a cluster that serves more than one run),
what the run itself moved is checked: balances of its users, and every tenth row.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from transfer_engine.benchmarks.asking import until_answered
from transfer_engine.benchmarks.plan import ASSET_ID
from transfer_engine.benchmarks.result import Books
from transfer_engine.benchmarks.sending import Order
from transfer_engine.engine import TransferOutcome, TransferStatus
from transfer_engine.engine.ledger.paging import every_one
from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX, Ledger
from transfer_engine.engine.legs import account_id
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.services.registry import ServiceRegistry
from transfer_engine.engine.services.simulated import SimulatedCore
from transfer_engine.schema.transfers import TransferState

ROW_OF_EVERY: Final = 10
"""The row of every tenth committed transfer is read back."""
_ROWS_AT_A_TIME: Final = 1_000


class Holdings(msgspec.Struct, frozen=True):
    """What some users' funding and trading accounts hold together, and what is held of it by open transfers."""

    funding: int
    trading: int
    pending: int


async def are_empty(ledger: Ledger, records: RecordStore) -> bool:
    """Tell whether nothing was ever written: then everything in the books will be the run's own."""
    return not await ledger.query_transfers(every_one(limit=1)) and not (await records.scan_records(limit=1)).records


async def holdings(ledger: Ledger, registry: ServiceRegistry, users: range) -> Holdings:
    """Add up what the users hold."""
    sums = Counter[str]()
    codes = {registry["funding"].code: "funding", registry["trading"].code: "trading"}
    numbers = {account_id(user_id, ASSET_ID, code): name for user_id in users for code, name in codes.items()}
    ids = list(numbers)
    for start in range(0, len(ids), BATCH_EVENTS_MAX):
        for account in await ledger.lookup_accounts(ids[start : start + BATCH_EVENTS_MAX]):
            sums[numbers[account.id]] += account.credits_posted - account.debits_posted
            sums["pending"] += account.debits_pending + account.credits_pending
    return Holdings(funding=sums["funding"], trading=sums["trading"], pending=sums["pending"])


def moved_wrongly(before: Holdings, after: Holdings, gained: Mapping[str, int]) -> list[str]:
    """Return what is wrong with the balances, if this is what was gained by the transfers that were committed."""
    wrong = []
    for name, was, is_now in (
        ("funding", before.funding, after.funding),
        ("trading", before.trading, after.trading),
    ):
        if is_now - was != gained.get(name, 0):
            wrong.append(f"{gained.get(name, 0)} were to come to the {name} accounts together; {is_now - was} came")
    if after.pending:
        wrong.append(f"{after.pending} are still held")
    return wrong


async def rows_wrong(records: RecordStore, committed: Sequence[int]) -> list[str]:
    """Return which of the transfers that clients were told were committed have no row, or one that says otherwise."""
    wrong = []
    for start in range(0, len(committed), _ROWS_AT_A_TIME):
        part = committed[start : start + _ROWS_AT_A_TIME]
        rows = await until_answered(partial(records.get_many, part))
        for req_id in part:
            row = rows.get(req_id)
            if row is None or row.state is not TransferState.COMMITTED:
                told = "is missing" if row is None else f"says {row.state.value}"
                wrong.append(f"transfer {req_id:#x} was answered by committed, and its row {told}")
    return wrong


async def cores_wrong(ledger: Ledger, registry: ServiceRegistry) -> list[str]:
    """Return which simulated cores have anything else than what the ledger says they have; all must be at rest."""
    wrong = []
    for name, core in registry.cores.items():
        if not isinstance(core, SimulatedCore):
            continue
        owed = 0
        for account in await ledger.lookup_accounts([account_id(0, ASSET_ID, registry[name].code)]):
            owed = account.credits_posted - account.debits_posted
        if (has := await core.total(ASSET_ID)) != owed:
            wrong.append(f"I2: the core {name} has {has}, and the ledger says {owed}")
    return wrong


class Tally:
    """What a load was told, to be held against books that are not all its own; made by :meth:`begun`, before it."""

    def __init__(
        self, ledger: Ledger, records: RecordStore, registry: ServiceRegistry, users: range, before: Holdings
    ) -> None:
        self._ledger = ledger
        self._records = records
        self._registry = registry
        self._users = users
        self._before = before
        self._gained = Counter[str]()
        self._noted = 0
        self._unsure = 0
        self._rows: list[int] = []

    @classmethod
    async def begun(cls, ledger: Ledger, records: RecordStore, registry: ServiceRegistry, users: range) -> "Tally":
        """Return a tally that begins with what the users hold now."""
        return cls(ledger, records, registry, users, await holdings(ledger, registry, users))

    def note(self, order: Order, outcome: TransferOutcome) -> None:
        """Remember what an order's answer said."""
        if outcome.status is TransferStatus.PENDING:
            self._unsure += 1
        if outcome.status is not TransferStatus.COMMITTED or outcome.replayed:
            return
        self._gained[order.source] -= order.amount
        self._gained[order.target] += order.amount
        self._noted += 1
        if self._noted % ROW_OF_EVERY == 0:
            self._rows.append(outcome.req_id.int)

    async def books(self) -> Books:
        """Hold it against balances and rows."""
        wrong = []
        if not self._unsure:  # else what a client was not told the end of may have moved as well
            after = await holdings(self._ledger, self._registry, self._users)
            wrong += moved_wrongly(self._before, after, self._gained)
        wrong += await rows_wrong(self._records, self._rows)
        return Books(how=f"balances of {len(self._users):,} users, and every tenth row", findings=tuple(wrong))
