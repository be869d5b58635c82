"""A real TigerBeetle for tests, if this machine has one: `TIGERBEETLE_BINARY`, or `tigerbeetle` on the path."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import tigerbeetle as tb
import trio

Answer = TypeVar("Answer")
START_DEADLINE_S = 60
CLIENTS_MAX = 8
"""Sessions that the tests use at once; the server itself has 64."""


def find_binary() -> str | None:
    """Return the path of the server, if there is one."""
    return os.environ.get("TIGERBEETLE_BINARY") or shutil.which("tigerbeetle")


@contextmanager
def running_server(binary: str, directory: Path) -> Iterator[str]:
    """Run one replica with an empty data file on a free port of the loopback; yield its address."""
    data_file = directory / "0_0.tigerbeetle"
    one_replica = ["--cluster=0", "--replica=0", "--replica-count=1", "--development", str(data_file)]
    subprocess.run([binary, "format", *one_replica], check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (directory / "server.log").open("wb") as log:
        server = subprocess.Popen(
            # Little memory, as for development, but requests of the full size.
            [
                binary,
                "start",
                f"--addresses=127.0.0.1:{port}",
                "--development",
                "--experimental",
                "--limit-request=1MiB",
                str(data_file),
            ],
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_listening(port, server, directory / "server.log")
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def _wait_until_listening(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"TigerBeetle did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.05)
        else:
            return


class ThreadedTigerBeetle:
    """The client's blocking calls, each in a thread: a ledger for tests."""

    def __init__(self, client: tb.ClientSync) -> None:
        self._client = client
        self._turn = trio.CapacityLimiter(1)

    async def _call(self, method: Callable[[Any], Answer], argument: Any) -> Answer:
        return await trio.to_thread.run_sync(method, argument, limiter=self._turn)

    async def create_accounts(self, accounts: Sequence[tb.Account]) -> list[tb.CreateAccountResult]:
        return await self._call(self._client.create_accounts, list(accounts))

    async def create_transfers(self, transfers: Sequence[tb.Transfer]) -> list[tb.CreateTransferResult]:
        return await self._call(self._client.create_transfers, list(transfers))

    async def lookup_accounts(self, account_ids: Sequence[int]) -> list[tb.Account]:
        return await self._call(self._client.lookup_accounts, list(account_ids))

    async def lookup_transfers(self, transfer_ids: Sequence[int]) -> list[tb.Transfer]:
        return await self._call(self._client.lookup_transfers, list(transfer_ids))

    async def get_account_transfers(self, account_filter: tb.AccountFilter) -> list[tb.Transfer]:
        return await self._call(self._client.get_account_transfers, account_filter)

    async def get_account_balances(self, account_filter: tb.AccountFilter) -> list[tb.AccountBalance]:
        return await self._call(self._client.get_account_balances, account_filter)

    async def query_accounts(self, query_filter: tb.QueryFilter) -> list[tb.Account]:
        return await self._call(self._client.query_accounts, query_filter)

    async def query_transfers(self, query_filter: tb.QueryFilter) -> list[tb.Transfer]:
        return await self._call(self._client.query_transfers, query_filter)
