"""What `bench` does by itself, in a tenth of its time."""

import re

from click.testing import CliRunner

from transfer_engine.benchmarks.command_line import bench


def test_without_a_command_it_looks_at_everything() -> None:
    result = CliRunner().invoke(bench, [], default_map={"overview": {"seconds": 0.4, "users": 20}})
    assert result.exit_code == 0, result.output
    assert len(re.findall(r"^  books +hold: audit \(I1, I2, I3, I7\)", result.output, re.MULTILINE)) == 5
    assert len(re.findall(r"^  achieved +[1-9]", result.output, re.MULTILINE)) == 5
    for part in ("one hot user", "open loop", "http, express", "websocket, express", "both in order", "bare SQLite"):
        assert part in result.output
