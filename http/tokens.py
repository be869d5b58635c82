"""Bearer tokens (JWT, RFC 7519; RFC 6750): who signed them, for whom, until when, and what they allow.

PyJWT takes tokens apart and verifies them; here is decided with which key, and what a verified token makes of its
bearer. Nothing of a token is ever put into a message or a log: the reasons below are all that is told.
"""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import msgspec
import trio
from jwt import exceptions as faults

from transfer_engine.http.configuration_file import ConfigurationError
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.messages import Headers
from transfer_engine.http.problems import RETRY_AFTER_S, ProblemCode, Rejected
from transfer_engine.http.token_keys import HMAC_ALGORITHM, Key
from transfer_engine.http.token_settings import TokenSettings
from transfer_engine.http.token_sources import JwksFile, JwksUrl, KeySource, SecretFile, fetch_key_set

TOKEN_BYTES_MOST: Final = 8_192
SUBJECT_LENGTH_MOST: Final = 255
_USER_ID_MOST: Final = (1 << 63) - 1
_SCOPES: Final = {scope.value: scope for scope in Scope}
_PYJWT_OPTIONS: Final[Any] = {
    "require": ["exp", "aud", "sub"],
    # Times are checked here, by the same rule and clock at a token's first use and at all later ones.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}
_MALFORMED: Final = "the token is malformed"
_WRONG_SIGNATURE: Final = "the token's signature is wrong"
_WRONG_SUBJECT: Final = f"the token's sub must be 1 to {SUBJECT_LENGTH_MOST} printable characters"
_RETRY_LATER: Final[Headers] = ((b"retry-after", b"%d" % RETRY_AFTER_S),)
_UNDECIDABLE: Final = "the token's key is not known yet, and the keys can't be read now: send the same request again"


class TokenStatistics(msgspec.Struct, frozen=True):
    """What an authenticator has done so far."""

    remembered: int
    verified: int
    refused: int
    keys: int


class TokenAuthenticator:
    """Turns bearer tokens into callers; an :class:`~transfer_engine.http.identity.Authenticator`.

    Verified tokens are remembered by the header's bytes, until they expire, until a key changes, or until others have
    taken their place.
    """

    def __init__(
        self,
        settings: TokenSettings,
        *,
        sources: Sequence[KeySource],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the keys' sources, whose ``on_change`` is set; ``clock`` returns Unix seconds."""
        self._sources = tuple(sources)
        self._audience = settings.audience
        self._issuer = settings.issuer
        self._leeway_s = settings.leeway_ms / 1_000
        self._clock = clock
        self._remembered = _Remembered(settings.remembered_most)
        self.generation = 0
        for source in self._sources:
            source.on_change = self._forget
        self._verified = 0
        self._refused = 0

    def __repr__(self) -> str:
        return f"<TokenAuthenticator {self.statistics()}>"

    def statistics(self) -> TokenStatistics:
        """Return the figures of this run."""
        return TokenStatistics(
            remembered=len(self._remembered),
            verified=self._verified,
            refused=self._refused,
            keys=sum(len(source) for source in self._sources),
        )

    def _forget(self) -> None:
        """Have every token verified again: a key has changed."""
        self._remembered.clear()
        self.generation += 1

    def known(self, authorization: Sequence[bytes]) -> Caller | None:
        """Return the caller of a token that was verified before, and is still valid."""
        if len(authorization) != 1:
            return None
        caller = self._remembered.get(authorization[0])
        if caller is not None and caller.expires_at is not None and self._clock() >= caller.expires_at:
            self._remembered.forget(authorization[0])
            return None
        return caller

    async def authenticate(self, authorization: Sequence[bytes]) -> Caller:
        """Return the caller. Cancellation leaves nothing behind.

        Raises:
            Rejected: no valid token (401, with ``WWW-Authenticate``), a service's without the scope that services need
                (403), or one whose key can't be asked for now (503).
        """
        if not authorization:
            raise _no_token("send a token: Authorization: Bearer …")
        try:
            if len(authorization) > 1:
                raise _invalid("there is more than one Authorization header")
            caller = self._caller(await self._claims(_bearer(authorization[0])))
        except Rejected:
            self._refused += 1
            raise
        self._verified += 1
        self._remembered.put(authorization[0], caller)
        return caller

    async def run(self) -> None:
        """Keep the keys fresh until cancelled; no fault of theirs ends it."""
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            for source in self._sources:
                nursery.start_soon(source.run)

    async def _claims(self, token: bytes) -> dict[str, Any]:
        """Return a token's claims, verified with the key that it names: its header does no more than that."""
        try:
            algorithm, key_id = _named_key(token.partition(b".")[0])
        except (faults.PyJWTError, ValueError, RecursionError):
            raise _invalid(_MALFORMED) from None
        sources = [source for source in self._sources if algorithm in source.algorithms]
        if not sources:
            raise _invalid("the token's algorithm is not accepted here")
        tried: list[Key] = []
        claims = self._claims_by(sources, algorithm, key_id, token, tried)
        if claims is not None:
            return claims
        if tried and key_id is not None and algorithm != HMAC_ALGORITHM:
            raise _invalid(_WRONG_SIGNATURE)
        # The key may have come meanwhile: the token's kid is unknown, or it has none and this was another key's.
        are_current = True
        for source in sources:
            are_current &= await source.look_again()
            claims = self._claims_by([source], algorithm, key_id, token, tried)
            if claims is not None:
                return claims
        if not are_current:
            raise Rejected(ProblemCode.UNAVAILABLE, _UNDECIDABLE, headers=_RETRY_LATER)
        raise _invalid("no key of ours fits the token's alg and kid" if not tried else _WRONG_SIGNATURE)

    def _claims_by(
        self, sources: Sequence[KeySource], algorithm: str, key_id: str | None, token: bytes, tried: list[Key]
    ) -> dict[str, Any] | None:
        """Return the claims if one of the sources' keys has signed them; those that have not join ``tried``."""
        for source in sources:
            key = source.find(algorithm, key_id)
            if key is not None and key not in tried:
                try:
                    return self._decode(token, algorithm, key)
                except faults.InvalidSignatureError:
                    tried.append(key)
        return None

    def _decode(self, token: bytes, algorithm: str, key: Key) -> dict[str, Any]:
        """Return the claims of a token whose signature, audience, issuer and times are right.

        Raises:
            Rejected: they are not.
            jwt.InvalidSignatureError: the key does not fit, or somebody changed the token.
        """
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                options=_PYJWT_OPTIONS,
            )
        except faults.InvalidSignatureError:
            raise
        except faults.MissingRequiredClaimError as error:
            raise _invalid(f"the token lacks {error.claim}") from None
        except faults.InvalidAudienceError:
            raise _invalid("the token is for another audience (aud)") from None
        except faults.InvalidIssuerError:
            raise _invalid("the token is of another issuer (iss)") from None
        except faults.InvalidSubjectError:
            raise _invalid(_WRONG_SUBJECT) from None
        except (faults.PyJWTError, ValueError, TypeError, RecursionError):
            raise _invalid(_MALFORMED) from None
        now = self._clock()
        if now >= _time_of(claims, "exp") + self._leeway_s:
            raise _invalid("the token has expired")
        for name in ("nbf", "iat"):
            if name in claims and _time_of(claims, name) > now + self._leeway_s:
                raise _invalid(f"the token is not valid yet ({name})")
        return claims

    def _caller(self, claims: dict[str, Any]) -> Caller:
        """Return what a verified token makes of its bearer.

        ``expires_at`` is the moment from which on the token is refused: its ``exp``, and the leeway.
        """
        subject = claims["sub"]
        if not 0 < len(subject) <= SUBJECT_LENGTH_MOST or not subject.isprintable():
            raise _invalid(_WRONG_SUBJECT)
        caller = Caller(
            subject=subject,
            user_id=_user_id(subject),
            scopes=_scopes(claims),
            expires_at=_time_of(claims, "exp") + self._leeway_s,
        )
        if caller.user_id is None and not caller.may(Scope.ANY):
            raise Rejected(
                ProblemCode.INSUFFICIENT_SCOPE,
                f"the token's sub is no user's number: a service needs the scope {Scope.ANY.value}",
                headers=((b"www-authenticate", b'Bearer error="insufficient_scope", scope="transfer:any"'),),
            )
        return caller


class _Remembered:
    """Callers by the header's bytes, bounded: two generations, so that what is in use stays and nothing is sorted."""

    def __init__(self, most: int) -> None:
        self._generation_most = most // 2
        self._young: dict[bytes, Caller] = {}
        self._old: dict[bytes, Caller] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, header: bytes) -> Caller | None:
        """Return a caller, who is young again."""
        caller = self._young.get(header)
        if caller is None and (caller := self._old.pop(header, None)) is not None:
            self.put(header, caller)
        return caller

    def put(self, header: bytes, caller: Caller) -> None:
        """Remember a caller; when a generation is full, what was not used since the last time is forgotten."""
        if len(self._young) >= self._generation_most:
            self._old, self._young = self._young, {}
        self._young[header] = caller

    def forget(self, header: bytes) -> None:
        """Forget a caller, who may not be known."""
        self._young.pop(header, None)
        self._old.pop(header, None)

    def clear(self) -> None:
        """Forget all."""
        self._young = {}
        self._old = {}


def open_authenticator(settings: TokenSettings, *, clock: Callable[[], float] = time.time) -> TokenAuthenticator:
    """Return the authenticator that the settings describe; its files are read, its URL is not asked before ``run``.

    Raises:
        ConfigurationError: a file can't be read or used; the message names the setting.
    """
    sources: list[KeySource] = []
    if settings.secret_file is not None:
        sources.append(SecretFile(settings.secret_file))
    if settings.jwks_file is not None:
        sources.append(JwksFile(settings.jwks_file))
    if (url := settings.jwks_url) is not None:
        if "@" in urlsplit(url).netloc:
            raise ConfigurationError("tokens.jwks_url must not carry a user name or password: they would end in logs")
        sources.append(JwksUrl(lambda: fetch_key_set(url), refresh_s=settings.jwks_refresh_ms / 1_000))
    return TokenAuthenticator(settings, sources=sources, clock=clock)


@lru_cache(maxsize=256)
def _named_key(header: bytes) -> tuple[str, str | None]:
    """Return ``alg`` and ``kid`` of a token's header, the same bytes in most tokens of one key."""
    named = jwt.get_unverified_header(header + b"..")
    algorithm = named.get("alg")
    if not isinstance(algorithm, str):
        raise faults.InvalidAlgorithmError
    return algorithm, named.get("kid")


def _bearer(header: bytes) -> bytes:
    scheme, _, token = header.partition(b" ")
    if scheme.lower() != b"bearer":
        raise _no_token("tokens are sent as Authorization: Bearer …")
    token = token.strip(b" ")
    if len(token) > TOKEN_BYTES_MOST:
        raise _invalid(f"the token is longer than {TOKEN_BYTES_MOST} bytes")
    if token.count(b".") != 2 or b"=" in token:  # PyJWT would take padding, which RFC 7515 leaves out
        raise _invalid(_MALFORMED)
    return token


def _time_of(claims: dict[str, Any], name: str) -> float:
    """Return a NumericDate (RFC 7519, 2): a number, and within what clocks can show."""
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise _invalid(f"the token's {name} is no time in seconds")
    return float(value)


def _user_id(subject: str) -> int | None:
    """Return the user that a subject is, by its canonical number; None where it is none."""
    if len(subject) > 19 or not subject.isascii() or not subject.isdigit() or subject[0] == "0":
        return None
    number = int(subject)
    return number if number <= _USER_ID_MOST else None


def _scopes(claims: dict[str, Any]) -> frozenset[Scope]:
    """Return the scopes that we know, of ``scope`` (RFC 8693: separated by spaces) or else ``scp``."""
    given = claims.get("scope", claims.get("scp", ""))
    names = given.split(" ") if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _invalid("the token's scope must be text, or a list of texts")
    return frozenset(_SCOPES[name] for name in names if name in _SCOPES)


def _no_token(detail: str) -> Rejected:
    return Rejected(ProblemCode.UNAUTHENTICATED, detail, headers=((b"www-authenticate", b"Bearer"),))


def _invalid(reason: str) -> Rejected:
    challenge = b'Bearer error="invalid_token", error_description="%b"' % reason.encode()
    return Rejected(ProblemCode.UNAUTHENTICATED, reason, headers=((b"www-authenticate", challenge),))
