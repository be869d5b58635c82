"""What a run costs: CPU by thread and process, resident memory, and how late the loop is."""

import os
import resource
import threading
import time
from array import array
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

import msgspec
import trio

from transfer_engine.benchmarks.recording import histogram_of, percentiles_of
from transfer_engine.benchmarks.result import Percentiles

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_UTIME: Final = 11
"""Index of a process's or thread's user time in its ``stat``, behind the name in parentheses; system time follows."""

_TIMER_S: Final = 0.010
TRIO_LOOP: Final = "trio loop"
NATIVE: Final = "native threads"
"""Threads that Python does not know: those of the TigerBeetle client."""
_WORKERS: Final = "Trio thread"
ENDED: Final = "ended threads"
WORKERS: Final = "worker threads"
"""Of another process: trio's, which SQLite works in."""
OTHERS: Final = "other threads"
"""Of another process: those of drivers."""


class Usage(msgspec.Struct, frozen=True):
    """What was used between two moments, in seconds. Threads, machine and servers are known on Linux alone."""

    seconds: float
    cpu_s: float
    threads_s: dict[str, float]
    """CPU of this process by thread, those of one name together."""
    machine_s: float
    """CPU of everything on this machine."""
    servers_s: float
    """CPU of the servers that the benchmark started."""
    engine_s: float = 0.0
    """CPU of the engine's process, where that is another one; of both, where it was killed and started again."""
    engine_threads_s: dict[str, float] = {}
    """The same by thread; empty where it was started again."""
    children_s: float = 0.0
    """CPU of other processes that this one started, and that ended meanwhile: a load's generator."""

    def cpu_us(self, count: int) -> float:
        """Return this process's CPU for each of ``count`` things, in µs."""
        return self.cpu_s / max(count, 1) * 1e6


class Meter:
    """Measures from its making to each :meth:`read`.

    Args:
        servers: ids of processes that are measured too.
        engine: the engine's process, where that is another one.
    """

    def __init__(self, servers: tuple[int, ...] = (), engine: int | None = None) -> None:
        self._servers = servers
        self._engine = engine
        self._machine_s = _machine_s()
        self._servers_s = self._of_servers()
        self._engine_s = _process_s(engine)
        self._engine_threads = _threads_s(engine) if engine is not None else {}
        self._children_s = _children_s()
        self._threads = _threads_s()
        self._cpu_s = time.process_time()
        self._began = time.perf_counter()

    def read(self, engine: int | None = None) -> Usage:
        """Return what was used since this meter was made; ``engine`` is the engine's process now, if another."""
        seconds = time.perf_counter() - self._began
        cpu_s = time.process_time() - self._cpu_s
        used = _used_s(self._threads, _threads_s())
        if used and cpu_s > sum(used.values()) + 0.02 * cpu_s:
            used[ENDED] = cpu_s - sum(used.values())
        children_s = _children_s() - self._children_s
        engine_s = _process_s(engine) - self._engine_s
        engine_threads_s: dict[str, float] = {}
        if engine == self._engine:
            if engine is not None:
                engine_threads_s = _used_s(self._engine_threads, _threads_s(engine))
        else:  # it was killed: what it had used until then is told as an ended child's
            engine_s, children_s = engine_s + children_s, 0.0
        return Usage(
            seconds=seconds,
            cpu_s=cpu_s,
            threads_s={name: used[name] for name in sorted(used, key=lambda name: -used[name])},
            machine_s=_machine_s() - self._machine_s,
            servers_s=self._of_servers() - self._servers_s,
            engine_s=engine_s,
            engine_threads_s=engine_threads_s,
            children_s=children_s,
        )

    def _of_servers(self) -> float:
        return sum(_process_s(pid) for pid in self._servers)


class LoopLag:
    """Measures how late a timer of 10 ms is in this process's loop: what every task of it waits in addition."""

    def __init__(self) -> None:
        self._lags_us = array("Q")

    async def run(self) -> None:
        """Measure until it is cancelled."""
        while True:
            began = time.perf_counter()
            await trio.sleep(_TIMER_S)
            self._lags_us.append(max(int((time.perf_counter() - began - _TIMER_S) * 1e6), 0))

    def clear(self) -> None:
        """Forget what was measured so far."""
        self._lags_us = array("Q")

    def percentiles(self) -> Percentiles:
        """Return how late it was."""
        lags_us = Counter(self._lags_us)
        return percentiles_of(histogram_of(lags_us), max(lags_us, default=0) / 1e3)


def rss_mib(pid: int | None = None) -> float:
    """Return the memory that a process (this one, without ``pid``) has resident now, in MiB; 0 where it is gone."""
    try:
        pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    except OSError:
        pages = 0
    if pages or pid is not None:
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _stat_s(stat: Path) -> float:
    """Return the CPU seconds that a ``stat`` file tells of, or 0 where it is gone."""
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[_UTIME]) + int(fields[_UTIME + 1])) / _TICKS_A_SECOND


def _process_s(pid: int | None) -> float:
    return 0.0 if pid is None else _stat_s(Path(f"/proc/{pid}/stat"))


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _threads_s(pid: int | None = None) -> dict[int, tuple[str, float]]:
    """Return the name and CPU seconds of each thread of a process (this one, without ``pid``) by its number."""
    tasks = Path(f"/proc/{pid or 'self'}/task")
    if not tasks.exists():
        return {}
    if pid is None:
        names = {thread.native_id: _name(thread) for thread in threading.enumerate()}
    else:
        names = {int(task.name): _name_of_other(task, pid) for task in tasks.iterdir()}
    return {int(task.name): (names.get(int(task.name), NATIVE), _stat_s(task / "stat")) for task in tasks.iterdir()}


def _used_s(before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]) -> defaultdict[str, float]:
    """Return what threads have used since, those of one name together."""
    used: defaultdict[str, float] = defaultdict(float)
    for number, (name, total_s) in after.items():
        used[name] += total_s - before.get(number, (name, 0.0))[1]
    return used


def _name_of_other(task: Path, pid: int) -> str:
    """Return what a thread of another process is for: trio names its workers after what they do, drivers nothing."""
    if int(task.name) == pid:
        return TRIO_LOOP
    try:
        name = (task / "comm").read_text().strip()
    except OSError:
        return ENDED
    return OTHERS if name.startswith("python") else WORKERS


def _name(thread: threading.Thread) -> str:
    """Return what a thread is for: its name without what makes it unique."""
    if thread is threading.main_thread():
        return TRIO_LOOP
    name = thread.name.partition(" from ")[0].rstrip(" -_0123456789")
    return _WORKERS if name == "None" else name or "unnamed"  # trio takes an idle worker's name away


def _machine_s() -> float:
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _iowait, interrupts, soft_interrupts, *_ = (
        int(field) for field in stat.read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + interrupts + soft_interrupts) / _TICKS_A_SECOND
