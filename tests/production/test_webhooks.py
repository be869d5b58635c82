"""Webhooks on TigerBeetle and Cassandra: killed around its rows, or for good, in the end every end is told."""

from pathlib import Path

import pytest

from support.endpoint_server import endpoint_server
from support.production import Pair
from support.told_users import Told


@pytest.mark.parametrize("point", ["before_rows@20", "between_rows@20", None])
async def test_killed_with_messages_undelivered(pair: Pair, tmp_path: Path, point: str | None) -> None:
    async with endpoint_server() as server:
        told = Told(server, tmp_path, **pair.backends())
        await told.begin()
        await told.live(crash_at=point)
        await told.live()
        await told.be_told_all()


async def test_another_engine_tells_what_a_dead_one_could_not(pair: Pair, tmp_path: Path) -> None:
    lease = {"heartbeat_ms": 300, "lease_ms": 3_000, "adoption_recheck_ms": 1_000}
    async with endpoint_server() as server:
        told = Told(server, tmp_path, **pair.backends(), **lease)
        await told.begin()
        await told.live()
        told.directory = tmp_path / "other"
        told.directory.mkdir()
        told.config |= {"node": 1}
        await told.be_told_all(shards=1)
