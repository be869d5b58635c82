"""Users' endpoints as an engine's tests see them: they note what they are told, and may fail or hang."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from support.engines import World, until
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.outbox import Outbox
from transfer_engine.schema.webhooks import Endpoint, OutboxMessage


class Receivers:
    """All users' endpoints; they outlive engines."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.told: list[OutboxMessage] = []
        self._before = set(world.records.rows)
        """What ended before anybody had an endpoint."""
        self.failing: set[int] = set()
        """Users whose endpoints answer with a fault."""
        self.rest_ms = 5_000
        self.delivery_s = 0.0
        self.attempts: list[tuple[int, int]] = []
        """Users and the attempts made before, of every attempt that failed."""

    async def register(self, *users: int) -> None:
        """Have users told, as an earlier request did."""
        for user_id in users:
            await self.world.records.put_endpoint(
                Endpoint(user_id=user_id, version=1 << 20, url=f"https://{user_id}.example/")
            )

    @asynccontextmanager
    async def serve(self, engine: Engine) -> AsyncIterator[Outbox]:
        """Deliver what an engine has to tell, one message after the other."""
        outbox = engine.outbox
        assert outbox is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, outbox)
            yield outbox
            nursery.cancel_scope.cancel()

    async def _deliver(self, outbox: Outbox) -> None:
        while True:
            waiting = await outbox.queues.take()
            user_id = waiting.message.to_user_id
            if self.delivery_s:
                await trio.sleep(self.delivery_s)
            if user_id in self.failing:
                self.attempts.append((user_id, waiting.attempts))
                outbox.failed(waiting, self.rest_ms)
            else:
                self.told.append(waiting.message)
                outbox.delivered(waiting)

    async def drain(self, engine: Engine, *, within_s: float = 120) -> None:
        """Serve until nothing waits any more, and the mark says so."""
        async with self.serve(engine) as outbox:
            with trio.move_on_after(within_s) as scope:
                await self.world.heal(engine)
                await until(lambda: not outbox.statistics().waiting and not outbox.statistics().is_full)
                bucket = outbox.current_bucket
                await until(lambda: outbox.statistics().low_water_mark > bucket, every_s=3)
            assert not scope.cancelled_caught, outbox.statistics()

    def check(self, *users: int) -> None:
        """Every end of these users' transfers was told to them, as it is in its row; and nothing else was."""
        expected = {
            (row.req_id.bytes, user_id): row
            for row in self.world.records.rows.values()
            if row.state.is_terminal and row.req_id.int not in self._before
            for user_id in {row.user_id, row.target_user_id} & set(users)
        }
        told = {message.key: message for message in self.told}
        assert told.keys() == expected.keys(), (expected.keys() - told.keys(), told.keys() - expected.keys())
        for message in self.told:
            row = expected[message.key]
            assert (message.state, message.amount, message.user_id, message.target_user_id, message.error) == (
                row.state,
                row.amount,
                row.user_id,
                row.target_user_id,
                row.error,
            )
