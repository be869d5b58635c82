"""The gate: every request passes it, on every door, before its handler: who asks, may he, and how often."""

from collections.abc import Sequence
from typing import Final

import msgspec

from transfer_engine.http.identity import NOBODY, Authenticator, Caller, NoTokens, Scope
from transfer_engine.http.local_hosts import require_local
from transfer_engine.http.messages import Headers, Request
from transfer_engine.http.rate_limits import RateLimits

_NO_HEADERS: Final[Headers] = ()


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """A request that may go on, and who asks."""

    caller: Caller


class Gate:
    """Lets requests in, one by one; the websocket's messages pass it, too."""

    def __init__(self, authenticator: Authenticator, rate_limits: RateLimits | None = None) -> None:
        self._authenticator = authenticator
        self.rate_limits: Final = rate_limits if rate_limits is not None and rate_limits.is_on else None
        """None where nothing is limited."""
        self._is_local_only = isinstance(authenticator, NoTokens)

    @property
    def generation(self) -> int:
        """Another number whenever a key has changed: who was identified before may have to be so again."""
        return self._authenticator.generation

    async def enter(self, request: Request, scope: Scope | None) -> Admitted:
        """Let a request in that needs ``scope`` (None: nobody has to say who he is), and that has :meth:`arrived`.

        Raises:
            Rejected: no valid token (401), not this scope (403), too often (429), or, without tokens, meant for another
                host (421).
        """
        caller = await self.caller_of(request, scope)
        self.admit(caller, scope)
        return Admitted(caller)

    def known(self, request: Request, scope: Scope | None) -> Caller | None:
        """Return who asks, where nothing has to be waited for to know it; nothing is counted and refused here."""
        return NOBODY if scope is None else self._authenticator.known(request.authorization)

    def require_local(self, request: Request) -> None:
        """Refuse what is meant for another host where nobody has to say who he is.

        Raises:
            Rejected: so it is (421).
        """
        if self._is_local_only:
            require_local(request.host, request.origin)

    async def caller_of(self, request: Request, scope: Scope | None) -> Caller:
        """Return who asks; the first half of :meth:`enter`, for who has to know him also where he is refused.

        Raises:
            Rejected: no valid token (401), or, without tokens, meant for another host (421).
        """
        self.require_local(request)
        return NOBODY if scope is None else await self.identify(request.authorization)

    def admit(self, caller: Caller, scope: Scope | None) -> None:
        """Let somebody in, or not; the second half of :meth:`enter`.

        Raises:
            Rejected: too often (429), or not this scope (403).
        """
        if scope is not None:
            if self.rate_limits is not None:
                self.rate_limits.identified(caller)
            caller.require(scope)

    def arrived(self, request: Request) -> None:
        """Count a request for the address that it comes from: each once, and first of all, whatever becomes of it.

        Raises:
            Rejected: too many came from there (429).
        """
        if self.rate_limits is not None:
            self.rate_limits.arrive(request)

    def charge(self, request: Request, caller: Caller, cost: int, *, of: int = 0) -> None:
        """Count ``cost`` more for who asks and for the address; all of it is taken, or nothing.

        A batch of n transfers costs n - 1 beside its request; a websocket's message 1, or as many transfers as it
        has: ``request`` is the handshake then. ``of`` is what all of it costs, where a part was counted before.

        Raises:
            Rejected: too often (``rate_limited``, 429), or more than is ever allowed (``exceeds_rate_limit``, 422).
        """
        if self.rate_limits is not None and cost > 0:
            self.rate_limits.charge(request, caller, cost, of=of)

    def headers(self, request: Request, caller: Caller | None) -> Headers:
        """Return what every answer carries, the refused ones too; ``caller`` is None where he is not known."""
        return _NO_HEADERS if self.rate_limits is None else self.rate_limits.headers(request, caller)

    async def identify(self, authorization: Sequence[bytes]) -> Caller:
        """Return who asks, by the values of the ``Authorization`` headers; a websocket's first message has one too.

        Raises:
            Rejected: no valid token (401), or keys that can't be asked for now (503).
        """
        return self._authenticator.known(authorization) or await self._authenticator.authenticate(authorization)

    def require_local_page(self, host: bytes, origin: bytes) -> None:
        """Refuse another site's page where nobody has to say who he is; every websocket's handshake passes this.

        Browsers open websockets to any address without asking it, so that ``Host`` alone proves nothing there.

        Raises:
            Rejected: without tokens, ``Host`` or ``Origin`` is another machine's (421).
        """
        if self._is_local_only:
            require_local(host, origin)
