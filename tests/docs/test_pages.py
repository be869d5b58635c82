"""The pages say what the code does: every code, setting, path and alert that exists is on its page."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from transfer_engine.engine import CassandraSettings, Settings, TigerBeetleSettings
from transfer_engine.engine.outcomes import RefusalCode, Refused
from transfer_engine.engine.stream_settings import StreamSettings
from transfer_engine.http.handlers import Api
from transfer_engine.http.problems import (
    NUMBER_OF_CODE,
    STATUS_OF_PROBLEM,
    STATUS_OF_REFUSAL,
    ProblemCode,
    Rejected,
    problem_of_rejection,
)
from transfer_engine.http.rate_limit_settings import RateLimitSettings
from transfer_engine.http.settings import ServerSettings
from transfer_engine.http.tls_settings import TlsSettings
from transfer_engine.http.token_settings import TokenSettings
from transfer_engine.http.webhook_settings import WebhookSettings
from transfer_engine.http.websocket_settings import WebSocketSettings

SECTIONS: dict[str, type[BaseModel]] = {
    "tigerbeetle": TigerBeetleSettings,
    "cassandra": CassandraSettings,
    "tls": TlsSettings,
    "tokens": TokenSettings,
    "rate_limits": RateLimitSettings,
    "websocket": WebSocketSettings,
    "webhooks": WebhookSettings,
    "streams": StreamSettings,
}

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def problems() -> set[tuple[str, str, str, str]]:
    """Return what the table of problems must say: number, name, HTTP status, whether it is retryable."""
    found = set()
    for code, status in STATUS_OF_PROBLEM.items():
        found.add((code.value, status, problem_of_rejection(Rejected(code, "why")).retryable))
    for refusal, status in STATUS_OF_REFUSAL.items():
        found.add((refusal.value, status, Refused(refusal, "why").is_retryable))
    return {
        (
            str(NUMBER_OF_CODE[name]),
            name,
            str(status),
            "with a key" if name == ProblemCode.INTERNAL else "yes" if retryable else "no",
        )
        for name, status, retryable in found
    }


def test_the_table_of_problems_is_the_code() -> None:
    rows = re.findall(r"^\| (\d{4}) \| `(\w+)` \| (\d{3}) \| ([\w ]+) \| \S.* \|$", page("api.md"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == problems()


def test_every_number_is_one_codes() -> None:
    assert NUMBER_OF_CODE.keys() == {*map(str, ProblemCode), *map(str, RefusalCode)}
    assert len(set(NUMBER_OF_CODE.values())) == len(NUMBER_OF_CODE)


def test_every_endpoint_is_on_a_page() -> None:
    described = page("api.md") + page("webhooks.md")
    for route in Api(Settings(), version="1").routes:
        assert route.template in described, route.template


@pytest.mark.parametrize("name", sorted(ServerSettings.model_fields))
def test_every_setting_is_on_its_page_with_its_default(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| (.+?) \|", page("configuration.md"), re.MULTILINE)
    assert row is not None
    default = ServerSettings.model_fields[name].get_default()
    if isinstance(default, int | str):
        assert row[1] == f"`{default}`"


@pytest.mark.parametrize(
    ("name", "default"),
    [
        (f"{group}.{name}", "required" if field.is_required() else field.get_default())
        for group, model in SECTIONS.items()
        for name, field in model.model_fields.items()
    ],
)
def test_every_setting_of_a_section_is_on_its_page_with_its_default(name: str, default: object) -> None:
    row = re.search(rf"^\| `{re.escape(name)}` \| (.+?) \|", page("configuration.md"), re.MULTILINE)
    assert row is not None
    if isinstance(default, tuple):
        [default] = default
    assert row[1] == {None: "none", "required": "required"}.get(default, f"`{default}`")


def test_every_alert_is_on_its_page() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "engine").glob("*.py"))
    names = set(re.findall(r'(?:alerts|_alerts)\.(?:warn|critical)\(\s*f?"([a-z_{}]+)"', source))
    assert names >= {"contradiction", "hold_undecided", "{name}_unavailable"}
    for name in names - {"{name}_unavailable"}:
        assert f"`{name}`" in page("configuration.md"), name


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for source in pages:
        for link in re.findall(r"\]\(([^)#:]+)\)", source.read_text(encoding="utf-8")):
            assert (source.parent / link).exists(), f"{source.name}: {link}"
