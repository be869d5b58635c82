"""Settings of the rate limits."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class RateLimitSettings(BaseModel):
    """How often who may ask; None for no limit. A batch counts as its transfers."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    per_user_per_minute: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Requests of one token subject in a minute; also the size of its bucket."""
    per_address_per_minute: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Requests from one address in a minute, also those that are refused; also the size of its bucket."""
    remembered_most: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Users and addresses that are remembered at a time."""
