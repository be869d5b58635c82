"""The only way from here to users' endpoints: to public addresses, and to the very address that was checked.

Users choose the URLs, so they must not reach what only we can reach. A name is resolved once for each connection, by
us; if any of its addresses is not public, all are refused; and what is connected to is the address, not the name, which
by then may mean another one. TLS is verified against the name all the same. No proxy of the environment is used: it
would resolve the name anew, from within our network.
"""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import httpcore
import structlog
import trio

_log: Final = structlog.stdlib.get_logger("transfer_engine.http")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a name and a port to addresses; raises OSError where there are none."""

ADDRESSES_MOST: Final = 4
"""Of a name that are tried, one after the other."""

_REFUSED_V4: Final = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by a carrier's customers
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: also clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # of protocols
        "192.0.2.0/24",  # of documentation
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",  # of benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
"""RFC 6890, and what was registered since."""

_GLOBAL_V6: Final = ipaddress.ip_network("2000::/3")
"""The only unicast addresses of the internet: what carries IPv4 within (mapped, NAT64) lies outside of it, or below."""

_REFUSED_V6: Final = [
    ipaddress.ip_network(network)
    for network in (
        "2001::/23",  # of protocols; Teredo carries an IPv4 address within
        "2001:db8::/32",
        "2002::/16",  # 6to4 likewise
        "2620:4f:8000::/48",
        "3fff::/20",
    )
]


class AddressRefused(httpcore.ConnectError):
    """A name has an address that is not public, or none: nothing is sent to any of them.

    Which of it is told to the log alone: users are told of what went wrong, and names within our network, and where
    they lead, are not theirs to learn.
    """


def is_public(address: Address) -> bool:
    """Tell whether an address is a host's on the internet, and nothing else."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    return address.scope_id is None and address in _GLOBAL_V6 and not any(address in network for network in _REFUSED_V6)


class SystemResolver:
    """Asks the operating system, in threads of its own number: a slow name server takes nobody else's.

    Args:
        threads_most: questions at a time; more wait.
    """

    def __init__(self, threads_most: int) -> None:
        self._threads = trio.CapacityLimiter(threads_most)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a name. Cancellation leaves the question to its thread."""
        found = await trio.to_thread.run_sync(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
            limiter=self._threads,
            abandon_on_cancel=True,
        )
        return list(dict.fromkeys(str(place[0]) for *_, place in found))


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to what it has resolved and checked itself.

    Args:
        resolve: the only resolver that is asked.
        allow_private_addresses: whether any address will do.
    """

    def __init__(self, resolve: Resolve, *, allow_private_addresses: bool) -> None:
        self._resolve = resolve
        self._allow_private_addresses = allow_private_addresses
        self._trio = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host. Cancellation leaves no connection.

        Raises:
            AddressRefused: one of its addresses is not public.
            httpcore.ConnectError: it has no address, or none could be connected to.
        """
        addresses = await self._addresses(host, port)
        fault: Exception | None = None
        for address in addresses[:ADDRESSES_MOST]:
            try:
                return await self._trio.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                fault = error
        raise fault or httpcore.ConnectError(f"{host} has no address")

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = [str(ipaddress.ip_address(host))]
        except ValueError:
            found = await self._resolved(host, port)
        if not self._allow_private_addresses:
            private = [text for text in found if not is_public(ipaddress.ip_address(text))]
            if private:
                _log.info("webhook refused", host=host, address=private[0], reason="it is not a public address")
            if private or not found:
                raise AddressRefused(f"{host} has no public address")
        return found

    async def _resolved(self, host: str, port: int) -> list[str]:
        """Return a name's addresses; none where there are none, if the user may not know why."""
        try:
            return list(await self._resolve(host, port))
        except (OSError, UnicodeError) as error:
            if not self._allow_private_addresses:
                return []
            raise httpcore.ConnectError(f"{host} could not be resolved: {error}") from error

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore's interface
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no endpoint is a socket of this machine.

        Raises:
            AddressRefused: always.
        """
        await trio.lowlevel.checkpoint()
        raise AddressRefused(f"{path} is a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        """Sleep, as httpcore does between attempts."""
        await trio.sleep(seconds)
