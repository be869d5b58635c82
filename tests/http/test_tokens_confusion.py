"""Tokens that want to be verified with the wrong key, or with none; and whatever else can be sent for a token."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.tokens import (
    ALGORITHMS,
    Signer,
    authenticator,
    base64url,
    bearer,
    claims_of,
    forged,
    hs256,
    jwks,
    new_secret,
    refusal,
    signer,
)
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.tokens import TokenAuthenticator

SECRET = new_secret()
RSA = signer("RS256", "rsa")
EC = signer("ES256", "ec")
ED = signer("EdDSA", "ed")
KEYS = (RSA, EC, ED)
SIGNED = [hs256(claims_of(), SECRET), *(key.token() for key in KEYS)]


@pytest.fixture
def both(tmp_path: Path) -> TokenAuthenticator:
    """Takes a secret's tokens and keys' tokens."""
    return authenticator(tmp_path, secret=SECRET, keys=jwks(*KEYS))


@pytest.fixture
def public(tmp_path: Path) -> TokenAuthenticator:
    """Takes keys' tokens only."""
    return authenticator(tmp_path, keys=jwks(*KEYS))


PUBLIC_FORMS: dict[str, Callable[[Signer], bytes]] = {
    "pem": Signer.pem,
    "pem without its last line break": lambda key: key.pem().rstrip(),
    "jwk": lambda key: json.dumps(key.jwk()).encode(),
    "jwk, compact": lambda key: json.dumps(key.jwk(), separators=(",", ":"), sort_keys=True).encode(),
    "a number of it": lambda key: str(key.jwk().get("n", key.jwk().get("x"))).encode(),
    "the set": lambda _: jwks(*KEYS),
}


@pytest.mark.parametrize("key", KEYS, ids=ALGORITHMS)
@pytest.mark.parametrize("form", PUBLIC_FORMS)
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_public_key_is_no_secret(
    both: TokenAuthenticator, public: TokenAuthenticator, key: Signer, form: str, algorithm: str
) -> None:
    for header in ({"alg": algorithm}, {"alg": algorithm, "kid": key.key_id}):
        signed = forged(header, claims_of(scope="admin"), PUBLIC_FORMS[form](key))
        for gatekeeper in (both, public):
            assert (await refusal(gatekeeper, signed)).code is ProblemCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "nOnE", "", " ", "HS384", "HS512", "RS512", "PS256", "ES384"]
)
async def test_algorithms_that_are_not_accepted(both: TokenAuthenticator, algorithm: str) -> None:
    for secret in (None, SECRET, b""):
        for header in ({"alg": algorithm}, {"alg": algorithm, "kid": "rsa"}):
            rejected = await refusal(both, forged(header, claims_of(), secret))
            assert "algorithm is not accepted" in rejected.detail


async def test_no_algorithm_at_all(both: TokenAuthenticator) -> None:
    for header in ({}, {"alg": None}, {"typ": "JWT"}):
        assert (await refusal(both, forged(header, claims_of(), SECRET))).code is ProblemCode.UNAUTHENTICATED


@pytest.mark.parametrize("claimed", ALGORITHMS)
async def test_a_secrets_signature_under_a_keys_name(both: TokenAuthenticator, claimed: str) -> None:
    for key in KEYS:
        for header in ({"alg": claimed}, {"alg": claimed, "kid": key.key_id}):
            assert (await refusal(both, forged(header, claims_of(), SECRET))).code is ProblemCode.UNAUTHENTICATED


@pytest.mark.parametrize("key", KEYS, ids=ALGORITHMS)
async def test_a_keys_signature_under_another_name(both: TokenAuthenticator, key: Signer) -> None:
    header, payload, signature = key.token().split(".")
    for algorithm in {"HS256", "none", *ALGORITHMS} - {key.algorithm}:
        for key_id in ("rsa", "ec", "ed", None):
            named = {"alg": algorithm} | ({} if key_id is None else {"kid": key_id})
            changed = base64url(json.dumps(named).encode())
            assert await refusal(both, f"{changed}.{payload}.{signature}")
    assert (await both.authenticate(bearer(f"{header}.{payload}.{signature}"))).user_id == 3001


async def test_without_a_secret_no_hmac_is_taken_and_without_keys_no_other(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "keys").mkdir()
    by_secret = authenticator(tmp_path / "secret", secret=SECRET)
    by_keys = authenticator(tmp_path / "keys", keys=jwks(*KEYS))
    for key in KEYS:
        assert "algorithm is not accepted" in (await refusal(by_secret, key.token())).detail
    assert "algorithm is not accepted" in (await refusal(by_keys, hs256(claims_of(), SECRET))).detail


KEY_IDS = ["", "rsa ", "RSA", "../secret", "/dev/null", "0", "' or 1=1 --", "ec", "\x00", "é", "x" * 5_000]


@pytest.mark.parametrize("key_id", KEY_IDS)
async def test_a_kid_only_chooses_among_our_keys(both: TokenAuthenticator, key_id: str) -> None:
    signed = jwt.encode(claims_of(), RSA.private, "RS256", headers={"kid": key_id})
    assert "no key of ours fits" in (await refusal(both, signed)).detail


@pytest.mark.parametrize("key_id", ["", "rsa", "anything"])
async def test_a_kid_says_nothing_of_the_secret(both: TokenAuthenticator, key_id: str) -> None:
    assert await both.authenticate(bearer(hs256(claims_of(), SECRET, kid=key_id)))
    assert "signature is wrong" in (await refusal(both, hs256(claims_of(), new_secret(), kid=key_id))).detail


async def test_without_a_kid_the_only_key_of_the_algorithm_is_meant(tmp_path: Path) -> None:
    one = authenticator(tmp_path, keys=jwks(*KEYS))
    for key in KEYS:
        assert await one.authenticate(bearer(jwt.encode(claims_of(), key.private, key.algorithm)))
    two = authenticator(tmp_path, keys=jwks(ED, signer("EdDSA", "another")))
    assert "no key of ours fits" in (await refusal(two, jwt.encode(claims_of(), ED.private, "EdDSA"))).detail


async def test_another_key_under_a_known_kid(both: TokenAuthenticator) -> None:
    for algorithm, key_id in zip(ALGORITHMS, ("rsa", "ec", "ed"), strict=True):
        stranger = Signer(algorithm, key_id)
        assert "signature is wrong" in (await refusal(both, stranger.token())).detail


async def test_keys_within_a_token_are_not_looked_at(both: TokenAuthenticator) -> None:
    stranger = Signer("RS256", "stranger")
    for header in (
        {"jwk": stranger.jwk()},
        {"jku": "http://127.0.0.1:9/keys"},
        {"x5u": "http://127.0.0.1:9/certificate"},
        {"x5c": ["MIIB"]},
        {"jwk": stranger.jwk(), "kid": "rsa"},
    ):
        assert (await refusal(both, stranger.token(**header))).code is ProblemCode.UNAUTHENTICATED
        assert await both.authenticate(bearer(RSA.token(**{**header, "kid": "rsa"})))


@pytest.mark.parametrize(
    "signed", [hs256(claims_of(), SECRET), *(key.token() for key in KEYS)], ids=["HS256", *ALGORITHMS]
)
async def test_tampering_and_truncation(both: TokenAuthenticator, signed: str) -> None:
    for end in range(len(signed)):
        assert (await refusal(both, signed[:end])).code is ProblemCode.UNAUTHENTICATED
    header, payload, signature = signed.split(".")
    richer = base64url(json.dumps(claims_of(scope="admin")).encode())
    for changed in (
        f"{header}.{richer}.{signature}",
        f"{header}.{payload}.",
        f"{header}..{signature}",
        f"{header}.{payload}.{'A' * len(signature)}",
        f"{header}.{payload}.{signature}.{signature}",
        f"{header}.{payload}.{signature}=",
        f"{header}.{payload}.{signature}====",
        f"{signed} {signed}",
        f"{signed},",
        f'"{signed}"',
    ):
        assert await refusal(both, changed)
    assert await both.authenticate(bearer(signed))


# Fuzz: whatever is sent is a 401, or a token that we have signed

_ANY = [st.binary(max_size=300), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_HEADER = st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256", *ALGORITHMS, "none"]) | _JSON},
    optional={
        "kid": st.sampled_from(["rsa", "ec", "ed"]) | _JSON,
        "typ": _JSON,
        "crit": _JSON,
        "b64": _JSON,
        "jwk": _JSON,
    },
)
_CLAIMS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("sub", "aud", "exp", "nbf", "iat", "iss", "scope", "scp", "jti"), _JSON),
).map(lambda claims: claims_of() | claims)


def outcome(gatekeeper: TokenAuthenticator, authorization: tuple[bytes, ...]) -> Rejected | None:
    """Return the refusal, or None where it was taken; anything else is a fault."""

    async def ask() -> Rejected | None:
        try:
            await gatekeeper.authenticate(authorization)
        except Rejected as rejected:
            return rejected
        return None

    return trio.run(ask)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> TokenAuthenticator:
    return authenticator(tmp_path_factory.mktemp("fuzz"), secret=SECRET, keys=jwks(*KEYS))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.one_of(*_ANY), scheme=st.sampled_from([b"", b"Bearer ", b"bearer  ", b"Basic "]))
def test_any_bytes_are_refused(fuzzed: TokenAuthenticator, sent: bytes, scheme: bytes) -> None:
    rejected = outcome(fuzzed, (scheme + sent,))
    assert rejected is not None
    assert rejected.code is ProblemCode.UNAUTHENTICATED


@settings(max_examples=400, deadline=None)
@given(header=_HEADER, claims=_CLAIMS, is_signed=st.booleans())
def test_any_header_and_claims(
    fuzzed: TokenAuthenticator, header: dict[str, Any], claims: dict[str, Any], is_signed: bool
) -> None:
    rejected = outcome(fuzzed, bearer(forged(header, claims, SECRET if is_signed else new_secret())))
    if rejected is None:
        assert is_signed
        assert header["alg"] == "HS256"
    else:
        assert rejected.code in {ProblemCode.UNAUTHENTICATED, ProblemCode.INSUFFICIENT_SCOPE}
        [(_, challenge)] = rejected.headers
        assert challenge.isascii()
        assert challenge.decode().isprintable()


@settings(max_examples=300, deadline=None)
@given(
    signed=st.sampled_from(SIGNED),
    position=st.integers(min_value=0),
    byte=st.integers(min_value=0, max_value=255),
)
def test_any_changed_byte_is_refused(fuzzed: TokenAuthenticator, signed: str, position: int, byte: int) -> None:
    changed = bytearray(signed.encode())
    changed[position % len(changed)] = byte
    rejected = outcome(fuzzed, bearer(bytes(changed)))
    assert (rejected is None) == (bytes(changed) == signed.encode())


# Key sets


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ({"kty": "oct", "k": base64url(SECRET), "kid": "a"}, "a secret \\(oct\\), and those are not read from a JWKS"),
        (RSA.private_jwk(), "a private key"),
        (ED.private_jwk(), "a private key"),
        (Signer("RS256", bits=1_024).jwk(), "fewer than 2048 bits"),
        (RSA.jwk(alg="HS256"), "its alg is not RS256"),
        (RSA.jwk(alg="none"), "its alg is not RS256"),
        (RSA.jwk(alg=None), "its alg is not RS256"),
        (EC.jwk(alg="RS256"), "its alg is not ES256"),
        (RSA.jwk(use="enc"), "its use is not sig"),
        (RSA.jwk(key_ops=["sign"]), "no verify"),
        (RSA.jwk(key_ops="verify"), "no verify"),
        (RSA.jwk(kid=7), "kid is no short text"),
        (RSA.jwk(kid=""), "kid is no short text"),
        (RSA.jwk(kid="x" * 300), "kid is no short text"),
        (RSA.jwk(kty="EC"), "not among RSA"),
        (RSA.jwk(kty=["RSA"]), "not among RSA"),
        (EC.jwk(crv="P-384"), "not among RSA"),
        (EC.jwk(crv="secp256k1"), "not among RSA"),
        (ED.jwk(crv="Ed448"), "not among RSA"),
        (ED.jwk(crv=["Ed25519"]), "not among RSA"),
        (RSA.jwk(n=7), "lacks one of n, e"),
        (RSA.jwk(e=None), "lacks one of n, e"),
        (RSA.jwk(n="!"), "no key|fewer"),
        (RSA.jwk(n=""), "no key|fewer"),
        (EC.jwk(y=EC.jwk()["x"]), "numbers are no key"),
        (EC.jwk(x="AA"), "numbers are no key"),
        (ED.jwk(x="AA"), "numbers are no key"),
        ({}, "not among RSA"),
    ],
)
def test_keys_that_are_not_taken(tmp_path: Path, key: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said) as error:
        authenticator(tmp_path, keys=jwks(key))
    assert type(error.value).__name__ == "ConfigurationError"
    assert base64url(SECRET) not in str(error.value)
    beside = authenticator(tmp_path, keys=jwks(key, signer("EdDSA", "good")))
    assert beside.statistics().keys == 1


def test_the_first_of_two_keys_of_one_name_is_taken(tmp_path: Path) -> None:
    first, second = signer("EdDSA", "same"), Signer("EdDSA", "same")
    gatekeeper = authenticator(tmp_path, keys=jwks(first, second))
    assert outcome(gatekeeper, bearer(first.token())) is None
    assert outcome(gatekeeper, bearer(second.token())) is not None


@pytest.mark.parametrize("alg", ["EdDSA", "Ed25519"])
def test_both_names_of_ed25519(tmp_path: Path, alg: str) -> None:
    assert outcome(authenticator(tmp_path, keys=jwks(ED.jwk(alg=alg))), bearer(ED.token())) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no JWKS"),
        (b"{}", "no JWKS"),
        (b"[]", "no JWKS"),
        (b'{"keys": {}}', "no JWKS"),
        (b'{"keys": [7]}', "no JWKS"),
        (b"\xff", "no JWKS"),
        (b"[" * 100_000, "no JWKS"),
        (b'{"keys": []}', "no usable key \\(it is empty\\)"),
        (b" " * (300 << 10), "larger than 256 KiB"),
        (jwks(*[{}] * 300), "more than 256 keys"),
        (RSA.pem(), "no JWKS"),
    ],
)
def test_files_that_are_no_key_sets(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(Exception, match=said) as error:
        authenticator(tmp_path, keys=content)
    assert type(error.value).__name__ == "ConfigurationError"
    assert str(error.value).startswith("tokens.jwks_file ")
