"""The token that a client proves itself by: a string, or whatever a callable makes."""

import inspect
from collections.abc import Awaitable, Callable

import trio

Token = str | Callable[[], str | Awaitable[str]] | None
"""A bearer token; or what returns one that is valid now: asked first, and when one is not accepted."""


class TokenSource:
    """Keeps a token until it is not accepted any more."""

    def __init__(self, token: Token) -> None:
        self._provide = token if callable(token) else None
        self._token = _sendable(token) if isinstance(token, str) else None
        self._lock = trio.Lock()

    def __repr__(self) -> str:
        kind = "renewed" if self._provide is not None else "none" if self._token is None else "one"
        return f"<TokenSource {kind}>"

    async def current(self) -> str | None:
        """Return the token, None where there is none. Cancellation leaves nothing behind."""
        if self._token is not None or self._provide is None:
            return self._token
        await self.renew(None)
        return self._token

    async def renew(self, stale: str | None) -> bool:
        """Get another token than ``stale``; False where there is none. Many may ask at once: one token is made.

        Raises:
            ValueError: what was made is no token; and whatever the callable raises.
        """
        if self._provide is None:
            return False
        async with self._lock:
            if self._token != stale:
                return True
            made = self._provide()
            self._token = _sendable(await made if inspect.isawaitable(made) else made)
            return self._token != stale


def _sendable(token: str) -> str:
    """Return a token that a header can hold; what is wrong with one is told without it."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token is empty, or has characters in it that no token has")
    return token
