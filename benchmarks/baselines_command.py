"""`transfer-engine bench baselines`: our express door and what one writes without this engine, under the same load."""

import statistics
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final, get_args

import click
import msgspec

from transfer_engine.benchmarks.baseline_subject import (
    BASELINES,
    Baseline,
    NoBaseline,
    StoreName,
    missing,
    open_baseline,
)
from transfer_engine.benchmarks.options import source_options
from transfer_engine.benchmarks.output import Output, output_options
from transfer_engine.benchmarks.plan import Closed, Generator, Length, Plan, Target, Traffic
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.reporting import report_on
from transfer_engine.benchmarks.result import Report, Result
from transfer_engine.benchmarks.running import Bench, open_bench
from transfer_engine.benchmarks.sources import Sources
from transfer_engine.benchmarks.wrk import why_not_wrk

_DSN_VARIABLE: Final = "TRANSFER_ENGINE_BENCH_DSN"


class Contender(msgspec.Struct):
    """One side, its rounds so far, and what it does not do; ours lacks nothing."""

    bench: Bench
    plan: Plan
    lacks: str = ""
    rounds: list[Result] = []


@click.command()
@click.option(
    "--only",
    "stores",
    multiple=True,
    type=click.Choice([baseline.store for baseline in BASELINES]),
    help="Only this baseline; repeatable.  [all that can run here]",
)
@click.option(
    "--dsn",
    envvar=_DSN_VARIABLE,
    show_envvar=True,
    help="Of a PostgreSQL, where two tables are made anew. Without it a private one is started, where it can be.",
)
@click.option("--connections", default=32, show_default=True, type=click.IntRange(min=1))
@click.option("--users", default=1_000, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(min=0.05), help="Of a round.")
@click.option(
    "--generator",
    type=click.Choice(["auto", *get_args(Generator)]),
    default="auto",
    show_default=True,
    help="Who sends to all of them; auto is wrk where it is on PATH.",
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="Of each, in turn.")
@source_options
@output_options
def baselines(
    stores: tuple[StoreName, ...],
    dsn: str | None,
    connections: int,
    users: int,
    seconds: float,
    generator: str,
    rounds: int,
    sources: Sources,
    output: Output,
) -> None:
    """Load the express door and naive endpoints without this engine in turn, and compare them."""
    target = Target(kind="http", door="express", connections=connections, backends=sources.backends)
    plan = Plan(
        target=target,
        traffic=Traffic(users=users),
        loop=Closed(in_flight=connections),
        length=Length(seconds=seconds, warm_up_s=min(seconds / 3, 1.0)),
    )
    reason = why_not_wrk(plan)
    if generator == "wrk" and reason is not None:
        raise click.UsageError(f"--generator wrk: {reason}")
    if generator != "python" and reason is None:
        plan = msgspec.structs.replace(plan, target=msgspec.structs.replace(target, generator="wrk"))

    async def work(progress: Progress, report: Report) -> Report:
        chosen = [baseline for baseline in BASELINES if not stores or baseline.store in stores]
        measured, notes = await compare(plan, chosen, sources, progress, rounds=rounds, dsn=dsn, is_strict=bool(stores))
        ours, *others = measured
        return msgspec.structs.replace(report, results=(ours,), baselines=tuple(others), notes=notes)

    report_on(work, output)


async def compare(
    plan: Plan,
    chosen: list[Baseline],
    sources: Sources,
    progress: Progress,
    *,
    rounds: int,
    dsn: str | None,
    is_strict: bool,
) -> tuple[list[Result], tuple[str, ...]]:
    """Load our door and the chosen baselines in turn; return each one's middle round, ours first, and what to know.

    With ``is_strict`` one that can't run here is an error; without it, it is left out, and that is noted.

    Raises:
        NoBaseline: one can't run here.
        UNUSABLE: see :mod:`transfer_engine.benchmarks.sources`.
    """
    notes, results, contenders = [], list[Result](), list[Contender]()
    able = []
    for baseline in chosen:
        reason = missing(baseline, dsn)
        if reason is None:
            able.append(baseline)
        elif is_strict:
            raise NoBaseline(f"{baseline.name}: {reason}")
        else:
            notes.append(f"{baseline.name} is left out: {reason}")
    failure: Exception | None = None
    async with AsyncExitStack() as stack:
        try:
            contenders += [contender async for contender in _bring_up(stack, plan, able, sources, progress, dsn)]
            for _ in range(rounds):
                for contender in contenders:
                    contender.rounds.append(await contender.bench.measure(contender.plan))
            for contender in contenders:
                middle = sorted(contender.rounds, key=lambda each: each.achieved)[(rounds - 1) // 2]
                results.append(msgspec.structs.replace(middle, books=await contender.bench.books()))
        except Exception as error:  # noqa: BLE001  not for the nurseries to wrap
            failure = error
    if failure is not None:
        raise failure
    notes += [_note(contender, contenders[0]) for contender in contenders]
    return results, tuple(notes)


async def _bring_up(
    stack: AsyncExitStack, plan: Plan, able: list[Baseline], sources: Sources, progress: Progress, dsn: str | None
) -> AsyncIterator[Contender]:
    """Bring up our door and the baselines; the stack takes them down."""
    ours = await stack.enter_async_context(open_bench(plan.target, plan.traffic, sources, progress))
    name = f"this engine, express door, {sources.backends.name}"
    yield Contender(ours, msgspec.structs.replace(plan, name=name))
    for baseline in able:
        progress.step(f"bringing up {baseline.name}")
        subject = await stack.enter_async_context(open_baseline(baseline, plan.target, plan.traffic, dsn=dsn))
        its_plan = msgspec.structs.replace(plan, name=baseline.name)
        yield Contender(Bench(subject, progress), its_plan, baseline.lacks)


def _note(contender: Contender, ours: Contender) -> str:
    """Tell every round of one side, what it costs, and what it does not do."""
    each = [result.achieved for result in contender.rounds]
    rates = ", ".join(f"{rate:,.0f}" for rate in each)
    cost = statistics.median(_cost_us(result) for result in contender.rounds)
    said = f"{contender.plan.name}: {rates} transfers/s; {cost:.0f} µs CPU each, servers included"
    if contender is ours:
        return said
    ratios = [
        mine.achieved / theirs.achieved
        for mine, theirs in zip(ours.rounds, contender.rounds, strict=True)
        if theirs.achieved
    ]
    its_cost = statistics.median(_cost_us(result) for result in ours.rounds)
    ratio = f"{statistics.median(ratios):.2f}" if ratios else "no"
    share = its_cost / max(cost, 1e-9)
    return f"{said}; ours ÷ this: {ratio} of the rate, {share:.2f} of the CPU. It has {contender.lacks}"


def _cost_us(result: Result) -> float:
    return result.cpu.total_us + result.cpu.servers_us
