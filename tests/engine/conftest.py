from collections.abc import Iterator

import pytest
import structlog

from support.engines import World


@pytest.fixture
async def world(autojump_clock) -> World:  # type: ignore[no-untyped-def]
    """Backends, with 1,000 of asset 1 for users 1, 2 and 3 in `funding` and in both cores."""
    made = World()
    await made.fund(1, 2, 3)
    return made


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Faults are logged with their tracebacks; here they happen on purpose, by the thousand."""
    caplog.set_level(1_000, logger="transfer_engine.actors")
    with structlog.testing.capture_logs():
        yield
