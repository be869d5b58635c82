"""Commands that other packages add to the command line, found by their entry points and loaded when they are asked for.

What adds one names it in the group ``transfer_engine.commands``. One that can't be loaded says so when it is called, in
one line; the others don't notice.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Final

import click

GROUP: Final = "transfer_engine.commands"


class ExtensibleGroup(click.Group):
    """A group that has its own commands, and those that others add; its own go first."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names; nothing is loaded for that."""
        return sorted({*super().list_commands(ctx), *(point.name for point in _points())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; one that others add is loaded now."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        return next((_load(point) for point in _points() if point.name == cmd_name), None)


def _points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _load(point: EntryPoint) -> click.Command:
    try:
        command = point.load()
        if not isinstance(command, click.Command):
            return _unusable(point, f"{point.value} is no command")
    except Exception as error:  # noqa: BLE001  it is somebody else's code
        return _unusable(point, f"{type(error).__name__}: {error}")
    return command


def _unusable(point: EntryPoint, why: str) -> click.Command:
    """Return a command that says why there is none."""
    reason = f"can't be loaded: {' '.join(why.split())}"

    def tell() -> None:
        raise click.ClickException(f"{point.name} {reason}")

    settings = {"ignore_unknown_options": True, "help_option_names": []}
    arguments = click.Argument(["arguments"], nargs=-1, expose_value=False)
    return click.Command(point.name, settings, tell, [arguments], short_help=reason, add_help_option=False)
