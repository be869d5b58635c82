"""URLs of users' endpoints: what may be registered. One strict reading, and what is sent to is made of its parts.

A name is not resolved here: that would tell a user what our resolver knows. It is resolved, and checked, whenever a
connection is made, see :mod:`transfer_engine.http.webhook_network`.
"""

import ipaddress
import re
from typing import Final

import msgspec

from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.webhook_network import is_public

URL_LENGTH_MOST: Final = 2_048

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_WELL_KNOWN_MOST: Final = 1_023
_PORT_MOST: Final = 65_535

_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<target>/[^?#]*)?(?P<query>\?[^#]*)?"
)
_ALLOWED: Final = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")
_HOST: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(?::(?P<port>[0-9]{1,5}))?")
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PERCENT_GARBAGE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class EndpointUrl(msgspec.Struct, frozen=True):
    """An endpoint's URL in its parts; ``host`` is a name, or an address without brackets."""

    scheme: str
    host: str
    port: int
    target: str
    """Path and query."""

    @property
    def authority(self) -> str:
        """The value of the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_endpoint_url(text: str, *, allow_private_addresses: bool) -> EndpointUrl:
    """Return the parts of a URL that may be registered.

    Args:
        text: what a user sent.
        allow_private_addresses: whether it may be plain HTTP, a private address, a name without a dot, any port.

    Raises:
        Rejected: it may not (``invalid_field``, field ``url``); the message says what to mend.
    """
    if len(text) > URL_LENGTH_MOST:
        raise _refused(f"is {len(text)} characters long: at most {URL_LENGTH_MOST} are allowed")
    if "#" in text:
        raise _refused("has a fragment (#…), which is never sent: leave it out")
    if not _ALLOWED.fullmatch(text) or _PERCENT_GARBAGE.search(text):
        raise _refused(
            "has characters in it that no URL has: percent-encode them, and write names beyond ASCII as xn--…"
        )
    matched = _URL.fullmatch(text)
    if matched is None:
        raise _refused('must be a whole URL, like "https://example.com/webhooks"')
    scheme = matched["scheme"].lower()
    if scheme not in _DEFAULT_PORTS or (scheme == "http" and not allow_private_addresses):
        raise _refused("must begin with https://" + (" or http://" if allow_private_addresses else ""))
    if "@" in matched["authority"]:
        raise _refused("has a user name or password in it: leave them out, every message is signed")
    located = _HOST.fullmatch(matched["authority"])
    if located is None:
        raise _refused("names no host that can be understood")
    host = _checked_host(located["host"].lower(), allow_private_addresses=allow_private_addresses)
    port = int(located["port"]) if located["port"] else _DEFAULT_PORTS[scheme]
    if not 1 <= port <= _PORT_MOST:
        raise _refused(f"has port {port}: ports are from 1 to {_PORT_MOST}")
    if port <= _WELL_KNOWN_MOST and port != _DEFAULT_PORTS[scheme] and not allow_private_addresses:
        raise _refused(f"has port {port}, which is another service's: use 443, or one above {_WELL_KNOWN_MOST}")
    return EndpointUrl(
        scheme=scheme, host=host, port=port, target=(matched["target"] or "/") + (matched["query"] or "")
    )


def _checked_host(host: str, *, allow_private_addresses: bool) -> str:
    if host.startswith("["):
        return _checked_address(host[1:-1], allow_private_addresses=allow_private_addresses)
    name = host.removesuffix(".")
    labels = name.split(".")
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        return _checked_address(name, allow_private_addresses=allow_private_addresses)
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused(f"names the host {host[:60]!r}, which is no name in the DNS")
    if len(labels) == 1 and not allow_private_addresses:
        raise _refused(f"names the host {host[:60]!r}, which is a name within a network: use a public one")
    return name


def _checked_address(text: str, *, allow_private_addresses: bool) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise _refused(
            f"names the host {text[:60]!r}, which is no address: four numbers with dots, or [IPv6]"
        ) from None
    if not allow_private_addresses and not is_public(address):
        raise _refused(f"names the address {address}, which is not a public one")
    return str(address)


def _refused(fault: str) -> Rejected:
    return Rejected(ProblemCode.INVALID_FIELD, f"url {fault}", field="url")
