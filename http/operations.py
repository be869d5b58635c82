"""What is to be told of an endpoint beside its route: the OpenAPI document and the page at ``/docs`` are made of it."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from transfer_engine.engine.outcomes import RefusalCode
from transfer_engine.http.messages import JSON
from transfer_engine.http.problems import ProblemCode
from transfer_engine.schema.ids import KEY_LENGTH_MAX

Code = ProblemCode | RefusalCode

ID_MAX: Final = (1 << 63) - 1


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the path, of the query, or a header."""

    name: str
    place: Literal["path", "query", "header"]
    description: str
    schema: Mapping[str, Any]
    """JSON Schema."""
    is_required: bool = False
    example: str | int | None = None


class Listing(msgspec.Struct, frozen=True):
    """A body that is one list: of any of ``kinds``, in an object's ``member``; as JSON Lines, one of them a line."""

    member: str
    kinds: tuple[type[msgspec.Struct], ...]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is no problem.

    ``body`` is what msgspec knows as a type, a :class:`Listing`, or None for none; ``example`` is what such a body
    holds as JSON.
    """

    status: int
    description: str
    body: Any = None
    example: Any = None
    media_type: bytes = JSON


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint, as its readers need it. The handler's docstring is its first sentence."""

    name: str
    """``operationId``: unique, and stable for generated clients."""
    group: str
    answers: tuple[Answer, ...]
    description: str = ""
    """More than the handler's docstring says; Markdown."""
    request: Any = None
    """The body's type, where there is one."""
    example: Any = None
    """A body that works, as JSON."""
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[Code, ...] = ()
    """Beside those that every endpoint of its kind has, see :func:`~transfer_engine.http.openapi.problems_of`."""


TRANSFERS: Final = "Transfers"
USER: Final = "User API"
BATCHES: Final = "Batches"
WEBHOOKS: Final = "Webhooks"
OPERATORS: Final = "Operators"
HEALTH: Final = "Health and pages"

GROUPS: Final = {
    TRANSFERS: "The first API: amounts are integers in minor units, users and assets are numbers.",
    USER: "The second API: amounts are decimal strings, accounts have types, assets symbols; a token's own user is "
    'meant where none is named. Answers are in an envelope, `{"code": 0, "data": …}`.',
    BATCHES: "Many transfers in one request, each with its own key and its own outcome.",
    WEBHOOKS: "Where a user is told that his transfers have ended.",
    OPERATORS: "For whoever runs the engine: the scope `admin` is needed.",
    HEALTH: "For load balancers and readers; nobody has to say who he is.",
}
"""In the order in which they are shown."""

KEY: Final = Parameter(
    name="Idempotency-Key",
    place="header",
    description="Your own name for the transfer; always send one. The same key and body get the first answer again, "
    "with `Idempotent-Replayed: true`; the same key with another body is refused (`key_reused`).",
    schema={"type": "string", "minLength": 1, "maxLength": KEY_LENGTH_MAX, "pattern": "^[ -~]+$"},
    example="order-2041",
)
TRACEPARENT: Final = Parameter(
    name="traceparent",
    place="header",
    description="W3C Trace Context: the answer and the server's log lines are of the same trace. Anything else than a "
    "valid one is left out.",
    schema={"type": "string"},
    example="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
USER_IN_QUERY: Final = Parameter(
    name="user_id",
    place="query",
    description="Whose; the token's own user where it is missing. Another user needs the scope `transfer:any`.",
    schema={"type": "integer", "minimum": 1, "maximum": ID_MAX},
    example=4001,
)

MONEY_PROBLEMS: Final[tuple[Code, ...]] = (
    RefusalCode.AMOUNT_NOT_POSITIVE,
    RefusalCode.AMOUNT_TOO_LARGE,
    RefusalCode.UNKNOWN_SERVICE,
    RefusalCode.UNKNOWN_ASSET,
    RefusalCode.ASSET_DISABLED,
    RefusalCode.AMOUNT_BELOW_MINIMUM,
    RefusalCode.AMOUNT_ABOVE_MAXIMUM,
    RefusalCode.DAILY_LIMIT_REACHED,
    RefusalCode.SAME_ACCOUNT,
    RefusalCode.INVALID_USER_ID,
    RefusalCode.INVALID_TYPE,
)
"""What the engine refuses before it takes a transfer."""

TAKING_PROBLEMS: Final[tuple[Code, ...]] = (RefusalCode.OVERLOADED, RefusalCode.SHUTTING_DOWN)
