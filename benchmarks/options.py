"""Options that the commands share: what is loaded, with what traffic, how, and for how long.

Each decorator reads its options, refuses combinations that mean nothing by the option's name, and hands the command one
argument: ``sources``, or ``traffic``, ``loop`` and ``length``.
"""

import math
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import click

from transfer_engine.benchmarks.orders import check
from transfer_engine.benchmarks.plan import Arrivals, Closed, Length, Open, Pick, Traffic
from transfer_engine.benchmarks.sources import Sources
from transfer_engine.http.configuration_file import ConfigurationError
from transfer_engine.http.settings import CONFIG_VARIABLE, load_settings

_R = TypeVar("_R")


class _Finite(click.FloatRange):
    """A number within bounds; neither infinite nor none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no number that can be measured with.", param, ctx)
        return number


_SHARE: Final = _Finite(0, 1)
_SOURCES: Final = (
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar=CONFIG_VARIABLE,
        help="A YAML file of settings, as the server's; TRANSFER_ENGINE_… variables and options beat it.",
    ),
    click.option("--ledger", type=click.Choice(["embedded", "tigerbeetle"]), help="Where the money is.  [embedded]"),
    click.option("--records", type=click.Choice(["sqlite", "cassandra"]), help="Where rows and intents are.  [sqlite]"),
    click.option(
        "--tigerbeetle-address",
        multiple=True,
        metavar="HOST:PORT",
        help="A replica of a cluster that runs; once for each. Without it a private one is started, where it can be.",
    ),
    click.option("--cluster-id", type=click.IntRange(min=0), help="Of that cluster.  [0]"),
    click.option("--contact-point", multiple=True, metavar="HOST[:PORT]", help="Of a Cassandra that runs."),
    click.option("--keyspace", help="Of that Cassandra, with its schema. Without it the run makes and drops its own."),
    click.option(
        "--server-pid", multiple=True, type=click.IntRange(min=1), help="Count this process's CPU as a server's."
    ),
)

_LOAD: Final = (
    click.option("--users", type=click.IntRange(1, 10_000_000), default=1_000, show_default=True),
    click.option(
        "--pick",
        type=click.Choice(get_args(Pick)),
        default="uniform",
        show_default=True,
        help="Whose money moves: all alike, few much oftener than most (Zipf), or one user's alone.",
    ),
    click.option("--zipf-exponent", type=_Finite(0, 10), help="Of Zipf's law.  [1.1]"),
    click.option("--hot-share", type=_SHARE, help="Share of the transfers that are one user's.  [0]"),
    click.option(
        "--both-directions/--one-direction",
        default=True,
        show_default=True,
        help="Whether every other transfer of a user goes back.",
    ),
    click.option(
        "--keyed/--issued",
        "is_keyed",
        default=True,
        show_default=True,
        help="Whether each transfer is named by a key of its own.",
    ),
    click.option("--replays", type=_SHARE, default=0.0, help="Share that repeats an earlier key and body.  [0]"),
    click.option("--refusals", type=_SHARE, default=0.0, help="Share that asks for more than there is.  [0]"),
    click.option("--slow", type=_SHARE, default=0.0, help="Share that touches a slow service.  [0]"),
    click.option("--slow-ms", type=click.IntRange(min=0), help="What that service takes.  [100]"),
    click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same orders."),
    click.option("--in-flight", type=click.IntRange(min=1), help="Transfers under way at most.  [2000; open: 10000]"),
    click.option("--rate", type=_Finite(min=0, min_open=True), help="Open loop: so many transfers a second."),
    click.option(
        "--arrivals", type=click.Choice(get_args(Arrivals)), help="Of the open loop: by chance, or even.  [poisson]"
    ),
    click.option("--seconds", type=_Finite(min=0.05), help="Length of the load.  [5]"),
    click.option("--transfers", type=click.IntRange(min=1), help="Instead: until so many were sent."),
    click.option("--warm-up", type=_Finite(min=0), default=1.0, show_default=True, help="Seconds before it."),
)


def source_options(command: Callable[..., _R]) -> Callable[..., _R]:
    """Give a command the options that say where its books are; it gets one argument, ``sources``."""

    @wraps(command)
    def with_sources(*arguments: Any, **given: Any) -> _R:
        chosen = {name: given.pop(name) for name in _SOURCE_NAMES}
        return command(*arguments, sources=read_sources(**chosen), **given)

    return _with(with_sources, _SOURCES)


def load_options(command: Callable[..., _R]) -> Callable[..., _R]:
    """Give a command the options of a load; it gets ``traffic``, ``loop`` and ``length``."""

    @wraps(command)
    def with_load(*arguments: Any, **given: Any) -> _R:
        chosen = {name: given.pop(name) for name in _LOAD_NAMES}
        traffic, loop, length = _traffic(chosen), _loop(chosen), _length(chosen)
        return command(*arguments, traffic=traffic, loop=loop, length=length, **given)

    return _with(with_load, _LOAD)


def read_sources(
    *,
    config: Path | None = None,
    ledger: str | None = None,
    records: str | None = None,
    tigerbeetle_address: tuple[str, ...] = (),
    cluster_id: int | None = None,
    contact_point: tuple[str, ...] = (),
    keyspace: str | None = None,
    server_pid: tuple[int, ...] = (),
) -> Sources:
    """Read the settings from options, environment and file.

    Raises:
        click.ClickException: they can't be used; the message names the setting.
    """
    flags: dict[str, Any] = {
        "ledger": ledger,
        "records": records,
        "tigerbeetle": _given(addresses=tigerbeetle_address or None, cluster_id=cluster_id),
        "cassandra": _given(contact_points=contact_point or None, keyspace=keyspace),
    }
    try:
        settings = load_settings(config, {name: value for name, value in flags.items() if value})
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    if (tigerbeetle_address or cluster_id is not None) and settings.ledger != "tigerbeetle":
        raise click.UsageError("--tigerbeetle-address and --cluster-id are of --ledger tigerbeetle")
    if (contact_point or keyspace) and settings.records != "cassandra":
        raise click.UsageError("--contact-point and --keyspace are of --records cassandra")
    return Sources(settings=settings, server_pids=server_pid)


def _traffic(chosen: Mapping[str, Any]) -> Traffic:
    if chosen["zipf_exponent"] is not None and chosen["pick"] != "zipf":
        raise click.UsageError("--zipf-exponent is of --pick zipf")
    if chosen["hot_share"] is not None and chosen["pick"] == "hot":
        raise click.UsageError("--hot-share is beside --pick uniform or zipf: hot is a share of 1")
    if chosen["slow_ms"] is not None and not chosen["slow"]:
        raise click.UsageError("--slow-ms is of the share that --slow gives")
    if chosen["replays"] and not chosen["is_keyed"]:
        raise click.UsageError("--replays repeats keys: it can't be combined with --issued")
    if chosen["replays"] + chosen["refusals"] + chosen["slow"] > 1:
        raise click.UsageError("--replays, --refusals and --slow are more than 1 together")
    given = {name: chosen[name] for name in Traffic.__struct_fields__ if chosen[name] is not None}
    traffic = Traffic(**given)
    check(traffic)
    return traffic


def _loop(chosen: Mapping[str, Any]) -> Closed | Open:
    in_flight, rate, arrivals = chosen["in_flight"], chosen["rate"], chosen["arrivals"]
    if rate is None:
        if arrivals is not None:
            raise click.UsageError("--arrivals is of an open loop: give its --rate")
        return Closed() if in_flight is None else Closed(in_flight=in_flight)
    return Open(rate=rate, **_given(arrivals=arrivals, in_flight_most=in_flight))


def _length(chosen: Mapping[str, Any]) -> Length:
    seconds, transfers = chosen["seconds"], chosen["transfers"]
    if seconds is not None and transfers is not None:
        raise click.UsageError("--seconds and --transfers are two lengths: give one")
    return Length(warm_up_s=chosen["warm_up"], transfers=transfers, **_given(seconds=seconds))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _with(command: Callable[..., _R], options: tuple[Callable[[Any], Any], ...]) -> Callable[..., _R]:
    for option in reversed(options):
        command = option(command)
    return command


def _names(options: tuple[Callable[[Any], Any], ...]) -> frozenset[str]:
    """Return the arguments by which a command would get these options."""
    probe = click.Command("probe")
    found = _with(lambda: None, options)
    probe.params = list(found.__click_params__)  # type: ignore[attr-defined]
    return frozenset(str(parameter.name) for parameter in probe.params)


_SOURCE_NAMES: Final = _names(_SOURCES)
_LOAD_NAMES: Final = _names(_LOAD)
