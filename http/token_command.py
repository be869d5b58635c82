"""`transfer-engine token`: signs tokens with a secret, for development and for services of one's own."""

import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

_SCOPES: Final = ("transfer:read", "transfer:write", "transfer:any", "admin")
_SECRET_BYTES: Final = 32
_USER_ID_MOST: Final = (1 << 63) - 1
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LIFETIME_MOST_S: Final = 3_650 * 86_400


def _seconds(_context: click.Context, _parameter: click.Parameter, duration: str) -> int:
    """Return a number and a unit as seconds."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", duration)
    seconds = int(found[1]) * _UNITS_S[found[2]] if found is not None else 0
    if not 0 < seconds <= _LIFETIME_MOST_S:
        raise click.BadParameter(f"{duration!r} is no duration: use a number with s, m, h or d, such as 1h.")
    return seconds


@click.command()
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    envvar="TRANSFER_ENGINE_TOKENS__SECRET_FILE",
    show_envvar=True,
    help="The server's tokens.secret_file.",
)
@click.option("--create-secret", is_flag=True, help="Make the file with a new secret if it does not exist.")
@click.option("--user", type=click.IntRange(1, _USER_ID_MOST), help="The user whose token it is.")
@click.option(
    "--subject", help="A service whose token it is, instead of a user; it needs --scope transfer:any or admin."
)
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(_SCOPES),
    multiple=True,
    help="What it allows; can be given many times.  [transfer:read and transfer:write]",
)
@click.option(
    "--expires-in", "lifetime_s", callback=_seconds, default="1h", show_default=True, help="90s, 15m, 1h, 30d."
)
@click.option(
    "--audience",
    default="transfer-engine",
    show_default=True,
    envvar="TRANSFER_ENGINE_TOKENS__AUDIENCE",
    help="The server's tokens.audience.",
)
@click.option("--issuer", envvar="TRANSFER_ENGINE_TOKENS__ISSUER", help="The server's tokens.issuer, where it has one.")
def token(
    secret_file: Path,
    create_secret: bool,
    user: int | None,
    subject: str | None,
    scopes: tuple[str, ...],
    lifetime_s: int,
    audience: str,
    issuer: str | None,
) -> None:
    """Sign a token with a server's secret, and print it alone.

    Whoever can read the secret can do everything: keep it where only the server's user can.
    """
    # What signs is imported here: the other commands start in a fraction of the time without it.
    import jwt  # noqa: PLC0415

    from transfer_engine.http.token_keys import HMAC_ALGORITHM  # noqa: PLC0415
    from transfer_engine.http.tokens import SUBJECT_LENGTH_MOST  # noqa: PLC0415

    if (user is None) == (subject is None):
        raise click.UsageError("Name either --user or --subject.")
    scopes = scopes or _SCOPES[:2]
    if subject is not None:
        if not 0 < len(subject) <= SUBJECT_LENGTH_MOST or not subject.isprintable():
            raise click.UsageError(f"--subject must be 1 to {SUBJECT_LENGTH_MOST} printable characters.")
        if re.fullmatch(r"[1-9][0-9]*", subject) and int(subject) <= _USER_ID_MOST:
            raise click.UsageError(f"--subject {subject} is a user's number: use --user {subject}.")
        if not {"transfer:any", "admin"} & set(scopes):
            raise click.UsageError("--subject is no user, and such a token needs --scope transfer:any or admin.")
    secret = _secret(secret_file, create=create_secret)
    now = int(time.time())
    claims = {
        "sub": subject or str(user),
        "aud": audience,
        "iat": now,
        "exp": now + lifetime_s,
        "scope": " ".join(dict.fromkeys(scopes)),
    }
    if issuer is not None:
        claims["iss"] = issuer
    click.echo(jwt.encode(claims, secret, HMAC_ALGORITHM))


def _secret(path: Path, *, create: bool) -> bytes:
    """Return the secret of a file, which is made, readable by its owner alone, where that is asked for."""
    from transfer_engine.http.token_keys import KeysUnusable, parse_secret  # noqa: PLC0415

    try:
        if create and not path.exists():
            # Never over a file that came meanwhile, never readable by others, not even for a moment.
            with suppress(FileExistsError):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(f"{secrets.token_hex(_SECRET_BYTES)}\n")
        raw = path.read_bytes()
    except FileNotFoundError:
        advice = "its directory does not exist" if create else "it does not exist: --create-secret makes it"
        raise click.ClickException(f"--secret-file {path}: {advice}") from None
    except OSError as error:
        raise click.ClickException(f"--secret-file {path}: {error.strerror}") from None
    try:
        return parse_secret(raw)
    except KeysUnusable as reason:
        raise click.ClickException(f"--secret-file {path}: {reason}") from None
