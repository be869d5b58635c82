"""What the journal of dead engines says, held against the ledger and the rows."""

from contextlib import aclosing

from transfer_engine.engine.backends import open_backends
from transfer_engine.engine.ledger.paging import transfer_pages
from transfer_engine.engine.records.paging import record_pages
from transfer_engine.engine.records.protocol import RecordStore
from transfer_engine.engine.settings import Settings
from transfer_engine.schema.ids import LEG_MAX
from transfer_engine.schema.transfers import TransferRecord, decode_intents


class Evidence:
    """The holds of the ledger, the intents of all shards, and the rows; by `req_id`."""

    def __init__(self, held: set[int], intents: dict[int, set[int]], rows: dict[int, TransferRecord]) -> None:
        self.held = held
        self.intents = intents
        """Which shards have journaled it."""
        self.rows = rows

    @property
    def unrecorded(self) -> set[int]:
        """What the ledger has, and neither a journal nor a row tells of: money that moved and nobody would know."""
        return self.held - self.intents.keys() - self.rows.keys()

    @property
    def unfinished(self) -> set[int]:
        """What was journaled, and has no final row."""
        return {req_id for req_id in self.intents if req_id not in self.rows or not self.rows[req_id].state.is_terminal}


async def read_evidence(settings: Settings) -> Evidence:
    """Read the ledger and the records while no engine uses ``settings.data_dir``.

    The ledger is read first: an engine elsewhere that works meanwhile has journaled whatever it has held.
    """
    async with open_backends(settings) as (_, ledger, records):
        held = {transfer.id & ~LEG_MAX async for page in transfer_pages(ledger) for transfer in page}
        intents = await _intents(records)
        rows = {row.req_id.int: row async for page in record_pages(records) for row in page}
    return Evidence(held, intents, rows)


async def _intents(records: RecordStore) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for claim in await records.claims():
        async with aclosing(records.read_journal(claim.node, from_bucket=0)) as blobs:
            async for blob in blobs:
                for intent in decode_intents(blob.body):
                    found.setdefault(int.from_bytes(intent.req_id), set()).add(claim.node)
    return found
