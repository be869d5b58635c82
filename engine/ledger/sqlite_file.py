"""The embedded ledger's SQLite file: opened, told from other files, its faults named. Its rows are ``storage``'s."""

import sqlite3
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Final

from transfer_engine.engine.ledger.protocol import LedgerDamaged, LedgerUnavailable

SCHEMA_VERSION: Final = 3
APPLICATION_ID: Final = 0x54_45_4C_31  # "TEL1": tells our file from any other SQLite file
SQLITE_VERSION_MIN: Final = (3, 35, 0)

WRITER_CACHE_KIB: Final = 65_536
READER_CACHE_KIB: Final = 8_192
LOG_PAGES_MAX: Final = 65_536
"""Pages (of 4 KiB) in the write-ahead log until a commit has to copy them; see ``checkpoints``."""
BUSY_TIMEOUT_S: Final = 5.0
"""How long a batch waits for a checkpoint's last part, or for somebody who should not be there."""

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})


def translate(error: sqlite3.Error, path: Path) -> LedgerDamaged | LedgerUnavailable:
    """Return the ledger's own exception for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _DAMAGE:
        return LedgerDamaged(f"{path}: the ledger's file is damaged ({error}); restore it from a backup")
    return LedgerUnavailable(f"{path}: {error}")


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open a connection with the ledger's settings; any thread may use it, one at a time."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=BUSY_TIMEOUT_S
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB if read_only else WRITER_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES_MAX}")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def open_file(path: Path) -> sqlite3.Connection:
    """Open the writer's connection; make the file if there is none, or an empty one.

    Raises :class:`LedgerDamaged` if the file is not a readable ledger of this version, which is then left as it is,
    and :class:`LedgerUnavailable` if it can't be opened or written.
    """
    if sqlite3.sqlite_version_info < SQLITE_VERSION_MIN:
        needed = ".".join(map(str, SQLITE_VERSION_MIN))
        raise LedgerUnavailable(f"SQLite {sqlite3.sqlite_version} is too old; {needed} is needed")
    try:
        # Looked at before any setting, because a setting would already write to somebody else's file.
        with closing(sqlite3.connect(path, isolation_level=None)) as looking:
            _require_ours(looking, path)
        connection = connect(path, read_only=False)
        try:
            if _is_empty(connection):
                _create(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise translate(error, path) from error
    return connection


def _is_empty(connection: sqlite3.Connection) -> bool:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return not tables


def _create(connection: sqlite3.Connection) -> None:
    schema = resources.files("transfer_engine.schema").joinpath("ledger.sql").read_text("utf-8")
    connection.executescript(
        f"BEGIN IMMEDIATE; {schema}; PRAGMA application_id = {APPLICATION_ID}; "
        f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    )


def _require_ours(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if _is_empty(connection) and not version:
        return
    if application_id != APPLICATION_ID:
        raise LedgerDamaged(f"{path}: this SQLite file is not a ledger; choose another path")
    if version != SCHEMA_VERSION:
        raise LedgerDamaged(
            f"{path}: the ledger's schema is version {version}, this program knows {SCHEMA_VERSION}; "
            "use the program that wrote it"
        )
