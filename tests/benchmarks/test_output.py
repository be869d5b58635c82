"""What every command does with its report: files, exit codes, and no secrets anywhere."""

from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from support.benchmark_reports import broken, histogram, report, result, sweep, whole_report
from transfer_engine.benchmarks.output import Output, finish, output_options
from transfer_engine.benchmarks.redaction import HIDDEN, redacted, without_secrets
from transfer_engine.benchmarks.report_json import read_report
from transfer_engine.benchmarks.result import Report

TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI0MDAxIn0.MEUCIQDx-made_up"  # noqa: S105 - made up


def _command(measured: Report) -> click.Command:
    @click.command()
    @output_options
    def measure(output: Output) -> None:
        click.echo("running")
        finish(measured, output)

    return measure


def test_all_is_well(tmp_path: Path) -> None:
    json, html = tmp_path / "r.json", tmp_path / "r.html"
    outcome = CliRunner().invoke(
        _command(report()), ["--json", str(json), "--html", str(html), "--fail-if", "p99_ms>50"]
    )
    assert outcome.exit_code == 0
    assert read_report(json) == report()
    assert html.read_text().startswith("<!doctype html>")
    assert "15,000 transfers/s" in outcome.stdout


def test_json_on_stdout_is_alone_there(tmp_path: Path) -> None:
    @click.command()
    @output_options
    def measure(output: Output) -> None:
        finish(report(), output)

    outcome = CliRunner().invoke(measure, ["--json", "-", "--fail-if", "p99_ms>1"])
    (tmp_path / "r.json").write_text(outcome.stdout)
    assert read_report(tmp_path / "r.json") == report()
    assert "15,000 transfers/s" in outcome.stderr
    assert "threshold crossed" in outcome.stderr
    assert outcome.exit_code == 4


@pytest.mark.parametrize(
    ("measured", "code", "says"),
    [
        (report(result("slow", p50_ms=40)), 4, "threshold crossed: p99_ms>50: 80 in slow"),
        (report(broken(result("bad", p50_ms=40))), 1, "the books don't hold after bad"),
        (report(msgspec.structs.replace(result("idle"), achieved=0.0)), 1, "nothing was committed in idle"),
        (
            msgspec.structs.replace(report(), baselines=(broken(result("other")),)),
            1,
            "the books don't hold after other",
        ),
        (
            msgspec.structs.replace(
                report(),
                sweeps=(msgspec.structs.replace(sweep(), results=(*sweep().results[:4], broken(result("x")))),),
            ),
            1,
            "the books don't hold after x",
        ),
    ],
)
def test_an_exit_code_says_what_is_wrong(measured: Report, code: int, says: str) -> None:
    outcome = CliRunner().invoke(_command(measured), ["--fail-if", "p99_ms>50"])
    assert says in outcome.output
    assert outcome.exit_code == code


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--fail-if", "p99>50"], "there is no figure p99"),
        (["--fail-if", "p99_ms>50", "--fail-if", "nonsense"], "'nonsense' is no threshold"),
        (["--json", "/no/such/folder/r.json"], "there is no folder /no/such/folder"),
        (["--html", "/no/such/folder/r.html"], "there is no folder /no/such/folder"),
    ],
)
def test_wrong_usage_is_told_before_anything_runs(options: list[str], says: str) -> None:
    outcome = CliRunner().invoke(_command(report()), options)
    assert outcome.exit_code == 2
    assert says in " ".join(outcome.output.split())
    assert "running" not in outcome.output


def test_progress_is_silent_where_that_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(is_quiet=True).progress() as progress:
        progress.step("starting")
        progress.load(result().plan)
        progress.second(result().series[0])
        progress.result(result())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "text",
    [
        "bench http --token {} --seconds 5",
        "bench http --token={} --seconds 5",
        "bench http --url=https://example.test/?token={}&a=b",
        "TRANSFER_ENGINE_TOKEN={} bench http",
        "Authorization: Bearer {}",
        "401 for {}",
        "password: '{}'",
        "--api-key {}",
        "Authorization: Basic {}",
        '{{"access_token": "{}"}}',
    ],
)
def test_a_secret_is_hidden_wherever_it_is(text: str) -> None:
    shown = redacted(text.format(TOKEN))
    assert TOKEN not in shown
    assert HIDDEN in shown
    assert redacted(shown) == shown


def test_the_rest_of_a_text_stays() -> None:
    assert redacted("bench http --token=abc --seconds 5") == f"bench http --token={HIDDEN} --seconds 5"
    assert redacted("https://me:pw@db.test:9042/x") == f"https://{HIDDEN}@db.test:9042/x"
    assert redacted("keyed, one direction, tokens, seed 1") == "keyed, one direction, tokens, seed 1"
    assert redacted("http --token --limits") == "http --token --limits"
    assert redacted("each request has a token of its own") == "each request has a token of its own"


@given(st.text("TBase64/+=0189", max_size=60))
def test_a_histogram_is_no_secret(text: str) -> None:
    assert redacted(f"HISTFAAA{text}") == f"HISTFAAA{text}"


def test_a_report_is_the_same_but_for_its_secrets(tmp_path: Path) -> None:
    assert without_secrets(whole_report()) == whole_report()
    assert redacted(histogram(3.0)) == histogram(3.0)
    leaky = msgspec.structs.replace(
        report(msgspec.structs.replace(result(), outcomes={"committed": 5, f"fault: 401 for {TOKEN}": 2})),
        command=f"bench http --token {TOKEN}",
        notes=(f"Bearer {TOKEN}",),
    )
    json, html = tmp_path / "r.json", tmp_path / "r.html"
    outcome = CliRunner().invoke(_command(leaky), ["--json", str(json), "--html", str(html)])
    for text in (outcome.output, json.read_text(), html.read_text()):
        assert TOKEN not in text
        assert HIDDEN in text
