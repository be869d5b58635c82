"""One kind of record store after another: a kind that is added to ``STORES`` meets the whole contract."""

from pathlib import Path

import pytest

from support.record_stores import STORES, Reopenable


@pytest.fixture(params=STORES)
def reopenable(request: pytest.FixtureRequest, tmp_path: Path) -> Reopenable:
    """A store that a test opens, closes and opens again."""
    return STORES[request.param](tmp_path)


@pytest.fixture
async def store(reopenable: Reopenable):
    """An open, empty store."""
    async with reopenable.open() as opened:
        yield opened
