import sys
from collections.abc import Iterator

import pytest
import structlog

from support.engines import World, in_a_loop


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run every test that has a world on trio's autojump clock, as if it had asked for that, too."""
    for item in items:
        if "world" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.trio(run=in_a_loop), append=False)


@pytest.fixture
async def world() -> World:
    """Backends, with 1,000 of asset 1 for users 1, 2 and 3 in `funding` and in both cores."""
    made = World()
    await made.fund(1, 2, 3)
    return made


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Faults are logged with their tracebacks; here they happen on purpose, by the thousand."""
    caplog.set_level(1_000, logger="transfer_engine.actors")
    with structlog.testing.capture_logs() as logged:
        yield
    sys.stdout.writelines(f"{entry}\n" for entry in logged[-20:])
