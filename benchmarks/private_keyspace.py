"""A keyspace of the benchmark's own on a Cassandra that runs: made before the run, dropped after it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from transfer_engine.engine.records import cassandra_cluster, cassandra_schema
from transfer_engine.engine.settings import CassandraSettings

PREFIX: Final = "benchmark_"
"""What the name of a keyspace of a run's own begins with."""
_DROP_S: Final = 60.0


@contextmanager
def private_keyspace(settings: CassandraSettings) -> Iterator[str]:
    """Make a keyspace with the engine's tables, yield its name, and drop it.

    Raises:
        RecordsUnavailable: the cluster does not answer.
        RecordsMisconfigured: the server refuses us, or a setting is wrong.
    """
    name = f"{PREFIX}{time.time_ns()}"
    cassandra_schema.apply(settings.model_copy(update={"keyspace": name}), lambda _: None)
    try:
        yield name
    finally:
        driver = cassandra_cluster.connect(settings)
        try:
            driver.execute(f"DROP KEYSPACE {name}", timeout=_DROP_S)
        finally:
            cassandra_cluster.shut_down(driver)
