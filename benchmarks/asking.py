"""Asking a backend until it answers: one that has just been loaded to its limit may need a moment."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.records.protocol import RecordsUnavailable

Answer = TypeVar("Answer")

_TRIES: Final = 5
_PAUSE_S: Final = 2.0


async def until_answered(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask the same again, a few times.

    Raises:
        RecordsUnavailable, LedgerUnavailable: there was no answer to the last question either.
    """
    for _ in range(_TRIES - 1):
        try:
            return await ask()
        except (RecordsUnavailable, LedgerUnavailable):
            await trio.sleep(_PAUSE_S)
    return await ask()
