from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cassandra_server import CassandraMissing, CassandraServer, shared_cassandra
from support.production import Pair, running_pair
from support.tigerbeetle_server import find_binary


@pytest.fixture(scope="session")
def binary() -> str:
    """The path of TigerBeetle."""
    found = find_binary()
    if found is None:
        pytest.skip("NOT TESTED against real servers: set TIGERBEETLE_BINARY, or put `tigerbeetle` on the PATH")
    return found


@pytest.fixture
def cassandra(binary: str) -> CassandraServer:
    """The session's Cassandra, running whatever the last test did to it; only started where there is a TigerBeetle."""
    try:
        return shared_cassandra()
    except CassandraMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def pair(binary: str, cassandra: CassandraServer, tmp_path: Path) -> Iterator[Pair]:
    """An empty TigerBeetle, and an empty keyspace."""
    with running_pair(binary, cassandra, tmp_path) as found:
        yield found
