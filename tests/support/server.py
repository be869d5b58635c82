"""A real server process over a real socket: started by the command that users run, ended by its own pid."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

T = TypeVar("T")

COMMAND = str(Path(sys.executable).with_name("transfer-engine"))
ASSETS = [
    {"asset_id": 1, "symbol": "USDT", "decimals": 8},
    {"asset_id": 2, "symbol": "BTC", "decimals": 8},
    {"asset_id": 3, "symbol": "ETH", "decimals": 8},
]
"""Of which any amount may be moved: what most tests are about has nothing to do with how much."""

READY = "transfer-engine is ready at "
EXPRESS = "express door at "
PATIENCE_S = 30.0


class Server:
    """A running `transfer-engine serve`; ``client`` asks it."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path, express_url: str = "") -> None:
        self.process = process
        self.url = url
        self.express_url = express_url
        self.users_from = 0
        """Where a test that runs once for each door finds users of its own."""
        self.log = log
        self._other: Server | None = None
        self.client = httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False)

    def through(self, door: str) -> "Server":
        """Return the same server as clients of its other door see it: `main` or `express`."""
        if door == "main":
            return self
        if self._other is None:
            self._other = Server(self.process, self.express_url, self.log, self.express_url)
            self._other.users_from = 10_000_000
        return self._other

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def express_port(self) -> int:
        return int(self.express_url.rpartition(":")[2])

    @property
    def logged(self) -> str:
        """What it has written to stderr so far."""
        return self.log.read_text()

    @property
    def faults(self) -> list[str]:
        """The lines on stderr that a healthy server does not write: errors, and what is no log line at all."""
        levels = ('"level":"debug"', '"level":"info"', '"level":"warning"')
        lines = ((line, line.replace('": "', '":"')) for line in self.logged.splitlines())
        return [line for line, compact in lines if not any(level in compact for level in levels)]

    def wait(self) -> int:
        """Wait for its end and return the exit code (negative: the signal that ended it)."""
        return self.process.wait(PATIENCE_S)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it gracefully."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self._other is not None:
            self._other.client.close()
        self.client.close()
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def credit(self, user_id: int, amount: int, *, account: str = "funding", asset_id: int = 1) -> None:
        """Give a user money."""
        body = {"user_id": user_id, "account": account, "asset_id": asset_id, "amount": amount}
        response = self.client.post("/api/v1/admin/credits", json=body)
        assert response.status_code == 201, response.text

    def balance(self, user_id: int, account: str, asset_id: int = 1) -> tuple[int, int]:
        """Return what is available and frozen in a user's account."""
        balances = self.client.get(f"/api/v1/balances/{user_id}").json()["balances"]
        for entry in balances:
            if entry["account"] == account and entry["asset_id"] == asset_id:
                return entry["available"], entry["frozen"]
        return 0, 0


@contextmanager
def running_server(
    directory: Path,
    *,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    door: str = "main",
) -> Iterator[Server]:
    """Run a server with its data under ``directory``; whatever is left of it at the end is killed."""
    server = start_server(directory, config=config, environment=environment, flags=flags)
    through = server.through(door)
    try:
        yield through
    finally:
        through.close()
        server.close()


def start_server(
    directory: Path,
    *,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
) -> Server:
    """Start a server on a free port and wait for its ready line."""
    log = directory / "server.log"
    arguments = [COMMAND, "serve", "--port", "0", "--data-dir", str(directory / "data"), *flags]
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump({"assets": ASSETS, **(config or {})}))
    arguments += ["--config", str(path)]
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, **(environment or {})}
        )
    line = _first_line(process)
    if not line.startswith(READY):
        process.kill()
        process.communicate()
        raise AssertionError(f"the server did not start: {line!r}\n{log.read_text()}")
    has_express = config is None or config.get("express", True)
    express_url = _first_line(process).removeprefix(EXPRESS).strip() if has_express else ""
    return Server(process, line.removeprefix(READY).strip(), log, express_url)


def run_command(
    *arguments: str, environment: Mapping[str, str] | None = None, text_in: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `transfer-engine` to its end."""
    return subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        input=text_in,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def eventually(look: Callable[[], T], accept: Callable[[T], bool], *, patience_s: float = PATIENCE_S) -> T:
    """Look again and again until what is seen is accepted: another process's progress has no clock of ours."""
    deadline = time.monotonic() + patience_s
    while True:
        seen = look()
        if accept(seen):
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"still {seen!r} after {patience_s} s")
        time.sleep(0.02)


def _first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + PATIENCE_S
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        byte = os.read(process.stdout.fileno(), 1)
        if not byte:
            break
        line += byte
    return line.decode()
