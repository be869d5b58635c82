"""The production pair for tests: a small TigerBeetle of the test's own, and a keyspace of its own in one Cassandra."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import trio

from support.cassandra_server import CassandraServer
from support.tigerbeetle_server import Cluster, running_cluster
from transfer_engine.engine.records.cassandra_schema import apply
from transfer_engine.engine.settings import CassandraSettings

READER_TIMEOUT_MS = 30_000
"""Who reads the books at the end has time."""

_keyspaces = count()


class Pair:
    """What the engines of one test run on."""

    def __init__(self, cluster: Cluster, cassandra: CassandraServer, keyspace: str) -> None:
        self.cluster = cluster
        self.cassandra = cassandra
        self.keyspace = keyspace

    def __repr__(self) -> str:
        return f"<Pair {self.cluster!r} {self.cassandra!r} {self.keyspace}>"

    def backends(
        self,
        *,
        timeout_ms: int = READER_TIMEOUT_MS,
        tigerbeetle: str | None = None,
        cassandra: str | None = None,
    ) -> dict[str, Any]:
        """Return the settings of an engine on this pair; other addresses are those of proxies."""
        return {
            "ledger": "tigerbeetle",
            "tigerbeetle": {
                "cluster_id": self.cluster.cluster_id,
                "addresses": (tigerbeetle or self.cluster.addresses).split(","),
                "timeout_ms": timeout_ms,
            },
            "records": "cassandra",
            "cassandra": {
                "contact_points": [cassandra or self.cassandra.address],
                "keyspace": self.keyspace,
                "replication_factor": 1,
                "timeout_ms": timeout_ms,
            },
        }

    async def kill_cassandra(self) -> None:
        """End it by `kill -9`; its tables outlive that, as they would on a server that is not in a hurry."""
        await trio.to_thread.run_sync(self.cassandra.keep_schema)
        self.cassandra.kill()

    async def cassandra_returns(self) -> None:
        """Start Cassandra again, and wait until it takes connections."""
        await trio.to_thread.run_sync(self.cassandra.restart)

    async def tigerbeetle_returns(self) -> None:
        """Start those replicas again that do not run, and wait until they take connections."""
        await trio.to_thread.run_sync(self.cluster.start)


@contextmanager
def running_pair(
    binary: str, cassandra: CassandraServer, directory: Path, *, replica_count: int = 1, schema: bool = True
) -> Iterator[Pair]:
    """Run an empty TigerBeetle and make a keyspace, unless ``schema`` says not to."""
    keyspace = f"trading_{next(_keyspaces)}"
    with running_cluster(binary, directory, replica_count=replica_count, cluster_id=1001) as cluster:
        pair = Pair(cluster, cassandra, keyspace)
        if schema:
            apply(CassandraSettings.model_validate(pair.backends()["cassandra"]), lambda _: None)
        yield pair


def free_port() -> int:
    """Return a port of the loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
