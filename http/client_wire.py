"""Bodies of answers, as the client reads them: what it does not know is left out."""

from typing import Final
from uuid import UUID

import msgspec

from transfer_engine.http.client_errors import Refusal, Refused, ServerFault, refused
from transfer_engine.http.client_results import AssetInfo, Balance, Outcome
from transfer_engine.schema.transfers import TransferStatus

FAULT_CODES: Final = frozenset({"internal", "unavailable"})
"""Codes that may mean that nobody knows, unless the answer says that the transfer failed."""


class Told(msgspec.Struct, frozen=True):
    """The answer to a transfer or credit."""

    req_id: UUID
    status: TransferStatus
    message: str | None = None
    replayed: bool = False

    def outcome(self, key: str, *, is_replay: bool) -> Outcome:
        """Return what the caller is told."""
        return Outcome(req_id=self.req_id, status=self.status, key=key, message=self.message, is_replay=is_replay)


class BalancesAnswer(msgspec.Struct, frozen=True):
    """A user's accounts."""

    balances: list[Balance]


class AssetsAnswer(msgspec.Struct, frozen=True):
    """The assets."""

    assets: list[AssetInfo]


class WireError(msgspec.Struct, frozen=True):
    """Why a request of a batch or websocket was refused, or that it met a fault."""

    code: str
    detail: str
    retryable: bool = False
    field: str | None = None
    status: str | None = None
    retry_after_s: float | None = None

    def exception(self, *, moves_money: bool) -> Refused | ServerFault:
        """Return what it means: a refusal only where the server knows that nothing was taken."""
        if self.status == "pending" or (self.code in FAULT_CODES and self.status != "failed"):
            text = f"{self.detail} ({self.code})"
            return ServerFault(text, code=self.code, retry_after_s=self.retry_after_s)
        return refused(
            Refusal(
                code=self.code,
                detail=self.detail,
                field=self.field,
                is_retryable=self.retryable,
                retry_after_s=self.retry_after_s,
            ),
            moves_money=moves_money,
        )


class Entry(msgspec.Struct, frozen=True):
    """What a batch's answer says of one of its transfers."""

    ok: bool
    data: Told | None = None
    error: WireError | None = None


class BatchAnswer(msgspec.Struct, frozen=True):
    """The answer to a batch over a websocket: an entry for each transfer, in their order."""

    results: list[Entry]


class FlatEntry(msgspec.Struct, frozen=True):
    """What an HTTP batch's answer says of one of its transfers: an outcome, or a problem where there is a ``code``."""

    status: str
    req_id: str = ""
    message: str | None = None
    replayed: bool = False
    code: str | None = None
    detail: str = ""
    retryable: bool = False
    field: str | None = None

    def entry(self) -> Entry:
        """Return the same in a websocket's words; raises ValueError where it is neither."""
        if self.code is not None:
            error = WireError(self.code, self.detail, self.retryable, self.field, self.status)
            return Entry(ok=False, error=error)
        told = Told(UUID(self.req_id), TransferStatus(self.status), self.message, self.replayed)
        return Entry(ok=True, data=told)


class FlatBatchAnswer(msgspec.Struct, frozen=True):
    """The answer to a batch over HTTP."""

    results: list[FlatEntry]
