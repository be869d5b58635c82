"""Whose address a request comes from: the connection's, or what a trusted proxy says of it.

Every proxy appends the address that it was reached from to ``X-Forwarded-For``. Anybody can send that header, so it is
read from its end: the rightmost address that is no trusted proxy's is the client's; what stands left of it is hearsay.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

HOPS_MOST: Final = 16
"""Proxies in a row that are believed: bounds what a header that is full of their addresses can cost."""

_REMEMBERED: Final = 4_096
_REMEMBERED_BYTES_MOST: Final = 256
"""Of one request's header: several addresses."""
_IPV6_HOST_BITS: Final = 64

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return addresses and networks, such as ``10.0.0.7``, ``10.0.0.0/8`` or ``fd00::/8``.

    Raises:
        ValueError: one of them is neither; the message says which.
    """
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            raise ValueError(f"{text!r} is no address or network such as 10.0.0.7 or 10.0.0.0/8: {error}") from None
    return tuple(networks)


class ClientAddresses:
    """Finds clients' addresses; answers are remembered, a few thousand at a time."""

    def __init__(self, trusted_proxies: Iterable[str] = ()) -> None:
        self._trusted = parse_networks(trusted_proxies)
        self._remembered = lru_cache(_REMEMBERED)(self._bucket_of)

    def bucket_of(self, peer: str, forwarded_for: tuple[bytes, ...]) -> str:
        """Return what is counted together: an IPv4 address, or the /64 of an IPv6 one, which a subscriber has all of.

        ``peer`` is the connection's, ``forwarded_for`` are its ``X-Forwarded-For`` values. Long ones are not
        remembered: anybody can send them.
        """
        if forwarded_for:
            if not self._trusted:
                forwarded_for = ()
            elif sum(map(len, forwarded_for)) > _REMEMBERED_BYTES_MOST:
                return self._bucket_of(peer, forwarded_for)
        return self._remembered(peer, forwarded_for)

    def find(self, peer: str, forwarded_for: Sequence[bytes]) -> str:
        """Return the client's address, as text; ``peer`` itself where that is none (a Unix socket's)."""
        address = _parse(peer)
        if address is None or not self._is_trusted(address):
            return peer if address is None else str(address)
        hops = b",".join(forwarded_for).rsplit(b",", HOPS_MOST)[-HOPS_MOST:]
        for hop in reversed(hops):
            claimed = _parse(hop.strip().decode("latin-1"))
            if claimed is None:
                break  # whoever passed this on can't be believed about what stands left of it, either
            address = claimed
            if not self._is_trusted(address):
                break
        return str(address)

    def _bucket_of(self, peer: str, forwarded_for: tuple[bytes, ...]) -> str:
        found = self.find(peer, forwarded_for)
        address = _parse(found)
        if isinstance(address, IPv6Address):
            return str(IPv6Network((int(address) >> _IPV6_HOST_BITS << _IPV6_HOST_BITS, 128 - _IPV6_HOST_BITS)))
        return found

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _parse(text: str) -> Address | None:
    """Return an address, which some proxies write with a port, and some stacks as IPv6 that maps IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
