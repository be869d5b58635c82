"""Bounds of the outbox, and what it counts."""

import msgspec


class OutboxLimits(msgspec.Struct, frozen=True):
    """Bounds of an outbox."""

    waiting_most: int = 100_000
    """Messages in memory, about 700 bytes each; more wait in the record store alone."""
    endpoint_waiting_most: int = 10_000
    """Messages that may wait for one endpoint; with more it is disabled."""
    endpoints_most: int = 100_000
    """Endpoints that may be registered: all are in memory, about 700 bytes each."""
    refresh_ms: int = 30_000
    """How often all endpoints are read again, for what other engines were told."""
    sweep_ms: int = 1_000
    """How often the mark is raised, and what waits is looked through."""


class OutboxStatistics(msgspec.Struct, frozen=True):
    """What the outbox holds, and did in this run."""

    endpoints: int
    disabled_endpoints: int
    waiting: int
    is_full: bool
    """Whether messages wait in the record store alone."""
    delivered: int
    failed_attempts: int
    dropped: int
    """Messages to endpoints that were given up or taken away."""
    carried_forward: int
    low_water_mark: int
