"""Batches, as their readers need them."""

from typing import Final

from transfer_engine.http.first_operations import EXAMPLE_REQ_ID
from transfer_engine.http.operations import BATCHES, Answer, Listing, Operation
from transfer_engine.http.problems import ProblemCode
from transfer_engine.schema.batch_wire import BatchOutcome, BatchProblem
from transfer_engine.schema.wire import TransferItem

BATCH: Final = Operation(
    name="transferBatch",
    group=BATCHES,
    description="Up to 1,000 transfers, each with an `idempotency_key` of its own: what it names is the same as for a "
    "single transfer. As JSON, an object with the list `transfers`; or as JSON Lines, a transfer a line, answered "
    "likewise. One user's transfers are made in their order.",
    request=Listing("transfers", (TransferItem,)),
    example={
        "transfers": [
            {
                "from": "funding",
                "to": "trading",
                "user_id": 4001,
                "asset_id": 1,
                "amount": 1000000,
                "idempotency_key": "order-2041",
            },
            {
                "from": "trading",
                "to": "funding",
                "user_id": 4001,
                "asset_id": 1,
                "amount": 0,
                "idempotency_key": "order-2042",
            },
        ]
    },
    answers=(
        Answer(
            status=200,
            description="What became of each, in their order: one that was taken has a `req_id`, one that was not the "
            "members of a problem.",
            body=Listing("results", (BatchOutcome, BatchProblem)),
            example={
                "results": [
                    {
                        "index": 0,
                        "status": "committed",
                        "req_id": EXAMPLE_REQ_ID,
                        "message": None,
                        "replayed": True,
                    },
                    {
                        "index": 1,
                        "type": "urn:transfer-engine:problem:amount_not_positive",
                        "title": "Amount not positive",
                        "status": "failed",
                        "detail": "Amount must be positive",
                        "code": "amount_not_positive",
                        "retryable": False,
                        "field": "amount",
                        "req_id": "",
                        "message": "Amount must be positive",
                    },
                ]
            },
        ),
    ),
    problems=(
        ProblemCode.BATCH_EMPTY,
        ProblemCode.BATCH_TOO_LARGE,
        ProblemCode.EXCEEDS_RATE_LIMIT,
        ProblemCode.INVALID_IDEMPOTENCY_KEY,
    ),
)
