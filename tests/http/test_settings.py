from pathlib import Path

import pytest

from transfer_engine.http.configuration_file import ConfigurationError
from transfer_engine.http.settings import ENVIRONMENT_PREFIX, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for variable in list(os.environ):
        if variable.startswith(ENVIRONMENT_PREFIX):
            monkeypatch.delenv(variable)


def write(directory: Path, text: str | bytes) -> Path:
    path = directory / "engine.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def fault(path: Path | None, **flags: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, flags)
    return str(caught.value)


def test_defaults_need_no_configuration() -> None:
    settings = load_settings(None, {})
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.body_bytes_most == 65_536


def test_flags_beat_the_environment_and_that_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "port: 1\nbacklog: 1\nbody_timeout_ms: 1\n")
    monkeypatch.setenv("TRANSFER_ENGINE_PORT", "2")
    monkeypatch.setenv("transfer_engine_backlog", "2")
    settings = load_settings(path, {"port": 3})
    assert (settings.port, settings.backlog, settings.body_timeout_ms) == (3, 2, 1)


def test_lists_come_as_yaml_and_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "assets:\n- {asset_id: 7, symbol: EUR, decimals: 2}\n")
    assert [asset.symbol for asset in load_settings(path, {}).assets] == ["EUR"]
    monkeypatch.setenv("TRANSFER_ENGINE_ASSETS", '[{"asset_id":8,"symbol":"USD","decimals":2}]')
    assert [asset.symbol for asset in load_settings(path, {}).assets] == ["USD"]


def test_an_anchor_serves_twice(tmp_path: Path) -> None:
    path = write(tmp_path, "deadline_ms: &ms 250\nservice_timeout_ms: *ms\n")
    settings = load_settings(path, {})
    assert (settings.deadline_ms, settings.service_timeout_ms) == (250, 250)


def test_an_empty_file_is_a_configuration(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "# nothing\n"), {}) == load_settings(None, {})


def test_the_home_directory_is_found(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "data_dir: ~/engine\n"), {}).data_dir == Path.home() / "engine"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("host: localhost\nprot: 1\n", 2, ["unknown key prot", "did you mean port?"]),
        ("zzz: 1\n", 1, ["unknown key zzz", "the settings are", "port"]),
        ("\n\nport: 70000\n", 3, ["port is 70000", "less than or equal to 65535"]),
        ('port: "8080"\n', 1, ["port is '8080'", "valid integer"]),
        ("port: yes\n", 1, ["port is True", "valid integer"]),
        ("port: 1.5\n", 1, ["port is 1.5", "valid integer"]),
        ("port: .inf\n", 1, ["port is", "valid integer"]),
        ("port: ~\n", 1, ["port is None"]),
        ("port: 2026-02-30\n", 1, ["not YAML", "day is out of range"]),
        ("a: 1\nport: 1\nport: 2\n", 3, ["port stands here again, after line 2"]),
        ("1: 2\n", 1, ["unknown key 1"]),
        ("host: ''\n", 1, ["host is ''", "at least 1 character"]),
        ("log_level: loud\n", 1, ["log_level is 'loud'", "'debug'"]),
        ("assets:\n- asset_id: 1\n  symbol: USDT\n  decimals: 19\n", 4, ["assets.0.decimals is 19"]),
        ("assets:\n- {asset_id: 1, symbol: USDT}\n", 2, ["assets.0.decimals is missing"]),
        ("assets:\n- asset_id: 1\n  symbol: USDT\n  decimals: 8\n  colour: red\n", 5, ["unknown key assets.0.colour"]),
        ("services:\n- {name: external, code: 9}\n", 1, ["external"]),
        ("port: 1\nservices:\n- {name: a, code: 9, kind: core}\n", 2, ["services is", "a is of kind core"]),
        ("port: [1\nhost: x\n", 2, ["not YAML"]),
        ("port: !!python/object:os.system 1\n", 1, ["not YAML"]),
        ("port: *nowhere\n", 1, ["not YAML", "undefined alias"]),
        ("- 1\n", 1, ["must be a mapping"]),
        ("text\n", 1, ["must be a mapping"]),
        ("---\nport: 1\n---\nport: 2\n", 3, ["not YAML"]),
    ],
)
def test_a_fault_in_the_file_names_its_line_and_key(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    path = write(tmp_path, text)
    message = fault(path)
    assert message.startswith(f"{path}:{line}: ")
    for word in words:
        assert word in message


def test_every_fault_of_a_file_is_told(tmp_path: Path) -> None:
    message = fault(write(tmp_path, "port: x\nhots: y\n"))
    assert [line.partition(": ")[2].split()[0] for line in message.splitlines()] == ["port", "unknown"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"host: \xff\n", "UTF-8"),
        (b"host: \x00\n", "not YAML"),
        (b"data_dir: " + b"[" * 5_000 + b"]" * 5_000, "nested too deeply"),
        (b"data_dir: &loop [*loop]\n", "a value can't be used"),
        (b"? [1, 2]\n: 3\n", "YAML"),
        (b"? {a: 1}\n: 3\n", "YAML"),
    ],
)
def test_files_that_can_not_be_used(tmp_path: Path, text: bytes, word: str) -> None:
    message = fault(write(tmp_path, text))
    assert word in message
    assert len(message.splitlines()) == 1


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    assert "No such file" in fault(tmp_path / "nothing.yaml")
    assert "Is a directory" in fault(tmp_path)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("TRANSFER_ENGINE_PROT", "1", ["unknown setting", "did you mean TRANSFER_ENGINE_PORT?"]),
        ("TRANSFER_ENGINE_ZZZ", "1", ["unknown setting", "TRANSFER_ENGINE_DATA_DIR"]),
        ("transfer_engine_prot", "1", ["unknown setting"]),
        ("TRANSFER_ENGINE_PORT__X", "1", ["unknown setting"]),
        ("TRANSFER_ENGINE_PORT", "x", ["port is 'x'", "valid integer"]),
        ("TRANSFER_ENGINE_PORT", "", ["port is ''", "valid integer"]),
        ("TRANSFER_ENGINE_ASSETS", "x", ["must be JSON"]),
        ("TRANSFER_ENGINE_ASSETS", '[{"asset_id":1,"symbol":"A","decimals":99}]', ["assets.0.decimals is 99"]),
    ],
)
def test_a_fault_in_the_environment_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: list[str]
) -> None:
    monkeypatch.setenv(variable, value)
    message = fault(None)
    assert message.startswith(variable)
    for word in words:
        assert word in message


def test_a_fault_in_a_flag_names_the_flag() -> None:
    assert fault(None, data_dir=5).startswith("--data-dir: data_dir is 5")


def test_the_variable_that_names_the_file_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFER_ENGINE_CONFIG", "elsewhere.yaml")
    assert load_settings(None, {}).port == 8080
