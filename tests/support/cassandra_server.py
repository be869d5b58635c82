"""A real Cassandra for tests, if this machine has `java` and `mvn`: fetched once, and started from its jars.

The cache is a folder in the user's cache directory, or ``TRANSFER_ENGINE_TEST_CACHE``; ``CASSANDRA_JARS`` names a
folder that has the jars already. Run as a program, it only fetches.
"""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from support.cassandra_options import COMMIT_LOGS, CONFIGURATION, EXPORTED, LOGGING, OPENED, CommitLogSync

VERSION: Final = "5.0.5"
FETCH_DEADLINE_S = 100
"""A test may take 180 s, and the server has yet to start; what was fetched by then, Maven keeps for the next time."""
START_DEADLINE_S = 120
STOP_DEADLINE_S = 20
LOG_TAIL_CHARACTERS = 3_000

_PROJECT: Final = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId><artifactId>cassandra-server</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>{VERSION}</version>
  </dependency></dependencies>
</project>
"""


class CassandraMissing(Exception):
    """This machine can't run a Cassandra; the message says what it lacks."""


def find_jars() -> Path:
    """Return the folder of the server's jars, fetched by Maven if they are not there yet (70 MB, once).

    Raises:
        CassandraMissing: no java, no mvn, or nothing could be fetched.
    """
    if shutil.which("java") is None:
        raise CassandraMissing("there is no java on the PATH")
    if given := os.environ.get("CASSANDRA_JARS"):
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transfer-engine-tests"
    folder = Path(os.environ.get("TRANSFER_ENGINE_TEST_CACHE") or cache) / f"cassandra-{VERSION}"
    if (folder / "lib").is_dir():
        return folder / "lib"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=FETCH_DEADLINE_S):
            if not (folder / "lib").is_dir():
                _fetch(folder)
    except Timeout:
        raise CassandraMissing("somebody else is fetching it") from None
    return folder / "lib"


def _fetch(folder: Path) -> None:
    if shutil.which("mvn") is None:
        raise CassandraMissing("there is no mvn on the PATH to fetch it")
    (folder / "pom.xml").write_text(_PROJECT)
    unfinished = folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-f", str(folder / "pom.xml"), "dependency:copy-dependencies"]
    try:
        fetched = subprocess.run(
            [*command, f"-DoutputDirectory={unfinished}", "-DincludeScope=runtime"],
            check=False,
            capture_output=True,
            text=True,
            timeout=FETCH_DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        raise CassandraMissing(f"mvn did not fetch it within {FETCH_DEADLINE_S} s") from None
    if fetched.returncode or not list(unfinished.glob("cassandra-all-*.jar")):
        words = (fetched.stdout + fetched.stderr).strip().splitlines()
        raise CassandraMissing(f"mvn could not fetch it: {words[0] if words else 'no jars'}")
    unfinished.rename(folder / "lib")


class CassandraServer:
    """One node and its folder, which outlives its process. Its methods are synchronous; in a trio test use a thread."""

    def __init__(
        self,
        jars: Path,
        folder: Path,
        *,
        authenticator: str = "AllowAllAuthenticator",
        commitlog_sync: CommitLogSync = "batch",
    ) -> None:
        self._jars = jars
        self._folder = folder
        self._port, storage_port, jmx_port = _free_ports(3)
        self._jmx_port = str(jmx_port)
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._paused = False
        self.starts = 0
        """How often it was started: what it forgets when it is killed, a later process of it does not know."""
        self.log = folder / "server.log"
        self.log.write_bytes(b"")
        (folder / "cassandra.yaml").write_text(
            CONFIGURATION.format(
                port=self._port,
                storage_port=storage_port,
                folder=folder,
                authenticator=authenticator,
                commitlog_sync=COMMIT_LOGS[commitlog_sync],
            )
        )
        (folder / "logback.xml").write_text(LOGGING)

    def __repr__(self) -> str:
        state = "paused" if self._paused else "running" if self.running else "down"
        return f"<CassandraServer at {self.address} {state}>"

    @property
    def address(self) -> str:
        """Where it takes CQL: ``host:port``; the same after a restart."""
        return f"127.0.0.1:{self._port}"

    @property
    def running(self) -> bool:
        """Whether its process is there, paused or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Run it on its folder; return before it listens."""
        if self.running:
            raise RuntimeError(f"{self!r} is running already")
        self._dismiss_watchdog()  # of one that died by itself
        self._paused = False
        self.starts += 1
        command = self._java(
            "-Xms512m",
            "-Xmx768m",
            "-Xmn64m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=4",
            "-Djdk.attach.allowAttachSelf=true",
            "-Djava.io.tmpdir=" + str(self._folder),
            f"-Dcassandra.config=file://{self._folder}/cassandra.yaml",
            f"-Dcassandra.storagedir={self._folder}",
            f"-Dlogback.configurationFile=file://{self._folder}/logback.xml",
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.ring_delay_ms=100",
            # A keyspace is made ten times as fast without an fsync for each change of the schema: see keep_schema.
            "-Dcassandra.unsafesystem=true",
            "-Dcassandra.superuser_setup_delay_ms=0",
            f"-Dcassandra.jmx.local.port={self._jmx_port}",
        )
        environment = {name: value for name, value in os.environ.items() if name != "JAVA_TOOL_OPTIONS"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "org.apache.cassandra.service.CassandraDaemon"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=environment,
            )
        # Its input ends with us, however we end: no test run that is killed leaves a server behind.
        command = ["sh", "-c", f"read _; kill -9 {self._process.pid}"]
        self._watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def wait_until_ready(self) -> None:
        """Block until it takes connections; raise with the end of its log if it does not."""
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                if not self.running or time.monotonic() > deadline:
                    raise RuntimeError(f"Cassandra did not start:\n{self.log_tail()}") from None
                time.sleep(0.1)
            else:
                return

    def keep_schema(self) -> None:
        """Write the definitions of all tables to its disk: those that were made since do not outlive ``kill``."""
        # A tool of the server's; it keeps a history in its user's home.
        options = [f"-Duser.home={self._folder}", "-XX:TieredStopAtLevel=1", "-Xmx64m"]
        flushed = subprocess.run(
            [
                *self._java(*options),
                "org.apache.cassandra.tools.NodeTool",
                "-p",
                self._jmx_port,
                "flush",
                "system_schema",
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=START_DEADLINE_S,
        )
        if flushed.returncode:
            raise RuntimeError(f"{self!r} did not flush its schema: {flushed.stdout}{flushed.stderr}")

    def kill(self) -> None:
        """SIGKILL: it ends in the middle of what it does, also when it is paused."""
        process = self._alive()
        process.kill()
        process.wait()
        self._dismiss_watchdog()
        self._paused = False

    def pause(self) -> None:
        """SIGSTOP: its connections stay, nothing is answered."""
        self._alive().send_signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT: it goes on, with whatever has come in the meantime."""
        self._alive().send_signal(signal.SIGCONT)
        self._paused = False

    def restart(self) -> None:
        """Kill it if it runs, start it on what its folder then holds, and block until it listens."""
        if self.running:
            self.kill()
        self.start()
        self.wait_until_ready()

    def stop(self) -> None:
        """End it for good, whatever it is doing; nothing happens if it is not there."""
        if self._process is None or not self.running:
            self._dismiss_watchdog()
            return
        # Nothing on its disks is needed any more: a graceful end would only take seconds.
        self.kill()
        self._process.wait(STOP_DEADLINE_S)

    def _dismiss_watchdog(self) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.kill()
            self._watchdog.wait()
            self._watchdog.stdin.close()
            self._watchdog = None

    def log_tail(self) -> str:
        """The end of what its processes have logged."""
        return self.log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]

    def _java(self, *options: str) -> list[str]:
        return [
            "java",
            *options,
            *(f"--add-exports={package}=ALL-UNNAMED" for package in EXPORTED),
            *(f"--add-opens={package}=ALL-UNNAMED" for package in OPENED),
            "-cp",
            f"{self._folder}:{self._jars}/*",
        ]

    def _alive(self) -> "subprocess.Popen[bytes]":
        if self._process is None or not self.running:
            raise RuntimeError(f"{self!r}: no process to signal. Its log ends:\n{self.log_tail()}")
        return self._process


@contextmanager
def running_cassandra(
    jars: Path,
    folder: Path,
    *,
    authenticator: str = "AllowAllAuthenticator",
    commitlog_sync: CommitLogSync = "batch",
) -> Iterator[CassandraServer]:
    """Run one empty node, which takes connections when this yields; end it, paused or not.

    What fails inside carries the end of its log. The log stays in the folder; the data does not.
    """
    server = CassandraServer(jars, folder, authenticator=authenticator, commitlog_sync=commitlog_sync)
    try:
        server.start()
        server.wait_until_ready()
        yield server
    except Exception as error:
        error.add_note(server.log_tail())
        raise
    finally:
        server.stop()
        for name in ("data", "commitlog", "saved_caches", "hints", "cdc_raw"):
            shutil.rmtree(folder / name, ignore_errors=True)


NOT_TESTED: Final = "NOT TESTED against a real Cassandra"


@cache
def _shared() -> CassandraServer | CassandraMissing:
    try:
        jars = find_jars()
    except CassandraMissing as missing:
        return missing
    ending = ExitStack()
    folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="cassandra-", ignore_cleanup_errors=True)))
    atexit.register(ending.close)  # after the folder's own, so before it: the server goes first
    return ending.enter_context(running_cassandra(jars, folder))


def shared_cassandra() -> CassandraServer:
    """Return the one node of this process, started when it is first asked for and ended with the process.

    It is running and takes connections, whatever the last test did to it.

    Raises:
        CassandraMissing: this machine can't run one; the message says so loudly.
    """
    server = _shared()
    if isinstance(server, CassandraMissing):
        raise CassandraMissing(f"{NOT_TESTED}: {server}")
    if not server.running:
        server.start()
    server.resume()
    server.wait_until_ready()
    return server


def _free_ports(count: int) -> list[int]:
    with ExitStack() as taken:
        probes = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


if __name__ == "__main__":
    print(find_jars())  # noqa: T201
