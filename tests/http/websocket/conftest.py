import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from support.engines import in_a_loop


@pytest.fixture
def jumping_clock(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Run the test in a loop whose clock jumps; faults happen on purpose there, and are not logged."""
    caplog.set_level(logging.CRITICAL + 1, logger="transfer_engine.actors")
    with structlog.testing.capture_logs() as logged:
        yield
    sys.stdout.writelines(f"{entry}\n" for entry in logged[-20:])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "jumping_clock" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.trio(run=in_a_loop), append=False)
