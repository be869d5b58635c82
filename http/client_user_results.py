"""What the second API answers, as the client reads it: decimal strings; what it does not know is left out."""

from typing import Generic, TypeVar
from uuid import UUID

import msgspec

from transfer_engine.schema.transfers import TransferState
from transfer_engine.schema.user_wire import UserStatus

Data = TypeVar("Data")


class UserAccount(msgspec.Struct, frozen=True):
    """One side of a transfer: ``account_type`` is the service's own name, also where an alias was sent."""

    account_type: str
    user_id: int
    asset: str


class InternalTransfer(msgspec.Struct, frozen=True):
    """A transfer as the second API tells it: ``amount`` has all of the asset's decimals, times are Unix ms.

    ``status`` sums ``state`` up: ``requesting`` and ``pending`` are under way, ``success`` and ``failed`` final. Times
    are None while the ledger has not taken it. ``key`` is the caller's, where this client knows it.
    """

    request_id: str
    req_id: UUID
    from_account: UserAccount
    to_account: UserAccount
    amount: str
    status: UserStatus
    state: TransferState
    error: str | None = None
    created_at: int | None = None
    updated_at: int | None = None
    key: str | None = None
    is_replay: bool = False

    @property
    def is_committed(self) -> bool:
        """Whether the money moved, for good."""
        return self.status is UserStatus.SUCCESS

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in {UserStatus.SUCCESS, UserStatus.FAILED}


class UserBalance(msgspec.Struct, frozen=True):
    """A user's money in one account; ``frozen`` is held by transfers under way, and not in ``available``."""

    account_type: str
    asset: str
    available: str
    frozen: str


class AssetLimits(msgspec.Struct, frozen=True):
    """What a user may move of an asset, now; what is daily is None where there is no daily limit.

    ``daily_used`` counts what was moved in this UTC day and what is under way; it begins anew at ``resets_at`` (Unix
    ms).
    """

    asset: str
    enabled: bool
    minimum: str
    maximum: str
    daily_maximum: str | None = None
    daily_used: str | None = None
    daily_left: str | None = None
    resets_at: int | None = None


class RateLimit(msgspec.Struct, frozen=True):
    """How often this token may ask: ``left`` requests now, and all of them again in ``full_in_s`` seconds."""

    per_minute: int
    left: int
    full_in_s: int


class Limits(msgspec.Struct, frozen=True):
    """A user's limits; ``rate_limit`` is None where requests are not limited."""

    user_id: int
    limits: list[AssetLimits]
    rate_limit: RateLimit | None = None


class BalancesData(msgspec.Struct, frozen=True):
    """A user's accounts."""

    balances: list[UserBalance]


class PageData(msgspec.Struct, frozen=True):
    """A page of history."""

    transfers: list[InternalTransfer]
    next_cursor: str | None = None


class Envelope(msgspec.Struct, Generic[Data], frozen=True):
    """What every answer is in."""

    data: Data
