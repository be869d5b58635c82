"""Tasks beside a block, or many of a kind, whose exceptions come as they are: no groups around the one that matters."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

Work = Callable[[], Awaitable[None]]


@asynccontextmanager
async def side_tasks(*tasks: Work) -> AsyncIterator[None]:
    """Run tasks while the block lasts; then they are cancelled. What the block raises is raised as it is."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
        try:
            yield
        except Exception as error:  # noqa: BLE001  not for the nursery to wrap
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def many(count: int, work: Work) -> None:
    """Run so many tasks to their end. The first exception of one cancels the others, and is raised as it is."""
    failure: Exception | None = None

    async def guarded(nursery: trio.Nursery) -> None:
        nonlocal failure
        try:
            await work()
        except Exception as error:  # noqa: BLE001  not for the nursery to wrap
            failure = failure or error
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(guarded, nursery)
    if failure is not None:
        raise failure
