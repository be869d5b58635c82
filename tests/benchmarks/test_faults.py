"""Faults amid a load: what names one, what can be hurt, and that a pause ends."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from transfer_engine.benchmarks.faults import Victims, parse_fault, strike
from transfer_engine.benchmarks.listening import listening_pid
from transfer_engine.benchmarks.plan import Fault

LISTENER = """
import socket, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill-server@5s", Fault(at_s=5, what="kill-server")),
        ("pause-ledger@0.5s:2s", Fault(at_s=0.5, what="pause-ledger", for_s=2)),
        ("pause-records@3:1.5", Fault(at_s=3, what="pause-records", for_s=1.5)),
    ],
)
def test_a_fault(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    "text", ["", "kill-server", "kill-all@5s", "kill-server@", "kill-server@-1s", "pause-ledger@1m"]
)
def test_what_is_no_fault(text: str) -> None:
    with pytest.raises(ValueError, match="is no fault: say"):
        parse_fault(text)


@pytest.mark.parametrize("what", ["kill-server", "pause-ledger", "pause-records", "kill-records"])
async def test_what_can_not_be_hurt(what: str) -> None:
    with pytest.raises(RuntimeError, match=what):
        await strike(parse_fault(f"{what}@1s"), Victims())


@pytest.fixture
def listener() -> Iterator[tuple[int, int]]:
    """Yield the port and the id of a process that listens."""
    with subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), process.pid
        finally:
            process.kill()


async def test_a_paused_process_goes_on(listener: tuple[int, int]) -> None:
    port, pid = listener
    assert listening_pid(f"127.0.0.1:{port}") == pid
    async with trio.open_nursery() as nursery:
        nursery.start_soon(strike, Fault(at_s=0, what="pause-ledger", for_s=60), Victims(ledger=pid))
        while not is_stopped(pid):  # noqa: ASYNC110  the system rings no bell
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    while is_stopped(pid):  # noqa: ASYNC110  nor here
        await trio.sleep(0.01)


def test_nobody_listens() -> None:
    assert listening_pid("127.0.0.1:1") is None
    assert listening_pid("192.0.2.1:80") is None
    assert listening_pid("nonsense") is None


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
