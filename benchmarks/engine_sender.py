"""The engine in process, on any backends: orders go to it without a door, as an embedder's do."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from transfer_engine.benchmarks.asking import until_answered
from transfer_engine.benchmarks.books import Tally, are_empty, cores_wrong
from transfer_engine.benchmarks.faults import strike, victims_of
from transfer_engine.benchmarks.plan import ASSET_ID, FUNDS, SLOW_CORE, Fault, Target, Traffic
from transfer_engine.benchmarks.result import Books
from transfer_engine.benchmarks.sending import COMMITTED, FAILED, FAULT, PENDING, REFUSED, REPLAYED, Order
from transfer_engine.benchmarks.sources import Ground, Sources, open_ground
from transfer_engine.benchmarks.subject import Counters, counters_of
from transfer_engine.engine import Engine, Refused, Settings, TransferOrder, TransferOutcome, TransferStatus
from transfer_engine.engine.assembly import engine_on
from transfer_engine.engine.backends import open_backends
from transfer_engine.engine.ledger.protocol import Ledger, LedgerUnavailable
from transfer_engine.engine.records.protocol import RecordsUnavailable
from transfer_engine.engine.services.registry import ServiceRegistry
from transfer_engine.engine.services.simulated import Behaviour

DEADLINE_MS: Final = 60_000
"""The engine's own deadline, unless it is given: what is measured is the outcome, not callers' patience."""
WAITING_LEAST: Final = 20_000
"""A load bounds itself: what it holds in flight is to be taken from the first moment on."""
_ROOM_FOR_ALL: Final = 20_000
"""Where all mailboxes together take so many, one user's is not what bounds a load."""
_FUNDED_AT_A_TIME: Final = 1_000
_REST_S: Final = 60.0
"""How long what was answered by ``pending`` may take to end before the books are looked at."""

_NAMES: Final = {
    TransferStatus.COMMITTED: COMMITTED,
    TransferStatus.PENDING: PENDING,
    TransferStatus.FAILED: FAILED,
    TransferStatus.ROLLED_BACK: FAILED,
}
_Note = Callable[[Order, TransferOutcome], None]


class EngineCaller:
    """Asks the engine as an embedder does: one transfer by ``Engine.transfer``, more by ``Engine.transfer_many``."""

    def __init__(self, engine: Engine, note: _Note | None) -> None:
        self._engine = engine
        self._note = note

    async def send(self, orders: Sequence[Order]) -> Sequence[str]:
        """Send orders; cancellation gives up waiting, and stops none of them."""
        try:
            if len(orders) > 1:
                answers = await self._engine.transfer_many([_order(order) for order in orders])
                return [self._name(order, answer) for order, answer in zip(orders, answers, strict=True)]
            (order,) = orders
            outcome = await self._engine.transfer(
                source=order.source,
                target=order.target,
                user_id=order.user_id,
                asset_id=ASSET_ID,
                amount=order.amount,
                idempotency_key=order.key,
            )
        except Refused as refused:
            return (f"{REFUSED}{refused.code.value}",) * len(orders)
        except (LedgerUnavailable, RecordsUnavailable) as fault:
            return (f"{FAULT}{type(fault).__name__}",) * len(orders)
        return (self._name(order, outcome),)

    def _name(self, order: Order, answer: TransferOutcome | Refused) -> str:
        if isinstance(answer, Refused):
            return f"{REFUSED}{answer.code.value}"
        if self._note is not None:
            self._note(order, answer)
        name = _NAMES[answer.status]
        return REPLAYED if answer.replayed and name is COMMITTED else name


class EngineSubject:
    """An engine in this process, and its sender."""

    is_here = True
    pid = None

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        registry: ServiceRegistry,
        *,
        traffic: Traffic,
        batch: int,
        ground: Ground,
        tally: Tally | None,
    ) -> None:
        self.engine = engine
        self.servers = ground.servers
        self._victims = victims_of(ground, None)
        self._ledger = ledger
        self._registry = registry
        self._traffic = traffic
        self._batch = batch
        self._tally = tally

    @property
    def sender(self) -> "EngineSubject":
        """Itself: it hands out the callers."""
        return self

    @property
    def callers_most(self) -> int | None:
        """As many as one likes, unless a hot user's share of them would not find room in its mailbox."""
        share = 1.0 if self._traffic.pick == "hot" else max(self._traffic.hot_share, 1 / self._traffic.users)
        room = self.engine.settings.mailbox_capacity / share
        return None if room >= _ROOM_FOR_ALL else max(int(room / self._batch), 1)

    @asynccontextmanager
    async def caller(self, index: int) -> AsyncIterator[EngineCaller]:
        """Open a caller: nothing but a place to call from."""
        del index
        yield EngineCaller(self.engine, self._tally.note if self._tally is not None else None)

    async def counters(self) -> Counters:
        """Return what the engine has counted."""
        return counters_of(msgspec.to_builtins(self.engine.statistics()))

    async def make(self, fault: Fault) -> None:
        """Do this to a server behind the engine; the engine itself can't be ended without the load."""
        await strike(fault, self._victims)

    async def books(self) -> Books:
        """Let everything end, and look whether the books hold: all of them, where all of them are the run's own."""
        with trio.move_on_after(_REST_S):
            while self.engine.statistics().open_transfers:  # noqa: ASYNC110  statistics ring no bell
                await trio.sleep(0.05)
        if self._tally is not None:
            return await self._tally.books()
        report = await until_answered(self.engine.audit)
        findings = [f"{finding.invariant}: {finding.what}" for finding in report.findings]
        return Books(
            how=f"audit (I1, I2, I3, I7) of {report.ledger_transfers:,} ledger transfers and {report.records:,} rows",
            findings=(*findings, *await cores_wrong(self._ledger, self._registry)),
        )


@asynccontextmanager
async def open_engine_subject(target: Target, traffic: Traffic, sources: Sources) -> AsyncIterator[EngineSubject]:
    """Run an engine whose users have money, until the block is left.

    Raises:
        whatever :func:`transfer_engine.engine.backends.open_backends` raises.
        RuntimeError: a user could not be funded.
    """
    users = range(1, traffic.users + 1)
    with open_ground(sources, traffic) as ground:
        settings = _for_a_load(ground.settings, sources.settings.model_fields_set)
        async with open_backends(settings) as (registry, ledger, records):
            is_fresh = await are_empty(ledger, records)
            async with engine_on(settings, registry, ledger, records) as engine:
                await fund(engine, users, FUNDS)
                if traffic.slow:
                    engine.simulated_cores[SLOW_CORE].behave(Behaviour(latency_ms=traffic.slow_ms))
                tally = None if is_fresh else await Tally.begun(ledger, records, registry, users)
                yield EngineSubject(
                    engine,
                    ledger,
                    registry,
                    traffic=traffic,
                    batch=target.batch,
                    ground=ground,
                    tally=tally,
                )


def _for_a_load(settings: Settings, given: set[str]) -> Settings:
    """Return settings under which an engine takes a whole load, unless they were given otherwise."""
    own = {"deadline_ms": DEADLINE_MS, "waiting_least": WAITING_LEAST}
    return settings.model_copy(update={name: value for name, value in own.items() if name not in given})


async def fund(engine: Engine, users: Sequence[int], amount: int) -> None:
    """Credit every user's accounts, a thousand at a time.

    Raises:
        RuntimeError: a credit was not committed.
    """
    left = iter([(user_id, account) for user_id in users for account in ("funding", "trading")])
    faults: list[str] = []

    async def client() -> None:
        for user_id, account in left:
            outcome = await engine.credit(user_id=user_id, account=account, asset_id=ASSET_ID, amount=amount)
            if outcome.status is not TransferStatus.COMMITTED:
                faults.append(f"user {user_id} could not be funded: {outcome.status.value} {outcome.message}")

    async with trio.open_nursery() as nursery:
        for _ in range(min(_FUNDED_AT_A_TIME, 2 * len(users))):
            nursery.start_soon(client)
    if faults:
        raise RuntimeError(faults[0])


def _order(order: Order) -> TransferOrder:
    return TransferOrder(
        source=order.source,
        target=order.target,
        user_id=order.user_id,
        asset_id=ASSET_ID,
        amount=order.amount,
        idempotency_key=order.key,
    )
