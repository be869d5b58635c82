"""A running engine, as the command line sees it: the client's calls, errors as one line and an exit code."""

import functools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from transfer_engine.schema.money import InvalidAmount, format_amount, parse_amount

if TYPE_CHECKING:
    from transfer_engine.http.client import AssetInfo, Client

Result = TypeVar("Result")

TOKEN_VARIABLE: Final = "TRANSFER_ENGINE_TOKEN"  # noqa: S105  a name, no token

_DEADLINE_S: Final = 30.0
"""Far beyond the engine's own deadline: it answers ``pending`` long before."""


class Unanswered(click.ClickException):
    """The engine did not answer."""

    exit_code = 3


class Remote(msgspec.Struct, frozen=True):
    """One engine, and who asks it."""

    url: str
    token_file: Path | None = None

    def run(self, work: "Callable[[Client], Awaitable[Result]]") -> Result:
        """Return what ``work`` makes of a client.

        Raises:
            click.ClickException: what to print, and the exit code.
        """
        # The client is imported here: what asks no engine starts in a fraction of the time without it.
        import trio  # noqa: PLC0415

        from transfer_engine.http.client import (  # noqa: PLC0415
            Client,
            InvalidUrl,
            NoAnswer,
            OutcomeUnknown,
            Refused,
        )

        async def main() -> Result:
            # An engine that is not there is told at once: whoever typed the command can type it again.
            async with Client(self.url, token=self._token(), deadline_s=_DEADLINE_S, waits_for_server=False) as client:
                return await work(client)

        try:
            return trio.run(main)
        except InvalidUrl as error:
            raise click.UsageError(f"--url {error}.") from None
        except OutcomeUnknown as error:
            why = str(error.__cause__ or "there was no answer")
            advice = f"It is not known what became of it: repeat it with --key {error.key}"
            raise Unanswered(f"{_of_the_command_line(why)} {advice}") from None
        except NoAnswer as error:
            raise Unanswered(_of_the_command_line(str(error))) from None
        except Refused as error:
            raise click.ClickException(str(error)) from None
        except ValueError as error:  # a key or token that no header can hold
            option = "--key" if "key" in str(error) else "--token-file"
            raise click.UsageError(f"{option}: {error}.") from None

    def _token(self) -> str | None:
        if self.token_file is None:
            return os.environ.get(TOKEN_VARIABLE) or None
        try:
            return self.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise click.UsageError(f"--token-file {self.token_file} can't be read: {reason}.") from None


def remote_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which engine it asks, and who asks; they come as ``remote``."""

    @functools.wraps(command)
    def with_remote(*, url: str, token_file: Path | None, **options: Any) -> None:
        command(remote=Remote(url, token_file), **options)

    url = click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The engine to talk to.")
    token_file = click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"A file with the token to ask with.  [{TOKEN_VARIABLE}: the token itself]",
    )
    return url(token_file(with_remote))


async def find_asset(client: "Client", name: str) -> "AssetInfo":
    """Return an asset by its symbol or number.

    Raises:
        click.UsageError: there is none.
    """
    assets = await client.assets()
    for asset in assets:
        if name.upper() == asset.symbol or name == str(asset.asset_id):
            return asset
    symbols = ", ".join(asset.symbol for asset in assets)
    raise click.UsageError(f"--asset {name!r} is unknown: use one of {symbols}.")


def minor_units(amount: str, asset: "AssetInfo") -> int:
    """Return an amount of the command line in minor units.

    Raises:
        click.UsageError: it is none.
    """
    try:
        return parse_amount(amount, asset.decimals)
    except InvalidAmount as error:
        decimals = f" ({asset.symbol} has {asset.decimals})" if "decimals" in str(error) else ""
        raise click.UsageError(f"--{error}{decimals}.") from None


def shown(amount: int, asset: "AssetInfo") -> str:
    """Return an amount in minor units for people."""
    return format_amount(amount, asset.decimals)


def _of_the_command_line(text: str) -> str:
    return text.replace("check the address", "check --url")
