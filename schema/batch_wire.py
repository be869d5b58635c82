"""What travels in answers to batches: a result for each transfer, in their order."""

from uuid import UUID

import msgspec

from transfer_engine.schema.transfers import TransferStatus
from transfer_engine.schema.wire import ProblemDetails


class BatchOutcome(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What became of a transfer that was taken; ``replayed`` stands only where the answer had been given before."""

    index: int
    status: TransferStatus
    req_id: UUID
    message: str | None
    replayed: bool = False


class BatchProblem(ProblemDetails, frozen=True, omit_defaults=True, kw_only=True):
    """Why a transfer was not taken, or what can be said of one whose outcome nobody knows."""

    index: int


class BatchResponse(msgspec.Struct, frozen=True):
    """`POST /api/v1/transfers/batch`."""

    results: list[BatchOutcome | BatchProblem]
