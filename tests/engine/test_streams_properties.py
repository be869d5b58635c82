"""Streams under whatever happens: gapless, complete, resumable from any number, and in the end what the ledger says."""

from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.engines import DIRECT, FREEZING, World, in_a_loop, until
from support.streams import Reader, settle, wallets_of
from support.wire import Wire
from transfer_engine.engine.outcomes import Balance
from transfer_engine.engine.stream_rings import StreamEvent, StreamSnapshot
from transfer_engine.engine.stream_settings import StreamSettings

if TYPE_CHECKING:
    from transfer_engine.engine import Engine

USERS = (1, 2)
ACCOUNTS = ("funding", "trading", FREEZING, DIRECT)
STEPS = st.one_of(
    st.tuples(
        st.just("transfer"),
        st.sampled_from(USERS),
        st.sampled_from(USERS),
        st.permutations(ACCOUNTS).map(lambda names: names[:2]),
        st.sampled_from([1, 7, 600]),
        st.sampled_from([None, None, "a", "b"]),
    ),
    st.tuples(st.just("down"), st.sampled_from([FREEZING, DIRECT, "ledger", "records"])),
    st.tuples(st.just("up")),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.5, 5.0])),
    st.tuples(st.just("leave"), st.integers(0, 3)),
    st.tuples(st.just("come"), st.sampled_from(USERS)),
    st.tuples(st.just("resume"), st.integers(0, 3)),
    st.tuples(st.just("die")),
)


class Play:
    """Carries out what was drawn, and keeps what readers were told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.readers: list[Reader] = []
        self.before: dict[int, set[int]] = {}
        """What had ended when a user's first reader got his snapshot."""

    def ended(self, user_id: int) -> set[int]:
        """Return the user's transfers that the record store has the end of."""
        return {
            req_id
            for req_id, row in self.world.records.rows.items()
            if row.state.is_terminal and user_id in {row.user_id, row.target_user_id}
        }

    async def live(self, steps: list[Any], engine: "Engine", nursery: trio.Nursery) -> list[Any] | None:
        """Carry out the steps up to the engine's death; return those behind it, or None where it did not die."""
        world = self.world
        readers = [Reader(engine, user_id) for user_id in USERS]
        self.readers = readers
        self.before = {}
        for reader in readers[: len(USERS)]:
            reader.on_snapshot = partial(self._keep_ended, reader.user_id)
            reader.subscribe()
        for index, (kind, *what) in enumerate(steps):
            if kind == "transfer":
                user_id, target_user_id, (source, target), amount, key = what
                other = {} if target_user_id == user_id else {"target_user_id": target_user_id}

                async def ask(
                    source: str = source,
                    target: str = target,
                    user_id: int = user_id,
                    amount: int = amount,
                    key: str | None = key,
                    other: dict[str, int] = other,
                ) -> None:
                    await world.ask(engine, source, target, user_id=user_id, amount=amount, key=key, **other)

                nursery.start_soon(ask)
                await trio.lowlevel.checkpoint()
            elif kind == "down":
                world.wire.down.add(what[0])
            elif kind == "up":
                world.wire.down.clear()
            elif kind == "wait":
                await trio.sleep(what[0])
            elif kind == "leave":
                readers[what[0] % len(readers)].leave()
            elif kind == "come":
                readers.append(Reader(engine, what[0]).subscribe())
            elif kind == "resume":
                former = readers[what[0] % len(readers)]
                former.leave()
                if former.seq is not None:
                    readers.append(Reader(engine, former.user_id).resume(former))
            else:
                return steps[index + 1 :]
        world.wire.down.clear()
        await world.heal(engine, within_s=300)
        await settle(engine)
        await self.check(engine)
        return None

    def _keep_ended(self, user_id: int) -> None:
        self.before[user_id] = self.ended(user_id)

    async def check(self, engine: "Engine") -> None:
        """Whoever comes back, or comes now, has what the ledger has; every end was told once."""
        for user_id in USERS:
            held = await wallets_of(self.world, user_id)
            mine = [reader for reader in self.readers if reader.user_id == user_id and reader.seq is not None]
            if not mine:  # all have left before their snapshots
                continue
            longest = max(mine, key=lambda reader: len(reader.told))
            events = [one for one in longest.told if isinstance(one, StreamEvent)]
            for reader in mine:
                assert len({req_id for req_id, _ in reader.ends}) == len(reader.ends), reader.ends
                back = Reader(engine, user_id).resume(reader)
                assert back.seq is not None
                assert _without_nothing(back.balances) == _without_nothing(held)
            for index, event in enumerate(events):
                rest = Reader(engine, user_id).subscribe(stream=longest.stream, after=event.seq)
                assert rest.told[: len(events) - index - 1] == events[index + 1 :]
                rest.leave()
            late = Reader(engine, user_id).subscribe()
            await until(lambda late=late: late.told, every_s=0.1)
            assert isinstance(late.told[0], StreamSnapshot)
            assert late.balances == held
            assert late.told[0].transfers == []
            for req_id, state in {end for reader in mine for end in reader.ends}:
                assert self.world.records.rows[req_id].state is state
            balances = [one for one in events if isinstance(one.what, Balance)]
            assert all(one.req_id.int in self.world.records.rows for one in balances)
            first = self.readers[USERS.index(user_id)]
            if first.told:
                whole = Reader(engine, user_id).subscribe(stream=first.stream, after=first.told[0].seq)
                ends = [req_id for req_id, _ in whole.ends]
                assert len(set(ends)) == len(ends)
                assert self.ended(user_id) - self.before[user_id] <= set(ends) <= self.ended(user_id)


def _without_nothing(balances: dict[tuple[str, int], tuple[int, int]]) -> dict[tuple[str, int], tuple[int, int]]:
    return {account: holds for account, holds in balances.items() if holds != (0, 0)}


@given(steps=st.lists(STEPS, max_size=25))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_streams_are_gapless_complete_and_end_at_the_ledger(steps: list[Any]) -> None:
    async def program() -> None:
        world = World(streams=StreamSettings(events_most=10_000, bytes_most=1 << 24, retention_ms=3_600_000))
        await world.fund(*USERS)
        play = Play(world)
        left: list[Any] | None = steps
        while left is not None:
            wire = Wire()
            with wire.scope:
                async with world.engine(wire) as engine, trio.open_nursery() as nursery:
                    left = await play.live(left, engine, nursery)
                    if left is not None:
                        wire.cut()
                    nursery.cancel_scope.cancel()

    in_a_loop(program)
