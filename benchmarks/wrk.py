"""Loads by wrk, where it is on PATH: a load generator in Python costs as much CPU as the express door itself."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import trio

from transfer_engine.benchmarks.http_wire import Address
from transfer_engine.benchmarks.outcomes import CUT, UNREACHABLE
from transfer_engine.benchmarks.plan import AMOUNT, ASSET_ID, Closed, Plan, Traffic
from transfer_engine.benchmarks.sending import COMMITTED

SCRIPT: Final = Path(__file__).parent / "wrk" / "transfer.lua"
SECONDS_LEAST: Final = 1.0
"""wrk counts in whole seconds."""
_THREADS: Final = 1
_LINE: Final = re.compile(r"^(seconds|outcome|latency): ([0-9.]+)(?: (.+))?$", re.MULTILINE)


class WrkResult(msgspec.Struct, frozen=True):
    """What wrk counted."""

    seconds: float
    outcomes: Mapping[str, int]
    """Answers by the names of ``sending``."""
    latencies_us: Mapping[int, int]
    """How many answers took so long, in µs; wrk adds those that a stall kept from being asked for."""

    @property
    def requests(self) -> int:
        """Requests that were answered."""
        return sum(count for outcome, count in self.outcomes.items() if outcome not in {CUT, UNREACHABLE})

    @property
    def committed(self) -> int:
        """Transfers that were committed."""
        return self.outcomes.get(COMMITTED, 0)


def find_wrk() -> str | None:
    """Return where wrk is; None: the load has to be made in Python."""
    return shutil.which("wrk") if SCRIPT.exists() else None


def why_not_wrk(plan: Plan) -> str | None:
    """Return why wrk can't make a plan's load; None where it can: a closed loop of plain single transfers over HTTP."""
    target, traffic, length = plan.target, plan.traffic, plan.length
    plain = Traffic(users=traffic.users, seed=traffic.seed)
    for is_wrong, reason in (
        (target.kind != "http" or target.batch > 1, "it sends single transfers over HTTP"),
        (not isinstance(plan.loop, Closed), "it makes closed loops"),
        (traffic != plain, "it sends keyed transfers of users at random, there and back"),
        (length.transfers is not None, "it runs for a time"),
        (length.seconds < SECONDS_LEAST or length.seconds % 1 > 0, "it runs for whole seconds"),
        (target.url is not None and target.url.startswith("https:"), "it would not look at certificates"),
        (bool(plan.faults), "it can't ask again for what a fault left unknown"),
        (find_wrk() is None, "it is not on PATH"),
    ):
        if is_wrong:
            return reason
    return None


async def run_wrk(
    wrk: str,
    address: Address,
    *,
    connections: int,
    seconds: float,
    token: str | None = None,
    users: int = 1_000,
    first_user: int = 1,
    seed: int = 1,
) -> WrkResult:
    """Send keyed transfers for some seconds, each connection its next one when it is answered.

    What is under way at the end is not waited for. Cancellation ends wrk.

    Raises:
        RuntimeError: wrk failed.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if name != "TOKEN"},
        "USERS": str(users),
        "FIRST_USER": str(first_user),
        "ASSET_ID": str(ASSET_ID),
        "AMOUNT": str(AMOUNT),
        "SEED": str(seed),
        "API_PATH": address.path,
        "DETAILS": "1",
    }
    if token is not None:
        environment["TOKEN"] = token
    command = [
        wrk, f"-t{_THREADS}", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "--timeout", "30s",
        "-s", str(SCRIPT), f"http://{address.authority}",
    ]  # fmt: skip
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, env=environment, check=False)
    text = bytes(done.stdout).decode(errors="replace")
    seconds_took, outcomes, latencies = 0.0, {}, {}
    for kind, number, rest in _LINE.findall(text):
        if kind == "seconds":
            seconds_took = float(number)
        elif kind == "latency":
            latencies[int(number)] = int(rest)
        elif int(number):
            outcomes[rest] = int(number)
    if not seconds_took:
        raise RuntimeError(f"wrk said:\n{text[-2_000:]}")
    return WrkResult(seconds=seconds_took, outcomes=outcomes, latencies_us=latencies)
