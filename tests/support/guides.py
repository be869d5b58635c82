"""Following a page of commands and programs word for word; only the ports are the test's own."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs"
PATIENCE_S = 120
END_OF_BLOCK = "--- end of block ---"
_BLOCK = re.compile(r"^```(sh|python|json|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VARYING = [
    (re.compile(r'"(created_at|updated_at)":\d{13}'), r'"\1":0'),
    (re.compile(r'"next_cursor":"[A-Za-z0-9_-]{64}"'), '"next_cursor":"…"'),
]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return each command or program of a page with the answer that stands below it."""
    found: list[tuple[str, str]] = []
    for kind, text in _BLOCK.findall((PAGES / page).read_text(encoding="utf-8")):
        if kind == "sh":
            found.append((text, ""))
        elif kind == "python":
            found.append((f"python -W error - <<'END_OF_PROGRAM'\n{text}END_OF_PROGRAM\n", ""))
        else:
            found[-1] = (found[-1][0], text)
    return found


def follow(page: str, directory: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run the commands of a page by one shell in an empty directory, and hold the answers to the page."""
    expected = blocks(page)
    port = _two_free_ports()
    script = f"\necho '{END_OF_BLOCK}'\n".join(command for command, _ in expected)
    script = script.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    commands = Path(sys.executable).parent
    run = subprocess.run(
        ["bash", "-c", f"trap 'kill $(jobs -p) 2> /dev/null' EXIT\n{script}"],
        cwd=directory,
        env={
            **os.environ,
            "TRANSFER_ENGINE_PORT": str(port),
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            **(environment or {}),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    answers = run.stdout.split(f"{END_OF_BLOCK}\n")
    log = directory / "transfer-engine.log"
    assert len(answers) == len(expected), (run.stdout, run.stderr, log.read_text() if log.exists() else "")
    for (command, answer), found in zip(expected, answers, strict=True):
        assert _steady(found) == _steady(answer), f"{command}\n{found}\n{run.stderr}"
    assert run.returncode == 0, run.stderr


def _two_free_ports() -> int:
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


def _steady(text: str) -> str:
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text.rstrip("\n")
