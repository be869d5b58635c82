"""The page of curl is followed word for word against a fresh server; only the ports are the test's."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "guide-curl.md"
END_OF_BLOCK = "--- end of block ---"
_BLOCK = re.compile(r"^```(sh|json|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VARYING = [
    (re.compile(r'"(created_at|updated_at)":\d{13}'), r'"\1":0'),
    (re.compile(r'"next_cursor":"[A-Za-z0-9_-]{64}"'), '"next_cursor":"…"'),
]


def blocks() -> list[tuple[str, str]]:
    """Return each command of the page with the answer that stands below it."""
    found: list[tuple[str, str]] = []
    for kind, text in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "sh":
            found.append((text, ""))
        else:
            found[-1] = (found[-1][0], text)
    return found


def two_free_ports() -> int:
    """Return a port that is free, as is the next one: the express door's."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def steady(text: str) -> str:
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text.rstrip("\n")


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="curl and bash are needed")
def test_every_command_answers_what_the_page_says(tmp_path: Path) -> None:
    port = two_free_ports()
    script = f"\necho '{END_OF_BLOCK}'\n".join(command for command, _ in blocks())
    script = script.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    commands = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "TRANSFER_ENGINE_PORT": str(port),
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
    }
    run = subprocess.run(
        ["bash", "-c", f"trap 'kill $(jobs -p) 2> /dev/null' EXIT\n{script}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    answers = run.stdout.split(f"{END_OF_BLOCK}\n")
    log = tmp_path / "transfer-engine.log"
    assert len(answers) == len(blocks()), (run.stdout, run.stderr, log.read_text() if log.exists() else "")
    for (command, expected), answer in zip(blocks(), answers, strict=True):
        assert steady(answer) == steady(expected), command
    assert run.returncode == 0, run.stderr
