"""A server in a process of its own: started as users start it, and ended by its own pid, gently or by `kill -9`."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final, Self

import trio
import yaml

from transfer_engine.actors import bounded_cleanup
from transfer_engine.http.settings import ENVIRONMENT_PREFIX

START_S: Final = 30.0
"""How long a server may take to say that it is ready."""

STOP_S: Final = 30.0
"""How long a process may take to end once it was told to; a graceful stop has a deadline of its own."""

LOG_NAME: Final = "server.log"
"""The file under a server's directory that has its log, and those of its former lives."""

_LOG_LINES: Final = 20
_REAP_MS: Final = 5_000
_READY: Final = "transfer-engine is ready at "
_COMMAND: Final = (sys.executable, "-P", "-m", "transfer_engine.http.command_line", "serve")


class ServerDied(Exception):
    """The process ended before it was ready; ``returncode`` is its exit code, negative for a signal."""

    def __init__(self, returncode: int) -> None:
        super().__init__(f"the server ended with {returncode} before it was ready")
        self.returncode = returncode


def log_tail(log: Path) -> str:
    """Return the last lines of a log; nothing where there is none."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:]) if log.exists() else ""


class ServerProcess:
    """A running server; ``url`` is where it listens, ``data_dir`` what outlives it."""

    def __init__(self, process: trio.Process, directory: Path) -> None:
        self.url = ""
        self.data_dir = directory / "data"
        self.log = directory / LOG_NAME
        self._process = process

    def __repr__(self) -> str:
        return f"<ServerProcess {self.pid} at {self.url or '-'}, returncode {self.returncode}>"

    @classmethod
    async def start(
        cls,
        directory: Path,
        config: Mapping[str, Any],
        *,
        crash_at: str | None = None,
        port: int = 0,
        start_s: float = START_S,
    ) -> Self:
        """Start a server on this port (0: a free one), with its data, configuration and log under ``directory``.

        Nothing of this process's environment configures it. Cancellation kills it.

        Raises:
            ServerDied: it ended before it was ready.
            trio.TooSlowError: it was not ready in time; it is killed.
        """
        path = directory / "config.yaml"
        # The port after ``port`` may be taken: the express door has a free one, where nothing else is said.
        path.write_text(yaml.safe_dump({"express_port": 0, **config, **({"crash_at": crash_at} if crash_at else {})}))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        arguments = [*_COMMAND, "--port", str(port), "--data-dir", str(directory / "data"), "--config", str(path)]
        with (directory / LOG_NAME).open("ab") as log:
            # A process group of its own: Ctrl-C is for whoever started it, who then ends it by its pid.
            process = await trio.lowlevel.open_process(
                arguments, stdout=PIPE, stderr=log, env=environment, process_group=0
            )
        server = cls(process, directory)
        try:
            with trio.fail_after(start_s):
                await server._be_ready()
        except BaseException:
            await server.kill()
            raise
        return server

    async def _be_ready(self) -> None:
        line = b""
        stdout = self._process.stdout
        while stdout is not None and b"\n" not in line:
            part = await stdout.receive_some(1_024)
            if not part:
                raise ServerDied(await self._process.wait())
            line += part
        self.url = line.partition(b"\n")[0].decode().removeprefix(_READY).strip()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        return log_tail(self.log)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; it may have ended already."""
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait for its end and return the exit code; cancellation leaves it running.

        Raises:
            trio.TooSlowError: it has not ended in time.
        """
        with trio.fail_after(STOP_S):
            return await self._process.wait()

    async def stop(self) -> int:
        """End it gracefully, and return its exit code."""
        self.send(signal.SIGTERM)
        return await self.wait()

    async def kill(self) -> int:
        """End it as a crash does, whatever it does, and return its exit code. Not cancellable, and brief."""
        self._process.kill()
        with bounded_cleanup(_REAP_MS):
            await self._process.wait()
            if self._process.stdout is not None:
                await self._process.stdout.aclose()
        return self._process.returncode or 0


@asynccontextmanager
async def running_server(
    directory: Path,
    config: Mapping[str, Any],
    *,
    crash_at: str | None = None,
    port: int = 0,
    start_s: float = START_S,
) -> AsyncIterator[ServerProcess]:
    """Run a server; whatever is left of it at the end is killed. Raises what :meth:`ServerProcess.start` does."""
    server = await ServerProcess.start(directory, config, crash_at=crash_at, port=port, start_s=start_s)
    try:
        yield server
    finally:
        await server.kill()
