"""What docs/operations offers to copy is taken by the programs that it is for."""

import configparser
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from transfer_engine.http.command_line import commands
from transfer_engine.http.settings import ServerSettings, load_settings

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((OPERATIONS / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def test_the_production_settings_are_valid() -> None:
    settings = load_settings(OPERATIONS / "production.yaml", {})
    assert (settings.ledger, settings.tigerbeetle.cluster_id, len(settings.tigerbeetle.addresses)) == (
        "tigerbeetle",
        1001,
        3,
    )
    assert (settings.records, settings.cassandra.keyspace) == ("cassandra", "trading")
    assert (settings.cassandra.consistency, settings.cassandra.replication_factor) == ("QUORUM", 3)
    assert settings.tokens is not None
    assert settings.tokens.jwks_url == "https://id.prod.internal/.well-known/jwks.json"


def test_every_service_of_the_compose_file_can_be_started(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["profiles"], name
        assert service["image"], name
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (OPERATIONS / source).exists(), (name, volume)


def test_the_compose_file_sets_what_the_engine_knows(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in compose["services"]["engine"]["environment"].items():
        monkeypatch.setenv(name, '["127.0.0.1:3001"]' if value.startswith("${TB_ADDRESSES:-[") else value)
    settings = load_settings(OPERATIONS / "production.yaml", {})
    assert settings.tigerbeetle.addresses == ("127.0.0.1:3001",)
    assert settings.cassandra.contact_points == ("127.0.0.1:9042",)
    assert settings.cassandra.replication_factor == 1
    assert (settings.tokens, settings.host) == (None, "127.0.0.1")


def test_the_commands_of_unit_and_containers_exist(compose: dict[str, Any]) -> None:
    unit = configparser.RawConfigParser(strict=False, allow_no_value=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(OPERATIONS / "transfer-engine.service")
    started = shlex.split(unit["Service"]["ExecStart"])
    for arguments in (started[1:], compose["services"]["schema"]["command"]):
        words = [word for word in arguments if not word.startswith(("-", "/"))]
        shown = CliRunner().invoke(commands, [*words, "--help"])
        assert shown.exit_code == 0, arguments
        assert "--config" in shown.output


def test_the_unit_waits_longer_than_the_engine_drains() -> None:
    unit = (OPERATIONS / "transfer-engine.service").read_text(encoding="utf-8")
    stop_s = int(unit.partition("TimeoutStopSec=")[2].split()[0])
    assert stop_s * 1000 > ServerSettings().shutdown_ms


def test_production_limits_what_it_was_ordered_to() -> None:
    settings = load_settings(OPERATIONS / "production.yaml", {})
    assert settings.rate_limits.per_user_per_minute == 60
    assert settings.rate_limits.per_address_per_minute is not None
    assert (settings.assets[0].amount_least, settings.assets[0].amount_most) == (1_000_000, 10**15)
