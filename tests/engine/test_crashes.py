"""The engine dies at every call that it makes, before and after the call is applied, and the next life recovers.

Then I1 to I7 hold, by the ledger's and the cores' own books, and all that clients were told is true.
"""

import pytest
import trio

from support.engines import DIRECT, FREEZING, PAIRS, World, kill_at_every_call
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation

LOST = ("lose_request", "lose_answer")
CUT = ("cut_before", "cut_after")
FATES = {"killed": CUT, "lost": LOST}


@pytest.mark.parametrize("fates", FATES.values(), ids=FATES)
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_transfer(pair: tuple[str, str], fates: tuple[str, ...]) -> None:
    async def live(world: World, engine: Engine) -> None:
        await world.ask(engine, *pair, key="one")
        await world.ask(engine, *pair, key="one")

    kill_at_every_call(live, at_least=10, fates=fates)


@pytest.mark.parametrize("fates", FATES.values(), ids=FATES)
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_refusal_by_the_source(pair: tuple[str, str], fates: tuple[str, ...]) -> None:
    async def live(world: World, engine: Engine) -> None:
        told = await world.ask(engine, *pair, amount=1_001, key="too much")
        assert told.answer is None or told.outcome.status in {"failed", "pending"}

    kill_at_every_call(live, at_least=9, fates=fates)


@pytest.mark.parametrize("fates", FATES.values(), ids=FATES)
@pytest.mark.parametrize("pair", [pair for pair in PAIRS.values() if pair[1] in {FREEZING, DIRECT}], ids=str)
def test_a_refusal_by_the_target(pair: tuple[str, str], fates: tuple[str, ...]) -> None:
    async def live(world: World, engine: Engine) -> None:
        world.cores[pair[1]].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
        told = await world.ask(engine, *pair, key="refused")
        assert told.answer is None or told.outcome.status in {"rolled_back", "pending"}

    kill_at_every_call(live, at_least=13, fates=fates)


@pytest.mark.parametrize("fates", FATES.values(), ids=FATES)
def test_a_batch_of_all_pairs_of_two_users(fates: tuple[str, ...]) -> None:
    async def live(world: World, engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            for number, pair in enumerate(PAIRS.values()):
                for user_id in (1, 2):
                    nursery.start_soon(
                        lambda pair=pair, user_id=user_id, number=number: world.ask(
                            engine, *pair, user_id=user_id, amount=400, target_user_id=3 - user_id, key=f"{number}"
                        )
                    )

    kill_at_every_call(live, users=(1, 2), at_least=20, fates=fates)
