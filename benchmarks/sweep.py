"""Runs that differ in one thing: how fast, for how many, in what portions; and where offering more brings no more.

One target serves as many of them as it can: its users are as many as any of the runs needs. Where what differs is how
the target is asked (batches, connections) each run has a target of its own.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from transfer_engine.benchmarks.plan import Closed, Open, Plan
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.result import Result, Sweep
from transfer_engine.benchmarks.running import open_bench
from transfer_engine.benchmarks.sources import Sources

Over = Literal["rate", "users", "batch", "in-flight", "hot-share", "overload"]

WHOLE: Final = frozenset({"users", "batch", "in-flight"})
"""Of these there are whole numbers alone, and a range goes up by equal factors."""
VALUES_MOST: Final = 100
KEPT: Final = 0.95
"""A rate is achieved if so much of it is."""
SLOWER_MOST: Final = 10
"""… and if the P99 is at most so many times the lowest rate's."""
_OF_A_MAILBOX: Final = 1_000
"""Transfers of one user under way, at most: what a mailbox takes by default, nearly."""
_CONNECTIONS_MOST: Final = 4_096


def parse_values(text: str, over: Over) -> tuple[float, ...]:
    """Read ``1000,2000,4000``, or ``1000:8000:4``: from, to, how many.

    Raises:
        ValueError: it is neither, or a value can't be; the message says why.
    """
    values = _range(text, over) if ":" in text else [_number(part, text) for part in text.split(",")]
    if over in WHOLE:
        values = [float(round(value)) for value in values]
    least, most = {"hot-share": (0.0, 1.0), "rate": (0.001, math.inf), "overload": (0.01, 1_000.0)}.get(
        over, (1.0, 10_000_000.0)
    )
    for value in values:
        if not least <= value <= most:
            raise ValueError(f"{value:g} is no {over}: from {least:g} to {most:g}")
    if len(values) > VALUES_MOST:
        raise ValueError(f"{len(values)} values are too many: at most {VALUES_MOST}")
    return tuple(dict.fromkeys(values))


def _range(text: str, over: Over) -> list[float]:
    parts = text.split(":")
    if len(parts) != 3 or not parts[2].isascii() or not parts[2].isdigit() or not 2 <= int(parts[2]) <= VALUES_MOST:
        raise ValueError(f"{text!r} is no range: give from:to:steps, with 2 to {VALUES_MOST} steps")
    first, last, steps = _number(parts[0], text), _number(parts[1], text), int(parts[2]) - 1
    if over in WHOLE and first > 0 and last > 0:
        return [first * (last / first) ** (step / steps) for step in range(steps + 1)]
    return [first + (last - first) * step / steps for step in range(steps + 1)]


def _number(part: str, text: str) -> float:
    try:
        value = float(part)
    except ValueError:
        raise ValueError(f"{part!r} in {text!r} is no number") from None
    if not math.isfinite(value):
        raise ValueError(f"{part!r} in {text!r} is no number that can be")
    return value


def knee_of(values: Sequence[float], results: Sequence[Result]) -> float | None:
    """Return the highest rate that was achieved, at a P99 that is not out of proportion; None where none was."""
    runs = sorted(zip(values, results, strict=True), key=lambda run: run[0])
    p99_most_ms = SLOWER_MOST * runs[0][1].latencies.p99_ms if runs else 0.0
    kept = [rate for rate, result in runs if result.achieved >= KEPT * rate and result.latencies.p99_ms <= p99_most_ms]
    return max(kept, default=None)


def plan_at(plan: Plan, over: Over, value: float) -> Plan:
    """Return a sweep's plan at one of its values."""
    target, traffic, loop = plan.target, plan.traffic, plan.loop
    name = f"{over} {value:,.10g}"
    if over == "rate":
        loop = msgspec.structs.replace(loop, rate=value) if isinstance(loop, Open) else Open(rate=value)
    elif over == "hot-share":
        traffic = msgspec.structs.replace(traffic, hot_share=value)
    elif over == "users":
        traffic = msgspec.structs.replace(traffic, users=int(value))
    elif over == "batch":
        target = msgspec.structs.replace(target, batch=int(value))
    elif over == "in-flight" and isinstance(loop, Open):
        loop = msgspec.structs.replace(loop, in_flight_most=int(value))
    elif over == "in-flight":
        loop = Closed(in_flight=int(value))
    if isinstance(loop, Closed) and traffic.pick != "hot":
        loop = Closed(in_flight=min(loop.in_flight, traffic.users * _OF_A_MAILBOX))
    if target.kind == "http" and over in {"batch", "in-flight"}:  # one request at a time on each connection
        in_flight = loop.in_flight if isinstance(loop, Closed) else loop.in_flight_most
        target = msgspec.structs.replace(target, connections=min(max(in_flight // target.batch, 1), _CONNECTIONS_MOST))
    return msgspec.structs.replace(plan, target=target, traffic=traffic, loop=loop, name=name)


async def measure_sweep(plan: Plan, over: Over, values: Sequence[float], sources: Sources, progress: Progress) -> Sweep:
    """Run a plan at each value, in the order in which they are given; look at the books of each target once.

    Raises:
        what :func:`transfer_engine.benchmarks.running.open_bench` and ``Bench.measure`` raise.
    """
    plans = [plan_at(plan, over, value) for value in values]
    results: list[Result] = []
    for group in _of_one_target(plans):
        traffic = msgspec.structs.replace(
            plan.traffic,
            users=max(each.traffic.users for each in group),
            hot_share=max(each.traffic.hot_share for each in group),
        )
        async with open_bench(group[0].target, traffic, sources, progress) as bench:
            measured = [await bench.measure(each) for each in group]
            books = await bench.books()
        for result in measured:
            results.append(msgspec.structs.replace(result, books=books))
            progress.result(results[-1])
    return Sweep(
        over=over,
        values=tuple(values),
        results=tuple(results),
        knee=knee_of(values, results) if over == "rate" else None,
    )


def _of_one_target(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Return the plans in groups, in order, each of which one target can serve."""
    groups: list[list[Plan]] = []
    for plan in plans:
        if groups and groups[-1][0].target == plan.target:
            groups[-1].append(plan)
        else:
            groups.append([plan])
    return groups
