"""A real TigerBeetle for tests, if this machine has one: `TIGERBEETLE_BINARY`, or `tigerbeetle` on the path."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

START_DEADLINE_S = 120
"""Three of them on a busy machine take most of a minute."""
STOP_DEADLINE_S = 10
LOG_TAIL_CHARACTERS = 2_000
SMALL_REPLICA = ("--development", "--experimental", "--limit-request=1MiB", "--memory-lsm-manifest=16MiB")
"""As little memory as it can do with (1.7 GiB each), but requests of the full size."""
PRIMARY_SINCE = re.compile(r"transition_to_normal_from_\w+: view=(?:\d+\.\.)?(\d+) primary")


def find_binary() -> str | None:
    """Return the path of the server, if there is one."""
    return os.environ.get("TIGERBEETLE_BINARY") or shutil.which("tigerbeetle")


class Replica:
    """One server process and its data file, which outlives it. Its methods are synchronous, and quick but for waits.

    ``start`` only starts it. ``wait_until_listening`` blocks for seconds: in a trio test give it to a thread.
    """

    def __init__(self, binary: str, directory: Path, cluster_id: int, index: int, ports: Sequence[int]) -> None:
        self.index = index
        self.address = f"127.0.0.1:{ports[index]}"
        self.data_file = directory / f"{cluster_id}_{index}.tigerbeetle"
        self.log = self.data_file.with_suffix(".log")
        self._binary = binary
        self._port = ports[index]
        self._addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        self._identity = [f"--cluster={cluster_id}", f"--replica={index}", f"--replica-count={len(ports)}"]
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._paused = False

    def __repr__(self) -> str:
        state = "paused" if self._paused else "running" if self.running else "down"
        return f"<Replica {self.index} at {self.address} {state}>"

    @property
    def running(self) -> bool:
        """Whether its process is there, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The running process."""
        return self._alive().pid

    def format(self) -> None:
        """Make its data file, and begin its log."""
        self.log.write_bytes(b"")
        command = [self._binary, "format", *self._identity, "--development", str(self.data_file)]
        formatted = subprocess.run(command, check=False, capture_output=True, text=True)
        if formatted.returncode:
            raise RuntimeError(f"TigerBeetle did not format {self.data_file}:\n{formatted.stderr}")

    def start(self) -> None:
        """Run it on its data file, on the same port as ever; return before it listens."""
        if self.running:
            raise RuntimeError(f"{self!r} is running already")
        self._paused = False
        command = [self._binary, "start", f"--addresses={self._addresses}", *SMALL_REPLICA, str(self.data_file)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        # A test process that is killed, or ended by its time limit, must not leave gigabytes of server behind: when its
        # end of the pipe is gone, so is the server.
        self._end_watch()
        self._watcher = subprocess.Popen(
            ["sh", "-c", 'read _; kill -KILL "$0"', str(self._process.pid)], stdin=subprocess.PIPE
        )

    def wait_until_listening(self) -> None:
        """Block until it takes connections; raise with the end of its log if it does not."""
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                if not self.running or time.monotonic() > deadline:
                    raise RuntimeError(f"TigerBeetle did not start:\n{self.log_tail()}") from None
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """SIGKILL: it ends in the middle of what it does, also when it is paused."""
        process = self._alive()
        process.kill()
        process.wait()
        self._paused = False
        self._end_watch()

    def pause(self) -> None:
        """SIGSTOP: its connections stay, nothing is answered."""
        self._alive().send_signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT: it goes on, with whatever has come in the meantime."""
        self._alive().send_signal(signal.SIGCONT)
        self._paused = False

    def restart(self) -> None:
        """Kill it if it runs, and start it on what its data file then holds."""
        if self.running:
            self.kill()
        self.start()

    def stop(self) -> None:
        """End it for good, whatever it is doing; nothing happens if it is not there."""
        if self._process is None or not self.running:
            self._end_watch()
            return
        # A paused process takes SIGTERM only when it goes on.
        self._process.terminate()
        self._process.send_signal(signal.SIGCONT)
        self._paused = False
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._end_watch()

    def log_tail(self) -> str:
        """The end of what its processes have logged."""
        return self.log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]

    def primary_view(self) -> int:
        """The latest view in which it became the primary, or -1; what it logged tells."""
        log = self.log.read_text(errors="replace")
        return max((int(view) for view in PRIMARY_SINCE.findall(log)), default=-1)

    def _end_watch(self) -> None:
        if self._watcher is not None:
            self._watcher.kill()  # first: it must not see its pipe end
            self._watcher.communicate()
            self._watcher = None

    def _alive(self) -> "subprocess.Popen[bytes]":
        if self._process is None or not self.running:
            raise RuntimeError(f"{self!r}: no process to signal. Its log ends:\n{self.log_tail()}")
        return self._process


class Cluster:
    """One or three replicas on free ports of the loopback; made and ended by :func:`running_cluster`."""

    def __init__(self, binary: str, directory: Path, *, replica_count: int, cluster_id: int) -> None:
        ports = _free_ports(replica_count)
        self.cluster_id = cluster_id
        self.replicas = [Replica(binary, directory, cluster_id, index, ports) for index in range(replica_count)]

    def __repr__(self) -> str:
        return f"<Cluster {self.cluster_id} {self.replicas}>"

    @property
    def addresses(self) -> str:
        """All replicas, as clients are told them: ``host:port,host:port``."""
        return ",".join(replica.address for replica in self.replicas)

    def format(self) -> None:
        """Make all data files."""
        for replica in self.replicas:
            replica.format()

    def start(self) -> None:
        """Start those that do not run, and block until all listen."""
        for replica in self.replicas:
            if not replica.running:
                replica.start()
        for replica in self.replicas:
            replica.wait_until_listening()

    def stop(self) -> None:
        """End all of them."""
        for replica in self.replicas:
            replica.stop()

    def primary(self) -> Replica:
        """The replica that last became the primary. It may have been deposed since: ask again."""
        latest = max(self.replicas, key=Replica.primary_view)
        if latest.primary_view() < 0:
            raise RuntimeError(f"no replica has become the primary yet:\n{self.logs()}")
        return latest

    def backups(self) -> list[Replica]:
        """All replicas but :meth:`primary`."""
        primary = self.primary()
        return [replica for replica in self.replicas if replica is not primary]

    def logs(self) -> str:
        """The end of each replica's log, for the message of a failure."""
        return "\n".join(f"--- {replica!r}\n{replica.log_tail()}" for replica in self.replicas)


@contextmanager
def running_cluster(binary: str, directory: Path, *, replica_count: int = 1, cluster_id: int = 0) -> Iterator[Cluster]:
    """Run so many replicas with empty data files, which listen when this yields; end them, paused or not.

    What fails inside carries the ends of their logs. The logs stay in the directory; the data files, a gigabyte each,
    do not.
    """
    cluster = Cluster(binary, directory, replica_count=replica_count, cluster_id=cluster_id)
    cluster.format()
    try:
        cluster.start()
        yield cluster
    except Exception as error:
        error.add_note(cluster.logs())
        raise
    finally:
        cluster.stop()
        for replica in cluster.replicas:
            replica.data_file.unlink(missing_ok=True)


@contextmanager
def running_server(binary: str, directory: Path) -> Iterator[str]:
    """Run one replica of cluster 0 with an empty data file; yield its address."""
    with running_cluster(binary, directory) as cluster:
        yield cluster.addresses


def _free_ports(count: int) -> list[int]:
    with ExitStack() as taken:
        probes = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]
