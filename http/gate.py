"""The gate: every request passes it, on every door, before its handler: who asks, may he, and how often."""

from collections.abc import Sequence
from typing import Final

import msgspec

from transfer_engine.http.identity import Authenticator, Caller, NoTokens, Scope
from transfer_engine.http.local_hosts import require_local
from transfer_engine.http.messages import Headers, Request

_NO_HEADERS: Final[Headers] = ()


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """A request that may go on: who asks, and what every answer to it carries."""

    caller: Caller
    headers: Headers = _NO_HEADERS


class Gate:
    """Lets requests in, one by one; the websocket's messages pass it, too."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._is_local_only = isinstance(authenticator, NoTokens)

    async def enter(self, request: Request, scope: Scope | None) -> Admitted:
        """Let a request in that needs ``scope`` (None: nobody has to say who he is).

        Raises:
            Rejected: no valid token (401), not this scope (403), too often (429), or, without tokens, meant for another
                host (421). Its headers are complete.
        """
        if self._is_local_only:
            require_local(request.host)
        if scope is None:
            return _PUBLIC
        caller = await self.identify(request.authorization)
        caller.require(scope)
        return Admitted(caller)

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


_PUBLIC: Final = Admitted(Caller(subject="", user_id=None, scopes=frozenset()))
