"""Who asks, and what he may: the outcome of authentication, whatever proves it."""

import enum
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from transfer_engine.http.problems import ProblemCode, Rejected


class Scope(enum.StrEnum):
    """What a token allows. ``admin`` implies all others."""

    READ = "transfer:read"
    """Look at one's own transfers, balances and limits."""
    WRITE = "transfer:write"
    """Move one's own money."""
    ANY = "transfer:any"
    """Do what the other scopes allow for any user, and between users."""
    ADMIN = "admin"
    """Take deposits, resolve transfers, read statistics."""


class Caller(msgspec.Struct, frozen=True):
    """Who asks.

    Attributes:
        subject: the token's subject: idempotency keys of different subjects never meet. Empty without tokens.
        user_id: the user that the subject is, or None where it is nobody's (a service, or no tokens at all).
        scopes: what is allowed.
        expires_at: Unix seconds from which on he is refused (a token's ``exp``, and the leeway), or None for never.
    """

    subject: str
    user_id: int | None
    scopes: frozenset[Scope]
    expires_at: float | None = None

    def may(self, scope: Scope) -> bool:
        """Whether a scope was given, by itself or by ``admin``."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def owns(self, user_id: int) -> bool:
        """Whether a user's things are his to see and to move."""
        return user_id == self.user_id or self.may(Scope.ANY)

    def require(self, scope: Scope) -> None:
        """Go on only with a scope.

        Raises:
            Rejected: it was not given (``insufficient_scope``, 403).
        """
        if not self.may(scope):
            raise Rejected(
                ProblemCode.INSUFFICIENT_SCOPE,
                f"the token lacks the scope {scope.value}",
                headers=((b"www-authenticate", b'Bearer error="insufficient_scope", scope="%s"' % scope.encode()),),
            )

    def require_user(self, user_id: int, field: str) -> None:
        """Go on only where the caller may move this user's money.

        Raises:
            Rejected: it is another user's, and the token is not for any (``insufficient_scope``, 403).
        """
        if not self.owns(user_id):
            raise Rejected(
                ProblemCode.INSUFFICIENT_SCOPE,
                f"{field} is another user's: the token lacks the scope {Scope.ANY.value}",
                field=field,
                headers=((b"www-authenticate", b'Bearer error="insufficient_scope", scope="transfer:any"'),),
            )


ANYBODY: Final = Caller(subject="", user_id=None, scopes=frozenset(Scope))
"""Who asks where nobody has to prove who he is: loopback only, and everything is allowed."""

NOBODY: Final = Caller(subject="", user_id=None, scopes=frozenset())
"""Who asks where nobody has to say it, or has said it."""


class Authenticator(Protocol):
    """Turns ``Authorization`` headers into a caller.

    Attributes:
        generation: another number whenever a key has changed: who proved himself before may not be able to any more.
    """

    generation: int

    def known(self, authorization: Sequence[bytes]) -> Caller | None:
        """Return the caller where nothing has to be asked or computed for it: the fast path."""
        ...

    async def authenticate(self, authorization: Sequence[bytes]) -> Caller:
        """Return the caller. Cancellation leaves nothing behind.

        Raises:
            Rejected: no valid token (401, with ``WWW-Authenticate``), or keys that can't be asked for now (503).
        """
        ...

    async def run(self) -> None:
        """Keep what it needs fresh, if it needs anything, until cancelled; no fault ends it."""
        ...


class NoTokens:
    """Everybody may do everything."""

    generation = 0

    def known(self, _authorization: Sequence[bytes]) -> Caller:
        """Return anybody."""
        return ANYBODY

    async def authenticate(self, _authorization: Sequence[bytes]) -> Caller:
        """Return anybody."""
        return ANYBODY

    async def run(self) -> None:
        """Return: there is nothing to do."""
