"""Copies the write-ahead log into the ledger's file beside the writer, so that no batch waits for all of it.

SQLite alone would copy the log inside some commit, and that batch would wait for 30 MB and more. Here a thread with a
connection of its own copies what there is while the writer goes on, then keeps the writer out for the little that came
meanwhile, after which the log starts anew. If that fails, the log grows until SQLite's own limit makes a commit do it.
"""

import sqlite3
import threading
from pathlib import Path
from typing import Final

from transfer_engine.engine.ledger import sqlite_file

PAGES_BETWEEN: Final = 4096
"""About this many pages (of 4 KiB) are written between two checkpoints: more are copied at once, fewer are saved."""

_PAGES_A_BATCH: Final = 8
_PAGES_AN_EVENT: Final = 0.5


class Checkpoints:
    """Starts a checkpoint now and then; at most one runs. Used by the writer's thread only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pages = 0.0
        self._running: threading.Thread | None = None

    def after_commit(self, events: int) -> None:
        """Note that a batch of so many events was written, and start a checkpoint if one is due. Does not wait."""
        self._pages += _PAGES_A_BATCH + events * _PAGES_AN_EVENT
        if self._pages >= PAGES_BETWEEN and (self._running is None or not self._running.is_alive()):
            self._pages = 0.0
            self._running = threading.Thread(target=self._run, name="ledger checkpoint", daemon=True)
            self._running.start()

    def wait(self) -> None:
        """Wait for the checkpoint under way, if there is one."""
        if self._running is not None:
            self._running.join()
            self._running = None

    def _run(self) -> None:
        try:
            connection = sqlite_file.connect(self._path, read_only=False)
            try:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            finally:
                connection.close()
        except sqlite3.Error:
            # Nothing is lost, the log has it all; what is wrong with the file, the writer meets and reports.
            return
