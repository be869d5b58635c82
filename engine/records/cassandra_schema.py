"""The record store's schema in Cassandra: what to send, what a keyspace has, and how to bring it up to date."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Final

from cassandra.cluster import Session

from transfer_engine.engine.records import cassandra_cluster
from transfer_engine.engine.records.cassandra_errors import SCHEMA_APPLY, translate
from transfer_engine.engine.records.cassandra_statements import COMPONENT
from transfer_engine.engine.records.protocol import RecordsMisconfigured
from transfer_engine.engine.settings import CassandraSettings

DEFAULT_DATA_CENTRE: Final = "datacenter1"
"""What a server calls its data centre unless it is told otherwise."""

_SECTION: Final = re.compile(r"^-- Version (\d+)$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*--.*$", re.MULTILINE)


@cache
def _sections() -> Mapping[int, str]:
    text = resources.files("transfer_engine.schema").joinpath("records.cql").read_text(encoding="utf-8")
    _, *parts = _SECTION.split(text)
    return {int(version): section for version, section in zip(parts[::2], parts[1::2], strict=True)}


def newest_version() -> int:
    """Return the version of the schema that this release needs."""
    return max(_sections())


def oldest_version() -> int:
    """Return the version of the schema that a keyspace must have to be brought up to date; none at all is fine, too."""
    return min(_sections())


def replication(factors: Mapping[str, int]) -> str:
    """Return the CQL of a replication with so many replicas in each data centre."""
    options = "".join(f", '{data_centre}': {factor}" for data_centre, factor in factors.items())
    return f"{{'class': 'NetworkTopologyStrategy'{options}}}"


def statements(settings: CassandraSettings, *, after_version: int = 0, data_centres: tuple[str, ...] = ()) -> list[str]:
    """Return the statements that make the schema of the settings' keyspace, or bring it up from a version.

    Each may be sent again. ``data_centres`` defaults to the settings' local one.
    """
    centres = data_centres or (settings.local_data_centre or DEFAULT_DATA_CENTRE,)
    substituted = {
        "{keyspace}": settings.keyspace,
        "{replication}": replication(dict.fromkeys(centres, settings.replication_factor)),
    }
    found = []
    for version, section in sorted(_sections().items()):
        if version <= after_version:
            continue
        for statement in _COMMENT.sub("", section).split(";"):
            if text := statement.strip():
                for name, value in substituted.items():
                    text = text.replace(name, value)
                found.append(text)
        found.append(
            f"INSERT INTO {settings.keyspace}.schema_version (component, version) "  # noqa: S608
            f"VALUES ('{COMPONENT}', {version})"
        )
    return found


def _has_keyspace(driver: Session, keyspace: str) -> bool:
    found = driver.execute("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = %s", (keyspace,))
    return bool(list(found))


def read_version(driver: Session, keyspace: str) -> int:
    """Return the version of a keyspace's schema; 0 where it has none, or where there is no keyspace. Blocks."""
    tables = driver.execute(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s AND table_name = 'schema_version'",
        (keyspace,),
    )
    if not list(tables):
        return 0
    rows = driver.execute(
        f"SELECT version FROM {keyspace}.schema_version WHERE component = %s",  # noqa: S608  the settings check it
        (COMPONENT,),
    )
    return max((version for (version,) in rows), default=0)


def check_schema(driver: Session, settings: CassandraSettings) -> None:
    """Check that the keyspace has the schema of this release; blocks.

    Raises:
        RecordsMisconfigured: it is missing, older or newer; the message names the command that mends it.
    """
    if not _has_keyspace(driver, settings.keyspace):
        raise RecordsMisconfigured(
            f"the cluster has no keyspace {settings.keyspace} (cassandra.keyspace): `{SCHEMA_APPLY}` makes it"
        )
    version, needed = read_version(driver, settings.keyspace), newest_version()
    _check_is_kept(settings.keyspace, version)
    if version < needed:
        raise RecordsMisconfigured(
            f"keyspace {settings.keyspace} has schema version {version or 'none'}, this release needs {needed}: "
            f"`{SCHEMA_APPLY}` brings it up to date"
        )
    if version > needed:
        raise RecordsMisconfigured(
            f"keyspace {settings.keyspace} has schema version {version}, of a later release; this one knows {needed}: "
            "run that release, or name another cassandra.keyspace"
        )


def _check_is_kept(keyspace: str, version: int) -> None:
    if 0 < version < oldest_version():
        raise RecordsMisconfigured(
            f"keyspace {keyspace} has schema version {version}, whose tables this release can't bring up to date: name "
            "another cassandra.keyspace, and make its rows from the ledger (`transfer-engine rebuild --write`)"
        )


def apply(settings: CassandraSettings, tell: Callable[[str], None]) -> None:
    """Make the keyspace and its tables, or bring them up to date; blocks. Again it changes nothing.

    Args:
        settings: the cluster, the keyspace, and its replication if it is made now.
        tell: told what is done, in lines.

    Raises:
        RecordsUnavailable: the cluster does not answer, or stopped to; what was done stays, run it again.
        RecordsMisconfigured: the server refuses us, a setting is wrong, or the keyspace is of a later release.
    """
    driver = cassandra_cluster.connect(settings)
    try:
        _apply(driver, settings, tell)
    except RecordsMisconfigured:
        raise
    except Exception as error:
        raise translate(error, settings) from error
    finally:
        cassandra_cluster.shut_down(driver)


def _apply(driver: Session, settings: CassandraSettings, tell: Callable[[str], None]) -> None:
    nodes = Counter(host.datacenter for host in driver.cluster.metadata.all_hosts())
    keyspace, needed = settings.keyspace, newest_version()
    is_new = not _has_keyspace(driver, keyspace)
    if is_new:
        _check_replicas(nodes, settings)
    version = read_version(driver, keyspace)
    _check_is_kept(keyspace, version)
    if version > needed:
        raise RecordsMisconfigured(
            f"keyspace {keyspace} has schema version {version}, of a later release; this one knows {needed}"
        )
    if version == needed:
        tell(f"keyspace {keyspace}: schema version {version}, nothing to do")
        return
    for statement in statements(settings, after_version=version, data_centres=tuple(sorted(nodes))):
        driver.execute(statement, timeout=max(settings.connect_timeout_ms / 1000, 30.0))
    if is_new:
        tell(f"keyspace {keyspace}: made, {settings.replication_factor} replicas in {', '.join(sorted(nodes))}")
    tell(f"keyspace {keyspace}: schema version {needed} applied")


def _check_replicas(nodes: Mapping[str, int], settings: CassandraSettings) -> None:
    for data_centre, count in sorted(nodes.items()):
        if count < settings.replication_factor:
            raise RecordsMisconfigured(
                f"cassandra.replication_factor is {settings.replication_factor}, and data centre {data_centre} has "
                f"nodes: {count}. Start the others first, or say --replication-factor {count}"
            )
