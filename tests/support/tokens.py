"""Keys and tokens of tests, all made at run time; tokens that no library would sign are put together by hand."""

import base64
import hashlib
import hmac
import json
import secrets
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from transfer_engine.http.problems import Rejected
from transfer_engine.http.token_keys import KeySet, parse_key_set
from transfer_engine.http.token_settings import TokenSettings
from transfer_engine.http.tokens import TokenAuthenticator, open_authenticator

NOW = 1_790_000_000
"""The wall clock (Unix s) of tests that have one of their own."""

AUDIENCE = "transfer-engine"
ALGORITHMS = ("RS256", "ES256", "EdDSA")


class Signer:
    """A private key with its ``kid``, which signs tokens."""

    def __init__(self, algorithm: str, key_id: str | None = "key-1", *, bits: int = 2_048) -> None:
        self.algorithm = algorithm
        self.key_id = key_id
        self.private: Any
        self._to_jwk: Any
        if algorithm == "RS256":
            self.private, self._to_jwk = rsa.generate_private_key(65_537, bits), RSAAlgorithm.to_jwk
        elif algorithm == "ES256":
            self.private, self._to_jwk = ec.generate_private_key(ec.SECP256R1()), ECAlgorithm.to_jwk
        else:
            self.private, self._to_jwk = ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm.to_jwk

    def jwk(self, **more: Any) -> dict[str, Any]:
        """The public key, as it stands in a JWKS."""
        named = {} if self.key_id is None else {"kid": self.key_id}
        public = self._to_jwk(self.private.public_key(), as_dict=True)
        return {
            "use": "sig",
            "alg": self.algorithm,
            **{key: public[key] for key in public if key != "key_ops"},
            **named,
        } | more

    def private_jwk(self) -> dict[str, Any]:
        """What must never be in a JWKS."""
        return {**self._to_jwk(self.private, as_dict=True), "kid": self.key_id}

    def pem(self) -> bytes:
        """The public key, as files have it."""
        pem: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    def token(self, claims: dict[str, Any] | None = None, **header: Any) -> str:
        """Sign a token."""
        named = {} if self.key_id is None else {"kid": self.key_id}
        return jwt.encode(claims or claims_of(), self.private, self.algorithm, headers={**named, **header})


@cache
def signer(algorithm: str, key_id: str | None = "key-1") -> Signer:
    """A key pair that tests may share: RSA keys take a while to make."""
    return Signer(algorithm, key_id)


def claims_of(subject: str = "3001", *, now: float = NOW, lifetime_s: float = 600, **more: Any) -> dict[str, Any]:
    """Claims of a good token; None takes one away."""
    claims = {
        "sub": subject,
        "aud": AUDIENCE,
        "exp": now + lifetime_s,
        "scope": "transfer:read transfer:write",
        **more,
    }
    return {name: value for name, value in claims.items() if value is not None}


def new_secret() -> bytes:
    return secrets.token_hex(32).encode()


def hs256(claims: dict[str, Any], secret: bytes, **header: Any) -> str:
    """Sign by a secret."""
    return jwt.encode(claims, secret, "HS256", headers=header or None)


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: dict[str, Any], claims: dict[str, Any] | bytes, secret: bytes | None = None) -> str:
    """Put a token together that libraries refuse to sign; with a secret it has an HMAC, whatever the header says."""
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    body = f"{base64url(json.dumps(header).encode())}.{base64url(payload)}"
    signature = b"" if secret is None else hmac.digest(secret, body.encode(), hashlib.sha256)
    return f"{body}.{base64url(signature)}"


def jwks(*keys: "Signer | dict[str, Any]") -> bytes:
    """A JWKS document."""
    return json.dumps({"keys": [key.jwk() if isinstance(key, Signer) else key for key in keys]}).encode()


def key_set(*keys: "Signer | dict[str, Any]") -> KeySet:
    return parse_key_set(jwks(*keys))


def bearer(token: str | bytes) -> tuple[bytes, ...]:
    """The ``Authorization`` header of a token."""
    return (b"Bearer " + (token if isinstance(token, bytes) else token.encode()),)


class Clock:
    """A wall clock that stands until it is moved."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def authenticator(
    directory: Path,
    *,
    secret: bytes | None = None,
    keys: bytes | None = None,
    clock: Clock | None = None,
    **settings: Any,
) -> TokenAuthenticator:
    """An authenticator on files in a directory, by a clock of its own."""
    if secret is not None:
        settings["secret_file"] = directory / "secret"
        settings["secret_file"].write_bytes(secret)
    if keys is not None:
        settings["jwks_file"] = directory / "jwks.json"
        settings["jwks_file"].write_bytes(keys)
    return open_authenticator(TokenSettings(**settings), clock=clock or Clock())


async def refusal(of: TokenAuthenticator, token: str | bytes | tuple[bytes, ...]) -> Rejected:
    """Return why a token is refused; it must be."""
    authorization = token if isinstance(token, tuple) else bearer(token)
    assert of.known(authorization) is None
    try:
        caller = await of.authenticate(authorization)
    except Rejected as rejected:
        assert of.known(authorization) is None
        return rejected
    raise AssertionError(f"it was taken, as {caller}")
