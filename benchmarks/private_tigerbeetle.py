"""A TigerBeetle of the benchmark's own: one replica on a free loopback port, gone with all its data after the run."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from transfer_engine.benchmarks.child_processes import ended
from transfer_engine.benchmarks.free_port import free_port

BINARY_VARIABLE: Final = "TIGERBEETLE_BINARY"
CLUSTER_ID: Final = 0
_START_S: Final = 60
_STOP_S: Final = 10
_MEMORY: Final = ("--development", "--experimental", "--limit-request=1MiB")
"""Little memory (1.7 GiB), and requests of the full size."""


class PrivateTigerBeetle(msgspec.Struct, frozen=True):
    """A running server: where it listens, and its process."""

    address: str
    pid: int


def find_binary() -> str | None:
    """Return the path of the server: what ``TIGERBEETLE_BINARY`` names, or `tigerbeetle` on the path."""
    return os.environ.get(BINARY_VARIABLE) or shutil.which("tigerbeetle")


@contextmanager
def private_tigerbeetle(binary: str) -> Iterator[PrivateTigerBeetle]:
    """Run a server with empty books for as long as the context lasts.

    Raises:
        RuntimeError: it did not start; the message ends with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-tigerbeetle-") as folder:
        data_file, log = Path(folder) / "0_0.tigerbeetle", Path(folder) / "server.log"
        identity = (f"--cluster={CLUSTER_ID}", "--replica=0", "--replica-count=1", "--development")
        formatting = [binary, "format", *identity, str(data_file)]
        formatted = subprocess.run(formatting, check=False, capture_output=True, text=True)
        if formatted.returncode:
            raise RuntimeError(f"{binary} could not format a data file: {formatted.stderr[-1_000:]}")
        port = free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [binary, "start", f"--addresses=127.0.0.1:{port}", *_MEMORY, str(data_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        with ended(process, _STOP_S):
            _wait_until_listening(process, port, log)
            yield PrivateTigerBeetle(address=f"127.0.0.1:{port}", pid=process.pid)


def _wait_until_listening(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace")[-1_000:]
                raise RuntimeError(f"TigerBeetle did not start: {said}") from None
            time.sleep(0.05)
        else:
            return
