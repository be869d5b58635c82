"""Memory over many transfers and many users: what stays behind."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import trio

from transfer_engine.benchmarks.loops import ASSET_ID, Load, closed_loop, fund
from transfer_engine.benchmarks.measures import rss_mib
from transfer_engine.benchmarks.targets import DEADLINE_MS
from transfer_engine.engine import Settings, open_engine


async def run_memory(*, transfers: int, steps: int, users: int, tell: Callable[[str], None]) -> None:
    """Print resident memory after each step of many transfers, then around ``users`` users touched once."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_engine(Settings(data_dir=Path(folder), idle_ms=1_000, deadline_ms=DEADLINE_MS)) as engine:
            everyone = range(1, 1_001)
            await fund(engine, everyone, 10**15)
            for step in range(1, steps + 1):
                result = await closed_loop(
                    Load(engine, everyone), engine, name="step", in_flight=1_000, transfers=transfers // steps
                )
                tell(
                    f"after {step * (transfers // steps):>9,} transfers: {rss_mib():7.1f} MiB resident, "
                    f"{result.rate:,.0f} transfers/s, {engine.statistics().open_transfers} open"
                )
            tell(f"before {users:,} users touched once: {rss_mib():7.1f} MiB resident")
            await fund(engine, range(1_000_001, 1_000_001 + users), 1)
            await trio.sleep(3)
            statistics = engine.statistics()
            tell(
                f"after  {users:,} users touched once: {rss_mib():7.1f} MiB resident, "
                f"{statistics.users.actors} actors, {statistics.users.tasks_spare} spare tasks, "
                f"{statistics.open_transfers} open transfers (asset {ASSET_ID})"
            )
