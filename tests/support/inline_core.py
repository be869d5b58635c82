"""The simulated core without threads: its books in memory, asked in the task that asks. Its shell is the real one."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from transfer_engine.engine.services.simulated import SimulatedCore
from transfer_engine.engine.services.simulated_books import Books

T = TypeVar("T")


class InlineCore(SimulatedCore):
    def __init__(self, name: str, *, freezes: bool) -> None:
        self.books = Books(name=name, path=Path(":memory:"), freezes=freezes)
        super().__init__(name, self.books, trio.CapacityLimiter(1))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        answer = work()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return answer
