"""Settings of tokens and the files that they name: what is refused, and how that is told."""

import json
from pathlib import Path

import pytest

from support.tokens import authenticator, bearer, claims_of, hs256, signer
from transfer_engine.http.configuration_file import ConfigurationError
from transfer_engine.http.token_settings import TokenSettings
from transfer_engine.http.tokens import open_authenticator


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds 0 bytes, and a secret needs at least 32"),
        (b"x" * 31 + b"\n", "holds 31 bytes"),
        (b"x" * 5_000, "larger than 4096 bytes"),
        (signer("RS256").pem(), "no secret: use tokens.jwks_file"),
        (signer("EdDSA").pem(), "no secret: use tokens.jwks_file"),
        (json.dumps(signer("RS256").jwk()).encode(), "no secret: use tokens.jwks_file"),
    ],
)
def test_secrets_that_are_none(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        authenticator(tmp_path, secret=content)
    assert said in str(error.value)
    assert f"tokens.secret_file {tmp_path}" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"x" * 32, b"x" * 32 + b"\r\n", bytes(range(128, 160))])
async def test_secrets_may_end_with_a_line_break_and_be_no_text(tmp_path: Path, content: bytes) -> None:
    gatekeeper = authenticator(tmp_path, secret=content)
    assert await gatekeeper.authenticate(bearer(hs256(claims_of(), content.rstrip(b"\r\n"))))


@pytest.mark.parametrize("setting", ["secret_file", "jwks_file"])
def test_files_that_are_not_there(tmp_path: Path, setting: str) -> None:
    for path, said in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigurationError, match=rf"^tokens\.{setting} .*can't be read: {said}"):
            open_authenticator(TokenSettings.model_validate({setting: path}))


def test_a_url_may_not_carry_credentials() -> None:
    with pytest.raises(ConfigurationError, match="must not carry a user name or password") as error:
        open_authenticator(TokenSettings(jwks_url="https://user:hunter2@id.example/jwks"))
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["https://id.example/keys", "http://127.0.0.1:1/x", "http://localhost/x", "http://[::1]:80/x"]
)
def test_urls_that_may_be_asked(url: str) -> None:
    assert TokenSettings(jwks_url=url).jwks_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "id.example/keys",
        "http://id.example/",
        "ftp://id.example/",
        "file:///etc/keys",
        "https://",
        "http://127.0.0.1@id.example/",
        "http://127.0.0.1.id.example/",
        "http://10.0.0.1/",
        "http://\u217cocalhost/",
        "https://id.example:99999/",
    ],
)
def test_urls_that_may_not(url: str) -> None:
    with pytest.raises(ValueError, match="jwks_url"):
        TokenSettings(jwks_url=url)


def test_tokens_need_a_source() -> None:
    with pytest.raises(ValueError, match="needs one of secret_file, jwks_file and jwks_url"):
        TokenSettings(audience="x")
