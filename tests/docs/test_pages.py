"""The pages say what the code does: every code, setting, path and alert that exists is on its page."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from transfer_engine.engine import CassandraSettings, TigerBeetleSettings
from transfer_engine.engine.stream_settings import StreamSettings
from transfer_engine.http.problems import STATUS_OF_PROBLEM, STATUS_OF_REFUSAL
from transfer_engine.http.rate_limit_settings import RateLimitSettings
from transfer_engine.http.settings import ServerSettings
from transfer_engine.http.token_settings import TokenSettings
from transfer_engine.http.webhook_settings import WebhookSettings
from transfer_engine.http.websocket_settings import WebSocketSettings

SECTIONS: dict[str, type[BaseModel]] = {
    "tigerbeetle": TigerBeetleSettings,
    "cassandra": CassandraSettings,
    "tokens": TokenSettings,
    "rate_limits": RateLimitSettings,
    "websocket": WebSocketSettings,
    "webhooks": WebhookSettings,
    "streams": StreamSettings,
}

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("code", "status"),
    sorted(
        {
            (str(code.value), status)
            for table in (STATUS_OF_PROBLEM, STATUS_OF_REFUSAL)
            for code, status in table.items()
        }
    ),
)
def test_every_problem_code_is_in_the_api_page(code: str, status: int) -> None:
    assert re.search(rf"^\| {status} \| `{code}`|`{code}` .*{status} in a body", page("api.md"), re.MULTILINE)


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
        (f"{group}.{name}", field.get_default())
        for group, model in SECTIONS.items()
        for name, field in model.model_fields.items()
    ],
)
def test_every_setting_of_a_section_is_on_its_page_with_its_default(name: str, default: object) -> None:
    row = re.search(rf"^\| `{re.escape(name)}` \| (.+?) \|", page("configuration.md"), re.MULTILINE)
    assert row is not None
    if isinstance(default, tuple):
        [default] = default
    assert row[1] == ("none" if default is None else f"`{default}`")


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
