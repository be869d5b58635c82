"""Records to store, and the record stores that the contract suite is run against."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from support.cassandra_stores import CassandraStore
from support.memory_records import MemoryRecords
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.records.sqlite import open_sqlite_records
from transfer_engine.schema.ids import issued_req_id
from transfer_engine.schema.transfers import TransferRecord, TransferState


class Reopenable(Protocol):
    """A record store that can be closed and opened again on the same contents."""

    def open(self) -> AbstractAsyncContextManager[RecordStore]: ...


class SqliteStore:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "records.db"

    def open(self) -> AbstractAsyncContextManager[RecordStore]:
        return open_sqlite_records(self.path)


class MemoryStore:
    def __init__(self, folder: Path) -> None:
        self.records = MemoryRecords()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[RecordStore]:
        yield self.records


STORES: dict[str, Callable[[Path], Reopenable]] = {
    "sqlite": SqliteStore,
    "memory": MemoryStore,
    "cassandra": CassandraStore,
}


def record(number: int, state: str = "committed", **changes: Any) -> TransferRecord:
    """Return the record of the ``number``-th transfer; what is not said is the same in all of them."""
    fields: dict[str, Any] = {
        "source": "funding",
        "target": "trading",
        "user_id": 1,
        "target_user_id": changes.get("user_id", 1),
        "asset_id": 1,
        "amount": 100,
        "created_at": 1_800_000_000_000 + number,
        "updated_at": 1_800_000_000_000 + number,
        "error": "",
        "retry_count": 0,
        "fingerprint": 0xFEDC_BA98_7654_3210,
    }
    fields |= {"req_id": UUID(int=issued_req_id(number)), "state": TransferState(state)} | changes
    return TransferRecord(**fields)
