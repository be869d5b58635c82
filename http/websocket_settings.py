"""Settings of the websocket."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class WebSocketSettings(BaseModel):
    """Bounds of one websocket connection."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    message_bytes_most: Annotated[int, Field(ge=1_024, le=16 << 20)] = 512 << 10
    """The largest message of a client; a batch of 1,000 transfers has about 120 KiB."""
    in_flight_most: Annotated[int, Field(ge=1, le=100_000)] = 1_024
    """Requests of one connection that may be unanswered; more are refused as overload."""
    waiting_bytes_most: Annotated[int, Field(ge=65_536, le=1 << 30)] = 4 << 20
    """Answers and events that may wait for a client to read; beyond it is told `lagged`, and cut off."""
    ping_interval_ms: Annotated[int, Field(ge=100, le=3_600_000)] = 20_000
    """How often a silent client is asked whether it lives; without an answer until the next time it is cut off."""
    token_timeout_ms: Annotated[int, Field(ge=100, le=600_000)] = 5_000
    """How long a client that sent no token in the header may take to send it in its first message."""
    faults_most: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Messages in a row that are no requests; then the connection is closed."""
    subscriptions_most: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Users that one connection may subscribe to at a time; more are refused as overload."""
