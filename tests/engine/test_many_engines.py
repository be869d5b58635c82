"""Several engines on one ledger, one record store and one set of cores: whatever they do at once, the invariants hold.

They race on one user, on one key with the same and with other bodies, and on one unfinished transfer; calls are lost,
answers too, cores misbehave, and one of them is paused or killed.
"""

from contextlib import suppress
from functools import partial
from typing import Any

import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.engines import CORE_CODES, PAIRS, Machine, World, in_a_loop
from support.wire import Wire
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.outcomes import Overloaded, Resolution, TransferNotFound
from transfer_engine.engine.records.protocol import ClaimLost
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation

QUICK = {"heartbeat_ms": 2_000, "lease_ms": 6_000, "adoption_recheck_ms": 10_000, "stale_after_ms": 1_000}
CONTRADICTIONS = {"contradiction", "terminal_conflict", "hold_undecided", "end_undecided", "legs_used_up"}

requests = st.fixed_dictionaries(
    {
        "engine": st.integers(0, 1),
        "pair": st.sampled_from(list(PAIRS.values())),
        "user_id": st.just(1),
        "target_user_id": st.integers(1, 2),
        "amount": st.sampled_from([100, 400, 1_001]),
        "key": st.sampled_from([None, "a", "b"]),
        "after_ms": st.integers(0, 60),
    }
)
behaviours = st.builds(
    Behaviour,
    latency_ms=st.sampled_from([0, 5, 50, 1_500]),
    crash_before=st.integers(0, 3),
    crash_after=st.integers(0, 3),
    ops=st.sampled_from(
        [frozenset({CoreOperation.DEPOSIT}), frozenset({CoreOperation.WITHDRAW}), frozenset(CoreOperation)]
    ),
    refuse=st.sampled_from([None, None, "closed for today"]),
)
fates = st.dictionaries(st.integers(8, 60), st.sampled_from(["lose_request", "lose_answer"]), max_size=4)
ends = st.sampled_from(["", "", "pause", "pause_after", "cut_before", "cut_after"])


class Fleet:
    """Engines of one world; those that are paused lose their claims, those that are killed end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.engines: dict[int, Engine] = {}
        self.paused: set[int] = set()

    def engine(self, node: int) -> Engine | None:
        """Return the engine that runs under a number now, if any."""
        return self.engines.get(node)

    async def live(self, node: int, wire: Wire, task_status: trio.TaskStatus[None]) -> None:
        try:
            with wire.scope:
                async with self.world.engine(wire, node=node, machine=Machine()) as engine:
                    self.engines[node] = engine
                    task_status.started()
                    await trio.sleep_forever()
        except ClaimLost:
            assert self.paused == {node}
        finally:
            del self.engines[node]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate, Phase.explicit],
)
@given(
    asked=st.lists(requests, min_size=1, max_size=12),
    cores=st.tuples(behaviours, behaviours),
    wires=st.tuples(fates, fates),
    end=ends,
    end_at=st.integers(8, 80),
    resolved=st.sampled_from([None, None, Resolution.VOID, Resolution.POST]),
)
def test_two_engines_hammer_one_user_and_its_keys(
    asked: list[dict[str, Any]],
    cores: tuple[Behaviour, Behaviour],
    wires: tuple[dict[int, str], dict[int, str]],
    end: str,
    end_at: int,
    resolved: Resolution | None,
) -> None:
    async def run() -> None:
        world = World(**QUICK)
        await world.fund(1, 2)
        for name, behaviour in zip(CORE_CODES, cores, strict=True):
            world.cores[name].behave(behaviour)
        fleet = Fleet(world)
        first = Wire(dict(wires[0]))
        if end:
            first.fates[end_at] = end
            fleet.paused = {0} if "pause" in end else set()
        async with trio.open_nursery() as nursery:
            await nursery.start(fleet.live, 0, first)
            await nursery.start(fleet.live, 1, Wire(dict(wires[1])))
            async with trio.open_nursery() as clients:
                for request in asked:
                    clients.start_soon(partial(ask, fleet, **request))
                if resolved is not None:
                    clients.start_soon(resolve, fleet, resolved)
            await trio.sleep(20)
            first.fates.clear()  # nobody would let an engine go on that stops later than this
            first.resume()
            for name in CORE_CODES:
                world.cores[name].behave(Behaviour())
            await trio.sleep(30)
            for node in list(fleet.engines):
                await world.heal(fleet.engines[node])
            alerts = [set(engine.statistics().alerts) for engine in fleet.engines.values()]
            nursery.cancel_scope.cancel()
        async with world.engine(node=2, machine=Machine()) as engine:
            await trio.sleep(20)
            await world.heal(engine)
        await world.check(has_contested_keys=True)
        assert not CONTRADICTIONS & set().union(*alerts), alerts

    in_a_loop(run)


async def ask(fleet: Fleet, *, engine: int, pair: tuple[str, str], after_ms: int, **other: Any) -> None:
    await trio.sleep(after_ms / 1000)
    running = fleet.engine(engine)
    if running is not None:
        await fleet.world.ask(running, *pair, **other)


async def resolve(fleet: Fleet, resolution: Resolution) -> None:
    """Be an operator who does not wait."""
    await trio.sleep(2)
    for engine in list(fleet.engines.values()):
        for transfer in engine._parts.open_transfers:
            with trio.move_on_after(5), suppress(Overloaded, TransferNotFound):
                await engine.resolve(transfer.uuid, resolution)
