"""How an engine stops: drained, or at once; and what its embedder sees of it."""

import pytest

from support.engines import World


class EmbeddersOwn(Exception):
    pass


async def test_an_exception_of_the_embedder_comes_out_as_it_is(world: World) -> None:
    with pytest.raises(EmbeddersOwn):
        async with world.engine():
            raise EmbeddersOwn


async def test_a_record_store_that_is_down_at_the_end_is_no_exception(world: World) -> None:
    async with world.engine():
        world.wire.down.add("records")


async def test_a_lost_claim_at_the_end_is_no_exception(world: World) -> None:
    async with world.engine():
        await world.records.claim(0, "another", ceiling_ms=0)
