"""The engine dies at every call that it makes, before and after the call is applied, and the next life recovers.

Then I1 to I7 hold, by the ledger's and the cores' own books, and all that clients were told is true.
"""

import pytest
import trio

from support.engines import CALLS_OF_OPENING, DIRECT, FREEZING, PAIRS, World, in_a_loop, kill_at_every_call
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation

FATES = {"killed": ("cut_after",), "request lost": ("lose_request",), "answer lost": ("lose_answer",)}


# The cores without a freeze are killed as often as the others; that a call is lost is the same for both.
EVERYWHERE = [
    pytest.param(pair, fates, id=f"{name} {fate}")
    for name, pair in PAIRS.items()
    for fate, fates in FATES.items()
    if fate == "killed" or "without freeze" not in name
]


@pytest.mark.parametrize(("pair", "fates"), EVERYWHERE)
def test_a_transfer(pair: tuple[str, str], fates: tuple[str, ...]) -> None:
    async def live(world: World, engine: Engine) -> None:
        await world.ask(engine, *pair, key="one")
        await world.ask(engine, *pair, key="one")

    kill_at_every_call(live, at_least=3, fates=fates)


@pytest.mark.parametrize(("pair", "fates"), EVERYWHERE)
def test_a_refusal_by_the_source(pair: tuple[str, str], fates: tuple[str, ...]) -> None:
    async def live(world: World, engine: Engine) -> None:
        told = await world.ask(engine, *pair, amount=1_001, key="too much")
        assert told.answer is None or told.outcome.status in {"failed", "pending"}

    kill_at_every_call(live, at_least=3, fates=fates)


@pytest.mark.parametrize(("pair", "fates"), [one for one in EVERYWHERE if one.values[0][1] in {FREEZING, DIRECT}])
def test_a_refusal_by_the_target(pair: tuple[str, str], fates: tuple[str, ...]) -> None:
    async def live(world: World, engine: Engine) -> None:
        world.cores[pair[1]].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
        told = await world.ask(engine, *pair, key="refused")
        assert told.answer is None or told.outcome.status in {"rolled_back", "pending"}

    kill_at_every_call(live, at_least=8, fates=fates)


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

    kill_at_every_call(live, users=(1, 2), at_least=10, fates=fates)


@pytest.mark.parametrize("fate", ["cut_before", "cut_after", "lose_request", "lose_answer"])
@pytest.mark.parametrize("number", range(1 - CALLS_OF_OPENING, 1))
def test_an_engine_that_does_not_get_open(number: int, fate: str) -> None:
    async def once() -> None:
        world = World()
        await world.fund(1)
        assert not await world.live(lambda world, engine: world.heal(engine), number=number, fate=fate)
        async with world.engine() as engine:
            assert (await world.ask(engine, "funding", "trading")).outcome.status == "committed"
        await world.check()

    in_a_loop(once)


@pytest.mark.parametrize("pair", ["wallet->wallet", "core->wallet"])
def test_the_recovery_dies_too(pair: str) -> None:
    async def live(world: World, engine: Engine) -> None:
        await world.ask(engine, *PAIRS[pair], key="key")

    kill_at_every_call(live, at_least=3, and_its_recovery=True)


def test_the_recovery_of_a_transfer_that_is_undone_dies_too() -> None:
    async def live(world: World, engine: Engine) -> None:
        world.cores[DIRECT].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
        await world.ask(engine, FREEZING, DIRECT, key="key")

    kill_at_every_call(live, at_least=10, and_its_recovery=True)
