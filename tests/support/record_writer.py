"""A process that writes groups of rows to a record store and says which are acknowledged, until it is killed.

``python record_writer.py FILE [CRASH_AT]`` prints the number of each group once its write has returned.
"""

import sys
from pathlib import Path
from uuid import UUID

import trio
from msgspec.structs import replace

from support.record_stores import record
from transfer_engine.engine import crash_points, id_tree
from transfer_engine.engine.records import sqlite_history
from transfer_engine.engine.records.protocol import JournalBlob
from transfer_engine.engine.records.sqlite import open_sqlite_records
from transfer_engine.schema.ids import keyed_req_id
from transfer_engine.schema.transfers import TransferRecord

ROWS_IN_GROUP = 20
USERS = 3


def group(number: int) -> list[TransferRecord]:
    """Return the rows of a group."""
    numbers = range(number * ROWS_IN_GROUP, (number + 1) * ROWS_IN_GROUP)
    rows = [record(each, user_id=each % USERS, target_user_id=USERS + each % 2) for each in numbers]
    return [*rows[::2], *(replace(row, req_id=keyed(row)) for row in rows[1::2])]


def keyed(row: TransferRecord) -> UUID:
    """Return a random identifier for a row, as a client's key makes it."""
    return UUID(int=keyed_req_id("", "transfer", str(row.req_id)))


def blob(number: int) -> JournalBlob:
    """Return the journal blob of a group."""
    return JournalBlob(shard=0, bucket=number // 10, sequence=number, body=b"intents" * 100)


async def write_until_killed(path: Path) -> None:
    """Write group after group, each acknowledged on stdout."""
    async with open_sqlite_records(path) as store:
        number = 0
        while True:
            await store.write([blob(number)], group(number))
            print(number, flush=True)  # noqa: T201  its way of telling
            number += 1


if __name__ == "__main__":
    sqlite_history.HISTORY_RECENT_MOST = 70  # so that what is merged in bulk is merged often
    id_tree.ENTRIES_MAX = 100
    crash_points.arm(sys.argv[2] if len(sys.argv) > 2 else None)
    trio.run(write_until_killed, Path(sys.argv[1]))
