"""A stopped engine's outbox: its messages are carried over into this engine's own, and its mark is raised.

It is read after the intents: where a transfer's last row was found there, the message before it is found here. What the
stopped engine writes later, should it wake, lies below the mark and is never read. Whoever has its unfinished transfers
driven then tells of their ends himself.
"""

from contextlib import aclosing

from transfer_engine.engine.outbox import Outbox
from transfer_engine.engine.records.protocol import OUTBOX_SHARDS, RecordStore


class OutboxAdoption:
    """Carries messages over from other nodes' outboxes.

    Args:
        store: where they lie.
        outbox: this engine's own.
    """

    def __init__(self, store: RecordStore, outbox: Outbox) -> None:
        self._store = store
        self._outbox = outbox
        self._carried: dict[int, set[tuple[int, int]]] = {}
        """Buckets and sequences of the blobs that are ours, by node."""

    def __repr__(self) -> str:
        return f"<OutboxAdoption of {sorted(self._carried)}>"

    async def holds_messages(self, node: int) -> bool:
        """Tell whether a node's outbox has a message that somebody is to be told. Errors are the store's."""
        shard = OUTBOX_SHARDS + node
        enabled = self._outbox.endpoints.enabled
        unknown: set[int] = set()
        mark = await self._store.low_water_mark(shard)
        async with aclosing(self._store.read_journal(shard, from_bucket=mark)) as blobs:
            async for blob in blobs:
                users = {message.to_user_id for message in self._outbox.messages(blob)}
                if not enabled.keys().isdisjoint(users):
                    return True
                unknown |= users
        if unknown:  # their endpoints may have been registered at that engine, a moment ago
            await self._outbox.endpoints.read_again()
        return not enabled.keys().isdisjoint(unknown)

    async def carry_over(self, node: int) -> None:
        """Make a stopped engine's messages ours; once more it takes what came since.

        Cancellation, or a crash, leaves some of them in both outboxes: they may be delivered twice.

        Raises:
            RecordsUnavailable: some of them are perhaps not ours yet.
            LeaseLapsed: likewise.
        """
        shard, carried = OUTBOX_SHARDS + node, self._carried.setdefault(node, set())
        enabled = self._outbox.endpoints.enabled
        are_all_known = False
        mark = await self._store.low_water_mark(shard)
        async with aclosing(self._store.read_journal(shard, from_bucket=mark)) as blobs:
            async for blob in blobs:
                place = (blob.bucket, blob.sequence)
                if place in carried:
                    continue
                messages = self._outbox.messages(blob)
                if not are_all_known and any(message.to_user_id not in enabled for message in messages):
                    # What is not wanted is dropped for good; and that engine may have heard of endpoints before us.
                    await self._outbox.endpoints.read_again()
                    are_all_known = True
                await self._outbox.take_over(messages)
                carried.add(place)

    async def settle(self, node: int, below_bucket: int) -> None:
        """Say that all of a stopped engine's messages below a bucket are ours. Errors are the store's."""
        await self._store.raise_low_water_mark(OUTBOX_SHARDS + node, below_bucket)
        self.forget(node)

    def forget(self, node: int) -> None:
        """The node is not held any more."""
        self._carried.pop(node, None)
