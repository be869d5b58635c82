"""Which process of this machine listens at an address: a server that was started by somebody else."""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from transfer_engine.engine import Settings

_LISTENS: Final = "0A"
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_CASSANDRA_PORT: Final = 9042


def ledger_pid(settings: Settings) -> int | None:
    """Return the process of the ledger's server, where it is one of this machine."""
    return listening_pid(settings.tigerbeetle.addresses[0]) if settings.ledger == "tigerbeetle" else None


def records_pid(settings: Settings) -> int | None:
    """Return the process of the record store's server, where it is one of this machine."""
    if settings.records != "cassandra":
        return None
    point = settings.cassandra.contact_points[0]
    return listening_pid(point if re.search(r":[0-9]+$", point) else f"{point}:{_CASSANDRA_PORT}")


def listening_pid(address: str) -> int | None:
    """Return the process that listens at ``host:port``, where that is this machine and the process can be seen."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or not _is_here(host.strip("[]")):
        return None
    sockets = {f"socket:[{inode}]" for inode in _inodes(int(port))}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            for link in folder.iterdir():
                with suppress(OSError):
                    if str(link.readlink()) in sockets:
                        return int(folder.parent.name)
    return None


def _is_here(host: str) -> bool:
    try:
        return all(ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        return False


def _inodes(port: int) -> Iterator[str]:
    """Yield the sockets that listen at a port, by the kernel's tables (Linux)."""
    for table in _TABLES:
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
