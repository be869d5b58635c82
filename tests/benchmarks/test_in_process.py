"""The in-process benchmark as its user runs it: small, on the embedded backends."""

import re

import pytest
from click.testing import CliRunner, Result

from transfer_engine.benchmarks.__main__ import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["in-process", "--users", "5", "--in-flight", "10", *arguments])


def test_a_run_tells_rates_latencies_cpu_and_books() -> None:
    result = run("--transfers", "60", "--rate", "300", "--keyed")
    assert result.exit_code == 0, result.output
    assert "embedded + sqlite" in result.output
    assert len(re.findall(r"transfers/s.* µs CPU each .*p50 .*p90 .*p99 .*p99.9 .*max ", result.output)) == 3
    assert result.output.count("    60 committed\n") == 3
    assert "late starts" in result.output
    assert len(re.findall("^floor, ", result.output, re.MULTILINE)) == 7
    assert "books hold: audit" in result.output


def test_it_runs_for_some_time_instead() -> None:
    result = run("--seconds", "0.2", "--transfers", "10", "--rate", "none", "--no-hot", "--no-floors")
    assert result.exit_code == 0, result.output
    assert "open loop" not in result.output
    assert "hot" not in result.output
    assert "floor" not in result.output


@pytest.mark.parametrize("rate", ["0", "-1", "inf", "nan", "quarter"])
def test_a_rate_that_is_none(rate: str) -> None:
    result = run("--rate", rate)
    assert result.exit_code == 2
    assert "give a number above 0, half or none" in result.output


def test_a_wrong_setting_is_named() -> None:
    result = run("--records", "cassandra", "--keyspace", "Not-One")
    assert result.exit_code == 1
    assert "cassandra.keyspace" in result.output


def test_a_record_store_that_is_not_there() -> None:
    result = run("--records", "cassandra", "--contact-point", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.output
