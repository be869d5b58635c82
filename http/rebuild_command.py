"""`transfer-engine rebuild`: compares the ledger with the records, and writes the last rows that are missing."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # the engine is loaded by the command that needs it
    from collections.abc import Callable

    from transfer_engine.engine.rebuilding import Progress, RebuildReport
    from transfer_engine.http.settings import ServerSettings


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="TRANSFER_ENGINE_CONFIG",
    help="A YAML file of settings; TRANSFER_ENGINE_… variables and flags beat it.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the embedded ledger and records live.")
@click.option("--write", is_flag=True, help="Write the missing rows; without it nothing is changed.")
@click.option(
    "--margin-ms",
    type=click.IntRange(min=0),
    help="Do not look at what the ledger did later than so long ago.  [reconcile_margin_ms; embedded: 0]",
)
@click.option("--examples", type=click.IntRange(min=0), default=10, show_default=True, help="Of each difference.")
@click.option("--json", "is_json", is_flag=True, help="The report as JSON.")
def rebuild(
    config: Path | None, data_dir: Path | None, write: bool, margin_ms: int | None, examples: int, is_json: bool
) -> int:
    """Compare books and records, and rebuild the records that are missing.

    The ledger is right: a row that says something else is reported, never overwritten. Safe beside running engines of
    a cluster; of an embedded ledger the engine must be stopped. The exit code is 0 if books and records agree now.
    """
    # What works is imported here: the other commands start in a fraction of the time without it.
    import msgspec  # noqa: PLC0415
    import trio  # noqa: PLC0415

    from transfer_engine.engine.backends import DataDirUnusable  # noqa: PLC0415
    from transfer_engine.engine.ledger.protocol import LedgerDamaged, LedgerUnavailable  # noqa: PLC0415
    from transfer_engine.engine.records.protocol import RecordsDamaged, RecordsMisconfigured, RecordsUnavailable  # noqa: PLC0415
    from transfer_engine.engine.services.simulated import SimulatedCoreUnavailable  # noqa: PLC0415
    from transfer_engine.http.configuration_file import ConfigurationError  # noqa: PLC0415
    from transfer_engine.http.logs import configure_logs  # noqa: PLC0415
    from transfer_engine.http.settings import load_settings  # noqa: PLC0415

    try:
        settings = load_settings(config, {} if data_dir is None else {"data_dir": data_dir})
        configure_logs(settings)
        report = trio.run(_rebuild, settings, write, margin_ms, examples)
    except (
        ConfigurationError,
        DataDirUnusable,
        LedgerDamaged,
        LedgerUnavailable,
        RecordsDamaged,
        RecordsMisconfigured,
        RecordsUnavailable,
        SimulatedCoreUnavailable,
    ) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        raise click.Abort from None
    click.echo(msgspec.json.format(msgspec.json.encode(report)) if is_json else _told(report))
    return 0 if report.agrees else 1


async def _rebuild(settings: "ServerSettings", write: bool, margin_ms: int | None, examples: int) -> "RebuildReport":
    import tempfile  # noqa: PLC0415

    from transfer_engine.engine.backends import DataDirUnusable, open_backends  # noqa: PLC0415
    from transfer_engine.engine.rebuilding import rebuild_records  # noqa: PLC0415
    from transfer_engine.engine.reconciliation import Rules  # noqa: PLC0415
    from transfer_engine.engine.wiring import now_ms  # noqa: PLC0415

    is_shared = settings.ledger != "embedded" and settings.records != "sqlite"
    if settings.ledger == "embedded" and not (settings.data_dir / "ledger.db").exists():
        raise DataDirUnusable(f"data_dir {settings.data_dir} has no ledger: name the directory of the engine")
    with tempfile.TemporaryDirectory(prefix="transfer-engine-") as elsewhere:
        if is_shared:  # nothing of the directory is needed, and an engine on this machine may hold its lock
            settings = settings.model_copy(update={"data_dir": Path(elsewhere)})
        elif margin_ms is None:
            margin_ms = 0  # the lock is ours: nothing is under way
        async with open_backends(settings) as (registry, ledger, records):
            with _progress_bar() as progress:
                return await rebuild_records(
                    ledger,
                    records,
                    Rules(registry, {asset.asset_id for asset in settings.assets}),
                    now_ms=now_ms(),
                    margin_ms=(settings.reconcile_margin_ms if margin_ms is None else margin_ms) or None,
                    write=write,
                    examples_most=examples,
                    progress=progress,
                )


class _progress_bar:  # noqa: N801  a context manager, used like a function
    """Shows on stderr how far it is, where a person looks at it."""

    def __enter__(self) -> "Callable[[Progress], None]":
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        console = Console(stderr=True)
        columns = (TextColumn("{task.description:<8}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bar.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _show(self, progress: "Progress") -> None:
        for task in self._bar.tasks:
            if task.description == progress.what:
                break
            self._bar.update(task.id, total=1, completed=1)
        else:
            self._bar.add_task(progress.what, total=None if progress.done is None else 1)
        self._bar.update(self._bar.tasks[-1].id, completed=progress.done or 0)


def _told(report: "RebuildReport") -> str:
    """Return the report for people."""
    lines = [
        f"ledger      {report.ledger_transfers:,} transfers read, {report.compared:,} of ours compared",
        f"records     {report.rows:,} rows compared",
        f"unfinished  {report.unfinished:,} in the journals, {report.open_holds:,} of them held: for an engine to end",
        f"rebuilt     {report.rebuilt:,} rows {'written' if report.is_written else 'to be written: --write does it'}",
    ]
    if report.uncertain:
        lines.append(f"            {report.uncertain:,} of them failed or rolled back: nothing moved in either")
    for name, count in report.found.items():
        left = report.left.get(name, 0)
        lines.append(f"{name:<18} {count:>8,} found, {left:,} left")
        lines += [f"  {example.req_id}  {example.what}" for example in report.examples.get(name, ())]
    lines.append("books and records agree" if report.agrees else "books and records differ")
    return "\n".join(lines)
