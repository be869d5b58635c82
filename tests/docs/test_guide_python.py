"""The page of Python is followed word for word against a fresh server."""

import shutil
from pathlib import Path

import pytest

from support.guides import follow


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is needed")
def test_every_block_prints_what_the_page_says(tmp_path: Path) -> None:
    follow("guide-python.md", tmp_path)
