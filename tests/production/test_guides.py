"""The pages of curl and of Python are followed word for word on the production pair: the same answers."""

import shutil
from pathlib import Path

import pytest
import yaml

from support.guides import follow
from support.production import Pair


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="curl and bash are needed")
@pytest.mark.parametrize("page", ["guide-curl.md", "guide-python.md"])
def test_every_command_answers_what_the_page_says(pair: Pair, tmp_path: Path, page: str) -> None:
    folder = tmp_path / "guide"
    folder.mkdir()
    config = folder / "backends.yaml"
    backends = pair.backends()
    backends["tigerbeetle"]["addresses"] = list(backends["tigerbeetle"]["addresses"])
    config.write_text(yaml.safe_dump(backends))
    follow(page, folder, {"TRANSFER_ENGINE_CONFIG": str(config)})
