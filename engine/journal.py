"""The intents journal's accounts: which buckets still hold intents that are not settled, and the low-water mark.

No wall clock decides the mark. A bucket is logical milliseconds // 10 s, of the clock that also issues identifiers;
it counts its unsettled intents from before their append is attempted. The mark is the lowest bucket that has any.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from transfer_engine.engine.records.protocol import BUCKET_MS, JournalBlob, Life
from transfer_engine.schema.ids import SnowflakeGenerator
from transfer_engine.schema.transfers import Intent, encode_intents

INTENTS_IN_BLOB_MOST: Final = 4_096
"""Keeps a blob below 1 MiB: an intent takes at most about 180 bytes."""

CARRY_AFTER_BUCKETS: Final = 30
"""An intent that is unsettled for so many buckets (5 minutes) is journaled again, so that it pins no old bucket."""

_SEQUENCE_BITS: Final = 40


class Journaled(Protocol):
    """What is journaled: an intent, the bucket that it is counted in, and whether its append is certain."""

    @property
    def intent(self) -> Intent:
        """What is journaled of it."""
        ...

    bucket: int | None
    is_journaled: bool


class Stranded:
    """An unfinished intent that can't be driven (an unknown service, a damaged row) until somebody mends it."""

    __slots__ = ("bucket", "intent", "is_journaled")

    def __init__(self, intent: Intent) -> None:
        self.intent = intent
        self.bucket: int | None = None
        self.is_journaled = False

    def __repr__(self) -> str:
        return f"<Stranded {int.from_bytes(self.intent.req_id):#x} {self.intent.source}->{self.intent.target}>"


class Journal:
    """Numbers blobs and counts unsettled intents by bucket. It owns no I/O: the recorder writes."""

    def __init__(self, life: Life, identifiers: SnowflakeGenerator) -> None:
        self._shard = life.node
        self._identifiers = identifiers
        self._sequence = life.epoch << _SEQUENCE_BITS
        self._unsettled: Counter[int] = Counter()
        self._stranded: dict[tuple[bytes, int], Stranded] = {}

    @property
    def current_bucket(self) -> int:
        """The bucket that an append goes to now."""
        return self._identifiers.advance() // BUCKET_MS

    @property
    def low_water_mark(self) -> int:
        """The lowest bucket that may hold an unsettled intent; everything below it is settled."""
        return min(self._unsettled, default=self.current_bucket)

    @property
    def unsettled(self) -> int:
        """How many intents are not settled."""
        return self._unsettled.total()

    @property
    def stranded(self) -> Iterable[Stranded]:
        """The intents that can't be driven; they are carried forward until the next life understands them."""
        return self._stranded.values()

    def enter(self, transfers: Sequence[Journaled]) -> list[JournalBlob]:
        """Count transfers into the current bucket and return the blobs to append; call it before the append.

        A transfer that is counted in an older bucket (carried forward, or its append is tried again) stays counted
        there until :meth:`moved` says that the append is certain.
        """
        bucket = self.current_bucket
        for transfer in transfers:
            if transfer.bucket is None and not transfer.is_journaled:  # else it has ended meanwhile
                transfer.bucket = bucket
                self._unsettled[bucket] += 1
        blobs = []
        for start in range(0, len(transfers), INTENTS_IN_BLOB_MOST):
            self._sequence += 1
            body = encode_intents([transfer.intent for transfer in transfers[start : start + INTENTS_IN_BLOB_MOST]])
            blobs.append(JournalBlob(shard=self._shard, bucket=bucket, sequence=self._sequence, body=body))
        return blobs

    def found(self, transfer: Journaled, bucket: int) -> None:
        """Count a transfer that recovery found in a bucket of a former life."""
        transfer.is_journaled = True
        transfer.bucket = bucket
        self._unsettled[bucket] += 1

    def strand(self, intent: Intent) -> Stranded:
        """Keep an intent that can't be driven, so that it is never settled; the same one again is the same."""
        return self._stranded.setdefault((intent.req_id, intent.fingerprint), Stranded(intent))

    def moved(self, transfer: Journaled, bucket: int) -> None:
        """A transfer was journaled again, certainly, in a later bucket: it no longer pins its old one."""
        if transfer.bucket is not None:
            self.settle(transfer)
            transfer.bucket = bucket
            self._unsettled[bucket] += 1

    def settle(self, transfer: Journaled) -> None:
        """A transfer's intent needs nobody any more: its end is durable, or another body owns its key."""
        bucket, transfer.bucket = transfer.bucket, None
        if bucket is None:
            return
        self._unsettled[bucket] -= 1
        if not self._unsettled[bucket]:
            del self._unsettled[bucket]

    def is_overdue(self, transfer: Journaled) -> bool:
        """Tell whether a transfer should be carried forward."""
        return transfer.bucket is not None and transfer.bucket + CARRY_AFTER_BUCKETS < self.current_bucket
