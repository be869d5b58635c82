"""The embedded ledger against real TigerBeetle: random batches to both, and every answer compared.

Compared are all statuses and timestamps of every batch, after each batch all accounts with their four balances and all
transfers, and at the end of each run account histories and random filters. The model of ``test_against_model``, which
stands in where there is no TigerBeetle, is held to the same answers.

Some hundred batches are compared by default. For more than ten thousand, repeatable by the seed:

    pytest tests/engine/ledger/test_differential.py --hypothesis-profile=differential --hypothesis-seed=1

Out of scope: importing past events, which the embedded ledger refuses (single imported events among others are in), and
in the random runs holds that expire, because TigerBeetle gives them back when it gets to it; they have a test of their
own, on real seconds.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random, SystemRandom

import pytest
import trio
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from support.ledger_differential import ID_KINDS, NO_EXPIRY, SideBySide, Tally, side_by_side
from transfer_engine.engine.ledger.flags import TIMESTAMP_MAX
from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.ledger.tigerbeetle_client import open_tigerbeetle_ledger

SEEDS = st.integers(0, 2**64 - 1)
SOME = settings(
    max_examples=max(settings.default.max_examples // 4, 1), deadline=None, suppress_health_check=list(HealthCheck)
)
"""An example is some twenty batches: a quarter as many as of others is enough."""
BATCHES_A_STEP_MAX = 5
EXPIRING_S = (4, 5)
MARGIN_NS = 2 * 10**9
EXPIRING_RUNS = 8
BATCHES_AROUND_EXPIRY = 8

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def hypothesis_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run: the one asked for, or a random one that can be asked for."""
    number = request.config.getoption("hypothesis_seed")
    return SystemRandom().randrange(2**32) if number in {None, "random"} else int(number)


@pytest.fixture
def tally(hypothesis_seed: int, record_property: Callable[[str, object], None]) -> Tally:
    """Counts, printed at the end whether or not there was a difference."""
    tally = Tally()
    record_property(f"compared with --hypothesis-seed={hypothesis_seed}", tally)
    return tally


async def test_random_batches(tigerbeetle_address: str, hypothesis_seed: int, tally: Tally) -> None:
    async with open_tigerbeetle_ledger(cluster_id=0, addresses=[tigerbeetle_address], timeout_ms=30_000) as real:
        # A session with the server costs most of a second: all examples have one.
        @seed(hypothesis_seed)
        @SOME
        @given(id_kind=st.sampled_from(ID_KINDS), steps=st.lists(SEEDS, min_size=1, max_size=30))
        def agree(id_kind: str, steps: list[int]) -> None:
            trio.from_thread.run(compare_run, real, tally, id_kind, steps)

        await trio.to_thread.run_sync(agree)


async def compare_run(real: Ledger, tally: Tally, id_kind: str, steps: list[int]) -> None:
    with tempfile.TemporaryDirectory(prefix="ledger-differential-") as directory:
        async with side_by_side(real, Path(directory) / "ledger.sqlite", tally, id_kind=id_kind) as run:
            for step in steps:
                await take_step(run, step)
            await run.compare_queries(8)


async def take_step(run: SideBySide, step: int) -> None:
    run.generate.random = Random(step)
    for _ in range(run.generate.random.randint(1, BATCHES_A_STEP_MAX)):
        await run.submit_some()
        await run.compare_books()


async def test_holds_that_expire(tigerbeetle_address: str, tmp_path: Path, hypothesis_seed: int, tally: Tally) -> None:
    """Several runs at once, for they all have to wait."""

    async def compare_one(number: int) -> None:
        path = tmp_path / f"{number}.sqlite"
        id_kind = ID_KINDS[number % len(ID_KINDS)]
        async with side_by_side(real, path, tally, id_kind=id_kind, timeouts=(0, *EXPIRING_S)) as run:
            await compare_expiry(run, Random(f"{hypothesis_seed} {number}"))

    async with open_tigerbeetle_ledger(cluster_id=0, addresses=[tigerbeetle_address], timeout_ms=30_000) as real:
        for first in range(0, max(SOME.max_examples // 10, 1), EXPIRING_RUNS):
            async with trio.open_nursery() as nursery:
                for number in range(first, first + EXPIRING_RUNS):
                    nursery.start_soon(compare_one, number)
    assert tally.statuses["CreateTransferResult PENDING_TRANSFER_EXPIRED"]


async def compare_expiry(run: SideBySide, random: Random) -> None:
    """Batches, a wait until all holds have expired, and batches again."""
    run.generate.random = random
    for _ in range(BATCHES_AROUND_EXPIRY):
        if run.last_timestamp + MARGIN_NS > min(run.expiries(), default=TIMESTAMP_MAX):
            break  # a slow machine: nothing may expire while batches are compared
        await run.submit_some()
    latest = max(run.expiries(), default=0)
    run.pass_time_until(max(latest, run.last_timestamp))
    with trio.fail_after(60):
        # TigerBeetle gives expired holds back when it gets to it, and tells nobody.
        while time.time_ns() < latest or not await run.balances_agree():  # noqa: ASYNC110
            await trio.sleep(0.1)
    await run.compare_books()
    run.generate.timeouts = NO_EXPIRY
    for _ in range(BATCHES_AROUND_EXPIRY):
        await run.submit_some()
    await run.compare_books()
    await run.compare_queries(2)


async def test_batches_of_full_size(
    tigerbeetle_address: str, tmp_path: Path, hypothesis_seed: int, tally: Tally
) -> None:
    async with (
        open_tigerbeetle_ledger(cluster_id=0, addresses=[tigerbeetle_address], timeout_ms=30_000) as real,
        side_by_side(real, tmp_path / "ledger.sqlite", tally, id_kind="across 64 bits") as run,
    ):
        run.generate.random = Random(hypothesis_seed)
        for number in range(2):
            await run.create_transfers(run.generate.full_batch(number), with_model=False)
        await run.compare_whole_ledger()
