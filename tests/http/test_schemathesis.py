"""The OpenAPI document against running servers: whatever it allows is answered as it says, and what it forbids refused.

Schemathesis makes the requests: the document's examples, its limits and what lies beyond them, and random ones. It runs
by its command, which is its stable interface; to search for longer, set ``SCHEMATHESIS_EXAMPLES`` (and
``SCHEMATHESIS_SEED``) and run this file.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.server import Server, run_command, running_server

from .conftest import CORES

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "10")
"""Random requests for each endpoint, in each of the runs."""
SEED = os.environ.get("SCHEMATHESIS_SEED", "1")

SUPPORT = Path(__file__).parents[1] / "support"
COMMAND = Path(sys.executable).with_name("schemathesis")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, str]]]:
    """A server that asks for tokens, an operator's token and a user's."""
    directory = tmp_path_factory.mktemp("secured")
    secret = directory / "secret"
    tokens = {
        "admin": token(secret, "--create-secret", "--subject", "operations", "--scope", "admin"),
        "user": token(secret, "--user", "4001"),
    }
    config = {"services": CORES, "tokens": {"secret_file": str(secret)}, "deadline_ms": 500, "service_timeout_ms": 300}
    with running_server(directory, config=config) as server:
        yield server, tokens
        assert server.faults == []
        assert not any(token in server.logged for token in tokens.values())
        assert server.stop() == 0


def token(secret: Path, *options: str) -> str:
    """Make a token, and the secret first where there is none."""
    done = run_command("token", "--secret-file", str(secret), *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.timeout(0)  # the command has a deadline of its own, and longer searches take what they take
@pytest.mark.parametrize("who", ["admin", "user"])
@pytest.mark.parametrize("door", ["main", "express"])
def test_every_answer_is_as_the_document_says(
    door: str, who: str, secured: tuple[Server, dict[str, str]], tmp_path: Path
) -> None:
    server, tokens = secured
    arguments = [
        *(str(COMMAND), "--config-file", str(SUPPORT / "schemathesis.toml"), "--no-color"),
        *("run", f"{server.through(door).url}/openapi.json", "--phases", "examples,coverage,fuzzing"),
        *("--max-examples", EXAMPLES, "--seed", SEED, "--continue-on-failure", "--warnings", "off"),
        *("--header", f"Authorization: Bearer {tokens[who]}"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT.parent), "SCHEMATHESIS_HOOKS": "support.schemathesis_hooks"}
    done = subprocess.run(
        arguments,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60 + 10 * int(EXAMPLES),
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert server.process.poll() is None
