"""Loads of an engine in process: a closed loop, and an open one whose arrivals wait for nobody."""

import random
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Final, Literal

import msgspec
import trio

from transfer_engine.benchmarks.measures import Latencies, LatencySummary, Meter, Usage, rss_mib
from transfer_engine.engine import Engine, EngineStatistics, Refused
from transfer_engine.schema.transfers import TransferStatus

AMOUNT: Final = 1_000_000
ASSET_ID: Final = 1
LATE_S: Final = 0.001
"""A transfer that starts this much behind its intended time has a late start."""
ROW_OF_EVERY: Final = 10
"""The row of every tenth committed transfer is read back where the books are not audited as a whole."""
_REFUSED_PAUSE_S: Final = 0.005
_FUNDED_AT_A_TIME: Final = 1_000
_SEED: Final = 1

Arrivals = Literal["poisson", "even"]


class Loop(msgspec.Struct, frozen=True):
    """What one loop sent and got. ``rate`` is transfers a second from the first one sent to the last one answered."""

    name: str
    transfers: int
    rate: float
    usage: Usage
    latencies: LatencySummary
    outcomes: dict[str, int]
    """Answers by their status, and refusals by their code."""
    before: EngineStatistics
    after: EngineStatistics
    rss_mib: float
    late_starts: int = 0
    latest_start_ms: float = 0.0
    asked_rate: float = 0.0
    """Of an open loop: arrivals a second."""

    @property
    def cpu_us(self) -> float:
        """This process's CPU a transfer, the load itself included, in µs."""
        return self.usage.cpu_us(self.transfers)

    @property
    def committed(self) -> int:
        """How many transfers moved their amount before they were answered."""
        return self.outcomes.get(TransferStatus.COMMITTED.value, 0)


class Load:
    """Transfers of some users from funding to trading, in turn; counts what becomes of them.

    Args:
        engine: what is loaded.
        users: whose money moves.
        keyed: whether each transfer is named by a key of its own.
    """

    def __init__(self, engine: Engine, users: range, *, keyed: bool = False) -> None:
        self._engine = engine
        self._users = users
        self._keys = f"{time.time_ns()}-" if keyed else ""
        self._sent = 0
        self.latencies = Latencies()
        self.outcomes: Counter[str] = Counter()
        self.committed: list[int] = []
        """The `req_id` of every tenth transfer, if it was committed."""

    async def send(self, since: float) -> None:
        """Send one transfer; its latency counts from ``since`` (of ``time.perf_counter``). A refusal costs a pause."""
        number = self._sent
        self._sent += 1
        try:
            outcome = await self._engine.transfer(
                source="funding",
                target="trading",
                user_id=self._users[number % len(self._users)],
                asset_id=ASSET_ID,
                amount=AMOUNT,
                idempotency_key=f"{self._keys}{number}" if self._keys else None,
            )
        except Refused as refused:
            self.outcomes[f"refused: {refused.code.value}"] += 1
            await trio.sleep(_REFUSED_PAUSE_S)
            return
        self.latencies.add(time.perf_counter() - since)
        self.outcomes[outcome.status.value] += 1
        if number % ROW_OF_EVERY == 0 and outcome.status is TransferStatus.COMMITTED:
            self.committed.append(outcome.req_id.int)

    async def in_flight(self, most: int, *, transfers: int, seconds: float | None) -> None:
        """Keep ``most`` transfers under way until so many are sent, or for so many seconds."""
        left = transfers
        end = time.perf_counter() + seconds if seconds is not None else None

        async def caller() -> None:
            nonlocal left
            while True:
                began = time.perf_counter()
                if left <= 0 if end is None else began >= end:
                    return
                left -= 1
                await self.send(began)

        async with trio.open_nursery() as nursery:
            for _ in range(most):
                nursery.start_soon(caller)


async def fund(engine: Engine, users: range, amount: int) -> None:
    """Credit every user's funding account, a thousand at a time.

    Raises:
        RuntimeError: a credit was not committed.
    """
    left = iter(users)

    async def client() -> None:
        for user_id in left:
            outcome = await engine.credit(user_id=user_id, account="funding", asset_id=ASSET_ID, amount=amount)
            if outcome.status is not TransferStatus.COMMITTED:
                raise RuntimeError(f"user {user_id} could not be funded: {outcome.status.value} {outcome.message}")

    async with trio.open_nursery() as nursery:
        for _ in range(min(_FUNDED_AT_A_TIME, len(users))):
            nursery.start_soon(client)


async def closed_loop(
    load: Load,
    engine: Engine,
    *,
    name: str,
    in_flight: int,
    transfers: int,
    seconds: float | None = None,
    servers: tuple[int, ...] = (),
) -> Loop:
    """Keep ``in_flight`` transfers under way: as many a second as the engine can do, however long each takes."""
    before = engine.statistics()
    meter = Meter(servers)
    await load.in_flight(in_flight, transfers=transfers, seconds=seconds)
    return _loop(load, engine, name, before, meter.read())


async def open_loop(
    load: Load,
    engine: Engine,
    *,
    name: str,
    rate: float,
    transfers: int,
    seconds: float | None = None,
    arrivals: Arrivals = "poisson",
    callers: int,
    servers: tuple[int, ...] = (),
) -> Loop:
    """Send ``rate`` transfers a second whatever the answers do; each latency counts from the intended moment.

    Args:
        load: what is sent.
        engine: where to.
        name: of the loop.
        rate: arrivals a second.
        transfers: how many.
        seconds: if given, for how long instead.
        arrivals: independent of each other (Poisson), or evenly spaced.
        callers: transfers that may be under way; more wait, and their wait counts.
        servers: ids of processes whose CPU is measured.
    """
    due: deque[float] = deque()
    idle = trio.lowlevel.ParkingLot()
    is_over = False
    late = 0
    latest_s = 0.0

    async def caller() -> None:
        nonlocal late, latest_s
        while True:
            while not due:
                if is_over:
                    return
                await idle.park()
            intended = due.popleft()
            behind_s = time.perf_counter() - intended
            if behind_s > LATE_S:
                late += 1
                latest_s = max(latest_s, behind_s)
            await load.send(intended)

    before = engine.statistics()
    count = int(rate * seconds) if seconds is not None else transfers
    meter = Meter(servers)
    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(caller)
        await trio.lowlevel.checkpoint()
        start = time.perf_counter()
        for intended in _moments(start, rate, count, arrivals):
            wait_s = intended - time.perf_counter()
            if wait_s > 0:
                await trio.sleep(wait_s)
            due.append(intended)
            idle.unpark()
        is_over = True
        idle.unpark_all()
    return _loop(load, engine, name, before, meter.read(), late=late, latest_s=latest_s, rate=rate)


def _moments(start: float, rate: float, count: int, arrivals: Arrivals) -> Iterator[float]:
    """Yield the intended moments; the same ones in every run."""
    chance = random.Random(_SEED)
    moment = start
    for _ in range(count):
        moment += chance.expovariate(rate) if arrivals == "poisson" else 1 / rate
        yield moment


def _loop(
    load: Load,
    engine: Engine,
    name: str,
    before: EngineStatistics,
    usage: Usage,
    *,
    late: int = 0,
    latest_s: float = 0.0,
    rate: float = 0.0,
) -> Loop:
    sent = load.outcomes.total()
    return Loop(
        name=name,
        transfers=sent,
        rate=sent / usage.seconds,
        usage=usage,
        latencies=load.latencies.summary(),
        outcomes=dict(load.outcomes),
        before=before,
        after=engine.statistics(),
        rss_mib=rss_mib(),
        late_starts=late,
        latest_start_ms=latest_s * 1e3,
        asked_rate=rate,
    )
