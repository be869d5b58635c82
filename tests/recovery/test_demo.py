"""`transfer-engine demo`: what it says, how it ends, and that it leaves nothing behind."""

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from support.books import AT_REST, USER, small_life
from transfer_engine.http.demo_load import ASSET_ID
from transfer_engine.http.demo_notes import Asked
from transfer_engine.http.demo_show import run_demo, tell_and_check
from transfer_engine.http.demo_story import Story, StoryBroken
from transfer_engine.schema.transfers import TransferStatus

COMMAND = str(Path(sys.executable).with_name("transfer-engine"))
PATIENCE_S = 120
WIDTH = 80


def start(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the demo, without a terminal, with its temporary files in a folder of the test's."""
    return subprocess.Popen(
        [COMMAND, "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), **environment},
    )


def pids(said: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"serve, pid (\d+)", said)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_whole_story(tmp_path: Path) -> None:
    demo = start(tmp_path, "--transfers", "160", NO_COLOR="1", TRANSFER_ENGINE_PORT="not a port: not its matter")
    said, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 0, said
    assert "\x1b" not in said
    assert [line for line in said.splitlines() if len(line) > WIDTH] == []
    assert len(pids(said)) == 2
    assert not any(is_alive(pid) for pid in pids(said))
    assert list(tmp_path.iterdir()) == []
    for told in (
        "failed: insufficient funds",
        "committed, replayed: nothing moved",
        "422 key_reused",
        "target_pending",
        "committed by the scanner",
        "rolled_back: closed for today",
        "kill -9",
        "sent again by the same keys",
        "Everything holds.",
    ):
        assert told in said
    assert re.findall(r"^ (I\d) .* (\w+) *$", said, re.MULTILINE) == [
        (f"I{number}", "holds") for number in range(1, 10)
    ]


@pytest.mark.parametrize("moment", ["ready after", "money for the users"])
def test_interrupted(tmp_path: Path, moment: str) -> None:
    demo = start(tmp_path, "--transfers", "160", PYTHONUNBUFFERED="1")
    assert demo.stdout is not None
    said = ""
    for line in demo.stdout:
        said += line
        if moment in line:
            demo.send_signal(signal.SIGINT)
            break
    rest, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 130, said + rest
    assert "Interrupted" in rest
    assert "Traceback" not in rest
    assert not any(is_alive(pid) for pid in pids(said + rest))
    assert list(tmp_path.iterdir()) == []


class ForgedStory(Story):
    """A story that was told well, but for one answer."""

    async def tell(self) -> None:
        self.notebook = await small_life(self.directory / "data")
        self.figures = AT_REST
        note = next(note for note in self.notebook if note.asked.key == "too-much")
        note.answers[:] = [next(note for note in self.notebook if note.asked.key == "moved").answers[0]]


class BrokenStory(Story):
    """A story in which the engine does what it should not."""

    async def tell(self) -> None:
        asked = Asked(key="odd", source="funding", target="trading", user_id=USER, asset_id=ASSET_ID, amount=1)
        self.server = await self._start()
        assert await self.server.stop() == 0
        raise StoryBroken(f"{asked.key} was {TransferStatus.COMMITTED}")


async def test_a_breach_is_shown_and_makes_it_fail(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=WIDTH)
    assert await tell_and_check(console, ForgedStory(console, tmp_path, transfers=12)) == 1
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert re.search(r"I4 .* BROKEN", said)
    assert re.search(r"I6 .* holds", said)
    assert "I4: too-much was told of another transfer" in said
    assert "Not everything holds." in said
    assert "Everything holds." not in said


async def test_a_story_that_breaks_shows_the_servers_log(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=WIDTH)
    assert await tell_and_check(console, BrokenStory(console, tmp_path, transfers=12)) == 1
    assert isinstance(console.file, io.StringIO)
    assert "The demo broke: odd was committed" in console.file.getvalue()
    assert '"stopping"' in console.file.getvalue()


async def test_a_server_that_can_not_start(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    console = Console(file=io.StringIO(), width=WIDTH)
    assert await run_demo(console, tmp_path, transfers=12) == 1
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "The demo broke: the server ended with 1 before it was ready" in said
    assert "can't be written" in said


def test_an_old_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    demo = start(tmp_path, "--keep", str(tmp_path))
    said, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 2
    assert "has data of an earlier server" in said
