"""The record store's file: opens it, makes or checks its tables, and translates SQLite's errors.

Synchronous. What is in the tables is ``sqlite_rows``' matter, when and in which thread ``sqlite``'s.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Final

from transfer_engine.engine.records.protocol import RecordsDamaged, RecordsUnavailable

SCHEMA_VERSION: Final = 5
"""``user_version`` of ``schema/records.sql``."""

APPLICATION_ID: Final = 0x58464552
"""``application_id`` of ``schema/records.sql``: tells our file from any other SQLite file."""

BUSY_TIMEOUT_S: Final = 2.0
"""How long a statement waits for another process that holds the file, before RecordsUnavailable."""

WRITER_CACHE_KIB: Final = 64 * 1024
"""Pages kept by the writer: the tails of the trees, and the index of a few million random identifiers."""

READER_CACHE_KIB: Final = 16 * 1024

CHECKPOINT_PAGES: Final = 2_000
"""WAL pages (4 KiB) after which a commit also checkpoints: a page that many commits change is copied home once.

A larger WAL hardly saves copies, for most pages are of one commit only, and makes the commit that copies them slower
(some 10 ms at 2,000 pages).
"""

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_RESTORE: Final = "restore it from a backup, or move it away to begin with an empty one"


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into the record store's own, with the file's name.

    Raises:
        RecordsDamaged: the file's contents can't be read.
        RecordsUnavailable: anything else that SQLite could not do: disk full, busy, not writable.
        ValueError: a number does not fit a column.
    """
    try:
        yield
    except OverflowError as error:
        raise ValueError("user_id, asset_id, amount, times and buckets must be less than 2^63") from error
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _DAMAGE:
            raise RecordsDamaged(f"{path} is damaged ({error}): {_RESTORE}") from error
        if code == sqlite3.SQLITE_ERROR:  # "no such table" and its like: our statements fit our tables only
            raise RecordsDamaged(f"{path} lacks what schema {SCHEMA_VERSION} has ({error}): {_RESTORE}") from error
        raise RecordsUnavailable(f"{path}: {error}") from error


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open the file for writing, made if it does not exist, with every commit durable (WAL, ``synchronous=FULL``).

    Raises:
        RecordsDamaged: the file can't be read, is another application's, or of another version of the schema.
        RecordsUnavailable: the file can't be opened.
    """
    with translated_errors(path):
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size and not (path.exists() and path.stat().st_size):
            # SQLite would drop the WAL and begin anew; what was acknowledged may be in the WAL alone.
            raise RecordsDamaged(f"{path} is missing, but its {wal.name} is not empty: {_RESTORE}, with {wal.name}")
        connection = _connect(path, WRITER_CACHE_KIB)
        try:
            connection.execute("PRAGMA page_size = 4096")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # macOS: a plain fsync does not reach the disk
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            # Some builds overwrite what is deleted, which writes every settled page of the journal once more.
            connection.execute("PRAGMA secure_delete = OFF")
            _make_or_check_tables(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open the file for reading beside the writer: neither waits for the other.

    Raises:
        RecordsDamaged, RecordsUnavailable: as :func:`connect_writer`.
    """
    with translated_errors(path):
        connection = _connect(path, READER_CACHE_KIB)
        connection.execute("PRAGMA query_only = ON")
        return connection


def _connect(path: Path, cache_kib: int) -> sqlite3.Connection:
    # Any worker thread may use the connection, one at a time; transactions are begun by hand.
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.execute(f"PRAGMA cache_size = -{cache_kib}")
    return connection


def _make_or_check_tables(connection: sqlite3.Connection, path: Path) -> None:
    with transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if (version, application_id, tables) == (0, 0, 0):
            for statement in _statements(files("transfer_engine.schema").joinpath("records.sql").read_text()):
                connection.execute(statement)
            return
    if application_id != APPLICATION_ID:
        raise RecordsDamaged(f"{path} is not a record store, but another application's database: name another file")
    if version != SCHEMA_VERSION:
        raise RecordsDamaged(
            f"{path} has schema {version}, and this engine knows {SCHEMA_VERSION}: run the engine that wrote it"
        )


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script (``executescript`` would commit before the first)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the body wrote, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends it by itself after some errors
            connection.execute("ROLLBACK")
        raise
