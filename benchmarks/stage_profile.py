"""Where the CPU of a process goes, by stage of a transfer: sampled by py-spy from outside while a load lasts.

py-spy reads the process's memory without stopping it, so the process is not slowed down; py-spy itself takes a few
percent of a core. It has to be allowed to: as root, or as the same user where the system lets one (Linux with
``kernel.yama.ptrace_scope=0``). A process that profiles itself gives py-spy that right. Without a
profile none of this runs, in any process.
"""

import contextlib
import ctypes
import gc
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import trio

from transfer_engine.benchmarks.stages import COLLECTOR, count_samples, share_out

RATE: Final = 197
"""Samples a second: no divisor of anything that runs on a clock."""
_START_S: Final = 10.0
_STOP_S: Final = 20.0
_LOOK_S: Final = 0.02
_PR_SET_PTRACER: Final = 0x59616D61
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_UTIME: Final = 11
"""Index of a thread's user time in its ``stat``, behind the name in parentheses; system time follows."""
_SAMPLING: Final = "Sampling process"


class NoProfile(RuntimeError):
    """There is no profiler, or it may not look at the process. The message says what would help."""


class StageProfile:
    """What a profile found; empty until its context is left."""

    def __init__(self) -> None:
        self.shares: dict[str, float] = {}
        """Of the process's CPU, by stage, the largest first."""
        self.samples = 0

    def __repr__(self) -> str:
        return f"<StageProfile of {self.samples} samples>"

    def stages_us(self, total_us: float) -> dict[str, float]:
        """Return a transfer's CPU by stage (µs), given the process's CPU for each transfer."""
        return {stage: share * total_us for stage, share in self.shares.items()}


def find_py_spy() -> str | None:
    """Return where py-spy is: beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


@asynccontextmanager
async def stage_profile(pid: int | None = None, *, rate: int = RATE) -> AsyncIterator[StageProfile]:
    """Sample a process for as long as the context lasts, by default this one.

    The collector's share is told of this process alone; elsewhere it is within the stages that it interrupted.

    Raises:
        NoProfile: on entering, py-spy is missing or may not look at the process.
    """
    py_spy = find_py_spy()
    if py_spy is None:
        raise NoProfile("no profile without py-spy: pip install 'transfer-engine[profile]'")
    profile = StageProfile()
    watched = os.getpid() if pid is None else pid
    with tempfile.TemporaryDirectory(prefix="benchmark-profile-") as folder:
        raw = Path(folder) / "stacks"
        arguments = ["--format", "raw", "--nonblocking", "--threads", "--full-filenames", "--rate", str(rate)]
        command = [py_spy, "record", *arguments, "--pid", str(watched), "--output", str(raw)]
        async with _sampling(command, Path(folder) / "log"):
            before_s = _threads_s(watched)
            with _collections() if pid is None else contextlib.nullcontext(_Collections()) as collections:
                yield profile
            after_s = _threads_s(watched)
        samples = count_samples(_text(raw).splitlines())
    cpu_s = {thread: seconds - before_s.get(thread, 0.0) for thread, seconds in after_s.items()}
    profile.samples = sum(of_thread.total() for of_thread in samples.values())
    profile.shares = with_collector(share_out(samples, cpu_s), collections.cpu_s / (sum(cpu_s.values()) or 1.0))


@asynccontextmanager
async def _sampling(command: list[str], log: Path) -> AsyncIterator[None]:
    """Run py-spy from its first sample on, and have it write its file in the end."""
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(command, stdout=output, stderr=output)
    try:
        _let_read(process.pid)
        with trio.move_on_after(_START_S):
            while _SAMPLING not in (said := _text(log)) and process.poll() is None:  # noqa: ASYNC110  a file rings no bell
                await trio.sleep(_LOOK_S)
        if _SAMPLING not in said:
            raise NoProfile(f"no profile: py-spy says {said.strip()!r}")
        yield
        process.send_signal(signal.SIGINT)
        with trio.move_on_after(_STOP_S):
            await process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def _let_read(pid: int) -> None:
    """Let a process of ours read this one's memory, where Linux asks for that; elsewhere there is nothing to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(pid), 0, 0, 0)


class _Collections:
    """CPU of the garbage collector in this process."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self._began_s = 0.0

    def note(self, phase: str, _: object) -> None:
        """Be told by the collector that it begins or ends."""
        if phase == "start":
            self._began_s = time.thread_time()
        else:
            self.cpu_s += time.thread_time() - self._began_s


@contextmanager
def _collections() -> Iterator[_Collections]:
    collections = _Collections()
    gc.callbacks.append(collections.note)
    try:
        yield collections
    finally:
        gc.callbacks.remove(collections.note)


def with_collector(shares: Mapping[str, float], collector: float) -> dict[str, float]:
    """Take the collector's share out of the stages that it interrupted, in proportion: no sample tells which."""
    if not collector:
        return dict(shares)
    used = {COLLECTOR: collector} | {stage: share * (1 - collector) for stage, share in shares.items()}
    return dict(sorted(used.items(), key=lambda item: -item[1]))


def _threads_s(pid: int) -> dict[int, float]:
    """Return the CPU seconds of each thread of a process; nothing where the system does not tell."""
    used = {}
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread may end meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            used[int(stat.parent.name)] = (int(fields[_UTIME]) + int(fields[_UTIME + 1])) / _TICKS_A_SECOND
    return used
