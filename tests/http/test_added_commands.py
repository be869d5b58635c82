"""Commands that other packages add: found without being loaded, and told apart when they are broken."""

import subprocess
import sys
from pathlib import Path

import pytest

from transfer_engine.http.command_line import run

MODULE = """
import click

@click.command()
@click.argument("word")
def echo(word):
    "Say a word."
    click.echo(f"said {word}")

nothing = 3
"""


@pytest.fixture(autouse=True)
def _added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three commands: one that works, one that is not there, one that is none."""
    (tmp_path / "added_by_a_test.py").write_text(MODULE)
    folder = tmp_path / "added_by_a_test-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: added-by-a-test\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[transfer_engine.commands]\n"
        "echo = added_by_a_test:echo\nbroken = added_by_a_test:no_such_name\nnothing = added_by_a_test:nothing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_one_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["echo", "this"]) == 0
    assert capsys.readouterr().out == "said this\n"


@pytest.mark.parametrize(
    ("name", "why"), [("broken", "no_such_name"), ("nothing", "added_by_a_test:nothing is no command")]
)
def test_one_that_does_not_says_so_in_a_line(name: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--option", "argument"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"{name} can't be loaded: " in line
    assert why in line


def test_the_others_do_not_notice(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert "serve " in out
    assert "Say a word." in out
    assert "can't be loaded" in out


def test_a_server_starts_without_the_benchmarks() -> None:
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "transfer_engine.http.command_line", "serve", "--help"],
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    assert "transfer_engine.http.added_commands" in loaded
    assert "transfer_engine.benchmarks" not in loaded
