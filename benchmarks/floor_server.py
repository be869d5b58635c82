"""A door's floor as a process of its own: a module that takes its port as its argument."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from transfer_engine.benchmarks.free_port import free_port

_START_S: Final = 30.0
_STOP_S: Final = 30.0


@asynccontextmanager
async def floor_server(module: str) -> AsyncIterator[tuple[int, int]]:
    """Run a floor; yield the port and the process's id.

    Raises:
        RuntimeError: it did not start.
    """
    port = free_port()
    process = await trio.lowlevel.open_process([sys.executable, "-m", module, str(port)], stderr=subprocess.DEVNULL)
    try:
        await _listens(process, module, port)
        yield port, process.pid
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_STOP_S) as patience:
                await process.wait()
            if patience.cancelled_caught:
                process.kill()
                await process.wait()


async def _listens(process: trio.Process, module: str, port: int) -> None:
    """Wait until it takes connections."""
    with trio.move_on_after(_START_S):
        while process.poll() is None:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                await trio.sleep(0.05)
            else:
                return
    said = "does not listen" if process.returncode is None else f"ended with {process.returncode}"
    raise RuntimeError(f"{module} {said}")
