"""`transfer-engine demo`: a server killed in the middle of its work, and the proof that nothing was lost."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--transfers",
    type=click.IntRange(12, 100_000),
    default=2_000,
    show_default=True,
    help="How many transfers are sent while the server is killed.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Use this directory for the server's files, and keep it; else a temporary one is used.",
)
def demo(transfers: int, keep: Path | None) -> int:
    """Run a server, kill it in the middle of its work, and check that nothing was lost.

    It starts a server of its own on a free port, with its data in a temporary directory. The exit code is 0 only if
    every invariant holds.
    """
    # Imported here: the other commands start in a fraction of the time without it.
    from transfer_engine.http.demo_show import show  # noqa: PLC0415

    if keep is not None and (keep / "data").exists():
        raise click.UsageError(f"--keep: {keep} has data of an earlier server: name an empty directory.")
    return show(transfers=transfers, keep=keep)
