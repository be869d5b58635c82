"""`kill -9` with messages undelivered: after the restart every end is told, by real servers to a real endpoint."""

from pathlib import Path
from random import Random

import pytest

from support.endpoint_server import endpoint_server
from support.told_users import Told


@pytest.mark.parametrize("lives", [1, 3])
async def test_killed_with_messages_undelivered(lives: int, tmp_path: Path) -> None:
    moments = Random(lives)
    async with endpoint_server() as server:
        told = Told(server, tmp_path)
        await told.begin()
        for _ in range(lives):
            told.fails = lives == 1 or moments.random() < 0.5
            await told.live()
        await told.be_told_all()


@pytest.mark.parametrize("point", ["before_rows@20", "between_rows@20", "after_ledger@20"])
async def test_killed_around_the_last_rows(point: str, tmp_path: Path) -> None:
    async with endpoint_server() as server:
        told = Told(server, tmp_path)
        await told.begin()
        await told.live(crash_at=point)
        await told.live()
        await told.be_told_all()
