"""The simulated core and its file: faults, wrong files, other processes, and a kill."""

import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from transfer_engine.engine.services.protocol import SUCCESS, Answer, CoreBalance, Pending, ServiceCall
from transfer_engine.engine.services.simulated import (
    CoreOperation,
    SimulatedCore,
    SimulatedCoreUnavailable,
    open_simulated_core,
)
from transfer_engine.schema.ids import issued_req_id

REQ_ID = UUID(int=issued_req_id(1))
CALL = ServiceCall(req_id=REQ_ID, user_id=1, asset_id=1, amount=40)


def numbered(number: int, amount: int = 1) -> ServiceCall:
    return ServiceCall(req_id=UUID(int=issued_req_id(number)), user_id=1, asset_id=1, amount=amount)


async def available(core: SimulatedCore) -> int:
    return (await core.balances(1))[0].available


async def test_two_processes_may_share_one_file(simulated: SimulatedCore, tmp_path: Path, freezes: bool) -> None:
    async with open_simulated_core(name="matching", path=tmp_path / "core.sqlite", freezes=freezes) as other:
        answers: dict[int, Answer] = {}

        async def withdraw(core: SimulatedCore, number: int) -> None:
            answers[number] = await core.withdraw(numbered(number, amount=60))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(withdraw, simulated, 1)
            nursery.start_soon(withdraw, other, 2)
        assert sorted(type(answer).__name__ for answer in answers.values()) == ["Failed", "Success"]
        assert await available(other) == await available(simulated) == 40


async def test_a_fault_of_the_file_is_pending_and_never_a_refusal(simulated: SimulatedCore, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "core.sqlite")
    other.execute("ALTER TABLE operations RENAME TO lost")
    for operation in CoreOperation:
        takes_call = operation in (CoreOperation.WITHDRAW, CoreOperation.DEPOSIT)
        answer = await getattr(simulated, operation.value)(CALL if takes_call else REQ_ID)
        assert isinstance(answer, Pending)
        assert "operations" in answer.reason
    assert isinstance(await simulated.query(REQ_ID), Pending)
    with pytest.raises(SimulatedCoreUnavailable, match="no such table"):
        await simulated.operations()
    other.execute("ALTER TABLE lost RENAME TO operations")
    other.close()
    assert await simulated.withdraw(CALL) == SUCCESS


async def test_a_transaction_that_fails_half_way_leaves_nothing(simulated: SimulatedCore, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "core.sqlite")
    other.execute("CREATE TRIGGER broken BEFORE INSERT ON balances BEGIN SELECT RAISE(ABORT, 'disk on fire'); END")
    assert await simulated.withdraw(CALL) == Pending("core matching: disk on fire")
    assert await simulated.operation(REQ_ID) is None
    assert simulated.statistics().moves == 0
    other.execute("DROP TRIGGER broken")
    other.close()
    assert await simulated.withdraw(CALL) == SUCCESS
    assert simulated.statistics().moves == 1
    assert await available(simulated) == 60


async def test_a_rollback_that_fails_half_way_returns_nothing(simulated: SimulatedCore, tmp_path: Path) -> None:
    assert await simulated.withdraw(CALL) == SUCCESS
    other = sqlite3.connect(tmp_path / "core.sqlite")
    other.execute("CREATE TRIGGER broken BEFORE UPDATE ON operations BEGIN SELECT RAISE(ABORT, 'disk on fire'); END")
    assert await simulated.rollback(REQ_ID) == Pending("core matching: disk on fire")
    assert (await available(simulated), simulated.statistics().moves) == (60, 1)
    other.execute("DROP TRIGGER broken")
    other.close()
    assert await simulated.rollback(REQ_ID) == SUCCESS
    assert (await available(simulated), simulated.statistics().moves) == (100, 2)


async def test_a_closed_core_answers_pending(tmp_path: Path) -> None:
    async with open_simulated_core(name="matching", path=tmp_path / "core.sqlite", freezes=True) as core:
        await core.fund(1, 1, 100)
    assert isinstance(await core.withdraw(CALL), Pending)
    assert isinstance(await core.query(REQ_ID), Pending)
    with pytest.raises(SimulatedCoreUnavailable, match="matching"):
        await core.balances(1)


async def test_leaving_cancelled_closes_the_file(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_simulated_core(name="matching", path=tmp_path / "core.sqlite", freezes=True) as core:
            scope.cancel()
    assert isinstance(await core.withdraw(CALL), Pending)
    assert not await trio.Path(tmp_path / "core.sqlite-wal").exists()  # folded in by closing


async def test_a_damaged_file_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "core.sqlite"
    path.write_text("not what it was, " * 100)
    before = path.read_bytes()
    with pytest.raises(SimulatedCoreUnavailable, match=r"core matching: .*not a database"):
        async with open_simulated_core(name="matching", path=path, freezes=True):
            pass
    assert path.read_bytes() == before


async def test_an_empty_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / "core.sqlite").touch()
    async with open_simulated_core(name="matching", path=tmp_path / "core.sqlite", freezes=True) as core:
        assert await core.operations() == []


async def test_another_programs_file_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "core.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE balances (everything TEXT)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(SimulatedCoreUnavailable, match="not the file of a simulated core"):
        async with open_simulated_core(name="matching", path=path, freezes=True):
            pass
    assert path.read_bytes() == before


@pytest.mark.parametrize(("name", "other_freeze"), [("vault", False), ("matching", True)])
async def test_another_cores_file_is_refused(
    simulated: SimulatedCore, freezes: bool, tmp_path: Path, name: str, other_freeze: bool
) -> None:
    kind = "with" if freezes else "without"
    with pytest.raises(SimulatedCoreUnavailable, match=f"core 'matching' {kind} a freeze"):
        async with open_simulated_core(name=name, path=tmp_path / "core.sqlite", freezes=freezes is not other_freeze):
            pass


async def test_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SimulatedCoreUnavailable, match="unable to open database file"):
        async with open_simulated_core(name="matching", path=tmp_path / "missing" / "core.sqlite", freezes=True):
            pass


KILLED = """
import os, pathlib, signal, sys, trio
from uuid import UUID
from transfer_engine.engine.services.protocol import ServiceCall
from transfer_engine.engine.services.simulated import open_simulated_core

async def main():
    path = pathlib.Path(sys.argv[1])
    async with open_simulated_core(name="matching", path=path, freezes=sys.argv[2] == "True") as core:
        for number in range(1, 6):
            answer = await core.withdraw(ServiceCall(req_id=UUID(int=number << 4), user_id=1, asset_id=1, amount=10))
            print(number, type(answer).__name__, flush=True)
        await core.commit(UUID(int=1 << 4))
        await core.rollback(UUID(int=2 << 4))
        await core.cancel(UUID(int=6 << 4))
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


async def test_what_was_answered_survives_a_kill(simulated: SimulatedCore, freezes: bool, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, os.fspath(tmp_path / "core.sqlite"), str(freezes)]
    killed: Any = await trio.run_process(command, capture_stdout=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout.decode().split("\n")[:-1] == [f"{number} Success" for number in range(1, 6)]
    async with open_simulated_core(name="matching", path=tmp_path / "core.sqlite", freezes=freezes) as core:
        found = {operation.req_id.int >> 4: operation.state.value for operation in await core.operations()}
        assert found == {1: "committed", 2: "rolled_back", 3: "withdrawn", 4: "withdrawn", 5: "withdrawn", 6: "fenced"}
        assert await core.balances(1) == [CoreBalance(asset_id=1, available=60, frozen=30 if freezes else 0)]
