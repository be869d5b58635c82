"""Every ledger that must keep the contract, behind one fixture."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from support.inline_ledger import InlineLedger
from support.ledger_books import Books
from support.tigerbeetle_server import Cluster, find_binary, running_cluster, running_server
from transfer_engine.engine.ledger.embedded import open_embedded_ledger
from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.ledger.tigerbeetle_client import TigerBeetleLedger, open_tigerbeetle_ledger


@dataclass
class Backend:
    """A ledger, another way to the same one, and a way to let seconds go by."""

    ledger: Ledger
    other_session: Ledger
    pass_time: Callable[[float], Awaitable[None]]


@pytest.fixture(scope="session")
def tigerbeetle_binary() -> str:
    binary = find_binary()
    if binary is None:
        pytest.skip("NOT TESTED against a real TigerBeetle: put `tigerbeetle` on PATH or set TIGERBEETLE_BINARY")
    return binary


@pytest.fixture(scope="session")
def tigerbeetle_address(tigerbeetle_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tigerbeetle_binary, tmp_path_factory.mktemp("tigerbeetle")) as address:
        yield address


@pytest.fixture(scope="module")
def _one_replica(tigerbeetle_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tigerbeetle_binary, tmp_path_factory.mktemp("tigerbeetle")) as cluster:
        yield cluster


@pytest.fixture
def tigerbeetle_cluster(_one_replica: Cluster) -> Iterator[Cluster]:
    """One replica that a test may pause and kill; the next one finds it running again."""
    yield _one_replica
    [replica] = _one_replica.replicas
    if replica.running:
        replica.resume()
    else:
        replica.start()


@asynccontextmanager
async def _embedded(path: Path) -> AsyncIterator[Backend]:
    offset_ns = 0

    async def pass_time(seconds: float) -> None:
        nonlocal offset_ns
        await trio.lowlevel.checkpoint()
        offset_ns += int(seconds * 1e9)

    async with open_embedded_ledger(path, clock_ns=lambda: time.time_ns() + offset_ns) as ledger:
        yield Backend(ledger, ledger, pass_time)


@asynccontextmanager
async def _inline() -> AsyncIterator[Backend]:
    offset_ns = 0

    async def pass_time(seconds: float) -> None:
        nonlocal offset_ns
        await trio.lowlevel.checkpoint()
        offset_ns += int(seconds * 1e9)

    ledger = InlineLedger(lambda: time.time_ns() + offset_ns)
    yield Backend(ledger, ledger, pass_time)


@asynccontextmanager
async def _tigerbeetle(address: str) -> AsyncIterator[Backend]:
    async def pass_time(seconds: float) -> None:
        # The server has its own clock, and looks for expired holds now and then.
        await trio.sleep(seconds + 1)

    async with _tigerbeetle_session(address) as ledger, _tigerbeetle_session(address) as other:
        yield Backend(ledger, other, pass_time)


def _tigerbeetle_session(address: str) -> AbstractAsyncContextManager[TigerBeetleLedger]:
    return open_tigerbeetle_ledger(cluster_id=0, addresses=[address], timeout_ms=30_000)


@pytest.fixture(params=["embedded", "inline", "tigerbeetle"])
def open_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], object]:
    if request.param == "embedded":
        return lambda: _embedded(tmp_path / "ledger.sqlite")
    if request.param == "inline":
        return _inline
    address = request.getfixturevalue("tigerbeetle_address")
    return lambda: _tigerbeetle(address)


@pytest.fixture
async def backend(open_backend) -> AsyncIterator[Backend]:
    async with open_backend() as made:
        yield made


@pytest.fixture
def ledger(backend: Backend) -> Ledger:
    return backend.ledger


@pytest.fixture
def books(backend: Backend) -> Books:
    return Books(backend.ledger)
