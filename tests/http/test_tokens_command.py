"""`transfer-engine token`: what it signs, and what it refuses to."""

import time
from pathlib import Path

import jwt
import pytest

from support.tokens import bearer, new_secret
from transfer_engine.http.command_line import run
from transfer_engine.http.identity import Scope
from transfer_engine.http.token_settings import TokenSettings
from transfer_engine.http.tokens import open_authenticator


class Shell:
    """Runs the command on a secret of its own."""

    def __init__(self, directory: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.secret_file = directory / "secret"
        self._capture = capture
        self.out = ""
        self.err = ""

    def run(self, *arguments: str) -> int:
        code = run(["token", "--secret-file", str(self.secret_file), *arguments])
        self.out, self.err = self._capture.readouterr()
        return code


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in ("AUDIENCE", "ISSUER", "SECRET_FILE"):
        monkeypatch.delenv(f"TRANSFER_ENGINE_TOKENS__{name}", raising=False)
    return Shell(tmp_path, capsys)


def claims(shell: Shell) -> dict[str, object]:
    decoded: dict[str, object] = jwt.decode(shell.out.strip(), options={"verify_signature": False})
    return decoded


async def test_a_secret_is_made_once_and_its_tokens_are_taken(shell: Shell) -> None:
    assert shell.run("--create-secret", "--user", "3001") == 0
    assert shell.secret_file.stat().st_mode & 0o777 == 0o600
    secret = shell.secret_file.read_bytes()
    assert len(secret) == 65
    first = shell.out
    assert first.count("\n") == 1
    assert shell.err == ""
    assert shell.run("--create-secret", "--user", "3001", "--scope", "admin") == 0
    assert shell.secret_file.read_bytes() == secret
    gatekeeper = open_authenticator(TokenSettings(secret_file=shell.secret_file))
    caller = await gatekeeper.authenticate(bearer(first.strip()))
    assert (caller.user_id, caller.scopes) == (3001, {Scope.READ, Scope.WRITE})
    assert caller.expires_at == pytest.approx(time.time() + 3_630, abs=60)
    admin = await gatekeeper.authenticate(bearer(shell.out.strip()))
    assert admin.scopes == {Scope.ADMIN}


def test_every_option(shell: Shell) -> None:
    arguments = [
        "--subject",
        "backoffice",
        "--scope",
        "transfer:any",
        "--scope",
        "transfer:read",
        "--scope",
        "transfer:any",
    ]
    assert shell.run("--create-secret", *arguments, "--expires-in", "90s", "--audience", "a", "--issuer", "i") == 0
    said = claims(shell)
    issued, expires = said.pop("iat"), said.pop("exp")
    assert isinstance(issued, int)
    assert isinstance(expires, int)
    assert expires - issued == 90
    assert said == {"sub": "backoffice", "aud": "a", "iss": "i", "scope": "transfer:any transfer:read"}


@pytest.mark.parametrize(("given", "seconds"), [("1s", 1), ("15m", 900), ("1h", 3_600), ("30d", 2_592_000)])
def test_durations(shell: Shell, given: str, seconds: int) -> None:
    assert shell.run("--create-secret", "--user", "1", "--expires-in", given) == 0
    said = claims(shell)
    assert said["exp"] == said["iat"] + seconds  # type: ignore[operator]


@pytest.mark.parametrize("given", ["", "0s", "1", "h", "-1h", "1.5h", "1w", "1h30m", "99999999d", "\u0661h"])
def test_durations_that_are_none(shell: Shell, given: str) -> None:
    assert shell.run("--create-secret", "--user", "1", "--expires-in", given) == 2
    assert "--expires-in" in shell.err
    assert shell.out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either --user or --subject"),
        (["--user", "1", "--subject", "x"], "either --user or --subject"),
        (["--user", "0"], "--user"),
        (["--user", str(2**63)], "--user"),
        (["--user", "x"], "--user"),
        (["--user", "1", "--scope", "transfer:everything"], "--scope"),
        (["--subject", "x"], "needs --scope transfer:any or admin"),
        (["--subject", "", "--scope", "admin"], "--subject must be 1 to 255"),
        (["--subject", "a\nb", "--scope", "admin"], "--subject must be 1 to 255"),
        (["--subject", "3001", "--scope", "admin"], "use --user 3001"),
    ],
)
def test_wrong_usage(shell: Shell, arguments: list[str], said: str) -> None:
    assert shell.run("--create-secret", *arguments) == 2
    assert said in shell.err
    assert len(shell.err.splitlines()) == 1
    assert not shell.secret_file.exists()


def test_secrets_that_can_not_be_used(shell: Shell) -> None:
    user = ["--user", "1"]
    assert shell.run(*user) == 1
    assert "it does not exist: --create-secret makes it" in shell.err
    shell.secret_file.write_bytes(b"short")
    assert shell.run("--create-secret", *user) == 1
    assert "holds 5 bytes" in shell.err
    assert shell.secret_file.read_bytes() == b"short"
    shell.secret_file = shell.secret_file.parent / "none" / "secret"
    assert shell.run("--create-secret", *user) == 1
    assert "its directory does not exist" in shell.err
    assert len(shell.err.splitlines()) == 1


def test_what_the_server_reads_from_the_environment(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.secret_file.write_bytes(new_secret())
    monkeypatch.setenv("TRANSFER_ENGINE_TOKENS__AUDIENCE", "from the environment")
    assert shell.run("--user", "1") == 0
    assert claims(shell)["aud"] == "from the environment"
