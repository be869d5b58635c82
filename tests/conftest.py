"""What a person must see of a run: which real servers were not there to be tested, and what tests recorded of it."""

from collections import Counter

import pytest
from hypothesis import settings

# No test asserts how long something takes: machines differ, and are busy.
settings.register_profile("suite", deadline=None, max_examples=60)
settings.register_profile("differential", deadline=None, max_examples=2_000)
settings.load_profile("suite")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one loud line for each reason what was not tested, and in one line each what tests recorded."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"!! {count} tests skipped: {reason}", yellow=True, bold=True)
    for report in [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]:
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name}: {value}")
