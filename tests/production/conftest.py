from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cassandra_server import CassandraMissing, CassandraServer, find_jars, running_cassandra
from support.production import Pair, running_pair
from support.tigerbeetle_server import find_binary


@pytest.fixture(scope="session")
def binary() -> str:
    """The path of TigerBeetle."""
    found = find_binary()
    if found is None:
        pytest.skip("no real TigerBeetle: set TIGERBEETLE_BINARY, or put `tigerbeetle` on the PATH")
    return found


@pytest.fixture(scope="session")
def one_cassandra(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CassandraServer]:
    """The session's Cassandra. It is only started where there is a TigerBeetle, too."""
    try:
        jars = find_jars()
    except CassandraMissing as missing:
        pytest.skip(f"no real Cassandra: {missing}")
    with running_cassandra(jars, tmp_path_factory.mktemp("cassandra")) as server:
        yield server


@pytest.fixture
def cassandra(one_cassandra: CassandraServer) -> CassandraServer:
    """The session's Cassandra, running whatever the last test did to it."""
    if not one_cassandra.running:
        one_cassandra.start()
    one_cassandra.resume()
    one_cassandra.wait_until_ready()
    return one_cassandra


@pytest.fixture
def pair(binary: str, cassandra: CassandraServer, tmp_path: Path) -> Iterator[Pair]:
    """An empty TigerBeetle, and an empty keyspace."""
    with running_pair(binary, cassandra, tmp_path) as found:
        yield found
