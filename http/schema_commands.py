"""The commands for the schema of the record store's cluster: `transfer-engine schema print` and `schema apply`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # the engine is loaded by the command that needs it
    from transfer_engine.engine.settings import CassandraSettings

_config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="TRANSFER_ENGINE_CONFIG",
    help="A YAML file of settings; TRANSFER_ENGINE_… variables beat it.",
)
_replication_factor = click.option(
    "--replication-factor",
    type=click.IntRange(1, 16),
    help="Replicas in each data centre, if the keyspace is made now; 1 suits a single node.  [3]",
)


@click.group()
def schema() -> None:
    """The tables of a Cassandra or ScyllaDB record store: look at them, make them, bring them up to date."""


@schema.command(name="print")
@_config
@_replication_factor
@click.option("--data-centre", "data_centres", multiple=True, help="A data centre with replicas; may be repeated.")
def print_schema(config: Path | None, replication_factor: int | None, data_centres: tuple[str, ...]) -> None:
    """Print the statements that make the schema, for cqlsh or a review. It needs no server."""
    settings = _load(config, replication_factor)
    from transfer_engine.engine.records.cassandra_schema import DEFAULT_DATA_CENTRE, statements  # noqa: PLC0415

    if not data_centres and settings.local_data_centre is None:
        click.echo(f"-- No data centre is said (--data-centre): {DEFAULT_DATA_CENTRE} is what servers call theirs.")
    for statement in statements(settings, data_centres=data_centres):
        click.echo(f"{statement};\n")


@schema.command(name="apply")
@_config
@_replication_factor
def apply_schema(config: Path | None, replication_factor: int | None) -> None:
    """Make the keyspace and its tables, or bring them up to date. Again it changes nothing.

    The keyspace gets replicas in every data centre that the cluster has.
    """
    settings = _load(config, replication_factor)
    from transfer_engine.engine.records.cassandra_schema import apply  # noqa: PLC0415
    from transfer_engine.engine.records.protocol import RecordsMisconfigured, RecordsUnavailable  # noqa: PLC0415

    try:
        apply(settings, click.echo)
    except (RecordsMisconfigured, RecordsUnavailable) as error:
        raise click.ClickException(str(error)) from None


def _load(config: Path | None, replication_factor: int | None) -> "CassandraSettings":
    from transfer_engine.http.configuration_file import ConfigurationError  # noqa: PLC0415
    from transfer_engine.http.settings import load_settings  # noqa: PLC0415

    try:
        settings = load_settings(config, {}).cassandra
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    if replication_factor is None:
        return settings
    return settings.model_copy(update={"replication_factor": replication_factor})
