"""The first API and the health checks, as their readers need them."""

from typing import Final
from uuid import UUID

from transfer_engine.engine.outcomes import RefusalCode
from transfer_engine.http.operations import (
    HEALTH,
    ID_MAX,
    KEY,
    MONEY_PROBLEMS,
    TAKING_PROBLEMS,
    TRANSFERS,
    Answer,
    Operation,
    Parameter,
)
from transfer_engine.http.problems import ProblemCode
from transfer_engine.schema.ids import keyed_req_id
from transfer_engine.schema.wire import (
    AssetsResponse,
    BalancesResponse,
    HealthResponse,
    ReadyResponse,
    RecordResponse,
    TransferRequest,
    TransferResponse,
)

EXAMPLE_REQ_ID: Final = str(UUID(int=keyed_req_id("", "transfer", str(KEY.example))))
"""What the key of the examples becomes where there are no tokens."""

REQ_ID: Final = Parameter(
    name="req_id",
    place="path",
    description="The transfer's name, a UUID.",
    schema={"type": "string", "format": "uuid"},
    is_required=True,
    example=EXAMPLE_REQ_ID,
)

TRANSFER: Final = Operation(
    name="transfer",
    group=TRANSFERS,
    description="The HTTP status tells about the request, `status` about the transfer: one that was taken and then "
    "refused by the ledger is a 200 whose `status` is `failed`. After a lost connection, a time-out or a 5xx send the "
    "same again, with the same key.",
    request=TransferRequest,
    example={"from": "funding", "to": "trading", "user_id": 4001, "asset_id": 1, "amount": 1000000},
    answers=(
        Answer(
            status=200,
            description="The verdict: `committed`, `failed` or `rolled_back`, for good.",
            body=TransferResponse,
            example={"req_id": EXAMPLE_REQ_ID, "status": "committed", "message": None},
        ),
        Answer(
            status=202,
            description="Not known yet, the work goes on: look it up, or send the same again.",
            body=TransferResponse,
        ),
    ),
    parameters=(KEY,),
    problems=(*MONEY_PROBLEMS, *TAKING_PROBLEMS),
)

LOOK_UP: Final = Operation(
    name="getTransfer",
    group=TRANSFERS,
    description="Times are Unix ms. One that was told `pending` and is unknown after a crash had not begun: send it "
    "again by its key.",
    answers=(
        Answer(
            status=200,
            description="What is known of it.",
            body=RecordResponse,
            example={
                "req_id": EXAMPLE_REQ_ID,
                "state": "committed",
                "source": "funding",
                "target": "trading",
                "user_id": 4001,
                "asset_id": 1,
                "amount": 1000000,
                "created_at": 1767225600000,
                "updated_at": 1767225600001,
                "error": None,
                "retry_count": 0,
            },
        ),
    ),
    parameters=(REQ_ID,),
    problems=(ProblemCode.INVALID_REQ_ID, RefusalCode.NOT_FOUND),
)

BALANCES: Final = Operation(
    name="getBalances",
    group=TRANSFERS,
    description="`frozen` is held by transfers under way, and not in `available`. Accounts that were never used are "
    "left out.",
    answers=(
        Answer(
            status=200,
            description="Every account that the user has.",
            body=BalancesResponse,
            example={"balances": [{"account": "funding", "asset_id": 1, "available": 499000000, "frozen": 0}]},
        ),
    ),
    parameters=(
        Parameter(
            name="user_id",
            place="path",
            description="Whose.",
            schema={"type": "integer", "minimum": 1, "maximum": ID_MAX},
            is_required=True,
            example=4001,
        ),
    ),
    problems=(ProblemCode.INVALID_USER_ID, RefusalCode.NOT_FOUND),
)

ASSETS: Final = Operation(
    name="listAssets",
    group=TRANSFERS,
    description="One unit of an asset is 10^`decimals` minor units.",
    answers=(
        Answer(
            status=200,
            description="The assets.",
            body=AssetsResponse,
            example={"assets": [{"asset_id": 1, "symbol": "USDT", "decimals": 8, "enabled": True}]},
        ),
    ),
)

HEALTH_CHECK: Final = Operation(
    name="health",
    group=HEALTH,
    answers=(
        Answer(
            status=200,
            description="It does.",
            body=HealthResponse,
            example={"status": "healthy", "version": "1.0.0"},
        ),
    ),
)

READY: Final = Operation(
    name="ready",
    group=HEALTH,
    answers=(
        Answer(
            status=200,
            description="They can.",
            body=ReadyResponse,
            example={
                "ready": True,
                "ledger": {"ready": True, "detail": ""},
                "records": {"ready": True, "detail": ""},
                "scanner": {"ready": True, "detail": ""},
            },
        ),
        Answer(status=503, description="They can't: `detail` says why.", body=ReadyResponse),
    ),
)
