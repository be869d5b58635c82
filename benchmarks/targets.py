"""What a benchmark runs against: the engine's settings from options, environment and file, and its servers."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from transfer_engine.benchmarks.private_tigerbeetle import CLUSTER_ID, find_binary, private_tigerbeetle
from transfer_engine.engine import Settings
from transfer_engine.http.configuration_file import ConfigurationError
from transfer_engine.http.settings import CONFIG_VARIABLE, load_settings

Command = TypeVar("Command", bound=Callable[..., Any])

DEADLINE_MS: Final = 60_000
"""The engine's own deadline in these runs: what is measured is the outcome, not how long callers wait."""

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
    click.option("--keyspace", help="Of that Cassandra; the schema must be there.  [trading]"),
)


class Target(msgspec.Struct, frozen=True):
    """What is measured: settings to open an engine with, and the processes of the servers that were started for it."""

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
) -> Iterator[Target]:
    """Read the settings, start a private TigerBeetle if none is named, and take a folder for data if none is named.

    Raises:
        click.ClickException: the settings can't be used, or the private server did not start.
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
        servers: tuple[int, ...] = ()
        if "deadline_ms" not in given.model_fields_set:
            changes["deadline_ms"] = DEADLINE_MS
        if "data_dir" not in given.model_fields_set:
            changes["data_dir"] = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-data-")))
        binary = find_binary()
        is_named = "addresses" in given.tigerbeetle.model_fields_set
        if settings.ledger == "tigerbeetle" and not is_named and binary is not None:
            try:
                server = stack.enter_context(private_tigerbeetle(binary))
            except RuntimeError as error:
                raise click.ClickException(str(error)) from None
            own = {"addresses": (server.address,), "cluster_id": CLUSTER_ID}
            changes["tigerbeetle"] = settings.tigerbeetle.model_copy(update=own)
            servers = (server.pid,)
        yield Target(settings=settings.model_copy(update=changes), servers=servers)


def _given(**values: object) -> Mapping[str, object]:
    return {name: value for name, value in values.items() if value is not None}
