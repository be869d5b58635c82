"""What travels through the doors of the second API: amounts are decimal strings, exact.

A description in a field's ``Meta`` ends the sentence "this field must be …": the doors' error messages use it.
"""

import enum
from typing import Annotated, Final, Generic, Literal, TypeVar
from uuid import UUID

import msgspec

from transfer_engine.schema.transfers import TransferState
from transfer_engine.schema.wire import UserId

AccountType = Annotated[str, msgspec.Meta(description='the name of a service, a string like "funding" or "spot"')]
AssetSymbol = Annotated[str, msgspec.Meta(description='the symbol of an asset, a string like "USDT"')]
DecimalAmount = Annotated[str, msgspec.Meta(description='a decimal number in a string, like "100.5"')]

Data = TypeVar("Data")


class UserStatus(enum.StrEnum):
    """How the second API calls a transfer's state."""

    REQUESTING = "requesting"
    PENDING = "pending"
    SUCCESS = "success"
    FAILED = "failed"


USER_STATUS_OF_STATE: Final = {
    TransferState.INIT: UserStatus.REQUESTING,
    TransferState.SOURCE_PENDING: UserStatus.REQUESTING,
    TransferState.SOURCE_DONE: UserStatus.PENDING,
    TransferState.TARGET_PENDING: UserStatus.PENDING,
    TransferState.COMPENSATING: UserStatus.PENDING,
    TransferState.COMMITTED: UserStatus.SUCCESS,
    TransferState.FAILED: UserStatus.FAILED,
    TransferState.ROLLED_BACK: UserStatus.FAILED,
}


class AccountReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One side of a transfer; without ``user_id`` it is the token's own user's."""

    account_type: AccountType
    asset: AssetSymbol
    user_id: UserId | None = None


class UserTransferRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/v1/user/internal_transfer`: move an amount between two accounts of one asset."""

    from_account: Annotated[AccountReference, msgspec.Meta(description="an object with account_type and asset")]
    to_account: Annotated[AccountReference, msgspec.Meta(description="an object with account_type and asset")]
    amount: DecimalAmount


class UserAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One side of a transfer, as it is told: ``account_type`` is the service's own name, whichever alias was sent."""

    account_type: str
    user_id: int
    asset: str


class UserTransfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A transfer as the second API tells it; ``amount`` has all of the asset's decimals, times are Unix ms.

    ``status`` sums ``state`` up. ``error`` says why it failed, or what holds it up; null where there is nothing to say.
    Times are null while the ledger has not taken it.
    """

    request_id: str
    req_id: UUID
    from_account: UserAccount
    to_account: UserAccount
    amount: str
    status: UserStatus
    state: TransferState
    error: str | None
    created_at: int | None
    updated_at: int | None


class UserTransferPage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A page of history, newest first; ``next_cursor`` asks for the next one, null at the end."""

    transfers: list[UserTransfer]
    next_cursor: str | None


class UserBalance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A user's money in one account; ``frozen`` is held by transfers under way, and not in ``available``."""

    account_type: str
    asset: str
    available: str
    frozen: str


class UserBalances(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`GET /api/v1/user/balances`: every account that the user has; none is an empty list."""

    user_id: int
    balances: list[UserBalance]


class UserAsset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An asset: amounts have at most ``decimals`` digits after the point.

    One transfer may move ``minimum`` to ``maximum``, a user's transfers of a UTC day ``daily_maximum`` together (null:
    no such limit).
    """

    asset: str
    asset_id: int
    decimals: int
    enabled: bool
    minimum: str
    maximum: str
    daily_maximum: str | None


class UserAssetLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user may move of an asset, now; what is daily is null where there is no daily limit.

    ``daily_used`` counts what was moved in this UTC day and what is under way; it begins anew at ``resets_at`` (Unix
    ms).
    """

    asset: str
    enabled: bool
    minimum: str
    maximum: str
    daily_maximum: str | None
    daily_used: str | None
    daily_left: str | None
    resets_at: int | None


class UserRateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often the token that asks may ask: ``left`` requests now, and all of them again in ``full_in_s`` seconds."""

    per_minute: int
    left: int
    full_in_s: int


class UserLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`GET /api/v1/user/limits`; ``rate_limit`` is null where requests are not limited."""

    user_id: int
    limits: list[UserAssetLimits]
    rate_limit: UserRateLimit | None = None


class UserAssets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`GET /api/v1/user/assets`: the assets that the engine knows."""

    assets: list[UserAsset]


class Success(msgspec.Struct, Generic[Data], frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """The envelope of every answer that is no problem."""

    code: Literal[0] = 0
    data: Data
