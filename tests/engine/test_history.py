"""Histories while rows arrive: every order of accepting, holding, ending and becoming durable, and every walk."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support.engines import in_a_loop
from support.memory_records import MemoryRecords
from transfer_engine.engine.history import Place, merged, place_of, placed
from transfer_engine.engine.open_transfers import OpenTransfer, OpenTransfers
from transfer_engine.engine.services.registry import Service, ServiceKind
from transfer_engine.engine.state_machine import TransferEvent
from transfer_engine.schema.ids import issued_req_id
from transfer_engine.schema.transfers import Intent

FUNDING = Service("funding", 2, ServiceKind.WALLET)
TRADING = Service("trading", 3, ServiceKind.WALLET)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["accept", "hold", "refuse", "commit", "durable", "walk", "read", "read"]), st.integers(0)
    ),
    max_size=60,
)


class Walk:
    """A walk over all pages, whose reads fall apart into two: what is under way, then the store."""

    def __init__(self, world: "Books", limit: int) -> None:
        self.limit = limit
        self.expected = {transfer.uuid for transfer in world.all if transfer.owns_key}
        self.below: Place | None = None
        self.under_way: Any = None
        self.listed: list[Place] = []
        self.is_over = False

    async def step(self, world: "Books") -> None:
        if self.is_over:
            return
        if self.under_way is None:
            self.under_way = placed(world.open.of_user(1), self.below)
            return
        page = await world.records.history(1, limit=self.limit, position=self.below)
        page = merged(page, self.under_way, self.limit)
        assert len(page.records) <= self.limit
        self.listed += map(place_of, page.records)
        self.under_way, self.below = None, page.next_position
        self.is_over = page.next_position is None


class Books:
    """Transfers on their way from their acceptance into the store, by steps that a test chooses."""

    def __init__(self) -> None:
        self.records = MemoryRecords()
        self.open = OpenTransfers()
        self.all: list[OpenTransfer] = []
        self.ledger_ms = 1_000

    def accept(self) -> None:
        req_id = issued_req_id(len(self.all) + 1)
        intent = Intent(
            req_id=req_id.to_bytes(16),
            source="funding",
            target="trading",
            user_id=1 + len(self.all) % 2,
            target_user_id=1,
            asset_id=1,
            amount=1,
            accepted_at=1_000 + 37 * len(self.all) % 50,  # the engine's clock is not the ledger's
            fingerprint=0,
        )
        transfer = OpenTransfer(req_id=req_id, intent=intent, source=FUNDING, target=TRADING)
        self.open.add(transfer)
        self.all.append(transfer)

    async def step(self, name: str, chosen: int) -> None:
        under_way = list(self.open)
        if name == "accept":
            self.accept()
        if not under_way:
            return
        transfer = under_way[chosen % len(under_way)]
        if name == "hold" and not transfer.owns_key:
            self.ledger_ms += chosen % 3
            transfer.held(self.ledger_ms * 1_000_000)
            transfer.apply(TransferEvent.SOURCE_OK)
        elif name == "refuse" and not transfer.owns_key:
            transfer.apply(TransferEvent.SOURCE_FAIL)
        elif name == "commit" and transfer.is_held:
            transfer.apply(TransferEvent.TARGET_OK)
        elif name == "durable" and transfer.owns_key:
            await self.records.write([], [transfer.record()])
            if transfer.state.is_terminal:
                self.open.remove(transfer)


@settings(deadline=None, max_examples=400)
@given(steps=STEPS, limit=st.integers(1, 5))
def test_a_walk_lists_everything_that_had_a_place_once_whatever_arrives_meanwhile(
    steps: list[tuple[str, int]], limit: int
) -> None:
    async def program() -> None:
        world = Books()
        walks: list[Walk] = []
        for name, chosen in steps:
            if name == "walk":
                walks.append(Walk(world, limit))
            elif name == "read" and walks:
                await walks[chosen % len(walks)].step(world)
            else:
                await world.step(name, chosen)
        for walk in walks:
            while not walk.is_over:
                await walk.step(world)
            assert walk.listed == sorted(walk.listed, reverse=True)
            listed = [number for _, number in walk.listed]
            assert len(set(listed)) == len(listed)
            assert set(listed) >= {uuid.int for uuid in walk.expected}

    in_a_loop(program)


def test_a_state_under_way_is_listed_as_it_is_now_and_an_older_one_never() -> None:
    async def program() -> None:
        world = Books()
        world.accept()
        [transfer] = world.all
        assert placed(world.open.of_user(1), None) == []
        transfer.held(2_000_000_000)
        transfer.apply(TransferEvent.SOURCE_OK)
        await world.records.write([], [transfer.record()])
        stale = placed(world.open.of_user(1), None)
        transfer.apply(TransferEvent.TARGET_OK)
        newest = placed(world.open.of_user(1), None)
        page = await world.records.history(1, limit=5)
        assert [record.state.value for record in merged(page, newest, 5).records] == ["committed"]
        await world.records.write([], newest)
        page = await world.records.history(1, limit=5)
        assert [record.state.value for record in merged(page, stale, 5).records] == ["committed"]

    in_a_loop(program)
