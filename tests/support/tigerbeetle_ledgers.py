"""The TigerBeetle client as tests of faults use it: deadlines soon over, questions repeated until they are answered."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import trio

from support.ledger_books import Books
from support.tigerbeetle_server import Cluster
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.ledger.tigerbeetle_client import TigerBeetleLedger, open_tigerbeetle_ledger

Answer = TypeVar("Answer")
PATIENCE_S = 30


def open_ledger(
    cluster: Cluster, *, timeout_ms: int = 300, **settings: int
) -> AbstractAsyncContextManager[TigerBeetleLedger]:
    return open_tigerbeetle_ledger(
        cluster_id=0, addresses=cluster.addresses.split(","), timeout_ms=timeout_ms, **settings
    )


@asynccontextmanager
async def patient_books(cluster: Cluster) -> AsyncIterator[Books]:
    """Another session, for what is to be there before the tested one has its troubles."""
    async with open_ledger(cluster, timeout_ms=PATIENCE_S * 1000) as ledger:
        yield Books(ledger)


async def until_answered(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask again until there is an answer, as the engine does."""
    with trio.fail_after(PATIENCE_S):
        while True:
            try:
                return await ask()
            except LedgerUnavailable:
                await trio.sleep(0.01)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # what happens is the server's doing: no event tells
            await trio.sleep(0.01)
