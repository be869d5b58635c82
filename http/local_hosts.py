"""Which ``Host`` and ``Origin`` headers mean this machine.

Where nobody has to prove who he is, a door listens on loopback only. A web page from anywhere can still make its
visitor's browser ask loopback: by a name of its own that it lets resolve to 127.0.0.1 (DNS rebinding), or by a
websocket, which browsers open across origins without asking. The first shows in ``Host``, the second in ``Origin``.
"""

from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from transfer_engine.http.problems import ProblemCode, Rejected

_LENGTH_MOST: Final = 300
"""A host name has 253 characters at most."""


@lru_cache(maxsize=1_024)
def is_local_host(host: bytes) -> bool:
    """Whether a ``Host`` header, with or without a port, names loopback: an address of it, or a ``localhost`` name."""
    if len(host) > _LENGTH_MOST or not host.isascii():
        return False
    text = host.decode("ascii").lower()
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not _is_port(rest)):
            return False
        return ":" in name and _is_loopback_address(name)
    name, colon, port = text.partition(":")
    if colon and not _is_port(colon + port):
        return False
    name = name.removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or _is_loopback_address(name)


@lru_cache(maxsize=1_024)
def is_local_origin(origin: bytes) -> bool:
    """Whether an ``Origin`` header names a page of this machine; ``null`` does not."""
    scheme, separator, host = origin.partition(b"://")
    return bool(separator) and scheme.lower() in {b"http", b"https"} and is_local_host(host)


def require_local(host: bytes, origin: bytes = b"") -> None:
    """Go on only if a request was meant for this machine, and by nobody else's page.

    A header that was not sent is fine: whatever sends neither is no browser, and no page can make it.

    Raises:
        Rejected: the host or the origin is another one's (``wrong_host``, 421).
    """
    if host and not is_local_host(host):
        raise Rejected(
            ProblemCode.WRONG_HOST,
            "without tokens only requests to localhost are served: ask 127.0.0.1, [::1] or localhost by that name",
        )
    if origin and not is_local_origin(origin):
        raise Rejected(
            ProblemCode.WRONG_HOST,
            "without tokens no other site's page is served: its Origin must be localhost, 127.0.0.1 or [::1]",
        )


def _is_port(text: str) -> bool:
    return text[0] == ":" and (text[1:].isdigit() or text == ":")


def _is_loopback_address(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
