"""`transfer-engine serve` as a process of the benchmark's own: any backends, fresh books, killed and started again."""

import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from transfer_engine.benchmarks.free_port import free_port
from transfer_engine.benchmarks.http_wire import Address
from transfer_engine.benchmarks.plan import ASSET_ID, SLOW_CORE, SLOW_CORE_CODE, Door
from transfer_engine.benchmarks.result import Books
from transfer_engine.engine import Settings, open_engine
from transfer_engine.http.demo_server import ServerDied, ServerProcess

START_S: Final = 90.0
HEAL_S: Final = 120.0
"""For what a stopped server left unfinished, before the audit."""
FINDINGS_MOST: Final = 10
_PATIENT_MS: Final = 60_000
_RATE_PER_MINUTE: Final = 100_000_000
"""Beyond any load: limits are counted, and never reached."""
_DAILY_MOST: Final = 10**29
_HOST: Final = "127.0.0.1"


class ServedEngine:
    """A server process on loopback, by itself or after a kill on the same books and ports."""

    def __init__(self, folder: Path, settings: Settings, config: dict[str, Any], token: str | None) -> None:
        self.settings = settings
        """What the engine in there runs on, its data directory included."""
        self.token = token
        """One that may do everything; None where the server asks for none."""
        self.starts = 0
        self._folder = folder
        self._config = config
        self._port = 0
        self._process: ServerProcess | None = None

    def __repr__(self) -> str:
        return f"<ServedEngine {self._process!r}, started {self.starts} times>"

    @property
    def pid(self) -> int | None:
        """The process that serves now; None between two."""
        return self._process.pid if self._process is not None else None

    def address(self, door: Door) -> Address:
        """Return where a door is."""
        return Address(_HOST, self._config["express_port"] if door == "express" else self._port)

    async def start(self) -> None:
        """Start the server, at the ports that it had before.

        Raises:
            RuntimeError: it did not start; the message ends with its log.
        """
        log = self._folder / "server.log"
        try:
            self._process = await ServerProcess.start(self._folder, self._config, port=self._port, start_s=START_S)
        except (ServerDied, trio.TooSlowError) as error:
            said = log.read_text(errors="replace")[-1_000:] if log.exists() else ""
            raise RuntimeError(f"the server did not start: {error}\n{said}") from None
        self._port = int(self._process.url.rpartition(":")[2])
        self.starts += 1

    async def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            process, self._process = self._process, None
            await process.kill()

    async def stop(self) -> None:
        """End it gracefully; what is left of it is killed."""
        process = self._process
        if process is None:
            return
        process.send(signal.SIGCONT)
        try:
            await process.stop()
        except trio.TooSlowError:
            pass  # it is killed
        finally:
            await self.kill()

    def pause(self) -> None:
        """Stop it where it stands."""
        if self._process is not None:
            self._process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        if self._process is not None:
            self._process.send(signal.SIGCONT)


@asynccontextmanager
async def served_engine(
    settings: Settings,
    *,
    has_token: bool = False,
    has_limits: bool = False,
    has_access_log: bool = False,
    is_slow: bool = False,
    others: dict[str, Any] | None = None,
) -> AsyncIterator[ServedEngine]:
    """Run a server on these backends, with a data directory of its own; whatever is left of it at the end is killed.

    Args:
        settings: the engine's; its data directory is not used.
        has_token: whether requests need a token; one that may do everything is made.
        has_limits: whether rate limits and the asset's daily sums are counted; none is ever reached.
        has_access_log: whether every transfer has a line in the log.
        is_slow: whether there is a simulated core, to be slowed down.
        others: more of the server's settings.

    Raises:
        RuntimeError: it did not start.
    """
    config = settings.model_dump(mode="json", exclude={"data_dir"}, exclude_none=True)
    config |= {"access_log": has_access_log, "log_level": "info" if has_access_log else "error"}
    config["express_port"] = free_port()
    if has_limits:
        config["rate_limits"] = {"per_user_per_minute": _RATE_PER_MINUTE, "per_address_per_minute": _RATE_PER_MINUTE}
        for asset in config["assets"]:
            if asset["asset_id"] == ASSET_ID:
                asset["daily_most"] = _DAILY_MOST
    if is_slow and all(service["name"] != SLOW_CORE for service in config["services"]):
        config["services"].append({"name": SLOW_CORE, "code": SLOW_CORE_CODE, "kind": "simulated_core"})
    config |= others or {}
    with tempfile.TemporaryDirectory(prefix="benchmark-server-") as name:
        folder = Path(name)
        token = await _make_token(folder / "secret") if has_token else None
        if token is not None:
            config["tokens"] = {"secret_file": str(folder / "secret")}
        engine = {key: config[key] for key in Settings.model_fields if key in config}
        its_settings = Settings.model_validate(engine | {"data_dir": folder / "data"})
        server = ServedEngine(folder, its_settings, config, token)
        try:
            await server.start()
            yield server
        finally:
            with trio.CancelScope(shield=True):
                await server.kill()


async def audit(settings: Settings) -> Books:
    """Open a stopped server's books, let what it left unfinished end, and check every invariant."""
    settings = settings.model_copy(update={"deadline_ms": _PATIENT_MS, "reconcile": False})
    async with open_engine(settings) as engine:
        with trio.move_on_after(HEAL_S):
            while engine.statistics().open_transfers:  # noqa: ASYNC110  statistics ring no bell
                await trio.sleep(0.1)
        unfinished = engine.statistics().open_transfers
        report = await engine.audit()
    findings = [f"{finding.invariant}: {finding.what}" for finding in report.findings]
    if unfinished:
        findings.append(f"I7: {unfinished} transfers are unfinished")
    return Books(
        how=f"audit (I1, I2, I3, I7) of {report.ledger_transfers:,} ledger transfers and {report.records:,} rows",
        findings=tuple(findings[:FINDINGS_MOST]),
    )


async def _make_token(secret: Path) -> str:
    """Make a secret, and a token of it that may do everything."""
    arguments = [
        "token", "--secret-file", str(secret), "--create-secret",
        "--subject", "benchmark", "--scope", "admin", "--scope", "transfer:any",
        "--scope", "transfer:read", "--scope", "transfer:write", "--expires-in", "1d",
    ]  # fmt: skip
    made = await trio.run_process(
        [sys.executable, "-m", "transfer_engine.http.command_line", *arguments], capture_stdout=True
    )
    return bytes(made.stdout).decode().strip()
