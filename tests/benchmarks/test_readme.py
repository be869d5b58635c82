"""What benchmarks/README.md says of thresholds is what there is."""

import re
from pathlib import Path

from transfer_engine.benchmarks.thresholds import known_names

_README = Path(__file__).parents[2] / "benchmarks" / "README.md"


def test_it_names_every_figure_and_no_other() -> None:
    table = _README.read_text(encoding="utf-8").split("| names | of |")[1].split("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [name.partition("[")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(set(named)) == sorted(known_names())
