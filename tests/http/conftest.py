from collections.abc import Iterator

import pytest

from support.server import Server, running_server

CORES = [
    {"name": "funding", "code": 2},
    {"name": "trading", "code": 3, "aliases": ["spot"]},
    {"name": "core", "code": 10, "kind": "simulated_core"},
    {"name": "vault", "code": 11, "kind": "simulated_core", "freezes": False},
]

CONFIG = {
    "services": CORES,
    "deadline_ms": 500,
    "service_timeout_ms": 300,
    "scan_interval_ms": 50,
    "stale_after_ms": 50,
    "alert_retries": 1_000,
}


DOORS = ("main", "express")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for a module's tests: each takes users of its own."""
    with running_server(tmp_path_factory.mktemp("server"), config=CONFIG) as running:
        yield running
        assert running.faults == []
        assert running.stop() == 0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for a module's tests that run at both its doors."""
    with running_server(tmp_path_factory.mktemp("server"), config=CONFIG) as running:
        yield running
        assert running.faults == []
        assert running.stop() == 0


@pytest.fixture(scope="module", params=DOORS)
def door(served: Server, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server by one of its doors; modules that run at both override `server` with it."""
    through = served.through(request.param)
    yield through
    if through is not served:
        through.client.close()
