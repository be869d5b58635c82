"""The gate: every request passes it, on every door, before its handler: who asks, may he, and how often."""

from typing import Final

import msgspec

from transfer_engine.http.identity import Authenticator, Caller, Scope
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

    async def enter(self, request: Request, scope: Scope | None) -> Admitted:
        """Let a request in that needs ``scope`` (None: nobody has to say who he is).

        Raises:
            Rejected: no valid token (401), not this scope (403), or too often (429). Its headers are complete.
        """
        if scope is None:
            return _PUBLIC
        authorization = request.authorization
        caller = self._authenticator.known(authorization) or await self._authenticator.authenticate(authorization)
        caller.require(scope)
        return Admitted(caller)


_PUBLIC: Final = Admitted(Caller(subject="", user_id=None, scopes=frozenset()))
