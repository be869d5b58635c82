"""Settings of the streams of users' transfers and balances."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class StreamSettings(BaseModel):
    """Bounds of what is told to those who subscribe to a user."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    streams_most: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Users that are subscribed to at a time, and for a while after; more are refused as overload."""
    subscriptions_most: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Subscriptions to one user at a time; more are refused as overload."""
    events_most: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """The last events of a stream that are kept for clients that come back; who is further behind gets a snapshot."""
    bytes_most: Annotated[int, Field(ge=4_096, le=1 << 30)] = 512 << 10
    """What these may take of memory, in each stream; a transfer's event takes about 640 bytes, a balance's 320."""
    all_bytes_most: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = 256 << 20
    """What the events of all streams may take together; beyond it each stream that goes on keeps its share of it."""
    retention_ms: Annotated[int, Field(ge=0, le=3_600_000)] = 60_000
    """How long a stream goes on that nobody is subscribed to any more, so that a client that comes back can resume."""
    users_in_read_most: Annotated[int, Field(ge=1, le=4_096)] = 256
    """Users whose balances are read from the ledger in one look-up."""
    read_interval_ms: Annotated[int, Field(ge=0, le=60_000)] = 20
    """Pause between two such look-ups: what happens meanwhile makes one event for each account."""
