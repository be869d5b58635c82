"""The second API, as its readers need it."""

from typing import Any, Final

from transfer_engine.engine.outcomes import RefusalCode
from transfer_engine.http.first_operations import EXAMPLE_REQ_ID
from transfer_engine.http.operations import (
    KEY,
    MONEY_PROBLEMS,
    TAKING_PROBLEMS,
    USER,
    USER_IN_QUERY,
    Answer,
    Code,
    Operation,
    Parameter,
)
from transfer_engine.http.problems import ProblemCode
from transfer_engine.schema.ids import KEY_LENGTH_MAX, request_id
from transfer_engine.schema.user_wire import (
    Success,
    UserAssets,
    UserBalances,
    UserLimits,
    UserStatus,
    UserTransfer,
    UserTransferPage,
    UserTransferRequest,
)

EXAMPLE_REQUEST_ID: Final = request_id(int(EXAMPLE_REQ_ID.replace("-", ""), 16))

_TRANSFER: Final = {
    "request_id": EXAMPLE_REQUEST_ID,
    "req_id": EXAMPLE_REQ_ID,
    "from_account": {"account_type": "funding", "user_id": 4001, "asset": "USDT"},
    "to_account": {"account_type": "trading", "user_id": 4001, "asset": "USDT"},
    "amount": "0.01000000",
    "status": "success",
    "state": "committed",
    "error": None,
    "created_at": 1767225600000,
    "updated_at": 1767225600001,
}

_NO_USER: Final[tuple[Code, ...]] = (
    ProblemCode.MISSING_PARAMETER,
    ProblemCode.INVALID_USER_ID,
    RefusalCode.NOT_FOUND,
)
_REQUEST_ID: Final = Parameter(
    name="request_id",
    place="path",
    description="The transfer's `request_id`, a decimal number in a string, or its `req_id`, a UUID.",
    schema={"type": "string", "pattern": "^(0|[1-9][0-9]{0,38}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"},
    is_required=True,
    example=EXAMPLE_REQUEST_ID,
)


def _filter(name: str, description: str, schema: dict[str, Any], example: str | int | None = None) -> Parameter:
    return Parameter(name=name, place="query", description=description, schema=schema, example=example)


_TIME: Final = {"type": "integer", "minimum": 100_000_000_000, "maximum": 999_999_999_999_999}

TRANSFER: Final = Operation(
    name="userTransfer",
    group=USER,
    description="`amount` has at most the asset's decimals: no exponent, no sign, no blanks. Both accounts name the "
    "same asset. A missing `user_id` is the token's own user; moving between users needs the scope `transfer:any`.",
    request=UserTransferRequest,
    example={
        "from_account": {"account_type": "funding", "user_id": 4001, "asset": "USDT"},
        "to_account": {"account_type": "spot", "user_id": 4001, "asset": "USDT"},
        "amount": "0.01000000",
    },
    answers=(
        Answer(
            status=200,
            description="The verdict: `success` or `failed`, for good.",
            body=Success[UserTransfer],
            example={"code": 0, "data": _TRANSFER},
        ),
        Answer(
            status=202,
            description="Not known yet, the work goes on: look it up, or send the same again.",
            body=Success[UserTransfer],
        ),
    ),
    parameters=(KEY,),
    problems=(*MONEY_PROBLEMS, ProblemCode.INVALID_AMOUNT, ProblemCode.ASSET_MISMATCH, *TAKING_PROBLEMS),
)

LOOK_UP: Final = Operation(
    name="getUserTransfer",
    group=USER,
    answers=(
        Answer(
            status=200,
            description="What is known of it.",
            body=Success[UserTransfer],
            example={"code": 0, "data": _TRANSFER},
        ),
    ),
    parameters=(_REQUEST_ID,),
    problems=(ProblemCode.INVALID_REQUEST_ID, RefusalCode.NOT_FOUND),
)

LOOK_UP_BY_KEY: Final = Operation(
    name="getUserTransferByKey",
    group=USER,
    answers=(
        Answer(
            status=200,
            description="What is known of it.",
            body=Success[UserTransfer],
            example={"code": 0, "data": _TRANSFER},
        ),
    ),
    parameters=(
        Parameter(
            name="idempotency_key",
            place="query",
            description="The key that the transfer was sent with, by the same token's subject.",
            schema={"type": "string", "minLength": 1, "maxLength": KEY_LENGTH_MAX, "pattern": "^[ -~]+$"},
            is_required=True,
            example="order-2041",
        ),
    ),
    problems=(ProblemCode.MISSING_PARAMETER, ProblemCode.INVALID_IDEMPOTENCY_KEY, RefusalCode.NOT_FOUND),
)

HISTORY: Final = Operation(
    name="listUserTransfers",
    group=USER,
    description="Newest first. A window is 7 days long at most, and the last 7 days where no time is given. A page may "
    "be short, even empty, while `next_cursor` goes on; it stays complete while transfers arrive.",
    answers=(
        Answer(
            status=200,
            description="A page.",
            body=Success[UserTransferPage],
            example={"code": 0, "data": {"transfers": [_TRANSFER], "next_cursor": None}},
        ),
    ),
    parameters=(
        _filter("asset", "The symbol of an asset.", {"type": "string"}, "USDT"),
        _filter("from", "The account type of the source.", {"type": "string"}, "funding"),
        _filter("to", "The account type of the target.", {"type": "string"}, "spot"),
        _filter(
            "status",
            f"Some of {', '.join(f'`{status.value}`' for status in UserStatus)}, with commas.",
            {"type": "string"},
            "success,failed",
        ),
        _filter("start_time", "The oldest time, Unix ms.", _TIME),
        _filter("end_time", "The newest time, Unix ms.", _TIME),
        _filter("limit", "Transfers on a page.", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}, 20),
        _filter("cursor", "`next_cursor` of the page before, with the same filters.", {"type": "string"}),
        USER_IN_QUERY,
    ),
    problems=(
        *_NO_USER,
        ProblemCode.INVALID_CURSOR,
        RefusalCode.UNKNOWN_ASSET,
        RefusalCode.UNKNOWN_SERVICE,
    ),
)

BALANCES: Final = Operation(
    name="getUserBalances",
    group=USER,
    description="`frozen` is held by transfers under way, and not in `available`. Accounts that were never used are "
    "left out.",
    answers=(
        Answer(
            status=200,
            description="Every account that the user has.",
            body=Success[UserBalances],
            example={
                "code": 0,
                "data": {
                    "user_id": 4001,
                    "balances": [
                        {"account_type": "funding", "asset": "USDT", "available": "4.98000000", "frozen": "0.00000000"}
                    ],
                },
            },
        ),
    ),
    parameters=(USER_IN_QUERY,),
    problems=_NO_USER,
)

ASSETS: Final = Operation(
    name="listUserAssets",
    group=USER,
    answers=(
        Answer(
            status=200,
            description="The assets.",
            body=Success[UserAssets],
            example={
                "code": 0,
                "data": {
                    "assets": [
                        {
                            "asset": "USDT",
                            "asset_id": 1,
                            "decimals": 8,
                            "enabled": True,
                            "minimum": "0.01000000",
                            "maximum": "10000000.00000000",
                            "daily_maximum": None,
                        }
                    ]
                },
            },
        ),
    ),
)


def _limits(name: str) -> Operation:
    return Operation(
        name=name,
        group=USER,
        description="What is daily is null where there is no daily limit; `rate_limit` is of the token that asks.",
        answers=(
            Answer(
                status=200,
                description="What the user may move of each asset, now.",
                body=Success[UserLimits],
                example={
                    "code": 0,
                    "data": {
                        "user_id": 4001,
                        "limits": [
                            {
                                "asset": "USDT",
                                "enabled": True,
                                "minimum": "0.01000000",
                                "maximum": "10000000.00000000",
                                "daily_maximum": "1000.00000000",
                                "daily_used": "10.00000000",
                                "daily_left": "990.00000000",
                                "resets_at": 1767312000000,
                            }
                        ],
                        "rate_limit": {"per_minute": 60, "left": 59, "full_in_s": 1},
                    },
                },
            ),
        ),
        parameters=(USER_IN_QUERY,),
        problems=_NO_USER,
    )


LIMITS: Final = _limits("getUserLimits")
TRANSFER_LIMITS: Final = _limits("getUserTransferLimits")
"""The same under the transfers' own path."""
