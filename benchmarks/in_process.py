"""The engine in process: many users, one hot user, an open loop; then its books; then the floors, all in one run."""

from collections.abc import Callable
from typing import Final

import msgspec

from transfer_engine.benchmarks.asking import until_answered
from transfer_engine.benchmarks.books import Holdings, are_empty, holdings, moved_wrongly, rows_wrong
from transfer_engine.benchmarks.floors import engine_floors
from transfer_engine.benchmarks.loops import Arrivals, Load, Loop, closed_loop, fund, open_loop
from transfer_engine.benchmarks.result import Floor
from transfer_engine.benchmarks.targets import Target
from transfer_engine.engine import Engine
from transfer_engine.engine.assembly import engine_on
from transfer_engine.engine.backends import open_backends
from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.services.registry import ServiceRegistry

FUNDS: Final = 10**15
"""What each user is given: more than any run moves."""
HALF: Final = "half"
_WARM_UP: Final = 10
"""A tenth of the transfers comes first, unmeasured."""


class Plan(msgspec.Struct, frozen=True):
    """What is to be run. ``seconds`` is the length of each loop; without it each sends ``transfers``."""

    transfers: int = 40_000
    seconds: float | None = None
    users: int = 1_000
    in_flight: int = 2_000
    keyed: bool = False
    hot: bool = True
    floors: bool = True
    rate: float | str | None = HALF
    """Of the open loop: arrivals a second, or half of what the closed loop reached; None: no open loop."""
    arrivals: Arrivals = "poisson"


class BooksCheck(msgspec.Struct, frozen=True):
    """What was found wrong with the books, and how it was looked for."""

    how: str
    wrong: list[str]


class Run(msgspec.Struct, frozen=True):
    """What one run measured beside its loops."""

    many: Loop
    """The closed loop of many users: what all else is compared with."""
    hot: Loop | None
    books: BooksCheck
    floors: tuple[Floor, ...]


async def run_in_process(plan: Plan, target: Target, tell: Callable[[Loop], None]) -> Run:
    """Run the loops on an engine of its own (``tell`` is given each), check its books, measure the floors.

    Raises:
        whatever :func:`transfer_engine.engine.backends.open_backends` raises.
    """
    settings = target.settings
    # A closed loop bounds itself: what it holds in flight is to be taken from the first moment on.
    settings = settings.model_copy(update={"waiting_least": max(settings.waiting_least, 2 * plan.in_flight)})
    async with open_backends(settings) as (registry, ledger, records):
        is_audited = await are_empty(ledger, records)
        everyone = range(1, plan.users + 1)
        async with engine_on(settings, registry, ledger, records) as engine:
            await fund(engine, everyone, FUNDS)
            before = await holdings(ledger, registry, everyone)
            loads, many, hot = await _loops(plan, engine, target, everyone, tell)
            check = await _check(
                engine, registry, ledger, records, before=before, loads=loads, users=everyone, is_audited=is_audited
            )
    floors = await engine_floors(settings, in_flight=plan.in_flight) if plan.floors else ()
    return Run(many=many, hot=hot, books=check, floors=floors)


async def _loops(
    plan: Plan, engine: Engine, target: Target, everyone: range, tell: Callable[[Loop], None]
) -> tuple[list[Load], Loop, Loop | None]:
    loads = [warm_up := Load(engine, everyone)]
    await warm_up.in_flight(plan.in_flight, transfers=plan.transfers // _WARM_UP, seconds=None)

    def load(users: range) -> Load:
        loads.append(Load(engine, users, keyed=plan.keyed))
        return loads[-1]

    many = await closed_loop(
        load(everyone),
        engine,
        name=f"{plan.users} users",
        in_flight=plan.in_flight,
        transfers=plan.transfers,
        seconds=plan.seconds,
        servers=target.servers,
    )
    tell(many)
    if plan.rate is not None:
        rate = many.rate / 2 if isinstance(plan.rate, str) else plan.rate
        tell(
            await open_loop(
                load(everyone),
                engine,
                name=f"open loop, {plan.arrivals}",
                rate=rate,
                transfers=plan.transfers,
                seconds=plan.seconds,
                arrivals=plan.arrivals,
                callers=plan.in_flight,
                servers=target.servers,
            )
        )
    hot = None
    if plan.hot:
        hot = await closed_loop(
            load(range(1, 2)),
            engine,
            name="one hot user",
            in_flight=min(plan.in_flight, engine.settings.mailbox_capacity),
            transfers=plan.transfers,
            seconds=plan.seconds,
            servers=target.servers,
        )
        tell(hot)
    return loads, many, hot


async def _check(
    engine: Engine,
    registry: ServiceRegistry,
    ledger: Ledger,
    records: RecordStore,
    *,
    before: Holdings,
    loads: list[Load],
    users: range,
    is_audited: bool,
) -> BooksCheck:
    """Check what the run moved; audit all books where all of them are its own."""
    committed = sum(load.outcomes["committed"] for load in loads)
    others = sum(load.outcomes.total() for load in loads) - committed
    wrong = []
    if not others:  # else what a client was not told the end of may have moved as well
        wrong += moved_wrongly(before, await holdings(ledger, registry, users), committed)
    wrong += await rows_wrong(records, [req_id for load in loads for req_id in load.committed])
    if not is_audited:
        return BooksCheck(how=f"balances of {len(users):,} users, and every tenth row", wrong=wrong)
    report = await until_answered(engine.audit)
    wrong += [f"{finding.invariant}: {finding.what}" for finding in report.findings]
    return BooksCheck(
        how=f"audit (I1, I2, I3, I7) of {report.ledger_transfers:,} ledger transfers and {report.records:,} rows",
        wrong=wrong,
    )
