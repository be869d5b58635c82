"""What every record store must keep to about the claims of nodes: one life at a time, each above the former ones."""

from contextlib import suppress

import pytest
import trio

from support.record_stores import Reopenable
from transfer_engine.engine.records.protocol import Claim, ClaimLost, Life, RecordStore
from transfer_engine.schema.ids import SNOWFLAKE_EPOCH_MS

LATER_MS = SNOWFLAKE_EPOCH_MS + 1_000_000


async def test_lives_follow_each_other_above_the_ceilings_of_the_former(reopenable: Reopenable) -> None:
    async with reopenable.open() as store:
        assert await store.find_claim(5) is None
        first = await store.claim(5, "a", former=None, ceiling_ms=LATER_MS)
        assert first == Life(node=5, epoch=1, owner="a", after_ms=SNOWFLAKE_EPOCH_MS)
        assert await store.find_claim(5) == Claim(5, 1, "a", LATER_MS, 0)
        await store.raise_ceiling(first, LATER_MS + 500, beat=1)
        await store.raise_ceiling(first, LATER_MS + 100, beat=2)  # never lowered
        assert await store.find_claim(5) == Claim(5, 1, "a", LATER_MS + 500, 2)
    async with reopenable.open() as store:
        former = await store.find_claim(5)
        second = await store.claim(5, "b", former=former, ceiling_ms=LATER_MS)  # nor by a claim
        assert second == Life(node=5, epoch=2, owner="b", after_ms=LATER_MS + 500)
        former = await store.find_claim(5)
        assert former == Claim(5, 2, "b", LATER_MS + 500, 0)
        third = await store.claim(5, "c", former=former, ceiling_ms=LATER_MS + 900)
        assert third == Life(node=5, epoch=3, owner="c", after_ms=LATER_MS + 500)
        assert await store.find_claim(5) == Claim(5, 3, "c", LATER_MS + 900, 0)


async def test_nodes_are_claimed_apart_and_listed_by_node(store: RecordStore) -> None:
    assert await store.claims() == []
    for node in (700, 1, 1023, 0):
        await store.claim(node, "a", former=None, ceiling_ms=LATER_MS)
    assert await store.claims() == [Claim(node, 1, "a", LATER_MS, 0) for node in (0, 1, 700, 1023)]
    assert await store.find_claim(2) is None


async def test_a_claim_that_is_asked_again_is_the_same_life(store: RecordStore) -> None:
    first = await store.claim(1, "a", former=None, ceiling_ms=LATER_MS)
    assert await store.claim(1, "a", former=None, ceiling_ms=LATER_MS) == first
    former = await store.find_claim(1)
    second = await store.claim(1, "b", former=former, ceiling_ms=LATER_MS + 5)
    await store.raise_ceiling(second, LATER_MS + 700, beat=1)
    assert await store.claim(1, "b", former=former, ceiling_ms=LATER_MS + 5) == second
    assert await store.find_claim(1) == Claim(1, 2, "b", LATER_MS + 700, 1)


async def test_a_claim_that_is_not_as_it_was_read_is_not_taken(store: RecordStore) -> None:
    first = await store.claim(1, "a", former=None, ceiling_ms=LATER_MS)
    read = await store.find_claim(1)
    assert read is not None
    await store.raise_ceiling(first, LATER_MS, beat=1)
    stale = [None, read, Claim(1, 1, "a", LATER_MS, 2), Claim(1, 2, "a", LATER_MS, 1), Claim(1, 1, "", LATER_MS, 1)]
    for former in stale:
        with pytest.raises(ClaimLost):
            await store.claim(1, "b", former=former, ceiling_ms=LATER_MS)
    with pytest.raises(ClaimLost):
        await store.claim(2, "b", former=Claim(2, 1, "a", LATER_MS, 1), ceiling_ms=LATER_MS)
    assert await store.claims() == [Claim(1, 1, "a", LATER_MS, 1)]


async def test_of_those_who_claim_at_once_one_has_it(store: RecordStore) -> None:
    await store.claim(1, "a", former=None, ceiling_ms=LATER_MS)
    former = await store.find_claim(1)
    lives: list[Life] = []

    async def claim(owner: str) -> None:
        with suppress(ClaimLost):
            lives.append(await store.claim(1, owner, former=former, ceiling_ms=LATER_MS))

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(claim, f"owner {number}")
    [life] = lives
    assert await store.find_claim(1) == Claim(1, 2, life.owner, LATER_MS, 0)


async def test_a_former_life_can_raise_and_release_nothing(store: RecordStore) -> None:
    former = await store.claim(1, "a", former=None, ceiling_ms=LATER_MS)
    present = await store.claim(1, "b", former=await store.find_claim(1), ceiling_ms=LATER_MS)
    for other in (former, Life(1, present.epoch, "stranger", 0), Life(1, 3, "b", 0), Life(2, 1, "b", 0)):
        with pytest.raises(ClaimLost):
            await store.raise_ceiling(other, LATER_MS + 5_000, beat=9)
        with pytest.raises(ClaimLost):
            await store.release(other)
    await store.raise_ceiling(present, LATER_MS + 1, beat=1)
    assert await store.claims() == [Claim(1, 2, "b", LATER_MS + 1, 1)]


async def test_a_late_beat_lowers_nothing_that_a_later_one_promised(store: RecordStore) -> None:
    life = await store.claim(1, "a", former=None, ceiling_ms=LATER_MS)
    await store.raise_ceiling(life, LATER_MS + 300, beat=3)
    await store.raise_ceiling(life, LATER_MS + 900, beat=2)
    await store.raise_ceiling(life, LATER_MS + 900, beat=3)
    assert await store.find_claim(1) == Claim(1, 1, "a", LATER_MS + 300, 3)


async def test_a_released_node_is_nobodys(store: RecordStore) -> None:
    life = await store.claim(1, "a", former=None, ceiling_ms=LATER_MS)
    await store.raise_ceiling(life, LATER_MS, beat=7)
    for _ in range(2):
        await store.release(life)
    released = await store.find_claim(1)
    assert released == Claim(1, 1, "", LATER_MS, 7)
    with pytest.raises(ClaimLost):
        await store.raise_ceiling(life, LATER_MS + 1, beat=8)
    second = await store.claim(1, "b", former=released, ceiling_ms=0)
    assert second == Life(1, 2, "b", LATER_MS)
    with pytest.raises(ClaimLost):
        await store.release(life)
    assert await store.claims() == [Claim(1, 2, "b", LATER_MS, 0)]
