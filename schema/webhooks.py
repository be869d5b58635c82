"""What is written down for webhooks: users' endpoints, and the messages of the outbox."""

from typing import Annotated, Final
from uuid import UUID

import msgspec

from transfer_engine.schema.transfers import TransferRecord, TransferState

GENERATION_BITS: Final = 20
"""Low bits of an endpoint's version: changes by an engine. What its user changes counts above them."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a user is told of his finished transfers. Times are Unix ms.

    Attributes:
        user_id: whose.
        version: the higher one of two rows is the newer one; what a user changes beats whatever an engine changed.
        url: empty where the user has none any more.
        secret: what messages are signed by (``whsec_`` and base64); never shown again, never logged.
        former_secret: the one before it, by which they are signed, too, until ``former_until``.
        former_until: see there.
        disabled_because: why nothing is sent to it; empty while it is enabled.
        created_at: when it was registered.
        changed_at: when it was changed last.
    """

    user_id: int
    version: int
    url: str = ""
    secret: str = ""
    former_secret: str = ""
    former_until: int = 0
    disabled_because: str = ""
    created_at: int = 0
    changed_at: int = 0

    def __repr__(self) -> str:
        return f"<Endpoint of user {self.user_id} version={self.version:#x} {self.disabled_because or 'enabled'}>"

    @property
    def is_registered(self) -> bool:
        """Whether there is one."""
        return bool(self.url)

    @property
    def is_enabled(self) -> bool:
        """Whether messages are sent to it."""
        return bool(self.url) and not self.disabled_because

    @property
    def version_by_user(self) -> int:
        """The version of the next change by its user."""
        return ((self.version >> GENERATION_BITS) + 1) << GENERATION_BITS

    @property
    def version_by_engine(self) -> int:
        """The version of the next change by an engine: it never beats a change by the user that it did not know of."""
        return self.version + 1


class OutboxMessage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One user to be told of one finished transfer, as the outbox keeps it. Times are Unix ms.

    ``entered_at`` is when it was written first; ``attempts`` were made to deliver it, and the next one is ``due_at``.
    """

    to_user_id: int
    req_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    source: str
    target: str
    user_id: int
    target_user_id: int
    asset_id: int
    amount: int
    state: TransferState
    created_at: int
    updated_at: int
    error: str
    entered_at: int
    attempts: int = 0
    due_at: int = 0

    @classmethod
    def of(cls, record: TransferRecord, to_user_id: int, entered_at: int) -> "OutboxMessage":
        """Return the message that tells a user of a transfer's end."""
        return cls(
            to_user_id,
            record.req_id.bytes,
            record.source,
            record.target,
            record.user_id,
            record.target_user_id,
            record.asset_id,
            record.amount,
            record.state,
            record.created_at,
            record.updated_at,
            record.error,
            entered_at,
        )

    @property
    def key(self) -> tuple[bytes, int]:
        """What it is known by: written twice, it is still the same message."""
        return (self.req_id, self.to_user_id)

    @property
    def message_id(self) -> str:
        """The ``webhook-id``: the same on every attempt, by whichever engine."""
        return f"msg_{self.req_id.hex()}_{self.to_user_id}"

    @property
    def uuid(self) -> UUID:
        """The transfer's `req_id`."""
        return UUID(bytes=self.req_id)


_encode: Final = msgspec.msgpack.Encoder().encode
_ENDPOINT: Final = msgspec.msgpack.Decoder(Endpoint)
_MESSAGES: Final = msgspec.msgpack.Decoder(list[OutboxMessage])


def encode_endpoint(endpoint: Endpoint) -> bytes:
    """Return an endpoint as MessagePack."""
    return _encode(endpoint)


def decode_endpoint(body: bytes) -> Endpoint:
    """Return the endpoint of a row.

    Raises:
        msgspec.DecodeError: the row is damaged, or of another version.
    """
    return _ENDPOINT.decode(body)


def encode_messages(messages: list[OutboxMessage]) -> bytes:
    """Return a blob of the outbox: the messages, in order, as MessagePack."""
    return _encode(messages)


def decode_messages(blob: bytes) -> list[OutboxMessage]:
    """Return the messages of a blob.

    Raises:
        msgspec.DecodeError: the blob is damaged, or of another version.
    """
    return _MESSAGES.decode(blob)
