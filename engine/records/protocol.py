"""What the engine asks of a record store: lives and their claims, the intents journal, transfer rows, history."""

from collections.abc import AsyncGenerator, Sequence
from typing import Final, Protocol

import msgspec

from transfer_engine.schema.ids import NODE_MAX
from transfer_engine.schema.transfers import TransferRecord
from transfer_engine.schema.webhooks import Endpoint

JOURNAL_BLOB_BYTES_MAX: Final = 1 << 20
"""A journal blob stays under 1 MiB."""

BUCKET_MS: Final = 10_000
"""Logical milliseconds in one bucket of the journal."""

OUTBOX_SHARDS: Final = NODE_MAX + 1
"""A node's outbox is journaled under this many more than its number: above every node's own shard."""


class RecordsUnavailable(Exception):
    """The store did not answer: what was written may or may not have landed. Write it again until sure."""


class RecordsMisconfigured(Exception):
    """The store answers, but is set up wrongly; the message names the setting or the command that mends it."""


class RecordsDamaged(Exception):
    """The store's contents can't be read; the message names the file or table and what to do."""


class ClaimLost(Exception):
    """Another process has claimed this node: nothing more may be asked of any service in its name."""


class Life(msgspec.Struct, frozen=True):
    """One run of an engine under its node number, or of another engine that settles its journal.

    ``after_ms`` (Unix ms) is the ceiling of all former lives: identifiers and buckets of this life lie above it.
    """

    node: int
    epoch: int
    owner: str
    after_ms: int


class Claim(msgspec.Struct, frozen=True):
    """What is stored of a node: its newest life, how far that may issue identifiers, and its last beat.

    ``owner`` is empty once that life has released the node. A row that changes is a life that lives; nobody's wall
    clock is in it.
    """

    node: int
    epoch: int
    owner: str
    ceiling_ms: int
    beat: int


class JournalBlob(msgspec.Struct, frozen=True):
    """Some intents, journaled as one row under ``(shard, bucket, sequence)``; writing it again changes nothing."""

    shard: int
    bucket: int
    sequence: int
    body: bytes


class HistoryPage(msgspec.Struct, frozen=True):
    """A page of a user's history, newest first; ``next_position`` continues it, None at the end."""

    records: list[TransferRecord]
    next_position: tuple[int, int] | None


class RecordPage(msgspec.Struct, frozen=True):
    """A page of all rows; ``next_position`` continues it, None at the end."""

    records: list[TransferRecord]
    next_position: int | None


class EndpointPage(msgspec.Struct, frozen=True):
    """A page of all users' endpoints; ``next_position`` continues it, None at the end.

    ``damaged`` names those rows that can't be understood: they are left out, since one of them may not hide the others.
    """

    endpoints: list[Endpoint]
    next_position: int | None
    damaged: list[str] = []


class RecordStore(Protocol):
    """Durable memory of the engine. Every method may raise :class:`RecordsUnavailable` (the outcome is unknown)."""

    async def claims(self) -> list[Claim]:
        """Return the claims of all nodes, by node. It may lag a moment behind :meth:`find_claim`."""
        ...

    async def find_claim(self, node: int) -> Claim | None:
        """Return a node's claim (linearizable), or None where the node was never claimed."""
        ...

    async def claim(self, node: int, owner: str, *, former: Claim | None, ceiling_ms: int) -> Life:
        """Begin a life: take a node over from the claim that was read, exactly as it was read.

        The new claim is of the next epoch (1 at first), its beat is 0, and its ceiling is the higher one of
        ``ceiling_ms`` and the former ceiling. ``owner`` is a token that nobody else has: a claim whose answer was lost
        is asked again by the same token, and answered by the same life.

        Raises:
            ClaimLost: the node's claim is not ``former`` any more: its owner lives, or another was faster.
        """
        ...

    async def raise_ceiling(self, life: Life, ceiling_ms: int, *, beat: int) -> None:
        """Prove that a life lives, and make a higher ceiling durable (Unix ms); neither is ever lowered.

        ``beat`` counts up from 1. A beat that is not above the stored one changes nothing: a late write of an earlier
        beat can't lower what a later one promised.

        Raises:
            ClaimLost: the claim belongs to another owner or epoch by now, or was released.
        """
        ...

    async def release(self, life: Life) -> None:
        """Give the node up: whoever wants it may take it at once. Releasing it again changes nothing.

        Raises:
            ClaimLost: the claim belongs to another owner or epoch by now.
        """
        ...

    async def write(self, blobs: Sequence[JournalBlob], records: Sequence[TransferRecord]) -> None:
        """Make journal blobs and rows durable, in one group commit where the store can.

        A row replaces the stored one only if its ``version`` is higher; the user's history (source's and target's)
        follows it. No row is written before the blobs of the same call are durable: where a row is, they are. All is
        idempotent: after RecordsUnavailable write the same again.
        """
        ...

    async def get(self, req_id: int) -> TransferRecord | None:
        """Return the row of a transfer, or None."""
        ...

    async def get_many(self, req_ids: Sequence[int]) -> dict[int, TransferRecord]:
        """Return the rows that exist, by `req_id`."""
        ...

    async def history(self, user_id: int, *, limit: int, position: tuple[int, int] | None = None) -> HistoryPage:
        """Return the transfers of a user (as source or target) by ``created_at`` and `req_id`, newest first.

        ``position`` is a former page's ``next_position``; each transfer is listed once.
        """
        ...

    def read_journal(self, shard: int, *, from_bucket: int) -> AsyncGenerator[JournalBlob, None]:
        """Yield the blobs of a shard from a bucket on, by (bucket, sequence). Close it (``aclosing``) when done."""
        ...

    async def low_water_mark(self, shard: int) -> int:
        """Return the lowest bucket that may hold an unsettled intent (0 at first)."""
        ...

    async def raise_low_water_mark(self, shard: int, bucket: int) -> None:
        """Say that everything below ``bucket`` is settled; what lies there may be dropped. It never goes down."""
        ...

    async def scan_records(self, *, position: int | None = None, limit: int) -> RecordPage:
        """Return a page of all rows, in an order of the store's own: for audits and repairs, never for the hot path.

        ``position`` is a former page's ``next_position``. A row that was there before the first page is on one page;
        one that is written meanwhile may be.
        """
        ...

    async def put_endpoint(self, endpoint: Endpoint) -> None:
        """Write a user's endpoint. It replaces the stored one only if its ``version`` is higher.

        Of two under one version either stays, whole: read it back. After RecordsUnavailable write the same again.
        """
        ...

    async def get_endpoint(self, user_id: int) -> Endpoint | None:
        """Return a user's endpoint, also one without a URL; None where there never was one."""
        ...

    async def scan_endpoints(self, *, position: int | None = None, limit: int) -> EndpointPage:
        """Return a page of all endpoints, in an order of the store's own; ``position`` is a former page's."""
        ...
