"""Servers that a run started: how they are ended, by their own process."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ended(process: "subprocess.Popen[bytes]", within_s: float) -> Iterator[None]:
    """End a process behind the body: asked to, and after so long killed."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
