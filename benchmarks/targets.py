"""What a benchmark runs against: the engine's settings from options, environment and file, and its servers."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from transfer_engine.benchmarks.private_keyspace import private_keyspace
from transfer_engine.benchmarks.private_tigerbeetle import CLUSTER_ID, find_binary, private_tigerbeetle
from transfer_engine.engine import Settings
from transfer_engine.engine.backends import DataDirUnusable
from transfer_engine.engine.ledger.protocol import LedgerDamaged, LedgerUnavailable
from transfer_engine.engine.records.protocol import RecordsDamaged, RecordsMisconfigured, RecordsUnavailable
from transfer_engine.engine.settings import CassandraSettings, TigerBeetleSettings
from transfer_engine.http.configuration_file import ConfigurationError
from transfer_engine.http.settings import CONFIG_VARIABLE, load_settings

Command = TypeVar("Command", bound=Callable[..., Any])

DEADLINE_MS: Final = 60_000
"""The engine's own deadline in these runs: what is measured is the outcome, not how long callers wait."""

UNUSABLE: Final = (
    DataDirUnusable,
    LedgerUnavailable,
    LedgerDamaged,
    RecordsUnavailable,
    RecordsMisconfigured,
    RecordsDamaged,
)
"""What a backend may raise that is no fault of the engine's: a message says what to mend."""

_OPTIONS: Final = (
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar=CONFIG_VARIABLE,
        help="A YAML file of settings, as the server's; TRANSFER_ENGINE_… variables and options beat it.",
    ),
    click.option("--ledger", type=click.Choice(["embedded", "tigerbeetle"]), help="Where the money is.  [embedded]"),
    click.option("--records", type=click.Choice(["sqlite", "cassandra"]), help="Where rows and intents are.  [sqlite]"),
    click.option(
        "--tigerbeetle-address",
        multiple=True,
        metavar="HOST:PORT",
        help="A replica of a cluster that runs; once for each. Without it a private one is started, where it can be.",
    ),
    click.option("--cluster-id", type=click.IntRange(min=0), help="Of that cluster.  [0]"),
    click.option("--contact-point", multiple=True, metavar="HOST[:PORT]", help="Of a Cassandra that runs."),
    click.option(
        "--server-pid", multiple=True, type=click.IntRange(min=1), help="Count this process's CPU as a server's."
    ),
    click.option("--keyspace", help="Of that Cassandra, with its schema. Without it the run makes and drops its own."),
)


class Target(msgspec.Struct, frozen=True):
    """What is measured: settings to open an engine with, and the processes of its servers, as far as they are known."""

    settings: Settings
    servers: tuple[int, ...]

    @property
    def name(self) -> str:
        """Ledger + records, by their names."""
        return f"{self.settings.ledger} + {self.settings.records}"


def target_options(command: Command) -> Command:
    """Give a command the options that say what it runs against; they come as ``config`` and ``target``'s keywords."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextmanager
def target(
    *,
    config: Path | None = None,
    ledger: str | None = None,
    records: str | None = None,
    tigerbeetle_address: tuple[str, ...] = (),
    cluster_id: int | None = None,
    contact_point: tuple[str, ...] = (),
    keyspace: str | None = None,
    server_pid: tuple[int, ...] = (),
) -> Iterator[Target]:
    """Read the settings; where they name no data directory, cluster or keyspace, bring ones of the run's own.

    Raises:
        click.ClickException: the settings can't be used, or a server does not answer.
    """
    flags: dict[str, Any] = {
        "ledger": ledger,
        "records": records,
        "tigerbeetle": _given(addresses=tigerbeetle_address or None, cluster_id=cluster_id),
        "cassandra": _given(contact_points=contact_point or None, keyspace=keyspace),
    }
    try:
        given = load_settings(config, {name: value for name, value in flags.items() if value})
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    settings = Settings.model_validate({name: getattr(given, name) for name in Settings.model_fields})
    changes: dict[str, Any] = {}
    with ExitStack() as stack:
        servers = server_pid
        if "deadline_ms" not in given.model_fields_set:
            changes["deadline_ms"] = DEADLINE_MS
        if "data_dir" not in given.model_fields_set:
            changes["data_dir"] = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-data-")))
        try:
            if settings.ledger == "tigerbeetle" and "addresses" not in given.tigerbeetle.model_fields_set:
                changes["tigerbeetle"], servers = _own_cluster(stack, settings.tigerbeetle, servers)
            if settings.records == "cassandra" and "keyspace" not in given.cassandra.model_fields_set:
                changes["cassandra"] = _own_keyspace(stack, settings.cassandra)
        except (*UNUSABLE, RuntimeError) as error:
            raise click.ClickException(str(error)) from None
        yield Target(settings=settings.model_copy(update=changes), servers=servers)


def _own_cluster(
    stack: ExitStack, settings: TigerBeetleSettings, servers: tuple[int, ...]
) -> tuple[TigerBeetleSettings, tuple[int, ...]]:
    """Start a private TigerBeetle if this machine has one; without it the default address is tried."""
    binary = find_binary()
    if binary is None:
        return settings, servers
    server = stack.enter_context(private_tigerbeetle(binary))
    own = {"addresses": (server.address,), "cluster_id": CLUSTER_ID}
    return settings.model_copy(update=own), (*servers, server.pid)


def _own_keyspace(stack: ExitStack, settings: CassandraSettings) -> CassandraSettings:
    """Make a keyspace for this run: with one replica, unless the settings say how many."""
    if "replication_factor" not in settings.model_fields_set:
        settings = settings.model_copy(update={"replication_factor": 1})
    return settings.model_copy(update={"keyspace": stack.enter_context(private_keyspace(settings))})


def _given(**values: object) -> Mapping[str, object]:
    return {name: value for name, value in values.items() if value is not None}
