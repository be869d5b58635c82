"""What the engine answers: outcomes and balances, and its refusals before an intent was taken."""

import enum
from typing import Final
from uuid import UUID

import msgspec

from transfer_engine.schema.transfers import TransferState, TransferStatus


class TransferOutcome(msgspec.Struct, frozen=True):
    """What became of a transfer, as far as it is known at its deadline.

    ``pending`` means that the work goes on: ask again by ``req_id``, or with the same key. ``message`` says why a
    transfer failed or is pending. ``replayed`` is true where the answer had been given before, for the same key.
    ``state`` says how far it had got. ``created_at`` and ``updated_at`` are its record's (Unix ms), 0 where the ledger
    has not taken it yet.
    """

    req_id: UUID
    status: TransferStatus
    state: TransferState
    message: str | None = None
    replayed: bool = False
    created_at: int = 0
    updated_at: int = 0


class Balance(msgspec.Struct, frozen=True):
    """A user's money in one account, in minor units; ``frozen`` is held by transfers under way."""

    account: str
    asset_id: int
    available: int
    frozen: int


class RefusalCode(enum.StrEnum):
    """Why the engine took no intent. No verdict: the same key may be tried again."""

    AMOUNT_NOT_POSITIVE = "amount_not_positive"
    AMOUNT_TOO_LARGE = "amount_too_large"
    UNKNOWN_SERVICE = "unknown_service"
    UNKNOWN_ASSET = "unknown_asset"
    ASSET_DISABLED = "asset_disabled"
    AMOUNT_BELOW_MINIMUM = "amount_below_minimum"
    AMOUNT_ABOVE_MAXIMUM = "amount_above_maximum"
    DAILY_LIMIT_REACHED = "daily_limit_reached"
    SAME_ACCOUNT = "same_account"
    INVALID_USER_ID = "invalid_user_id"
    INVALID_TYPE = "invalid_type"
    KEY_TOO_LONG = "key_too_long"
    KEY_EMPTY = "key_empty"
    KEY_REUSED = "key_reused"
    OVERLOADED = "overloaded"
    SHUTTING_DOWN = "shutting_down"
    UNAVAILABLE = "unavailable"
    NOT_FOUND = "not_found"


RETRYABLE_CODES: Final = frozenset({RefusalCode.OVERLOADED, RefusalCode.SHUTTING_DOWN, RefusalCode.UNAVAILABLE})


class Refused(Exception):
    """The engine refused a request before any intent of it was written: nothing moved, and nothing will.

    Attributes:
        code: the reason, stable.
        field: the parameter that is wrong, or None.
    """

    def __init__(self, code: RefusalCode, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may succeed later, unchanged."""
        return self.code in RETRYABLE_CODES


class InvalidTransfer(Refused, ValueError):
    """A parameter is wrong; ``field`` names it and the message says how to mend it."""


class KeyReused(Refused):
    """The idempotency key was used before, with another body."""


class Overloaded(Refused):
    """There is no room for the transfer now: try again in ``retry_after_s`` seconds."""

    retry_after_s: Final = 1


class TransferNotFound(Refused):
    """Nobody knows a transfer of this name."""

    def __init__(
        self,
        code: RefusalCode = RefusalCode.NOT_FOUND,
        message: str = "Transfer not found",
        *,
        field: str | None = None,
    ) -> None:
        super().__init__(code, message, field=field)


class Resolution(enum.StrEnum):
    """An operator's decision on a transfer that does not end by itself."""

    POST = "post"
    VOID = "void"


class ResolutionReport(msgspec.Struct, frozen=True):
    """What a resolution did, step by step, and the state of the transfer after it."""

    req_id: UUID
    state: str
    steps: list[str]


class PartReadiness(msgspec.Struct, frozen=True):
    """Whether one part of the engine can work now."""

    ready: bool
    detail: str = ""


class Readiness(msgspec.Struct, frozen=True):
    """Whether the engine can take transfers, part by part."""

    ledger: PartReadiness
    records: PartReadiness
    scanner: PartReadiness

    @property
    def ready(self) -> bool:
        """Whether every part is ready."""
        return self.ledger.ready and self.records.ready and self.scanner.ready
