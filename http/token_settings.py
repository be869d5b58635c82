"""Settings of the tokens that clients prove themselves by."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class TokenSettings(BaseModel):
    """Who signs tokens, and for whom they must be. Without this section only loopback is served."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    secret_file: Path | None = None
    """A file with the secret that tokens are signed by (HS256): at least 32 bytes."""
    jwks_file: Path | None = None
    """A file with the public keys (JWKS) of who signs tokens (RS256, EdDSA); read again when it changes."""
    jwks_url: str | None = None
    """The same by HTTPS (plain HTTP from loopback only); asked again for keys that are not known yet."""
    jwks_refresh_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] = 300_000
    """How often the keys are read again."""
    audience: Annotated[str, Field(min_length=1)] = "transfer-engine"
    """What a token's ``aud`` must name."""
    issuer: str | None = None
    """What a token's ``iss`` must be; None accepts any."""
    leeway_ms: Annotated[int, Field(ge=0, le=600_000)] = 30_000
    """How far clocks may differ."""
