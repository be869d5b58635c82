from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import pytest

from support.inline_core import InlineCore
from transfer_engine.engine.services.protocol import Answer, CoreBalance, ServiceCall
from transfer_engine.engine.services.simulated import SimulatedCore, open_simulated_core

T = TypeVar("T")


class ReopenedCore:
    """A simulated core that is closed and opened again between every two calls: what it knows is in its file."""

    def __init__(self, name: str, path: Path, *, freezes: bool) -> None:
        self.name = name
        self.freezes = freezes
        self._path = path

    async def _ask(self, ask: Callable[[SimulatedCore], Awaitable[T]]) -> T:
        async with open_simulated_core(name=self.name, path=self._path, freezes=self.freezes) as core:
            return await ask(core)

    async def withdraw(self, call: ServiceCall) -> Answer:
        return await self._ask(lambda core: core.withdraw(call))

    async def deposit(self, call: ServiceCall) -> Answer:
        return await self._ask(lambda core: core.deposit(call))

    async def commit(self, req_id: UUID) -> Answer:
        return await self._ask(lambda core: core.commit(req_id))

    async def rollback(self, req_id: UUID) -> Answer:
        return await self._ask(lambda core: core.rollback(req_id))

    async def cancel(self, req_id: UUID) -> Answer:
        return await self._ask(lambda core: core.cancel(req_id))

    async def query(self, req_id: UUID) -> Answer:
        return await self._ask(lambda core: core.query(req_id))

    async def balances(self, user_id: int) -> list[CoreBalance]:
        return await self._ask(lambda core: core.balances(user_id))

    async def fund(self, user_id: int, asset_id: int, amount: int) -> None:
        await self._ask(lambda core: core.fund(user_id, asset_id, amount))


FundedCore = SimulatedCore | ReopenedCore


@asynccontextmanager
async def open_core(kind: str, path: Path) -> AsyncIterator[FundedCore]:
    """Open one of the cores that the contract suite is held against."""
    freezes = "without" not in kind
    if "reopened" in kind:
        yield ReopenedCore("matching", path, freezes=freezes)
    elif "inline" in kind:
        yield InlineCore("matching", freezes=freezes)
    else:
        async with open_simulated_core(name="matching", path=path, freezes=freezes) as core:
            yield core


@pytest.fixture(
    params=[f"{kind}{freeze} a freeze" for kind in ("", "reopened, ", "inline, ") for freeze in ("with", "without")]
)
async def core(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FundedCore]:
    """A core with nothing in it."""
    async with open_core(request.param, tmp_path / "core.sqlite") as opened:
        yield opened


@pytest.fixture(params=[True, False], ids=["with a freeze", "without a freeze"])
def freezes(request: pytest.FixtureRequest) -> bool:
    """Whether the core of the test freezes."""
    return bool(request.param)


@pytest.fixture
async def simulated(freezes: bool, tmp_path: Path) -> AsyncIterator[SimulatedCore]:
    """A simulated core in which user 1 has 100 of asset 1."""
    async with open_simulated_core(name="matching", path=tmp_path / "core.sqlite", freezes=freezes) as opened:
        await opened.fund(1, 1, 100)
        yield opened
