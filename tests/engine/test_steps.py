"""The engine dies at every step of the loop, not only at calls: whatever any of its tasks was about to do."""

from collections.abc import Awaitable, Callable
from itertools import count

import trio

from support.engines import DIRECT, FREEZING, PAIRS, World, in_a_loop
from support.wire import Wire
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation


class _CutAfterSteps(trio.abc.Instrument):
    """Cuts a wire when the loop has taken so many task steps: every await of every task is such a place."""

    def __init__(self, wire: Wire, steps: int) -> None:
        self._wire = wire
        self.steps_left = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            self._wire.cut()


def kill_at_every_step(
    live: Callable[[World, Engine], Awaitable[None]], *, stride: int, at_least: int, and_shutdown: bool = False
) -> None:
    """Run ``live`` in new worlds, each killed after some more steps, until it ends before it is killed; recover."""

    async def once(steps: int) -> bool:
        world = World()
        await world.fund(1)
        instruments: list[_CutAfterSteps] = []
        steps_left: list[int] = []

        async def cut_short(world: World, engine: Engine) -> None:
            instruments.append(_CutAfterSteps(world.wire, steps))
            trio.lowlevel.add_instrument(instruments[0])
            await live(world, engine)
            if not and_shutdown:
                steps_left.append(instruments[0].steps_left)

        await world.live(cut_short, number=9_999, fate="")
        trio.lowlevel.remove_instrument(instruments[0])
        async with world.engine() as engine:
            await world.heal(engine)
        await world.check()
        return (steps_left or [instruments[0].steps_left])[0] > 0

    for steps in count(1, stride):
        if in_a_loop(lambda steps=steps: once(steps)):
            assert steps > at_least, "it ends too soon: too little of it was cut"
            return


def test_a_batch_of_all_kinds() -> None:
    async def live(world: World, engine: Engine) -> None:
        world.cores[DIRECT].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
        async with trio.open_nursery() as nursery:
            for number, pair in enumerate((*PAIRS.values(), ("funding", "trading"))):
                amount = 5_000 if number == len(PAIRS) else 100
                nursery.start_soon(
                    lambda pair=pair, number=number, amount=amount: world.ask(
                        engine, *pair, amount=amount, key=f"{number}"
                    )
                )

    kill_at_every_step(live, stride=2, at_least=100)


def test_a_graceful_shutdown_with_work_under_way() -> None:
    async def live(world: World, engine: Engine) -> None:
        world.cores[FREEZING].behave(Behaviour(latency_ms=300))
        with trio.move_on_after(0.1):
            await world.ask(engine, "funding", FREEZING, key="key")

    kill_at_every_step(live, stride=3, at_least=40, and_shutdown=True)
