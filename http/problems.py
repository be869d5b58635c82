"""From a refusal to an HTTP answer: one map of statuses, one shape of body (RFC 9457 with the API's own members)."""

import enum
from typing import Final

import msgspec

from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.outcomes import Overloaded, RefusalCode, Refused
from transfer_engine.engine.records.protocol import RecordsUnavailable
from transfer_engine.http.messages import PROBLEM_JSON, About, Headers, Response
from transfer_engine.schema.transfers import TransferStatus
from transfer_engine.schema.wire import ProblemDetails

RETRY_AFTER_S: Final = 1
"""What ``Retry-After`` says where the engine does not know better: overload passes quickly or not at all."""


class ProblemCode(enum.StrEnum):
    """Why a door refused a request before the engine saw it, or could not answer it. Stable."""

    MALFORMED_BODY = "malformed_body"
    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    DUPLICATE_FIELD = "duplicate_field"
    INVALID_FIELD = "invalid_field"
    INVALID_IDEMPOTENCY_KEY = "invalid_idempotency_key"
    INVALID_REQ_ID = "invalid_req_id"
    INVALID_REQUEST_ID = "invalid_request_id"
    INVALID_USER_ID = "invalid_user_id"
    INVALID_AMOUNT = "invalid_amount"
    ASSET_MISMATCH = "asset_mismatch"
    MISSING_PARAMETER = "missing_parameter"
    UNKNOWN_PARAMETER = "unknown_parameter"
    DUPLICATE_PARAMETER = "duplicate_parameter"
    INVALID_PARAMETER = "invalid_parameter"
    INVALID_CURSOR = "invalid_cursor"
    BATCH_EMPTY = "batch_empty"
    BATCH_TOO_LARGE = "batch_too_large"
    UNKNOWN_OP = "unknown_op"
    NO_SUCH_PATH = "no_such_path"
    NO_SUCH_CORE = "no_such_core"
    NO_SUCH_WEBHOOK = "no_such_webhook"
    WEBHOOKS_DISABLED = "webhooks_disabled"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    MALFORMED_REQUEST = "malformed_request"
    TARGET_TOO_LONG = "target_too_long"
    HEAD_TOO_LARGE = "head_too_large"
    HEAD_TOO_SLOW = "head_too_slow"
    BODY_TOO_SLOW = "body_too_slow"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    UPGRADE_REQUIRED = "upgrade_required"
    UNAUTHENTICATED = "unauthenticated"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    WRONG_HOST = "wrong_host"
    EXCEEDS_RATE_LIMIT = "exceeds_rate_limit"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


STATUS_OF_PROBLEM: Final = {
    ProblemCode.MALFORMED_BODY: 400,
    ProblemCode.MISSING_FIELD: 422,
    ProblemCode.UNKNOWN_FIELD: 422,
    ProblemCode.DUPLICATE_FIELD: 422,
    ProblemCode.INVALID_FIELD: 422,
    ProblemCode.INVALID_IDEMPOTENCY_KEY: 400,
    ProblemCode.INVALID_REQ_ID: 400,
    ProblemCode.INVALID_REQUEST_ID: 400,
    ProblemCode.INVALID_USER_ID: 400,
    ProblemCode.INVALID_AMOUNT: 422,
    ProblemCode.ASSET_MISMATCH: 422,
    ProblemCode.MISSING_PARAMETER: 400,
    ProblemCode.UNKNOWN_PARAMETER: 400,
    ProblemCode.DUPLICATE_PARAMETER: 400,
    ProblemCode.INVALID_PARAMETER: 400,
    ProblemCode.INVALID_CURSOR: 400,
    ProblemCode.BATCH_EMPTY: 422,
    ProblemCode.BATCH_TOO_LARGE: 422,
    ProblemCode.UNKNOWN_OP: 422,
    ProblemCode.NO_SUCH_PATH: 404,
    ProblemCode.NO_SUCH_CORE: 404,
    ProblemCode.NO_SUCH_WEBHOOK: 404,
    ProblemCode.WEBHOOKS_DISABLED: 404,
    ProblemCode.METHOD_NOT_ALLOWED: 405,
    ProblemCode.MALFORMED_REQUEST: 400,
    ProblemCode.TARGET_TOO_LONG: 414,
    ProblemCode.HEAD_TOO_LARGE: 431,
    ProblemCode.HEAD_TOO_SLOW: 408,
    ProblemCode.BODY_TOO_SLOW: 408,
    ProblemCode.BODY_TOO_LARGE: 413,
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ProblemCode.UPGRADE_REQUIRED: 426,
    ProblemCode.UNAUTHENTICATED: 401,
    ProblemCode.INSUFFICIENT_SCOPE: 403,
    ProblemCode.WRONG_HOST: 421,
    ProblemCode.EXCEEDS_RATE_LIMIT: 422,
    ProblemCode.RATE_LIMITED: 429,
    ProblemCode.UNAVAILABLE: 503,
    ProblemCode.INTERNAL: 500,
}

_RETRYABLE: Final = {
    ProblemCode.HEAD_TOO_SLOW,
    ProblemCode.BODY_TOO_SLOW,
    ProblemCode.RATE_LIMITED,
    ProblemCode.UNAVAILABLE,
}

STATUS_OF_REFUSAL: Final = {
    RefusalCode.AMOUNT_NOT_POSITIVE: 422,
    RefusalCode.AMOUNT_TOO_LARGE: 422,
    RefusalCode.UNKNOWN_SERVICE: 422,
    RefusalCode.UNKNOWN_ASSET: 422,
    RefusalCode.ASSET_DISABLED: 422,
    RefusalCode.AMOUNT_BELOW_MINIMUM: 422,
    RefusalCode.AMOUNT_ABOVE_MAXIMUM: 422,
    RefusalCode.DAILY_LIMIT_REACHED: 422,
    RefusalCode.SAME_ACCOUNT: 422,
    RefusalCode.INVALID_USER_ID: 422,
    RefusalCode.INVALID_TYPE: 422,
    RefusalCode.KEY_TOO_LONG: 400,
    RefusalCode.KEY_EMPTY: 400,
    RefusalCode.KEY_REUSED: 422,
    RefusalCode.OVERLOADED: 503,
    RefusalCode.SHUTTING_DOWN: 503,
    RefusalCode.UNAVAILABLE: 503,
    RefusalCode.NOT_FOUND: 404,
}


NUMBER_OF_CODE: Final = {
    # 10xx: the form of the request
    "malformed_body": 1000,
    "missing_field": 1001,
    "unknown_field": 1002,
    "duplicate_field": 1003,
    "invalid_field": 1004,
    "invalid_type": 1005,
    "invalid_idempotency_key": 1006,
    "key_empty": 1007,
    "key_too_long": 1008,
    "invalid_req_id": 1009,
    "invalid_request_id": 1010,
    "invalid_user_id": 1011,
    "missing_parameter": 1012,
    "unknown_parameter": 1013,
    "duplicate_parameter": 1014,
    "invalid_parameter": 1015,
    "invalid_cursor": 1016,
    "batch_empty": 1017,
    "batch_too_large": 1018,
    "unknown_op": 1019,
    # 11xx: HTTP
    "no_such_path": 1100,
    "method_not_allowed": 1101,
    "body_too_slow": 1102,
    "body_too_large": 1103,
    "unsupported_media_type": 1104,
    "wrong_host": 1105,
    "malformed_request": 1106,
    "target_too_long": 1107,
    "head_too_large": 1108,
    "head_too_slow": 1109,
    "upgrade_required": 1120,
    # 20xx: who asks
    "unauthenticated": 2000,
    "insufficient_scope": 2001,
    # 30xx: what is to be moved
    "amount_not_positive": 3000,
    "amount_too_large": 3001,
    "invalid_amount": 3002,
    "unknown_service": 3010,
    "unknown_asset": 3011,
    "asset_disabled": 3012,
    "asset_mismatch": 3013,
    "same_account": 3014,
    "key_reused": 3020,
    # 31xx: limits
    "amount_below_minimum": 3100,
    "amount_above_maximum": 3101,
    "daily_limit_reached": 3102,
    "rate_limited": 3110,
    "exceeds_rate_limit": 3111,
    # 40xx: what is not there
    "not_found": 4000,
    "no_such_core": 4001,
    "no_such_webhook": 4002,
    "webhooks_disabled": 4003,
    # 50xx: the server, now
    "internal": 5000,
    "unavailable": 5001,
    "overloaded": 5002,
    "shutting_down": 5003,
}
"""The numbers by which the second API tells problems. Stable: none changes, and none is used again for another one."""


class Rejected(Exception):
    """A door's own refusal: the engine was not asked, and nothing happened."""

    def __init__(
        self,
        code: ProblemCode,
        detail: str,
        *,
        field: str | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field
        self.headers = headers


class Flavour(enum.Enum):
    """Which members of its API a route's problem details carry."""

    PLAIN = "plain"
    TRANSFER = "transfer"
    """``req_id`` (empty), ``status`` (of the transfer) and ``message``."""
    LOOKUP = "lookup"
    """``error``."""
    USER = "user"
    """The second API's: ``code`` is a number, ``name`` the code."""


class Problem(msgspec.Struct, frozen=True):
    """A refusal or fault, ready to be answered."""

    status: int
    code: str
    detail: str
    field: str | None = None
    retryable: bool = False
    outcome_is_known: bool = True
    """Whether nothing moved and nothing will; otherwise a transfer's ``status`` must not be ``failed``."""
    headers: Headers = ()

    def response(self, flavour: Flavour) -> Response:
        """Return the answer, with the members that the route's clients look for."""
        body = _ENCODER.encode(self.details(flavour))
        overloaded = int(self.code == RefusalCode.OVERLOADED)
        return Response(self.status, body, PROBLEM_JSON, self.headers, About(code=self.code), overloaded)

    def details(self, flavour: Flavour) -> ProblemDetails:
        """Return the answer's body."""
        is_transfer = flavour is Flavour.TRANSFER
        is_user = flavour is Flavour.USER
        transfer_status = TransferStatus.FAILED if self.outcome_is_known else TransferStatus.PENDING
        return ProblemDetails(
            type=f"urn:transfer-engine:problem:{self.code}",
            title=self.code.replace("_", " ").capitalize(),
            status=transfer_status if is_transfer else self.status,
            detail=self.detail,
            code=NUMBER_OF_CODE[self.code] if is_user else self.code,
            retryable=self.retryable,
            name=self.code if is_user else None,
            field=self.field,
            req_id="" if is_transfer else None,
            message=self.detail if is_transfer else None,
            error=self.detail if flavour is Flavour.LOOKUP else None,
        )


_ENCODER: Final = msgspec.json.Encoder()


def problem_of_rejection(rejected: Rejected) -> Problem:
    """Return the problem of a door's own refusal."""
    return Problem(
        status=STATUS_OF_PROBLEM[rejected.code],
        code=rejected.code,
        detail=rejected.detail,
        field=rejected.field,
        retryable=rejected.code in _RETRYABLE,
        headers=rejected.headers,
    )


def problem_of_refusal(refused: Refused) -> Problem:
    """Return the problem of a request that the engine refused before it wrote an intent."""
    status = STATUS_OF_REFUSAL.get(refused.code, 422)
    retry_after_s = refused.retry_after_s if isinstance(refused, Overloaded) else RETRY_AFTER_S
    return Problem(
        status=status,
        code=refused.code,
        detail=refused.message,
        field=refused.field,
        retryable=refused.is_retryable,
        headers=((b"retry-after", b"%d" % retry_after_s),) if status == 503 else (),
    )


def problem_of_fault(fault: Exception, *, is_safe: bool) -> Problem:
    """Return the problem of an exception that nobody expected, or of a backend that does not answer.

    Whether a transfer was taken is not known then. ``is_safe`` says that a repetition can't move an amount twice: there
    is a key, or nothing to move. Otherwise the client is not told to repeat it.
    """
    advice = "send the same request again" if is_safe else "the outcome is not known, look before you repeat it"
    is_backend = isinstance(fault, LedgerUnavailable | RecordsUnavailable)
    if is_backend:
        cause = f"the {'ledger' if isinstance(fault, LedgerUnavailable) else 'record store'} does not answer now"
    else:
        cause = "the server met an error of its own"
    return Problem(
        status=503 if is_backend else 500,
        code=ProblemCode.UNAVAILABLE if is_backend else ProblemCode.INTERNAL,
        detail=f"{cause}: {advice}",
        retryable=is_safe,
        outcome_is_known=False,
        headers=((b"retry-after", b"%d" % RETRY_AFTER_S),) if is_backend else (),
    )
