"""Where and with what a run was made: without it no figure means anything."""

import datetime as dt
import os
import platform
import subprocess
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from transfer_engine.benchmarks.private_tigerbeetle import find_binary
from transfer_engine.benchmarks.result import Machine

_LIBRARIES: Final = (
    "transfer-engine",
    "trio",
    "msgspec",
    "tigerbeetle",
    "cassandra-driver",
    "hypercorn",
    "quart-trio",
    "httptools",
    "trio-websocket",
)
_ASK_S: Final = 10.0


def this_machine() -> Machine:
    """Describe this machine and what is installed on it."""
    return Machine(
        at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu=_cpu(),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        load_before=os.getloadavg(),
        system=f"{platform.system()} {platform.release()}",
        python=_python(),
        commit=_commit(),
        versions=dict(_versions()),
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _python() -> str:
    """Return the version, and how it was built: a build without profile-guided optimization is a fifth slower."""
    version = f"{platform.python_implementation()} {platform.python_version()}"
    arguments = sysconfig.get_config_var("CONFIG_ARGS")
    if not isinstance(arguments, str) or not arguments:
        return version
    if sysconfig.get_config_var("Py_DEBUG"):
        return f"{version}, debug build"
    return f"{version}, {'with PGO' if '--enable-optimizations' in arguments else 'configured without PGO'}"


def _commit() -> str | None:
    """Return the commit of the sources that run, or None where they are no checkout, or there is no git."""
    folder = Path(__file__).resolve().parent
    commit = _said("git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return commit or None


def _versions() -> Iterator[tuple[str, str]]:
    for name in _LIBRARIES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    binary = find_binary()
    if binary is not None:
        said = _said(binary, "version").partition("\n")[0].removeprefix("TigerBeetle version ")
        if said:
            yield "tigerbeetle server", said.partition("+")[0]


def _said(*command: str) -> str:
    """Return what a command says, or nothing."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_ASK_S)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
