"""What a transfer costs while the books grow, and with more and more users: flat is what it should be.

The same short load is run on books that grow and, in turn with it, on small ones that are made anew for each step: what
else the machine does meets both alike, so that their ratio tells growth from noise. In between, the engine itself fills
the growing books, as fast as it can.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from transfer_engine.benchmarks.engine_sender import EngineSubject, fund
from transfer_engine.benchmarks.measures import rss_mib
from transfer_engine.benchmarks.plan import FUNDS, Closed, Length, Plan, Target, Traffic
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.result import Growth, GrowthStep, Result
from transfer_engine.benchmarks.running import Bench, open_bench
from transfer_engine.benchmarks.sources import Sources

USERS: Final = 1_000
"""Whose money moves while the number of transfers grows, and on the small books."""
TRANSFERS_LEAST: Final = 10_000
USERS_LEAST: Final = 10
_WARM_UP_S: Final = 0.25


class Sizes(msgspec.Struct, frozen=True):
    """How far the books grow, and how large the loads are that are measured."""

    transfers_most: int
    users_most: int
    window: int = 20_000
    """Transfers in each load."""
    rounds: int = 3
    """Loads of a step, on either books in turn; their median counts."""
    in_flight: int = 2_000

    @property
    def transfers(self) -> tuple[int, ...]:
        """How many transfers the books have at the steps: three to each power of ten."""
        return ladder(TRANSFERS_LEAST, self.transfers_most, (1, 3))

    @property
    def users(self) -> tuple[int, ...]:
        """How many users there are at the steps after those: one to each power of ten."""
        return ladder(USERS_LEAST, self.users_most, (1,))


def ladder(least: int, most: int, rungs: Sequence[int]) -> tuple[int, ...]:
    """Return ``least`` times each rung, ten times those, and so on, up to ``most``, which is always the last."""
    found = []
    power = least
    while power < most:
        found += [power * rung for rung in rungs if power * rung < most]
        power *= 10
    return (*found, most)


async def measure_growth(sources: Sources, sizes: Sizes, progress: Progress) -> Growth:
    """Let the books grow, first in transfers, then in users, and measure at each step.

    Raises:
        whatever :func:`transfer_engine.engine.backends.open_backends` raises.
        RuntimeError: a server did not start, or a user could not be funded.
    """
    target = Target(kind="engine", backends=sources.backends)
    users = min(USERS, sizes.users_most)
    steps = []
    async with open_bench(target, Traffic(users=users), sources, progress) as bench:
        work = _Work(bench, target, sources, sizes, progress, users)
        for size in sizes.transfers:
            await work.grow(size)
            steps.append(await work.step(users))
        for count in sizes.users:
            await work.have(count)
            steps.append(await work.step(count))
        books = await bench.books()
    return Growth(name=sources.backends.name, steps=tuple(steps), books=books)


class _Work:
    def __init__(
        self, bench: Bench, target: Target, sources: Sources, sizes: Sizes, progress: Progress, users: int
    ) -> None:
        self._bench = bench
        self._target = target
        self._sources = sources
        self._sizes = sizes
        self._progress = progress
        self._users = users
        self._transfers = 2 * users

    async def grow(self, transfers: int) -> None:
        """Carry out transfers until the books have so many."""
        missing = transfers - self._transfers
        if missing > 0:
            await self._load(self._bench, min(self._users, USERS), missing, warm_up_s=0.0)

    async def have(self, users: int) -> None:
        """Give money to users until so many have some."""
        if users > self._users:
            self._progress.step(f"giving money to {users:,} users")
            await fund(_subject(self._bench).engine, range(self._users + 1, users + 1), FUNDS)
            self._transfers += 2 * (users - self._users)
            self._users = users

    async def step(self, users: int) -> GrowthStep:
        """Measure on the books as they are, and on small ones."""
        transfers = self._transfers
        here, small = [], []
        traffic = Traffic(users=min(USERS, self._sizes.users_most))
        async with open_bench(self._target, traffic, self._sources, self._progress) as small_bench:
            for _ in range(self._sizes.rounds):
                here.append(await self._load(self._bench, users, self._sizes.window))
                small.append(await self._load(small_bench, traffic.users, self._sizes.window))
        return GrowthStep(
            transfers=transfers,
            users=users,
            cpu_us=statistics.median(map(_cost_us, here)),
            small_us=statistics.median(map(_cost_us, small)),
            rate=statistics.median(result.achieved for result in here),
            small_rate=statistics.median(result.achieved for result in small),
            rss_mib=rss_mib(),
            files_mib=_files_mib(_subject(self._bench).engine.settings.data_dir),
        )

    async def _load(self, bench: Bench, users: int, transfers: int, *, warm_up_s: float = _WARM_UP_S) -> Result:
        plan = Plan(
            target=self._target,
            traffic=Traffic(users=users),
            loop=Closed(in_flight=self._sizes.in_flight),
            length=Length(transfers=transfers, warm_up_s=warm_up_s),
            name=f"{self._sources.backends.name}, {self._transfers:,} transfers, {users:,} users",
        )
        result = await bench.measure(plan)
        if bench is self._bench:
            self._transfers += sum(result.outcomes.values())
        return result


def _subject(bench: Bench) -> EngineSubject:
    if not isinstance(bench.subject, EngineSubject):
        raise TypeError(f"growth is measured in process, not on {bench.subject!r}")
    return bench.subject


def _cost_us(result: Result) -> float:
    return result.cpu.total_us + result.cpu.servers_us


def _files_mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
