"""Reads all rows of a record store, page by page."""

from collections.abc import AsyncGenerator
from typing import Final

from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.schema.transfers import TransferRecord

PAGE_RECORDS_MOST: Final = 1_000
"""Rows of one page: some 400 KB."""


async def record_pages(records: RecordStore) -> AsyncGenerator[list[TransferRecord], None]:
    """Yield all rows; what is written meanwhile may be among them. Close it (``aclosing``) where it may not end.

    Errors as ``scan_records``.
    """
    position: int | None = None
    while True:
        page = await records.scan_records(position=position, limit=PAGE_RECORDS_MOST)
        yield page.records
        position = page.next_position
        if position is None:
            return
