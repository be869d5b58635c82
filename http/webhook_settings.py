"""Settings of the webhooks."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class WebhookSettings(BaseModel):
    """How users' endpoints are told of finished transfers."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    enabled: bool = False
    """Whether users may register endpoints."""
    allow_private_addresses: bool = False
    """Whether endpoints may lie at private and loopback addresses, and use plain HTTP: for tests, closed networks."""
    timeout_ms: Annotated[int, Field(ge=100, le=120_000)] = 10_000
    """How long an endpoint may take to answer."""
    concurrency: Annotated[int, Field(ge=1, le=1_000)] = 32
    """Deliveries under way at a time; one at a time for each endpoint."""
    retry_first_ms: Annotated[int, Field(ge=10, le=3_600_000)] = 5_000
    """Pause before the first repetition; it doubles, with jitter, up to `retry_most_ms`."""
    retry_most_ms: Annotated[int, Field(ge=10, le=86_400_000)] = 3_600_000
    give_up_after_ms: Annotated[int, Field(ge=1_000, le=2_592_000_000)] = 259_200_000
    """A message that could not be delivered for so long (3 days) is dropped, and its endpoint disabled."""
