"""Loads by wrk, where it is on PATH: a load generator in Python would be slower than the express door."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import msgspec
import trio

SCRIPT: Final = Path(__file__).parent / "wrk" / "transfer.lua"
_THREADS: Final = 1

_LATENCY: Final = re.compile(r"p50 ([0-9.]+) ms, p99 ([0-9.]+) ms")
_COMMITTED: Final = re.compile(r"transfers: ([0-9.]+)/s committed, ([0-9]+) answers")
_REQUESTS: Final = re.compile(r"([0-9]+) requests in ([0-9.]+)(m?s)")


class WrkResult(msgspec.Struct, frozen=True):
    """What wrk counted."""

    requests: int
    seconds: float
    rate: float
    """Committed transfers a second."""
    others: int
    """Answers that were no committed transfers."""
    p50_ms: float
    p99_ms: float


def find_wrk() -> str | None:
    """Return where wrk is; None: the load has to be made in Python."""
    return shutil.which("wrk") if SCRIPT.exists() else None


async def run_wrk(wrk: str, port: int, *, connections: int, seconds: float, token: str | None, users: int) -> WrkResult:
    """Send keyed transfers for some seconds, each connection its next one when it is answered.

    Raises:
        RuntimeError: wrk failed.
    """
    environment = {**os.environ, "USERS": str(users)} | ({"TOKEN": token} if token is not None else {})
    command = [
        wrk, f"-t{_THREADS}", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "--latency",
        "-s", str(SCRIPT), f"http://127.0.0.1:{port}",
    ]  # fmt: skip
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, env=environment, check=False)
    text = bytes(done.stdout).decode()
    latency, committed, requests = (found.search(text) for found in (_LATENCY, _COMMITTED, _REQUESTS))
    if latency is None or committed is None or requests is None:
        raise RuntimeError(f"wrk said:\n{text}")
    return WrkResult(
        requests=int(requests[1]),
        seconds=float(requests[2]) / (1_000 if requests[3] == "ms" else 1),
        rate=float(committed[1]),
        others=int(committed[2]),
        p50_ms=float(latency[1]),
        p99_ms=float(latency[2]),
    )
