"""What tokens are verified with, and the rules that keep one kind of key from being taken for another. No I/O here.

A key has exactly one algorithm, given by what it is and never by a token: the secret's is HS256, an RSA key's RS256, a
P-256 key's ES256, an Ed25519 key's EdDSA. A token's ``alg`` and ``kid`` only choose among the keys that we have. So a
public key can't become a secret, ``none`` names no key, and no key comes from a token (``jwk``, ``jku``, ``x5u``).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import PyJWTError

HMAC_ALGORITHM: Final = "HS256"
SECRET_BYTES_LEAST: Final = 32
"""As long as the hash (RFC 7518, 3.2): a shorter secret can be guessed from one token."""
SECRET_BYTES_MOST: Final = 4_096
KEY_SET_BYTES_MOST: Final = 256 << 10
KEYS_MOST: Final = 256
_RSA_BITS_LEAST: Final = 2_048
_KEY_ID_LENGTH_MOST: Final = 255

_FAMILIES: Final[Mapping[tuple[str, str | None], tuple[str, tuple[str, ...]]]] = {
    ("RSA", None): ("RS256", ("n", "e")),
    ("EC", "P-256"): ("ES256", ("crv", "x", "y")),
    ("OKP", "Ed25519"): ("EdDSA", ("crv", "x")),
}
"""By ``kty`` and ``crv``: the one algorithm, and the members that make the public key."""

JWKS_ALGORITHMS: Final = frozenset(algorithm for algorithm, _ in _FAMILIES.values())

Key = bytes | PyJWK
"""The secret, or a public key with the algorithm that it is for."""


class KeysUnusable(Exception):
    """A file or answer holds no keys that tokens can be verified with; the message says why, and quotes nothing."""


class KeySet:
    """The public keys of one source, by algorithm and ``kid``."""

    def __init__(self, keys: Mapping[tuple[str, str | None], PyJWK] | None = None, skipped: Iterable[str] = ()) -> None:
        self._keys = dict(keys or {})
        self.skipped = tuple(skipped)
        """Why keys of the source were left out."""

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        names = ", ".join(f"{algorithm} {key_id!r}" for algorithm, key_id in self._keys)
        return f"<KeySet {names or 'empty'}>"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, KeySet)
            and self._keys.keys() == other._keys.keys()
            and all(key.key == other._keys[name].key for name, key in self._keys.items())
        )

    def __hash__(self) -> int:
        return hash(frozenset(self._keys))

    def find(self, algorithm: str, key_id: str | None) -> PyJWK | None:
        """Return the key that a token names; without a ``kid`` the only one of its algorithm, if it is the only one."""
        if key_id is not None:
            return self._keys.get((algorithm, key_id))
        fitting = [key for (of_key, _), key in self._keys.items() if of_key == algorithm]
        return fitting[0] if len(fitting) == 1 else None


class _Jwks(msgspec.Struct):
    keys: list[dict[str, Any]]


_decode_jwks: Final = msgspec.json.Decoder(_Jwks).decode


def parse_key_set(raw: bytes) -> KeySet:
    """Return the usable public keys of a JWKS document (RFC 7517); others are left out, with the reason.

    Raises:
        KeysUnusable: it is no JWKS, or holds no usable key.
    """
    if len(raw) > KEY_SET_BYTES_MOST:
        raise KeysUnusable(f"it is larger than {KEY_SET_BYTES_MOST >> 10} KiB")
    try:
        entries = _decode_jwks(raw).keys
    except (msgspec.DecodeError, RecursionError):
        raise KeysUnusable('it is no JWKS: a JSON object with a list "keys" of keys') from None
    if len(entries) > KEYS_MOST:
        raise KeysUnusable(f"it holds more than {KEYS_MOST} keys")
    keys: dict[tuple[str, str | None], PyJWK] = {}
    skipped = []
    for position, entry in enumerate(entries, start=1):
        try:
            name, key = _parse_key(entry)
            if name in keys:
                raise KeysUnusable("another key of its algorithm has the same kid")  # noqa: TRY301 - one way to skip
        except KeysUnusable as reason:
            skipped.append(f"key {position}: {reason}")
        else:
            keys[name] = key
    if not keys:
        raise KeysUnusable(f"it holds no usable key ({'; '.join(skipped[:3]) or 'it is empty'})")
    return KeySet(keys, skipped)


def parse_secret(raw: bytes) -> bytes:
    """Return the secret of a file; a line break at its end is no part of it.

    Raises:
        KeysUnusable: it is too short or too long, or a public key or certificate, which is no secret.
    """
    secret = raw.rstrip(b"\r\n")
    if len(secret) < SECRET_BYTES_LEAST:
        raise KeysUnusable(
            f"it holds {len(secret)} bytes, and a secret needs at least {SECRET_BYTES_LEAST}: "
            "make one by transfer-engine token --create-secret"
        )
    if len(secret) > SECRET_BYTES_MOST:
        raise KeysUnusable(f"it is larger than {SECRET_BYTES_MOST} bytes")
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except (PyJWTError, ValueError, RecursionError):
        raise KeysUnusable("it is a key pair's key or a certificate, and no secret: use tokens.jwks_file") from None
    return secret


def _parse_key(entry: dict[str, Any]) -> tuple[tuple[str, str | None], PyJWK]:
    """Return a key's name and the key. Only its public members are looked at beyond the checks."""
    family = entry.get("kty")
    if family == "oct":
        raise KeysUnusable("it is a secret (oct), and those are not read from a JWKS: use tokens.secret_file")
    if "d" in entry or "k" in entry:
        raise KeysUnusable("it is a private key: leave only its public members, and make another one")
    curve = entry.get("crv") if family != "RSA" else None
    known = _FAMILIES.get((family, curve)) if isinstance(family, str) and isinstance(curve, str | None) else None
    if known is None:
        raise KeysUnusable("its kty and crv are not among RSA, EC P-256 and OKP Ed25519")
    algorithm, members = known
    if entry.get("alg", algorithm) not in {algorithm, curve if algorithm == "EdDSA" else algorithm}:
        raise KeysUnusable(f"its alg is not {algorithm}")
    if entry.get("use", "sig") != "sig":
        raise KeysUnusable("its use is not sig")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise KeysUnusable("its key_ops have no verify")
    key_id = entry.get("kid")
    if not isinstance(key_id, str | None) or (key_id is not None and not 0 < len(key_id) <= _KEY_ID_LENGTH_MOST):
        raise KeysUnusable("its kid is no short text")
    public = {"kty": family, **{member: entry.get(member) for member in members}}
    if not all(isinstance(value, str) for value in public.values()):
        raise KeysUnusable(f"it lacks one of {', '.join(members)}")
    try:
        key = PyJWK(public, algorithm)
    except (PyJWTError, ValueError, TypeError):
        raise KeysUnusable("its numbers are no key") from None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _RSA_BITS_LEAST:
        raise KeysUnusable(f"it has fewer than {_RSA_BITS_LEAST} bits")
    return (algorithm, key_id), key
