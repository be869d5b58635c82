"""`transfer-engine schema`: what it prints without a server, and what it does to a real one."""

import re
from pathlib import Path

import pytest

from support.cassandra_stores import connected, server_or_skip, settings_of
from transfer_engine.engine.records import cassandra_schema
from transfer_engine.engine.settings import CassandraSettings
from transfer_engine.http.command_line import run


def configured(folder: Path, settings: CassandraSettings) -> str:
    path = folder / "engine.yaml"
    path.write_text(
        f"cassandra:\n  contact_points: ['{settings.contact_points[0]}']\n  keyspace: {settings.keyspace}\n"
        "  connect_timeout_ms: 30000\n"
    )
    return str(path)


def test_it_is_printed_without_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(tmp_path, CassandraSettings(contact_points=("127.0.0.1:1",), keyspace="exchange"))
    assert run(["schema", "print", "--config", config]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("-- No data centre is said")
    assert "{'class': 'NetworkTopologyStrategy', 'datacenter1': 3}" in printed
    assert "{" not in printed.replace("{'class'", "")
    named = ["--data-centre", "east", "--data-centre", "west", "--replication-factor", "2"]
    assert run(["schema", "print", "--config", config, *named]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("CREATE KEYSPACE IF NOT EXISTS exchange")
    assert "'east': 2, 'west': 2" in printed


def test_a_row_has_the_fields_that_were_ordered_by_their_names_and_types() -> None:
    statements = cassandra_schema.statements(CassandraSettings())
    [table] = [text for text in statements if ".transfers (" in text]
    assert table.startswith("CREATE TABLE IF NOT EXISTS trading.transfers (")
    assert re.findall(r"^    (\w+)\s+(.+?),?$", table, re.MULTILINE) == [
        ("req_id", "uuid PRIMARY KEY"),
        ("record", "frozen<transfer>"),
    ]
    [fields] = [text for text in statements if ".transfer (" in text]
    ordered = {"source": "text", "target": "text", "user_id": "bigint", "asset_id": "int"}
    ordered |= {"amount": "bigint", "state": "text", "created_at": "bigint", "updated_at": "bigint", "error": "text"}
    ordered |= {"retry_count": "int", "target_user_id": "bigint", "fingerprint": "bigint"}
    assert dict(re.findall(r"^    (\w+)\s+(\w+)", fields, re.MULTILINE)) == ordered


def test_a_later_version_is_steps_after_the_former() -> None:
    newest = cassandra_schema.newest_version()
    assert cassandra_schema.statements(CassandraSettings(), after_version=newest) == []
    assert len(cassandra_schema.statements(CassandraSettings(), after_version=newest - 1)) > 0


def test_it_is_applied_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(server_or_skip())
    config = configured(tmp_path, settings)
    assert run(["schema", "apply", "--config", config]) == 1
    assert "--replication-factor 1" in capsys.readouterr().err
    assert run(["schema", "apply", "--config", config, "--replication-factor", "1"]) == 0
    assert f"schema version {cassandra_schema.newest_version()} applied" in capsys.readouterr().out
    assert run(["schema", "apply", "--config", config]) == 0
    assert "nothing to do" in capsys.readouterr().out
    with connected(settings) as session:
        session.execute(f"DROP KEYSPACE {settings.keyspace}", timeout=60)


def test_an_absent_cluster_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(tmp_path, CassandraSettings(contact_points=("127.0.0.1:1",)))
    assert run(["schema", "apply", "--config", config]) == 1
    error = capsys.readouterr().err
    assert "127.0.0.1:1" in error
    assert error.count("\n") == 1


def test_a_wrong_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text("cassandra:\n  keyspace: Trading-1\n")
    for command in ("print", "apply"):
        assert run(["schema", command, "--config", str(path)]) == 1
        error = capsys.readouterr().err
        assert "cassandra.keyspace" in error
        assert "engine.yaml:2" in error
