"""What proves that a node's former owner is dead, so that nobody has to wait for its lease to be over.

The data directory is locked by the one process that uses it. So whoever left its token in there is gone; and where the
records themselves lie in there, so is everybody who ever claimed anything in them.
"""

import os
from pathlib import Path
from typing import Final, Protocol

import trio

from transfer_engine.engine.backends import DataDirUnusable

TOKENS_MOST: Final = 64
"""Tokens kept of lives that never knew whether they had their claim: one a start that was cut off."""


class FormerLives(Protocol):
    """Tells which owners of claims are certainly dead."""

    def is_dead(self, owner: str) -> bool:
        """Tell whether the process that claimed as ``owner`` is certainly gone."""
        ...

    async def begin(self, owner: str) -> None:
        """Remember a token, durably, before anything is claimed by it."""
        ...

    async def began(self, owner: str) -> None:
        """The claim is certain: forget all other tokens."""
        ...


class Strangers:
    """Nobody is known to be dead: every lease is waited for."""

    def is_dead(self, owner: str) -> bool:
        """Tell that no owner is certainly gone."""
        del owner
        return False

    async def begin(self, owner: str) -> None:
        """Remember nothing."""
        del owner
        await trio.lowlevel.checkpoint()

    async def began(self, owner: str) -> None:
        """Forget nothing."""
        del owner
        await trio.lowlevel.checkpoint()


class Alone(Strangers):
    """The records lie in the locked data directory: whoever claimed anything in them before is gone."""

    def is_dead(self, owner: str) -> bool:
        """Tell that every owner is certainly gone."""
        del owner
        return True


class LifeFile:
    """Our own former lives' tokens, in a file of the locked data directory: one a line, the newest last.

    Raises:
        DataDirUnusable: the file can't be read; also from its methods, where it can't be written.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "life"
        try:
            self._tokens = self._path.read_text(encoding="ascii").split()
        except FileNotFoundError:
            self._tokens = []
        except (OSError, UnicodeDecodeError) as error:
            raise DataDirUnusable(
                f"{self._path} can't be read ({error}): remove it, and the engine waits for its former lease to be over"
            ) from error

    def is_dead(self, owner: str) -> bool:
        """Tell whether ``owner`` is a token that a former life left here."""
        return owner in self._tokens

    async def begin(self, owner: str) -> None:
        """Add a token, durably. Cancellation leaves the file with or without it."""
        self._tokens = [*self._tokens, owner][-TOKENS_MOST:]
        await trio.to_thread.run_sync(self._write)

    async def began(self, owner: str) -> None:
        """Keep this token only. Cancellation leaves the file with the others, too."""
        self._tokens = [owner]
        await trio.to_thread.run_sync(self._write)

    def _write(self) -> None:
        beside = self._path.with_name("life.new")
        try:
            with beside.open("w", encoding="ascii") as file:
                file.writelines(f"{token}\n" for token in self._tokens)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise DataDirUnusable(f"{self._path} can't be written: {error.strerror}") from error
