"""The sockets that a door listens on: loopback's only, as long as nobody has to prove who he is."""

import errno
import ipaddress
import os
import socket


class CannotListen(Exception):
    """A door can't listen where it was told to; the message is one line that says why and what to do."""


def open_listeners(
    host: str, port: int, *, backlog: int, setting: str = "--port", loopback_only: bool = True
) -> list[socket.socket]:
    """Bind and listen on every address that ``host`` has, all on one port; port 0 takes a free one.

    ``setting`` is what the port was given by, for whoever has to change it. ``loopback_only`` is for doors where nobody
    has to prove who he is.

    Raises:
        CannotListen: the name is unknown or, if it must be, not loopback's; or the port is in use or not allowed.
    """
    listeners: list[socket.socket] = []
    try:
        for family, address in _addresses(host, loopback_only=loopback_only):
            try:
                listener = _listen(family, address, port, backlog)
            except OSError as error:
                if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} and family is socket.AF_INET6:
                    continue  # localhost names ::1 on machines that have no IPv6 too
                raise CannotListen(_reason(error, address, port, setting)) from None
            listeners.append(listener)
            port = listener.getsockname()[1]
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    if not listeners:
        raise CannotListen(f"host {host} has no address on this machine: use 127.0.0.1")
    return listeners


def address_of(listener: socket.socket) -> str:
    """Return ``host:port`` as it stands in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _addresses(host: str, *, loopback_only: bool) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no host name"
        raise CannotListen(f"host {host[:80]!r} can't be resolved: {reason}") from None
    # IPv4 first: the address that is printed is the one that everybody can reach.
    addresses: list[tuple[socket.AddressFamily, str]] = sorted(
        {(family, str(address[0])) for family, _, _, _, address in found}
    )
    for _, address in addresses:
        if loopback_only and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            other = "" if address == host else f" ({address})"
            raise CannotListen(
                f"host {host}{other} is not loopback: without the setting tokens only 127.0.0.1, ::1 and localhost"
                " are served"
            )
    return addresses


def _listen(family: socket.AddressFamily, address: str, port: int, backlog: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _reason(error: OSError, address: str, port: int, setting: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {address} is in use: stop the other program, or take another {setting} (0: a free one)"
    if error.errno == errno.EACCES:
        return f"port {port} of {address} is not allowed for this user: name a {setting} above 1023"
    return f"can't listen on {address} port {port}: {os.strerror(error.errno) if error.errno else error}"
