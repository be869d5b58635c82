"""What statements leave behind once they are done: a collector that has much to search stops the whole engine."""

import gc

import trio

from support.cassandra_stores import empty_shared_keyspace, open_quietly, server_or_skip
from support.record_stores import record

TIMEOUT_MS = 3_000
WRITES = 200


async def test_what_is_done_leaves_nothing_to_the_collector() -> None:
    settings = empty_shared_keyspace(server_or_skip()).model_copy(update={"timeout_ms": TIMEOUT_MS})
    async with open_quietly(settings) as store:
        await store.write([], [record(1)])
        gc.collect()
        gc.disable()
        try:
            for _ in range(WRITES):
                await store.write([], [record(1)])
            # The driver's event loop keeps a cancelled timer until it would have been due.
            await trio.sleep(TIMEOUT_MS / 1_000 + 1)
            assert gc.collect() < WRITES
        finally:
            gc.enable()
