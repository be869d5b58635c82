"""What a run costs and how long its transfers took: CPU by thread, resident memory, latencies."""

import math
import os
import resource
import threading
import time
from array import array
from collections import defaultdict
from pathlib import Path
from typing import Final

import msgspec

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_UTIME: Final = 11
"""Index of a process's or thread's user time in its ``stat``, behind the name in parentheses; system time follows."""

TRIO_LOOP: Final = "trio loop"
NATIVE: Final = "native threads"
"""Threads that Python does not know: those of the TigerBeetle client."""
ENDED: Final = "ended threads"


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

    def cpu_us(self, count: int) -> float:
        """Return this process's CPU for each of ``count`` things, in µs."""
        return self.cpu_s / max(count, 1) * 1e6


class Meter:
    """Measures from its making to each :meth:`read`.

    Args:
        servers: ids of processes that are measured too.
    """

    def __init__(self, servers: tuple[int, ...] = ()) -> None:
        self._servers = servers
        self._machine_s = _machine_s()
        self._servers_s = self._of_servers()
        self._threads = _threads_s()
        self._cpu_s = time.process_time()
        self._began = time.perf_counter()

    def read(self) -> Usage:
        """Return what was used since this meter was made."""
        seconds = time.perf_counter() - self._began
        cpu_s = time.process_time() - self._cpu_s
        used: defaultdict[str, float] = defaultdict(float)
        for number, (name, total_s) in _threads_s().items():
            used[name] += total_s - self._threads.get(number, (name, 0.0))[1]
        if used and cpu_s > sum(used.values()) + 0.02 * cpu_s:
            used[ENDED] = cpu_s - sum(used.values())
        return Usage(
            seconds=seconds,
            cpu_s=cpu_s,
            threads_s={name: used[name] for name in sorted(used, key=lambda name: -used[name])},
            machine_s=_machine_s() - self._machine_s,
            servers_s=self._of_servers() - self._servers_s,
        )

    def _of_servers(self) -> float:
        return sum(_stat_s(Path(f"/proc/{pid}/stat")) for pid in self._servers)


class Latencies:
    """Every latency of a run, in seconds: percentiles are exact, and cost 8 bytes a sample."""

    def __init__(self) -> None:
        self._samples = array("d")
        self.add = self._samples.append

    def summary(self) -> "LatencySummary":
        """Return the percentiles, by nearest rank; all are 0 where there are no samples."""
        ordered = sorted(self._samples)

        def at(share: float) -> float:
            return ordered[max(math.ceil(share * len(ordered)), 1) - 1] * 1e3 if ordered else 0.0

        return LatencySummary(p50_ms=at(0.5), p90_ms=at(0.9), p99_ms=at(0.99), p999_ms=at(0.999), most_ms=at(1.0))


class LatencySummary(msgspec.Struct, frozen=True):
    """Percentiles of a run's latencies, in ms."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    most_ms: float

    def __str__(self) -> str:
        return (
            f"p50 {self.p50_ms:.1f}  p90 {self.p90_ms:.1f}  p99 {self.p99_ms:.1f}  "
            f"p99.9 {self.p999_ms:.1f}  max {self.most_ms:.1f} ms"
        )


def rss_mib() -> float:
    """Return the memory that this process has resident now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    if pages:
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _stat_s(stat: Path) -> float:
    """Return the CPU seconds that a ``stat`` file tells of, or 0 where it is gone."""
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[_UTIME]) + int(fields[_UTIME + 1])) / _TICKS_A_SECOND


def _threads_s() -> dict[int, tuple[str, float]]:
    """Return each thread's name and CPU seconds by its number."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        return {}
    names = {thread.native_id: _name(thread) for thread in threading.enumerate()}
    return {int(task.name): (names.get(int(task.name), NATIVE), _stat_s(task / "stat")) for task in tasks.iterdir()}


def _name(thread: threading.Thread) -> str:
    """Return what a thread is for: its name without what makes it unique."""
    if thread is threading.main_thread():
        return TRIO_LOOP
    return thread.name.partition(" from ")[0].rstrip(" -_0123456789") or "unnamed"


def _machine_s() -> float:
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _iowait, interrupts, soft_interrupts, *_ = (
        int(field) for field in stat.read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + interrupts + soft_interrupts) / _TICKS_A_SECOND
