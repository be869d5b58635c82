"""What was acknowledged outlives ``kill -9``; what was not is there whole, or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import record_writer
from support.record_writer import ROWS_IN_GROUP, USERS, blob, group
from transfer_engine.engine.records.sqlite import open_sqlite_records

TESTS = Path(record_writer.__file__).parents[1]


def start_writer(path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, record_writer.__file__, str(path), *arguments]
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


async def groups_in(path: Path) -> int:
    """Return how many groups there are, each checked to be whole in rows, histories and journal."""
    async with open_sqlite_records(path) as store:
        rows = (await store.scan_records(limit=1_000_000)).records
        count = len(rows) // ROWS_IN_GROUP
        written = [row for number in range(count) for row in group(number)]
        assert rows == written
        assert len(await store.get_many([row.req_id.int for row in written])) == len(written)
        assert [found async for found in store.read_journal(0, from_bucket=0)] == [
            blob(number) for number in range(count)
        ]
        for user_id in range(USERS + 2):
            page = await store.history(user_id, limit=1_000_000)
            own = [row for row in rows if user_id in (row.user_id, row.target_user_id)]
            assert page.records == sorted(own, key=lambda row: row.created_at, reverse=True)
        return count


@pytest.mark.parametrize("acknowledged", [1, 30, 350])
async def test_acknowledged_groups_outlive_a_kill(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "records.db"
    with start_writer(path) as writer:
        assert writer.stdout is not None
        for number in range(acknowledged):
            assert writer.stdout.readline() == f"{number}\n"
        writer.kill()
        told = acknowledged + len(writer.stdout.readlines())
    assert await groups_in(path) in (told, told + 1)


@pytest.mark.parametrize("point", ["before_rows", "between_rows"])
@pytest.mark.parametrize("passing", [1, 4])
async def test_a_crash_within_a_transaction_leaves_nothing_of_it(tmp_path: Path, point: str, passing: int) -> None:
    path = tmp_path / "records.db"
    with start_writer(path, f"{point}@{passing}") as writer:
        assert writer.stdout is not None
        assert len(writer.stdout.readlines()) == passing - 1
    assert writer.returncode == -signal.SIGKILL
    assert await groups_in(path) == passing - 1
    async with open_sqlite_records(path) as store:
        await store.write([blob(passing - 1)], group(passing - 1))
    assert await groups_in(path) == passing
