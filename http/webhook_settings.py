"""Settings of the webhooks."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from transfer_engine.engine.outbox_limits import OutboxLimits


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
    endpoints_most: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Endpoints that may be registered; about 700 bytes of memory each."""
    waiting_most: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Messages that wait in memory, about 700 bytes each; more wait in the record store alone."""
    endpoint_waiting_most: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Messages that may wait for one endpoint; with more it is disabled."""
    refresh_ms: Annotated[int, Field(ge=100, le=3_600_000)] = 30_000
    """How often all endpoints are read again: so late an engine learns of what another one was told."""

    @model_validator(mode="after")
    def _pauses_in_order(self) -> Self:
        if self.retry_first_ms > self.retry_most_ms:
            raise ValueError("retry_first_ms must not be larger than retry_most_ms")
        return self

    def limits(self) -> OutboxLimits | None:
        """Return the bounds of the engine's outbox; None where nobody is told."""
        if not self.enabled:
            return None
        return OutboxLimits(
            waiting_most=self.waiting_most,
            endpoint_waiting_most=self.endpoint_waiting_most,
            endpoints_most=self.endpoints_most,
            refresh_ms=self.refresh_ms,
        )
