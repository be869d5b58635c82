"""A transfer as it is written down: its states, its intent in the journal, its record."""

import enum
from typing import Annotated, Final
from uuid import UUID

import msgspec

from transfer_engine.schema.ids import fingerprint


class TransferState(enum.StrEnum):
    """The eight states of a transfer. Terminal: ``committed``, ``rolled_back``, ``failed``."""

    INIT = "init"
    SOURCE_PENDING = "source_pending"
    SOURCE_DONE = "source_done"
    TARGET_PENDING = "target_pending"
    COMPENSATING = "compensating"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    COMMITTED = "committed"

    @property
    def is_terminal(self) -> bool:
        """Whether no event leaves this state."""
        return self in TERMINAL_STATES


TERMINAL_STATES: Final = frozenset({TransferState.COMMITTED, TransferState.ROLLED_BACK, TransferState.FAILED})


class TransferStatus(enum.StrEnum):
    """What a client is told: a terminal state, or that the transfer is still under way."""

    COMMITTED = "committed"
    PENDING = "pending"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


STATUS_OF_STATE: Final = {
    state: TransferStatus(state.value) if state in TERMINAL_STATES else TransferStatus.PENDING
    for state in TransferState
}

RANKS: Final = {state: rank for rank, state in enumerate(TransferState, start=1)}
"""The order in which rows are overwritten: init 1 … failed 6, rolled_back 7, committed 8."""

RETRY_COUNT_MAX: Final = (1 << 20) - 1


class Intent(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What was asked for, as the journal keeps it: all that recovery needs to drive the transfer to its end.

    ``req_id`` is the 16 bytes of the UUID, big-endian (msgpack has no 128-bit integers); ``accepted_at`` is Unix ms.
    ``user_id`` is the source's user: its actor orders the transfer.
    """

    req_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    source: str
    target: str
    user_id: int
    target_user_id: int
    asset_id: int
    amount: int
    accepted_at: int
    fingerprint: int


class TransferRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A transfer's row. Amounts are minor units, times Unix ms; ``error`` is empty where there is none."""

    req_id: UUID
    source: str
    target: str
    user_id: int
    target_user_id: int
    asset_id: int
    amount: int
    state: TransferState
    created_at: int
    updated_at: int
    error: str
    retry_count: int
    fingerprint: int

    @property
    def version(self) -> int:
        """The monotone version of this row: a write with a lower or equal one changes nothing.

        ``rank << 40 | retry_count << 20 | 20 bits of the fingerprint``: no clock, so every engine agrees. Terminal
        rows have retry 0: two engines that end one transfer write the same row.
        """
        retry_count = 0 if self.state.is_terminal else min(self.retry_count, RETRY_COUNT_MAX)
        return RANKS[self.state] << 40 | retry_count << 20 | self.fingerprint >> 44


def body_fingerprint(body: Intent | TransferRecord) -> int:
    """Return the fingerprint that the body of an intent or row must have; see :mod:`transfer_engine.schema.ids`."""
    return fingerprint(
        source=body.source,
        target=body.target,
        user_id=body.user_id,
        target_user_id=body.target_user_id,
        asset_id=body.asset_id,
        amount=body.amount,
    )


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[Intent])


def encode_intents(intents: list[Intent]) -> bytes:
    """Return a journal blob: the intents, in order, as MessagePack."""
    return _ENCODER.encode(intents)


def decode_intents(blob: bytes) -> list[Intent]:
    """Return the intents of a journal blob.

    Raises:
        msgspec.DecodeError: the blob is damaged, or of another version.
    """
    try:
        return _DECODER.decode(blob)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"a text in the blob is not UTF-8: {error}") from error
