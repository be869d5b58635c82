"""What the client is asked with and what it answers: frozen, typed, amounts in minor units unless they are strings.

Members that a later server adds are left out: a client outlives the server that it was written for.
"""

import uuid
from typing import Any
from uuid import UUID

import msgspec

from transfer_engine.http.client_errors import Refusal
from transfer_engine.schema.transfers import TransferState, TransferStatus


def new_key() -> str:
    """Return a key that nobody has used."""
    return str(uuid.uuid4())


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer to ask for: of a batch, or over a websocket.

    Attributes:
        source: the service that holds the money, such as ``funding``.
        target: the service that gets it, such as ``trading``.
        asset_id: which asset.
        amount: minor units.
        user_id: whose money; None for the token's own user.
        to_user_id: who gets it, where that is another user.
        key: the caller's own name of it, kept over all repetitions. Made where it is left out.
    """

    source: str
    target: str
    asset_id: int
    amount: int
    user_id: int | None = None
    to_user_id: int | None = None
    key: str = msgspec.field(default_factory=new_key)

    def body(self) -> dict[str, Any]:
        """Return what is sent, without the key."""
        body: dict[str, Any] = {
            "from": self.source,
            "to": self.target,
            "asset_id": self.asset_id,
            "amount": self.amount,
        }
        if self.user_id is not None:
            body["user_id"] = self.user_id
        if self.to_user_id is not None:
            body["to_user_id"] = self.to_user_id
        return body

    def keyed_body(self) -> dict[str, Any]:
        """Return what is sent where the key is a member."""
        return {**self.body(), "idempotency_key": self.key}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a transfer or credit.

    Attributes:
        req_id: its identifier.
        status: ``committed``, ``failed`` and ``rolled_back`` are final; ``pending`` is not known yet.
        key: the key under which it was asked for; asked again with it, nothing moves twice.
        message: why it failed, or None.
        is_replay: whether it had been taken before this call.
    """

    req_id: UUID
    status: TransferStatus
    key: str
    message: str | None = None
    is_replay: bool = False

    @property
    def is_committed(self) -> bool:
        """Whether the money moved, for good."""
        return self.status is TransferStatus.COMMITTED

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more."""
        return self.status is not TransferStatus.PENDING


class Unknown(msgspec.Struct, frozen=True):
    """One transfer of a batch of which nobody knows what became: repeat it with its key."""

    key: str
    detail: str


BatchResult = Outcome | Refusal | Unknown
"""What a batch says of one of its transfers."""


class Record(msgspec.Struct, frozen=True):
    """What is known of a transfer: the amount in minor units, times in Unix ms, ``error`` None where there is none."""

    req_id: UUID
    state: TransferState
    source: str
    target: str
    user_id: int
    asset_id: int
    amount: int
    created_at: int
    updated_at: int
    error: str | None = None
    retry_count: int = 0
    to_user_id: int | None = None
    """Who gets it; None where the server does not say."""


class Balance(msgspec.Struct, frozen=True):
    """A user's money in one account, in minor units; ``frozen`` is held by transfers under way."""

    account: str
    asset_id: int
    available: int
    frozen: int


class AssetInfo(msgspec.Struct, frozen=True):
    """An asset: one unit of it is 10^decimals minor units."""

    asset_id: int
    symbol: str
    decimals: int
    enabled: bool = True


class Health(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str
    version: str


class Part(msgspec.Struct, frozen=True):
    """Whether one part of the engine can work now, and if not, why."""

    ready: bool
    detail: str


class Readiness(msgspec.Struct, frozen=True):
    """Whether transfers can be taken now, part by part."""

    ready: bool
    ledger: Part
    records: Part
    scanner: Part


class Resolution(msgspec.Struct, frozen=True):
    """What an operator's decision did, step by step, and the state of the transfer after it."""

    req_id: UUID
    state: str
    steps: list[str]
