"""The `transfer-engine` command: its group, its exit codes, and `serve`.

Exit codes: 0 done (or pending), 1 refused or failed, 2 wrong usage, 3 the engine can't be reached. An error is one
line on stderr. Other modules add their commands to :data:`commands`, other packages theirs by entry points.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from transfer_engine.http.added_commands import ExtensibleGroup
from transfer_engine.http.demo import demo
from transfer_engine.http.operator_commands import balances, credit, history, limits, resolve, show, transfer
from transfer_engine.http.rebuild_command import rebuild
from transfer_engine.http.schema_commands import schema
from transfer_engine.http.token_command import token

if TYPE_CHECKING:
    from transfer_engine.http.serving import Addresses

PROGRAM: Final = "transfer-engine"


@click.group(
    cls=ExtensibleGroup,
    name=PROGRAM,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name=PROGRAM, message="%(prog)s %(version)s")
def commands() -> None:
    """Moves users' money between their accounts: exactly once, in order per user, whatever crashes."""


@commands.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="TRANSFER_ENGINE_CONFIG",
    help="A YAML file of settings; TRANSFER_ENGINE_… variables and flags beat it.",
)
@click.option("--host", help="Where to listen; without the setting tokens only loopback is allowed.  [127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="The port; 0 takes a free one.  [8080]")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the embedded ledger and records live.")
def serve(config: Path | None, host: str | None, port: int | None, data_dir: Path | None) -> None:
    """Run an engine and its HTTP API until SIGTERM or Ctrl-C."""
    # What serves is imported here: the other commands start in a fraction of the time without it.
    import structlog  # noqa: PLC0415
    import trio  # noqa: PLC0415

    from transfer_engine.engine.backends import DataDirUnusable  # noqa: PLC0415
    from transfer_engine.engine.garbage import tune_garbage_collection  # noqa: PLC0415
    from transfer_engine.engine.ledger.protocol import LedgerDamaged, LedgerUnavailable  # noqa: PLC0415
    from transfer_engine.engine.lives import NodeInUse  # noqa: PLC0415
    from transfer_engine.engine.records.protocol import (  # noqa: PLC0415
        ClaimLost,
        RecordsDamaged,
        RecordsMisconfigured,
        RecordsUnavailable,
    )
    from transfer_engine.engine.services.simulated import SimulatedCoreUnavailable  # noqa: PLC0415
    from transfer_engine.http.configuration_file import ConfigurationError  # noqa: PLC0415
    from transfer_engine.http.listeners import CannotListen  # noqa: PLC0415
    from transfer_engine.http.logs import configure_logs  # noqa: PLC0415
    from transfer_engine.http.serving import run_server  # noqa: PLC0415
    from transfer_engine.http.settings import load_settings  # noqa: PLC0415

    flags = {"host": host, "port": port, "data_dir": data_dir}
    try:
        settings = load_settings(config, {name: value for name, value in flags.items() if value is not None})
        configure_logs(settings)
        tune_garbage_collection()
        trio.run(run_server, settings, _announce)
    except (
        ConfigurationError,
        CannotListen,
        ClaimLost,
        DataDirUnusable,
        LedgerDamaged,
        LedgerUnavailable,
        NodeInUse,
        RecordsDamaged,
        RecordsMisconfigured,
        RecordsUnavailable,
        SimulatedCoreUnavailable,
    ) as error:
        raise click.ClickException(str(error)) from None
    except Exception as error:  # the log has the traceback; whoever started the server gets one line
        log = structlog.stdlib.get_logger("transfer_engine.http")
        log.critical("the server failed", exc_info=error)
        raise click.ClickException(f"the server failed: {error}") from None


def _announce(addresses: "Addresses") -> None:
    click.echo(f"transfer-engine is ready at {addresses.main}")
    if addresses.express is not None:
        click.echo(f"express door at {addresses.express}")
    sys.stdout.flush()


for _command in (transfer, show, history, limits, resolve, balances, credit, token, rebuild, demo, schema):
    commands.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors are told on stderr."""
    try:
        code = commands.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else PROGRAM
        click.echo(f"{path}: {error.format_message()} Try {path} --help.", err=True)
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"{PROGRAM}: {error.format_message()}", err=True)
        return error.exit_code
    except click.Abort:
        click.echo(f"{PROGRAM}: given up", err=True)
        return 1
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run the command that the process was started with, and exit."""
    sys.exit(run())


if __name__ == "__main__":
    main()
