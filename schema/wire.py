"""What travels through the doors: bodies of requests and answers of the first API, and problem details.

A description in a field's ``Meta`` ends the sentence "this field must be …": the doors' error messages use it.
"""

from typing import Annotated, Final
from uuid import UUID

import msgspec

from transfer_engine.schema.transfers import TransferRecord, TransferState, TransferStatus

_POSITIVE: Final = {"minimum": 1, "maximum": (1 << 63) - 1}
"""Told to readers of the schema; the engine refuses what is outside, in words of its own."""

ServiceName = Annotated[str, msgspec.Meta(description='the name of a service, a string like "funding"')]
UserId = Annotated[
    int,
    msgspec.Meta(description="a user's number, an integer from 1 to 9223372036854775807", extra_json_schema=_POSITIVE),
]
AssetId = Annotated[int, msgspec.Meta(description="an asset's number, an integer like 1")]
Amount = Annotated[
    int,
    msgspec.Meta(description="an integer in minor units, from 1 to 9223372036854775807", extra_json_schema=_POSITIVE),
]
ActionName = Annotated[str, msgspec.Meta(description='"post" or "void"', extra_json_schema={"enum": ["post", "void"]})]
OptionalUserId = Annotated[
    int | None, msgspec.Meta(description="a user's number, an integer from 1 to 9223372036854775807, or left out")
]
OptionalKey = Annotated[
    str | None, msgspec.Meta(description="a string of 1 to 255 printable ASCII characters, or left out")
]


class TransferRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """`POST /api/v1/transfer`: move ``amount`` (minor units) between two accounts of one user."""

    source: ServiceName = msgspec.field(name="from")
    target: ServiceName = msgspec.field(name="to")
    user_id: UserId
    asset_id: AssetId
    amount: Amount


class TransferResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What became of a transfer or credit; ``message`` is null where there is nothing to add."""

    req_id: UUID
    status: TransferStatus
    message: str | None


class TransferItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """One transfer of a batch, or of a websocket: what `POST /api/v1/transfer` takes, with its key beside it.

    Attributes:
        source: whose money is moved from (``from``).
        target: where it goes (``to``).
        asset_id: in which asset.
        amount: how much, in minor units.
        user_id: whose money; left out, the token's own user's.
        to_user_id: who gets it; left out, the same user.
        idempotency_key: the client's own name of the transfer.
    """

    source: ServiceName = msgspec.field(name="from")
    target: ServiceName = msgspec.field(name="to")
    asset_id: AssetId
    amount: Amount
    user_id: OptionalUserId = None
    to_user_id: OptionalUserId = None
    idempotency_key: OptionalKey = None


class TransferResult(msgspec.Struct, frozen=True, gc=False):
    """What became of one transfer of a batch, or of a websocket; ``message`` is null where there is nothing to add."""

    req_id: UUID
    status: TransferStatus
    message: str | None
    replayed: bool
    """Whether the answer had been given before, for the same key."""


class ErrorDetails(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Why a request of a batch or websocket was refused: the members of :class:`ProblemDetails` that tell it.

    ``status`` stands where a transfer was asked for: ``failed`` (nothing moved) or ``pending`` (unknown: ask again).
    ``retry_after_s`` says when, where the server knows.
    """

    code: str
    detail: str
    retryable: bool
    field: str | None = None
    status: TransferStatus | None = None
    retry_after_s: int | None = None


class BatchEntry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One entry of a batch's answer: ``data`` where the transfer was taken, ``error`` where it was not."""

    ok: bool
    data: TransferResult | None = None
    error: ErrorDetails | None = None


class BatchResult(msgspec.Struct, frozen=True, gc=False):
    """A batch's answer: an entry for each of its transfers, in their order."""

    results: list[BatchEntry]


class RecordResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """`GET /api/v1/transfer/{req_id}`: amounts in minor units, times in Unix ms, ``error`` null where there is none."""

    req_id: UUID
    state: TransferState
    source: str
    target: str
    user_id: int
    asset_id: int
    amount: int
    created_at: int
    updated_at: int
    error: str | None
    retry_count: int

    @classmethod
    def of(cls, record: TransferRecord) -> "RecordResponse":
        """Return what the first API shows of a record."""
        return cls(
            req_id=record.req_id,
            state=record.state,
            source=record.source,
            target=record.target,
            user_id=record.user_id,
            asset_id=record.asset_id,
            amount=record.amount,
            created_at=record.created_at,
            updated_at=record.updated_at,
            error=record.error or None,
            retry_count=record.retry_count,
        )


class BalanceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user's money in one account, in minor units; ``frozen`` is held by transfers under way."""

    account: str
    asset_id: int
    available: int
    frozen: int


class BalancesResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`GET /api/v1/balances/{user_id}`: every account that the user has; none is an empty list."""

    balances: list[BalanceEntry]


class AssetEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An asset: one unit of it is 10^decimals minor units."""

    asset_id: int
    symbol: str
    decimals: int
    enabled: bool


class AssetsResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`GET /api/v1/assets`: the assets that the engine knows."""

    assets: list[AssetEntry]


class CreditRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/v1/admin/credits`: a deposit from outside of the engine, in minor units."""

    user_id: UserId
    account: ServiceName
    asset_id: AssetId
    amount: Amount


class ResolveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/v1/admin/transfers/{req_id}/resolve`: an operator's decision."""

    action: ActionName


class ResolveResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a resolution did, step by step, and the state of the transfer after it."""

    req_id: UUID
    state: str
    steps: list[str]


class HealthResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`GET /health`: the process answers."""

    status: str
    version: str


class PartResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether one part of the engine can work now, and if not, why."""

    ready: bool
    detail: str


class ReadyResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`GET /ready`: whether transfers can be taken now, part by part."""

    ready: bool
    ledger: PartResponse
    records: PartResponse
    scanner: PartResponse


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error's body (RFC 9457), with the members of this API beside it.

    ``status`` repeats the HTTP status, except where a transfer was asked for: there the first API's ``status`` stands
    (``failed``: nothing moved and nothing will; ``pending``: unknown, ask again), beside its ``req_id`` and
    ``message``. RFC 9457 has clients ignore a member of another type than its own. ``error`` is the first API's member
    on look-ups. ``code`` is stable; ``retryable`` says whether the same request may succeed later, unchanged;
    ``field`` names what is wrong in the request. On the second API ``code`` is a number and ``name`` the code.
    """

    type: str
    title: str
    status: int | TransferStatus
    detail: str
    code: int | str
    retryable: bool
    name: str | None = None
    field: str | None = None
    req_id: str | None = None
    message: str | None = None
    error: str | None = None
