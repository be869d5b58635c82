"""Settings of the tokens that clients prove themselves by."""

from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from transfer_engine.http.local_hosts import is_local_host


class TokenSettings(BaseModel):
    """Who signs tokens, and for whom they must be. Without this section only loopback is served."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    secret_file: Path | None = None
    """A file with the secret that tokens are signed by (HS256): at least 32 bytes; read again when it changes."""
    jwks_file: Path | None = None
    """A file with the public keys (JWKS) of who signs tokens (RS256, ES256, EdDSA); read again when it changes."""
    jwks_url: str | None = None
    """The same by HTTPS (plain HTTP from loopback only); asked again for keys that are not known yet."""
    jwks_refresh_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] = 300_000
    """How often the URL is asked again."""
    audience: Annotated[str, Field(min_length=1)] = "transfer-engine"
    """What a token's ``aud`` must name."""
    issuer: Annotated[str, Field(min_length=1)] | None = None
    """What a token's ``iss`` must be; None accepts any."""
    leeway_ms: Annotated[int, Field(ge=0, le=600_000)] = 30_000
    """How far clocks may differ."""
    remembered_most: Annotated[int, Field(ge=2, le=10_000_000)] = 65_536
    """Verified tokens that are remembered, so that they are not verified again; about 1 KiB each."""

    @field_validator("jwks_url")
    @classmethod
    def _is_safe_to_ask(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.port != 0 and (
            (parts.scheme == "https" and parts.hostname)
            or (parts.scheme == "http" and is_local_host(parts.netloc.rpartition("@")[2].encode()))
        ):
            return url
        raise ValueError(
            "must begin with https:// (http:// from this machine's loopback only): keys decide who may ask"
        )

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.secret_file is None and self.jwks_file is None and self.jwks_url is None:
            raise ValueError("needs one of secret_file, jwks_file and jwks_url")
        return self
