"""Where a cluster's replicas are: addresses as people write them, and as TigerBeetle's client wants them.

The client takes numbers alone, so names are resolved here: once for each session. A replica that moves to another
address is found again by the next session, not by the one that is open.
"""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from transfer_engine.engine.ledger.protocol import LedgerUnavailable

REPLICAS_MAX: Final = 6
"""TigerBeetle's own bound on the replicas of a cluster."""

_SETTING: Final = "tigerbeetle.addresses"
_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """One replica: a name or an IP address (IPv6 without brackets), and its port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_addresses(addresses: Sequence[str]) -> tuple[ReplicaAddress, ...]:
    """Return the replicas' addresses, in order; a port alone is one of this machine, as in TigerBeetle.

    Raises :class:`ValueError`, naming the setting and the fix, for what is no address.
    """
    if isinstance(addresses, str) or not 1 <= len(addresses) <= REPLICAS_MAX:
        raise ValueError(f"{_SETTING} is {addresses!r}: give a list of 1 to {REPLICAS_MAX} replicas, each host:port")
    parsed = tuple(_parse(index, text) for index, text in enumerate(addresses))
    if len(set(parsed)) != len(parsed):
        raise ValueError(f"{_SETTING} is {list(addresses)}: a replica is named twice; give each of them once")
    return parsed


async def resolve_addresses(addresses: Sequence[ReplicaAddress]) -> str:
    """Return the addresses as TigerBeetle's client takes them; a name's IPv4 address goes before its IPv6 ones.

    Raises :class:`LedgerUnavailable` if a name can't be resolved now. Cancellation leaves nothing behind.
    """
    resolved = []
    for address in addresses:
        if _is_number(address.host):
            resolved.append(address)
            continue
        try:
            found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise LedgerUnavailable(
                f"{_SETTING}: the name {address.host!r} can't be resolved ({error}); "
                "check its spelling and this machine's DNS, or give an IP address"
            ) from error
        found.sort(key=lambda one: one[0] != socket.AF_INET)
        resolved.append(ReplicaAddress(str(found[0][4][0]), address.port))
    return ",".join(map(str, resolved))


def _parse(index: int, text: str) -> ReplicaAddress:
    if not isinstance(text, str):
        raise _invalid(index, text)
    host, colon, port = text.rpartition(":")
    if not colon:
        host = _LOOPBACK
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_number(host) or ":" not in host:
            raise _invalid(index, text)
    if (
        not host
        or (":" in host and not text.startswith("["))
        or any(character.isspace() or character in ",/@" for character in host)
        or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 0xFFFF)
    ):
        raise _invalid(index, text)
    return ReplicaAddress(host, int(port))


def _invalid(index: int, text: object) -> ValueError:
    return ValueError(
        f"{_SETTING}[{index}] is {text!r}: give host:port, as in 10.0.0.1:3000, [fd00::1]:3000 or ledger-0.example:3000"
    )


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
