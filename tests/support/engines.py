"""Backends that outlive engines, engines on them, clients that write down what they were told, and the examiner."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any
from uuid import UUID

import trio
from trio.testing import MockClock

from support.inline_core import InlineCore
from support.inline_ledger import InlineLedger
from support.memory_records import MemoryRecords
from support.wire import Wire, WiredCore, WiredLedger, WiredRecords
from transfer_engine.engine.assembly import engine_on
from transfer_engine.engine.audit import audit
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.former_lives import FormerLives
from transfer_engine.engine.legs import account_id
from transfer_engine.engine.outbox_limits import OutboxLimits
from transfer_engine.engine.outcomes import InvalidTransfer, KeyReused, Overloaded, Refused, TransferOutcome
from transfer_engine.engine.rebuilding import RebuildReport, rebuild_records
from transfer_engine.engine.reconciliation import Rules
from transfer_engine.engine.records.protocol import RecordsUnavailable
from transfer_engine.engine.services.registry import EXTERNAL, Service, ServiceKind, ServiceRegistry
from transfer_engine.engine.services.simulated_books import OperationState
from transfer_engine.engine.settings import DEFAULT_ASSETS, DEFAULT_SERVICES, EXTERNAL_CODE, ServiceSettings, Settings
from transfer_engine.schema.money import AMOUNT_MAX
from transfer_engine.schema.transfers import TransferRecord, TransferState, TransferStatus

BORN_MS = 1_790_000_000_000
"""The wall clock (Unix ms) at the beginning of every test's loop."""

FREEZING = "matching"
DIRECT = "bank"
"""The core without a freeze."""

CALLS_OF_OPENING = 6
"""Calls that an engine makes before it is open, on a journal of one blob: find, claim, ceiling, mark, journal, rows."""

CORE_CODES = {FREEZING: 100, DIRECT: 101}
PAIRS = {
    "wallet->wallet": ("funding", "trading"),
    "wallet->core": ("funding", FREEZING),
    "wallet->core without freeze": ("funding", DIRECT),
    "core->wallet": (FREEZING, "funding"),
    "core without freeze->wallet": (DIRECT, "funding"),
    "core->core": (FREEZING, DIRECT),
    "core without freeze->core": (DIRECT, FREEZING),
}
UNLIMITED_ASSETS = tuple(
    asset.model_copy(update={"amount_least": 1, "amount_most": AMOUNT_MAX}) for asset in DEFAULT_ASSETS
)
"""Of which any amount may be moved: what most tests are about has nothing to do with how much."""

SETTINGS = Settings(
    assets=UNLIMITED_ASSETS,
    scan_interval_ms=500,
    stale_after_ms=3_000,
    reconcile=False,  # its calls would be counted among those that fates are given to
    services=(
        *DEFAULT_SERVICES,
        *(ServiceSettings(name=name, code=code, kind="core") for name, code in CORE_CODES.items()),
    ),
)
_UNTOUCHED_SOURCE = {None, OperationState.REFUSED, OperationState.FENCED, OperationState.ROLLED_BACK}
_UNTOUCHED_TARGET = {None, OperationState.REFUSED, OperationState.FENCED}


def now_ms() -> int:
    """Return the wall clock (Unix ms): trio's, so that tests own it."""
    return BORN_MS + int(trio.current_time() * 1000)


class Told:
    """What a client asked and what it was told; ``answer`` is None while it was told nothing."""

    def __init__(self, **asked: Any) -> None:
        self.asked = asked
        self.answer: TransferOutcome | Refused | None = None

    def __repr__(self) -> str:
        return f"<Told {self.asked}: {self.answer!r}>"

    @property
    def outcome(self) -> TransferOutcome:
        """The outcome, where it is one."""
        assert isinstance(self.answer, TransferOutcome), self.answer
        return self.answer


class Machine:
    """What a machine remembers of the engines that ran on it: what ``LifeFile`` does, without a file."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    def is_dead(self, owner: str) -> bool:
        return owner in self.tokens

    async def begin(self, owner: str) -> None:
        await trio.lowlevel.checkpoint()
        self.tokens.append(owner)

    async def began(self, owner: str) -> None:
        await trio.lowlevel.checkpoint()
        self.tokens = [owner]


async def until(is_so: Callable[[], object], *, every_s: float = 1) -> None:
    """Wait until something is so, by a clock that jumps."""
    while not is_so():  # noqa: ASYNC110
        await trio.sleep(every_s)


class World:
    """A ledger, a record store and two cores that outlive engines. Made inside of a trio loop."""

    def __init__(self, *, outbox: OutboxLimits | None = None, **settings: Any) -> None:
        self.settings = SETTINGS.model_copy(update=settings)
        self.ledger = InlineLedger(lambda: now_ms() * 1_000_000)
        self.records = MemoryRecords()
        self.cores = {
            FREEZING: InlineCore(FREEZING, freezes=True),
            DIRECT: InlineCore(DIRECT, freezes=False),
        }
        self.wire = Wire()
        """The running, or last, life's."""
        self.told: list[Told] = []
        self.machine = Machine()
        """Where engines run that are not said to run elsewhere."""
        self.outbox = outbox
        """Engines have an outbox of these bounds, if any."""

    def registry(self, cores: dict[str, Any]) -> ServiceRegistry:
        """Return the services, with these objects to call."""
        services = [Service(EXTERNAL, EXTERNAL_CODE, ServiceKind.EXTERNAL)]
        for service in self.settings.services:
            core = cores.get(service.name)
            services.append(
                Service(service.name, service.code, ServiceKind.WALLET if core is None else ServiceKind.CORE, core)
            )
        return ServiceRegistry(services, {"spot": "trading"})

    @asynccontextmanager
    async def engine(
        self,
        wire: Wire | None = None,
        *,
        machine: FormerLives | None = None,
        clock_ms: Callable[[], int] = now_ms,
        **settings: Any,
    ) -> AsyncIterator[Engine]:
        """Live one life; ``wire`` is its way to the backends, ``machine`` where it runs."""
        self.wire = wire = wire or Wire()
        async with engine_on(
            self.settings.model_copy(update=settings),
            self.registry({name: WiredCore(core, wire) for name, core in self.cores.items()}),
            WiredLedger(self.ledger, wire),
            WiredRecords(self.records, wire),
            former_lives=machine or self.machine,
            clock_ms=clock_ms,
            outbox=self.outbox,
        ) as engine:
            yield engine

    async def live(self, program: Callable[["World", Engine], Awaitable[None]], *, number: int, fate: str) -> bool:
        """Live one life: its n-th call after the opening (from 1, or 0 and below: in it, from its last one) has a fate.

        Returns whether the life was over before it made that call.
        """
        wire = Wire()
        wire.fate_after_opening = (number, fate)
        if number <= 0:
            wire.fates = {CALLS_OF_OPENING + number: fate}
        try:
            with wire.scope:
                async with self.engine(wire) as engine:
                    wire.opened()
                    await program(self, engine)
        except RecordsUnavailable:
            assert number <= 0
        return bool(wire.fates)

    async def fund(self, *users: int, amount: int = 1_000, asset_id: int = 1) -> None:
        """Give users so much in `funding` and in both cores, in a life of its own."""
        for core in self.cores.values():
            for user_id in users:
                await core.fund(user_id, asset_id, amount)
        async with self.engine() as engine:
            for user_id in users:
                outcome = await engine.credit(user_id=user_id, account="funding", asset_id=asset_id, amount=amount)
                assert outcome.status is TransferStatus.COMMITTED, outcome

    async def ask(
        self,
        engine: Engine,
        source: str,
        target: str,
        *,
        user_id: int = 1,
        amount: int = 100,
        asset_id: int = 1,
        key: str | None = None,
        **other: Any,
    ) -> Told:
        """Be a client: ask for a transfer and write down what was told."""
        asked = {"source": source, "target": target, "user_id": user_id, "amount": amount, "asset_id": asset_id}
        told = Told(**asked, idempotency_key=key, **other)
        self.told.append(told)
        try:
            told.answer = await engine.transfer(**told.asked)
        except Refused as refused:
            told.answer = refused
        return told

    async def heal(self, engine: Engine, *, within_s: float = 60) -> None:
        """Wait until nothing is under way any more."""
        with trio.move_on_after(within_s) as scope:
            while engine.statistics().open_transfers:  # noqa: ASYNC110  it is the scanner's doing, a while away
                await trio.sleep(1)
        assert not scope.cancelled_caught, list(engine._parts.open_transfers)
        assert engine.statistics().unsettled_intents == 0

    async def adopt(self, engine: Engine, *, shards: int = 1, within_s: float = 200) -> None:
        """Wait until an engine has taken so many shards over and given them back, and all of it has ended."""
        await self.adopt_only(engine, shards=shards, within_s=within_s)
        await self.heal(engine)

    async def adopt_only(self, engine: Engine, *, shards: int = 1, within_s: float = 200) -> None:
        """Wait until an engine has taken so many shards over and given them back."""
        with trio.move_on_after(within_s) as scope:
            await until(lambda: engine.statistics().adoption.settled >= shards)
        assert not scope.cancelled_caught, (engine._parts.adoption, self.records.claim_of)

    def row(self, req_id: UUID) -> TransferRecord:
        """Return a row that must be there."""
        return self.records.rows[req_id.int]

    async def spendable(self, user_id: int, service: str, asset_id: int = 1) -> int:
        """Return what a user may spend, from the books themselves."""
        if service in self.cores:
            held = {one.asset_id: one for one in self.cores[service].books.balances(user_id)}
            return held[asset_id].available if asset_id in held else 0
        code = {one.name: one.code for one in self.settings.services}[service]
        account = await self.ledger.account(account_id(user_id, asset_id, code))
        if account is None:
            return 0
        return account.credits_posted - account.debits_posted - account.debits_pending

    async def check(self, *, is_healed: bool = True, has_contested_keys: bool = False) -> None:
        """Hold everything against I1 to I4 and I7: the ledger, the rows, the cores' books, and what was told.

        Where two engines were asked for two bodies under one key, and the ledger refused it, either body's row stands:
        both failed, for good.
        """
        report = await audit(self.ledger, self.records, self.registry(dict(self.cores)), is_healed=is_healed)
        assert report.holds, report.findings
        comparison = await self.rebuild()
        assert comparison.agrees or not is_healed, comparison.examples
        for name, core in self.cores.items():
            self._check_core(name, core, is_healed=is_healed)
            if is_healed:
                for asset in self.settings.assets:
                    omnibus = await self._omnibus(name, asset.asset_id)
                    assert core.books.total(asset.asset_id) == core.books.funded(asset.asset_id) + omnibus, name
        for told in self.told:
            self._check_told(told, has_contested_keys=has_contested_keys)

    async def rebuild(self, *, write: bool = False, margin_ms: int | None = None) -> RebuildReport:
        """Compare all books with all rows, and write those that are missing if that is wanted."""
        rules = Rules(self.registry(dict(self.cores)), {asset.asset_id for asset in self.settings.assets})
        return await rebuild_records(
            self.ledger, self.records, rules, now_ms=now_ms(), margin_ms=margin_ms, write=write
        )

    def _check_core(self, name: str, core: InlineCore, *, is_healed: bool) -> None:
        operations = {operation.req_id.int: operation for operation in core.books.operations()}
        for req_id, row in self.records.rows.items():
            operation = operations.pop(req_id, None)
            state = None if operation is None else operation.state
            if operation is not None and operation.amount is not None:
                assert name in {row.source, row.target}, (row, operation)
                whose = row.user_id if row.source == name else row.target_user_id
                assert (operation.user_id, operation.asset_id, operation.amount) == (whose, row.asset_id, row.amount)
            if row.source == name and row.state is TransferState.COMMITTED:
                assert state is OperationState.COMMITTED, (row, operation)
            elif row.target == name and row.state is TransferState.COMMITTED:
                assert state is OperationState.DEPOSITED, (row, operation)
            elif row.state.is_terminal:
                assert state in (_UNTOUCHED_SOURCE if row.source == name else _UNTOUCHED_TARGET), (row, operation)
        assert not operations or not is_healed, operations

    async def _omnibus(self, name: str, asset_id: int) -> int:
        account = await self.ledger.account(account_id(0, asset_id, CORE_CODES[name]))
        return 0 if account is None else account.credits_posted - account.debits_posted

    def _check_told(self, told: Told, *, has_contested_keys: bool) -> None:
        """I4: what was told is true now."""
        if isinstance(told.answer, TransferOutcome):
            row = self.records.rows.get(told.answer.req_id.int)
            if told.answer.status is TransferStatus.PENDING:
                return
            assert row is not None, told
            assert row.state.value == told.answer.status.value, (told, row)
            asked = (told.asked["source"], told.asked["target"], told.asked["user_id"], told.asked["amount"])
            if has_contested_keys and row.state is TransferState.FAILED:
                return
            assert (row.source, row.target, row.user_id, row.amount) == asked, (told, row)
        elif told.answer is not None:
            assert isinstance(told.answer, KeyReused | Overloaded | InvalidTransfer), told


def in_a_loop(program: Callable[[], Awaitable[Any]], **run: Any) -> Any:
    """Run a program in a trio loop of its own, whose clock jumps; it is scheduled the same way every time."""
    random.seed(0)
    trio._core._run._r.seed(0)
    return trio.run(program, **run | {"clock": MockClock(autojump_threshold=0)})


def kill_at_every_call(
    live: Callable[[World, Engine], Awaitable[None]],
    *,
    users: Sequence[int] = (1,),
    at_least: int,
    fates: Sequence[str] = ("cut_after",),
    and_its_recovery: bool = False,
    **settings: Any,
) -> None:
    """Run ``live`` in a new world for every call that it makes, with each of the fates for that call; then recover.

    With ``and_its_recovery`` the recovery is killed, too, after every call that it makes. Fails if, after the last
    recovery, any invariant is broken; or if ``live`` makes fewer calls than ``at_least``.
    """

    async def live_and_heal(world: World, engine: Engine) -> None:
        await live(world, engine)
        await world.heal(engine)

    async def once(number: int, fate: str, number_in_recovery: int | None) -> tuple[bool, bool]:
        world = World(**settings)
        await world.fund(*users)
        is_over = await world.live(live_and_heal, number=number, fate=fate)
        is_recovered = True
        if number_in_recovery is not None:
            is_recovered = await world.live(
                lambda world, engine: world.heal(engine), number=number_in_recovery, fate=fate
            )
        async with world.engine() as engine:
            await world.heal(engine)
        await world.check()
        return is_over, is_recovered

    def both(number: int, fate: str, number_in_recovery: int | None) -> tuple[bool, bool]:
        return in_a_loop(lambda: once(number, fate, number_in_recovery))  # type: ignore[no-any-return]

    for fate in fates:
        for number in count(1):
            for number_in_recovery in count(0) if and_its_recovery else [None]:
                is_over, is_recovered = both(number, fate, number_in_recovery)
                if is_recovered:
                    break
            if is_over:
                assert number > at_least, f"only {number - 1} calls were made"
                break
