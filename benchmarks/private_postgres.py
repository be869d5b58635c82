"""A PostgreSQL of the benchmark's own, where its programs are installed; gone with all its data after the run.

Its settings are the distribution's own: commits are synced to disk, as everybody else's here.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from transfer_engine.benchmarks.child_processes import ended
from transfer_engine.benchmarks.free_port import free_port

_FOLDER: Final = Path("/usr/lib/postgresql")
"""Where Debian puts each version's programs, beside the path."""
_USER: Final = "postgres"
_START_S: Final = 30.0
_STOP_S: Final = 20.0
_LOOK_S: Final = 0.1


def find_programs() -> Path | None:
    """Return the folder of `initdb` and `postgres`, the newest version's; None where there are none."""
    found = sorted(_FOLDER.glob("*/bin/initdb"), key=lambda program: int(program.parts[-3].partition(".")[0]))
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    return found[-1].parent if found else None


@contextmanager
def private_postgres(programs: Path) -> Iterator[str]:
    """Run a server with an empty database for as long as the context lasts; yield the database's DSN.

    Raises:
        RuntimeError: it did not start; the message ends with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-postgres-", ignore_cleanup_errors=True) as name:
        folder, user = Path(name), None
        if os.geteuid() == 0:  # it refuses to run as root
            user = _user()
            os.chown(folder, user, -1)
        data, port, log = folder / "data", free_port(), folder / "log"
        making = [str(programs / "initdb"), "--auth=trust", "--no-sync", f"--username={_USER}", f"--pgdata={data}"]
        made = subprocess.run(making, user=user, cwd=folder, check=False, capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr[-1_000:]}")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", ""],
                user=user,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        with ended(process, _STOP_S):
            dsn = f"postgresql://{_USER}@127.0.0.1:{port}/postgres"
            _wait_until_ready([str(programs / "pg_isready"), "--quiet", f"--dbname={dsn}"], process, log)
            yield dsn


def _user() -> int:
    try:
        return pwd.getpwnam(_USER).pw_uid
    except KeyError:
        raise RuntimeError(f"PostgreSQL does not run as root, and there is no user {_USER}") from None


def _wait_until_ready(asking: list[str], process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while subprocess.run(asking, check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-1_000:]}")
        time.sleep(_LOOK_S)
