"""What a token must hold, until when it is good, and what it makes of its bearer."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.tokens import (
    ALGORITHMS,
    AUDIENCE,
    NOW,
    Clock,
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
from transfer_engine.http.gate import Gate
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.tokens import TOKEN_BYTES_MOST, TokenAuthenticator

SECRET = new_secret()
OWN = frozenset({Scope.READ, Scope.WRITE})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gatekeeper(tmp_path: Path, clock: Clock) -> TokenAuthenticator:
    return authenticator(tmp_path, secret=SECRET, clock=clock)


def token(**claims: Any) -> str:
    return hs256(claims_of(**claims), SECRET)


def unchecked(**claims: Any) -> str:
    """Sign what the library refuses to sign."""
    return forged({"alg": "HS256"}, claims_of() | claims, SECRET)


def challenge(rejected: Rejected) -> str:
    [(name, value)] = rejected.headers
    assert name == b"www-authenticate"
    return value.decode()


async def test_a_good_token_is_its_user(gatekeeper: TokenAuthenticator) -> None:
    header = bearer(token())
    assert gatekeeper.known(header) is None
    caller = await gatekeeper.authenticate(header)
    assert caller == Caller(subject="3001", user_id=3001, scopes=OWN, expires_at=NOW + 630.0)
    assert gatekeeper.known(header) is caller


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_keys_of_every_kind_verify(tmp_path: Path, algorithm: str) -> None:
    key = signer(algorithm)
    gatekeeper = authenticator(tmp_path, keys=jwks(key))
    header = bearer(key.token())
    assert (await gatekeeper.authenticate(header)).user_id == 3001
    assert gatekeeper.known(header) is not None


async def test_a_secret_and_keys_side_by_side(tmp_path: Path) -> None:
    keys = [signer(algorithm, f"of {algorithm}") for algorithm in ALGORITHMS]
    gatekeeper = authenticator(tmp_path, secret=SECRET, keys=jwks(*keys))
    for signed in (token(), *(key.token() for key in keys)):
        assert (await gatekeeper.authenticate(bearer(signed))).user_id == 3001
    assert gatekeeper.statistics().keys == 4


async def test_no_token_is_challenged_without_an_error(gatekeeper: TokenAuthenticator) -> None:
    for header in ((), (b"",), (b"Basic dTpw",), (b"Bearertoken",), (token().encode(),)):
        rejected = await refusal(gatekeeper, header)
        assert rejected.code is ProblemCode.UNAUTHENTICATED
        assert challenge(rejected) == "Bearer"


async def test_two_headers_are_refused_even_if_both_are_good(gatekeeper: TokenAuthenticator) -> None:
    good = bearer(token())
    await gatekeeper.authenticate(good)
    rejected = await refusal(gatekeeper, good + good)
    assert "more than one Authorization header" in challenge(rejected)


@pytest.mark.parametrize("scheme", [b"bearer", b"BEARER", b"Bearer  "])
async def test_the_scheme_is_written_in_any_case(gatekeeper: TokenAuthenticator, scheme: bytes) -> None:
    assert await gatekeeper.authenticate((scheme + b" " + token().encode(),))


# Times


@pytest.mark.parametrize("leeway_ms", [0, 1_000, 30_000])
async def test_expiry_to_both_sides_of_the_leeway(tmp_path: Path, clock: Clock, leeway_ms: int) -> None:
    gatekeeper = authenticator(tmp_path, secret=SECRET, clock=clock, leeway_ms=leeway_ms)
    used, unused = (bearer(token(lifetime_s=100, jti=name)) for name in ("used", "unused"))
    caller = await gatekeeper.authenticate(used)
    assert caller.expires_at == NOW + 100 + leeway_ms / 1_000
    clock.now = NOW + 100 + leeway_ms / 1_000 - 0.001
    assert gatekeeper.known(used) is caller
    await gatekeeper.authenticate(unused)
    clock.now += 0.001
    assert gatekeeper.known(used) is None
    for header in (used, unused):
        rejected = await refusal(gatekeeper, header)
        assert challenge(rejected) == 'Bearer error="invalid_token", error_description="the token has expired"'
    assert gatekeeper.statistics().remembered == 0


@pytest.mark.parametrize("claim", ["nbf", "iat"])
@pytest.mark.parametrize("leeway_ms", [0, 30_000])
async def test_not_before_to_both_sides_of_the_leeway(tmp_path: Path, clock: Clock, claim: str, leeway_ms: int) -> None:
    gatekeeper = authenticator(tmp_path, secret=SECRET, clock=clock, leeway_ms=leeway_ms)
    signed = token(**{claim: NOW + 100})
    clock.now = NOW + 100 - leeway_ms / 1_000 - 0.001
    rejected = await refusal(gatekeeper, signed)
    assert f"the token is not valid yet ({claim})" in challenge(rejected)
    clock.now += 0.001
    assert await gatekeeper.authenticate(bearer(signed))


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value", ["soon", str(NOW), True, [], {}, -1, 1e300, float("inf"), float("nan"), (NOW + 600) * 1_000, 10**400]
)
async def test_times_that_are_none(gatekeeper: TokenAuthenticator, claim: str, value: object) -> None:
    rejected = await refusal(gatekeeper, forged({"alg": "HS256"}, claims_of() | {claim: value}, SECRET))
    assert rejected.code is ProblemCode.UNAUTHENTICATED
    assert f"the token's {claim} is no time in seconds" in challenge(rejected) or "malformed" in challenge(rejected)


# Audience, issuer, subject


@pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["other", AUDIENCE]])
async def test_an_audience_that_fits(gatekeeper: TokenAuthenticator, audience: object) -> None:
    assert await gatekeeper.authenticate(bearer(token(aud=audience)))


@pytest.mark.parametrize(
    "audience", ["other", ["other"], AUDIENCE + "x", AUDIENCE.upper(), 7, {AUDIENCE: 1}, [AUDIENCE, 7]]
)
async def test_an_audience_that_does_not_fit(gatekeeper: TokenAuthenticator, audience: object) -> None:
    assert "another audience (aud)" in challenge(await refusal(gatekeeper, token(aud=audience)))


async def test_an_issuer(tmp_path: Path, gatekeeper: TokenAuthenticator) -> None:
    assert await gatekeeper.authenticate(bearer(token(iss="anybody")))
    strict = authenticator(tmp_path, secret=SECRET, issuer="https://id.example/")
    assert await strict.authenticate(bearer(token(iss="https://id.example/")))
    for wrong in ("https://id.example", "", ["https://id.example/"], 7):
        assert "another issuer (iss)" in challenge(await refusal(strict, unchecked(iss=wrong)))
    assert "lacks iss" in challenge(await refusal(strict, token()))


@pytest.mark.parametrize("claim", ["exp", "aud", "sub"])
@pytest.mark.parametrize("value", [None, "left out"])
async def test_claims_that_are_required(gatekeeper: TokenAuthenticator, claim: str, value: object) -> None:
    claims = claims_of() | {claim: None}
    if value:
        del claims[claim]
    rejected = await refusal(gatekeeper, forged({"alg": "HS256"}, claims, SECRET))
    assert f"the token lacks {claim}" in challenge(rejected)


@pytest.mark.parametrize(
    ("subject", "user_id"),
    [("1", 1), ("3001", 3001), (str(2**63 - 1), 2**63 - 1)],
)
async def test_subjects_that_are_users(gatekeeper: TokenAuthenticator, subject: str, user_id: int) -> None:
    caller = await gatekeeper.authenticate(bearer(token(subject=subject)))
    assert (caller.subject, caller.user_id) == (subject, user_id)


@pytest.mark.parametrize(
    "subject",
    [
        "0",
        "007",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1.0",
        "1e3",
        "\u0663\u0660\u0660\u0661",
        "\uff13\uff10\uff10\uff11",
        "²",
        str(2**63),
        "9" * 40,
        "backoffice",
        "ü",
        "a" * 255,
    ],
)
async def test_subjects_that_are_services(gatekeeper: TokenAuthenticator, subject: str) -> None:
    for scope in ("transfer:any", "admin"):
        caller = await gatekeeper.authenticate(bearer(token(subject=subject, scope=scope)))
        assert (caller.subject, caller.user_id) == (subject, None)
    rejected = await refusal(gatekeeper, token(subject=subject))
    assert rejected.code is ProblemCode.INSUFFICIENT_SCOPE
    assert challenge(rejected) == 'Bearer error="insufficient_scope", scope="transfer:any"'


@pytest.mark.parametrize(
    "subject", ["", "a" * 256, "a\nb", "\x00", "\ud800", "a\u2028b", 3001, ["3001"], True, {"a": 1}]
)
async def test_subjects_that_are_none(gatekeeper: TokenAuthenticator, subject: Any) -> None:
    rejected = await refusal(gatekeeper, unchecked(sub=subject, scope="admin"))
    assert "the token's sub must be 1 to 255 printable characters" in challenge(rejected)


# Scopes


@pytest.mark.parametrize(
    ("given", "scopes"),
    [
        ({"scope": "transfer:read"}, {Scope.READ}),
        ({"scope": "openid transfer:read  profile transfer:write "}, OWN),
        ({"scope": ["transfer:read", "openid"]}, {Scope.READ}),
        ({"scope": None, "scp": ["transfer:read", "admin"]}, {Scope.READ, Scope.ADMIN}),
        ({"scope": None, "scp": "transfer:any transfer:read"}, {Scope.ANY, Scope.READ}),
        ({"scope": "", "scp": ["admin"]}, set()),
        ({"scope": None}, set()),
        ({"scope": "Transfer:Read ADMIN transfer:readadmin transfer:*"}, set()),
        ({"scope": "transfer:read,admin"}, set()),
    ],
)
async def test_scopes(gatekeeper: TokenAuthenticator, given: dict[str, Any], scopes: set[Scope]) -> None:
    assert (await gatekeeper.authenticate(bearer(token(**given)))).scopes == scopes


@pytest.mark.parametrize("given", [7, True, {"admin": True}, ["admin", 7], [["admin"]]])
async def test_scopes_that_are_none(gatekeeper: TokenAuthenticator, given: object) -> None:
    assert "scope must be text" in challenge(await refusal(gatekeeper, token(scope=given)))


# What is remembered


async def test_what_is_remembered_is_bounded(tmp_path: Path, clock: Clock) -> None:
    gatekeeper = authenticator(tmp_path, secret=SECRET, clock=clock, remembered_most=10)
    headers = [bearer(token(jti=str(number))) for number in range(40)]
    await gatekeeper.authenticate(headers[0])
    for header in headers[1:]:
        assert gatekeeper.known(headers[0]) is not None, "what is in use stays"
        await gatekeeper.authenticate(header)
        assert gatekeeper.statistics().remembered <= 10
    assert gatekeeper.known(headers[1]) is None
    assert gatekeeper.known(headers[-1]) is not None


async def test_another_signature_or_claim_is_another_token(gatekeeper: TokenAuthenticator) -> None:
    good = bearer(token())
    await gatekeeper.authenticate(good)
    for changed in (good[0][:-1], good[0] + b"A", good[0].swapcase(), good[0].replace(b".", b"..", 1)):
        assert gatekeeper.known((changed,)) is None


async def test_a_token_has_a_longest_length(gatekeeper: TokenAuthenticator) -> None:
    signed = token(padding="x" * TOKEN_BYTES_MOST)
    assert f"longer than {TOKEN_BYTES_MOST} bytes" in challenge(await refusal(gatekeeper, signed))
    assert await gatekeeper.authenticate(bearer(token(padding="x" * (TOKEN_BYTES_MOST // 2))))


async def test_a_gate_lets_known_and_other_tokens_in(gatekeeper: TokenAuthenticator) -> None:
    gate = Gate(gatekeeper)
    header = bearer(token())
    assert await gate.identify(header) is await gate.identify(header)
    assert gatekeeper.statistics().verified == 1


# Malformed


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "é.é.é",
        f"{base64url(b'[]')}.{base64url(b'{}')}.",
        f"{base64url(b'null')}.{base64url(b'{}')}.",
        f"{base64url(b'{')}.{base64url(b'{}')}.",
        f"{base64url(b'{}')}.{base64url(b'{}')}.",
        f"{base64url(json.dumps({'alg': 7}).encode())}.e30.",
        f"{base64url(json.dumps({'alg': ['HS256']}).encode())}.e30.",
        f"{base64url(b'[' * 4_000)}.e30.",
        forged({"alg": "HS256", "kid": 7}, claims_of(), SECRET),
        forged({"alg": "HS256", "kid": None}, claims_of(), SECRET),
        forged({"alg": "HS256", "crit": ["exp"]}, claims_of(), SECRET),
        forged({"alg": "HS256", "crit": []}, claims_of(), SECRET),
        forged({"alg": "HS256", "b64": False, "crit": ["b64"]}, claims_of(), SECRET),
        forged({"alg": "HS256"}, b"[]", SECRET),
        forged({"alg": "HS256"}, b"\xff\xfe", SECRET),
        forged({"alg": "HS256"}, b"[" * 4_000, SECRET),
        forged({"alg": "HS256"}, b'{"exp": 1' + b"0" * 5_000 + b"}", SECRET),
    ],
)
async def test_malformed_tokens(gatekeeper: TokenAuthenticator, malformed: str) -> None:
    rejected = await refusal(gatekeeper, malformed)
    assert rejected.code is ProblemCode.UNAUTHENTICATED
    assert challenge(rejected) == 'Bearer error="invalid_token", error_description="the token is malformed"'


async def test_nothing_of_a_token_is_told(gatekeeper: TokenAuthenticator) -> None:
    for claims in (
        claims_of(sub="marker", aud="marker"),
        claims_of(lifetime_s=-99, jti="marker"),
        claims_of(sub="marker"),
    ):
        signed = hs256(claims, SECRET)
        rejected = await refusal(gatekeeper, signed)
        said = f"{rejected} {rejected.detail} {rejected.headers} {gatekeeper!r}"
        assert "marker" not in said
        assert not any(part in said for part in signed.split("."))
        assert SECRET.decode() not in said
