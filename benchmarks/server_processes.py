"""Servers as processes of their own, for benchmarks of the doors: an engine with fresh books, and the doors' floors."""

import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
import yaml

from transfer_engine.benchmarks.load import free_port, http_load, request_bytes
from transfer_engine.engine import Settings, open_engine

USERS: Final = range(1, 1_001)
ASSET_ID: Final = 1
FUNDS: Final = 10**15
"""What each user has in each account at first, in minor units."""

AMOUNT: Final = 1
STARTUP_S: Final = 30.0
_STOP_S: Final = 30.0
_CREDITING_CONNECTIONS: Final = 32
_RATE_PER_MINUTE: Final = 100_000_000
"""Beyond any load: limits are counted, and never reached."""
_READY: Final = "transfer-engine is ready at "
_EXPRESS: Final = "express door at "


class EngineServer(msgspec.Struct, frozen=True):
    """A running server: where its doors are, and who may do everything."""

    port: int
    express_port: int
    pid: int
    token: str | None

    @property
    def headers(self) -> str:
        """The header lines that say who asks."""
        return f"Authorization: Bearer {self.token}\r\n" if self.token is not None else ""

    def port_of(self, door: str) -> int:
        """Return the port of ``main`` or ``express``."""
        return self.express_port if door == "express" else self.port


class Books(msgspec.Struct, frozen=True):
    """What the audit of a server's books found after its end."""

    transfers: int
    findings: list[str]

    @property
    def hold(self) -> bool:
        """Whether every invariant does."""
        return not self.findings


@asynccontextmanager
async def engine_server(
    *, token: bool = False, limits: bool = False, access_log: bool = False, settings: dict[str, Any] | None = None
) -> AsyncIterator[tuple[EngineServer, list[Books]]]:
    """Run an embedded engine with fresh books; at the end, stop it and put what its audit found into the list.

    Args:
        token: whether requests need a token; one that may do everything is made.
        limits: whether rate limits and the asset's limits are counted; none is ever reached.
        access_log: whether every transfer has a line (into nothing).
        settings: others.

    Raises:
        RuntimeError: it did not start.
    """
    asset: dict[str, Any] = {"asset_id": ASSET_ID, "symbol": "USDT", "decimals": 8}
    config: dict[str, Any] = {"access_log": access_log, "log_level": "info" if access_log else "error"}
    if limits:
        config["rate_limits"] = {
            "per_user_per_minute": _RATE_PER_MINUTE,
            "per_address_per_minute": _RATE_PER_MINUTE,
        }
        asset["daily_most"] = 10**29
    config["assets"] = [asset]
    config |= settings or {}
    books: list[Books] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-doors-") as name:
        folder = Path(name)
        made = await _token(folder) if token else None
        if made is not None:
            config["tokens"] = {"secret_file": str(folder / "secret")}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        data = folder / "data"
        arguments = ["serve", "--config", str(folder / "config.yaml"), "--port", "0", "--data-dir", str(data)]
        command = [sys.executable, "-m", "transfer_engine.http.command_line", *arguments]
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if access_log else None
        )
        try:
            ports = await _ports(process)
            server = EngineServer(port=ports[0], express_port=ports[1], pid=process.pid, token=made)
            await _fund(server)
            yield server, books
        finally:
            await _stop(process)
        books.append(await _audit(data))


@asynccontextmanager
async def floor_server(module: str) -> AsyncIterator[tuple[int, int]]:
    """Run a floor, a module that takes its port as its argument; yield the port and the process's id.

    Raises:
        RuntimeError: it did not start.
    """
    port = free_port()
    process = await trio.lowlevel.open_process([sys.executable, "-m", module, str(port)], stderr=subprocess.DEVNULL)
    try:
        with trio.fail_after(STARTUP_S):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    if process.poll() is not None:
                        raise RuntimeError(f"{module} ended with {process.returncode}") from None
                    await trio.sleep(0.05)
        yield port, process.pid
    finally:
        await _stop(process)


async def _token(folder: Path) -> str:
    """Make a secret, and a token of it that may do everything."""
    arguments = [
        "token", "--secret-file", str(folder / "secret"), "--create-secret",
        "--subject", "benchmark", "--scope", "admin", "--scope", "transfer:any", "--expires-in", "1d",
    ]  # fmt: skip
    made = await trio.run_process(
        [sys.executable, "-m", "transfer_engine.http.command_line", *arguments], capture_stdout=True
    )
    return bytes(made.stdout).decode().strip()


async def _ports(process: trio.Process) -> tuple[int, int]:
    """Return the ports that a server says it is ready at."""
    said = b""
    stdout = process.stdout
    if stdout is None:
        raise RuntimeError("the server's output is not read")
    with trio.move_on_after(STARTUP_S):
        while said.count(b"\n") < 2:
            chunk = await stdout.receive_some(4_096)
            if not chunk:
                break
            said += chunk
    lines = said.decode().splitlines()
    if len(lines) < 2:
        raise RuntimeError(f"the server did not start: {said!r}")
    main, express = (
        int(line.removeprefix(start).rpartition(":")[2]) for line, start in zip(lines, (_READY, _EXPRESS), strict=False)
    )
    return main, express


async def _fund(server: EngineServer) -> None:
    accounts = [(user, account) for user in USERS for account in ("funding", "trading")]
    left = iter(accounts)

    def build(_: int) -> bytes | None:
        found = next(left, None)
        if found is None:
            return None
        body = {"user_id": found[0], "account": found[1], "asset_id": ASSET_ID, "amount": FUNDS}
        return request_bytes("/api/v1/admin/credits", msgspec.json.encode(body), server.headers)

    result = await http_load(server.express_port, build=build, connections=_CREDITING_CONNECTIONS, seconds=STARTUP_S)
    if result.statuses != {201: len(accounts)}:
        raise RuntimeError(f"the users could not be funded: {result.statuses}")


async def _stop(process: trio.Process) -> None:
    process.terminate()
    with trio.CancelScope(shield=True):
        with trio.move_on_after(_STOP_S) as patience:
            await process.wait()
        if patience.cancelled_caught:
            process.kill()
            await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()


async def _audit(data: Path) -> Books:
    """Open a stopped server's books, let what it left unfinished end, and check every invariant."""
    async with open_engine(Settings(data_dir=data)) as engine:
        with trio.move_on_after(_STOP_S):
            while engine.statistics().open_transfers:  # noqa: ASYNC110  statistics ring no bell
                await trio.sleep(0.1)
        report = await engine.audit()
    return Books(
        transfers=report.ledger_transfers,
        findings=[f"{finding.invariant}: {finding.what}" for finding in report.findings],
    )
