"""The state machine of a transfer, as data: which event moves which state where.

What lives here is pure: no clock, no I/O, no services. What the events stand for, and when a state is persisted, is the
coordinator's matter.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from transfer_engine.schema.transfers import TransferState


class TransferEvent(enum.StrEnum):
    """What may happen to a transfer: a service is about to be called, or has given its final answer."""

    SOURCE_CALL = "source_call"
    SOURCE_OK = "source_ok"
    SOURCE_FAIL = "source_fail"
    TARGET_CALL = "target_call"
    TARGET_OK = "target_ok"
    TARGET_FAIL = "target_fail"
    ROLLBACK_OK = "rollback_ok"
    ROLLBACK_FAIL = "rollback_fail"


TRANSITIONS: Final[Mapping[tuple[TransferState, TransferEvent], TransferState]] = MappingProxyType(
    {
        (TransferState.INIT, TransferEvent.SOURCE_CALL): TransferState.SOURCE_PENDING,
        # The ledger wallets answer source and target in one submission: the call and its answer are one step.
        (TransferState.INIT, TransferEvent.SOURCE_OK): TransferState.SOURCE_DONE,
        (TransferState.INIT, TransferEvent.SOURCE_FAIL): TransferState.FAILED,
        (TransferState.SOURCE_PENDING, TransferEvent.SOURCE_OK): TransferState.SOURCE_DONE,
        (TransferState.SOURCE_PENDING, TransferEvent.SOURCE_FAIL): TransferState.FAILED,
        (TransferState.SOURCE_DONE, TransferEvent.TARGET_CALL): TransferState.TARGET_PENDING,
        (TransferState.SOURCE_DONE, TransferEvent.TARGET_OK): TransferState.COMMITTED,
        (TransferState.SOURCE_DONE, TransferEvent.TARGET_FAIL): TransferState.COMPENSATING,
        (TransferState.TARGET_PENDING, TransferEvent.TARGET_OK): TransferState.COMMITTED,
        (TransferState.TARGET_PENDING, TransferEvent.TARGET_FAIL): TransferState.COMPENSATING,
        (TransferState.COMPENSATING, TransferEvent.ROLLBACK_OK): TransferState.ROLLED_BACK,
        # A rollback that failed is tried again: money is owed to the source, so there is no way out but this one.
        (TransferState.COMPENSATING, TransferEvent.ROLLBACK_FAIL): TransferState.COMPENSATING,
    }
)
"""Every event that means something in a state. An event that does not fit leaves the state alone."""


def transition(state: TransferState, event: TransferEvent) -> TransferState:
    """Return the state after an event; one that does not fit (late, repeated, foreign) leaves the state alone."""
    return TRANSITIONS.get((state, event), state)
