"""A user's history while rows arrive: what the store lists, and what is under way and not in it yet.

The store lists by (``created_at``, `req_id`), and ``created_at`` is the ledger's time of the hold. Rows become durable
in another order than that: one may arrive above a row that was read already, and whoever walks on below it would never
see it. So what is under way is listed as well, once its place is known: the ledger has taken its hold, or it has ended.
Its row will have the same place. It is read before the store is asked: what leaves it meanwhile is in the store then.

So a walk over all pages lists what had a place when it began exactly once, and nothing twice. Of the transfers that
other engines have under way this one knows nothing: a user's requests belong to one engine.
"""

from collections.abc import Iterable

from transfer_engine.engine.open_transfers import OpenTransfer
from transfer_engine.engine.records.protocol import HistoryPage
from transfer_engine.schema.transfers import TransferRecord

Place = tuple[int, int]
"""``created_at`` (Unix ms) and `req_id`."""


def place_of(record: TransferRecord) -> Place:
    """Return where a record stands in histories."""
    return record.created_at, record.req_id.int


def placed(transfers: Iterable[OpenTransfer], below: Place | None) -> list[TransferRecord]:
    """Return the records as of now of those transfers under way whose place is known and below another one."""
    records = [transfer.record() for transfer in transfers if transfer.owns_key]
    return records if below is None else [record for record in records if place_of(record) < below]


def merged(page: HistoryPage, under_way: list[TransferRecord], limit: int) -> HistoryPage:
    """Return a page of the store with what was under way before it was read, where that belongs on it."""
    end = page.next_position
    added = under_way if end is None else [record for record in under_way if place_of(record) >= end]
    if not added:
        return page
    records = {record.req_id: record for record in page.records}
    for record in added:
        stored = records.get(record.req_id)
        if stored is None or stored.version < record.version:
            records[record.req_id] = record
    listed = sorted(records.values(), key=place_of, reverse=True)
    if len(listed) > limit:
        return HistoryPage(listed[:limit], place_of(listed[limit - 1]))
    return HistoryPage(listed, end)
