"""A command that is told to stop takes down what it brought up."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest


def test_sigterm_ends_a_command_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, "-m", "transfer_engine.benchmarks", "engine", "--users", "2", "--seconds", "60"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "bringing up" in process.stderr.readline()
        assert "load" in process.stderr.readline()
        assert list(tmp_path.glob("benchmark-data-*"))
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert "terminated" in errors
    assert not list(tmp_path.glob("benchmark-data-*"))
