from pathlib import Path

import pytest
import trio

from support.killing import Lives


@pytest.fixture(scope="session")
def funded(tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """Everybody's money, given once: copied by those that go on with it."""
    return trio.run(Lives.funded, tmp_path_factory.mktemp("funded"))


@pytest.fixture
def lives(funded: Lives, tmp_path: Path) -> Lives:
    """Lives that may be lived and lost."""
    return funded.copy(tmp_path)
