"""The page of curl is followed word for word against a fresh server."""

import shutil
from pathlib import Path

import pytest

from support.guides import follow


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="curl and bash are needed")
def test_every_command_answers_what_the_page_says(tmp_path: Path) -> None:
    follow("guide-curl.md", tmp_path)
