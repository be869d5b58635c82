"""Where a run's books are: the settings that were given, and what a run brings itself where they name nothing.

Each bench has books of its own: a folder for files, a TigerBeetle on a free loopback port where there is a binary, a
keyspace on the Cassandra that is named. All of it is taken away again.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from transfer_engine.benchmarks.listening import ledger_pid, records_pid
from transfer_engine.benchmarks.plan import SLOW_CORE, SLOW_CORE_CODE, Backends, Traffic
from transfer_engine.benchmarks.private_keyspace import private_keyspace
from transfer_engine.benchmarks.private_tigerbeetle import (
    CLUSTER_ID,
    PrivateTigerBeetle,
    find_binary,
    private_tigerbeetle,
)
from transfer_engine.engine import Settings
from transfer_engine.engine.backends import DataDirUnusable
from transfer_engine.engine.ledger.protocol import LedgerDamaged, LedgerUnavailable
from transfer_engine.engine.records.protocol import RecordsDamaged, RecordsMisconfigured, RecordsUnavailable
from transfer_engine.engine.settings import CassandraSettings, ServiceSettings
from transfer_engine.http.settings import ServerSettings

UNUSABLE: Final = (
    DataDirUnusable,
    LedgerUnavailable,
    LedgerDamaged,
    RecordsUnavailable,
    RecordsMisconfigured,
    RecordsDamaged,
    OSError,
    RuntimeError,
)
"""What a target may raise that is no fault of the engine's: a message says what to mend."""


class Sources(msgspec.Struct, frozen=True):
    """What was given: settings, processes of servers that run already, a token for a server that does."""

    settings: ServerSettings = ServerSettings()
    server_pids: tuple[int, ...] = ()
    """Processes of ledger and record servers whose CPU counts as theirs."""
    token: str | None = None

    @property
    def backends(self) -> Backends:
        """Where the money and the rows are."""
        return Backends(ledger=self.settings.ledger, records=self.settings.records)


class Ground(msgspec.Struct, frozen=True):
    """What one engine runs on, up and empty where it is the run's own."""

    settings: Settings
    """The engine's, complete: with the folder, the addresses and the keyspace."""
    servers: tuple[int, ...]
    """Processes of ledger and record servers, as far as they are known."""
    tigerbeetle: PrivateTigerBeetle | None = None
    """The run's own."""


@contextmanager
def open_ground(sources: Sources, traffic: Traffic) -> Iterator[Ground]:
    """Bring what the settings don't name, until the block is left.

    Raises:
        RuntimeError, RecordsUnavailable, RecordsMisconfigured: a server does not start, or does not answer.
    """
    given = sources.settings
    settings = Settings.model_validate({name: getattr(given, name) for name in Settings.model_fields})
    servers, tigerbeetle = sources.server_pids, None
    changes: dict[str, Any] = {}
    if traffic.slow and SLOW_CORE not in {service.name for service in settings.services}:
        core = ServiceSettings(name=SLOW_CORE, code=SLOW_CORE_CODE, kind="simulated_core")
        changes["services"] = (*settings.services, core)
    with ExitStack() as stack:
        if "data_dir" not in given.model_fields_set:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-data-"))
            changes["data_dir"] = Path(folder)
        binary = find_binary()
        if settings.ledger == "tigerbeetle" and "addresses" not in given.tigerbeetle.model_fields_set and binary:
            tigerbeetle = stack.enter_context(private_tigerbeetle(binary))
            servers = (*servers, tigerbeetle.pid)
            own = {"addresses": (tigerbeetle.address,), "cluster_id": CLUSTER_ID}
            changes["tigerbeetle"] = settings.tigerbeetle.model_copy(update=own)
        if settings.records == "cassandra" and "keyspace" not in given.cassandra.model_fields_set:
            changes["cassandra"] = _own_keyspace(stack, settings.cassandra)
        settings = settings.model_copy(update=changes)
        seen = (ledger_pid(settings), records_pid(settings))  # servers that run already, where they can be seen
        servers = tuple(dict.fromkeys((*servers, *(pid for pid in seen if pid is not None))))
        yield Ground(settings=settings, servers=servers, tigerbeetle=tigerbeetle)


def _own_keyspace(stack: ExitStack, settings: CassandraSettings) -> CassandraSettings:
    """Make a keyspace for this run: with one replica, unless the settings say how many."""
    if "replication_factor" not in settings.model_fields_set:
        settings = settings.model_copy(update={"replication_factor": 1})
    return settings.model_copy(update={"keyspace": stack.enter_context(private_keyspace(settings))})
