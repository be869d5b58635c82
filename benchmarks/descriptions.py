"""What a report says in words, on the terminal and on the page: the machine, a run's load, its outcomes, its CPU."""

from collections.abc import Mapping
from typing import Final

from transfer_engine.benchmarks.figures import counted, microseconds, milliseconds, percent, ratio, sent, whole
from transfer_engine.benchmarks.plan import Fault, Open, Plan
from transfer_engine.benchmarks.result import (
    Books,
    Floor,
    Flushes,
    GrowthStep,
    IdleWebsockets,
    Machine,
    Marked,
    Percentiles,
    Recovery,
    Result,
    Sweep,
)
from transfer_engine.benchmarks.sending import FAULT, REFUSED

STAGE_LEAST: Final = 0.02
"""The share of a transfer's CPU below which a stage has no line of its own."""
LEGEND: Final = (
    "achieved: transfers a second that were committed (or replayed); latencies in ms, of an open loop from the moment "
    "a transfer was due; µs: CPU of the engine's process for each transfer; floors: what the same machine does "
    "without an engine."
)


def machine_lines(machine: Machine) -> list[str]:
    """Return where and with what a report was made."""
    load = " ".join(f"{average:.2f}" for average in machine.load_before)
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    hardware = f"{machine.cores} cores, {machine.cpu}; {machine.memory_mib:,} MiB; {machine.system}"
    return [
        f"{machine.at}; {hardware}; load average before {load}",
        f"Python {machine.python}; commit {machine.commit or 'unknown'}; {versions}",
    ]


def busy_line(machine: Machine) -> str | None:
    """Return a warning where a machine had other work; None where it had not."""
    load = machine.load_before[0]
    if load <= machine.cores / 2:
        return None
    return f"the machine was busy before (load average {load:.1f} on {machine.cores} cores): read CPU and ratios"


def load_line(plan: Plan) -> str:
    """Return what a run's load was, as far as its name doesn't say it."""
    loop, length, traffic = plan.loop, plan.length, plan.traffic
    if isinstance(loop, Open):
        parts = [f"open loop, {whole(loop.rate)}/s ({'by chance' if loop.arrivals == 'poisson' else 'evenly'})"]
    else:
        parts = [f"closed loop, {loop.in_flight:,} in flight"]
    until = f"{length.transfers:,} transfers" if length.transfers is not None else f"{length.seconds:g} s"
    parts.append(f"{until} after {length.warm_up_s:g} s of warm-up")
    users = {"uniform": f"{traffic.users:,} users alike", "hot": "one hot user"}
    parts.append(users.get(traffic.pick, f"{traffic.users:,} users, Zipf {traffic.zipf_exponent:g}"))
    if traffic.hot_share and traffic.pick != "hot":
        parts.append(f"{percent(100 * traffic.hot_share)} of one user")
    for share, what in ((traffic.replays, "replays"), (traffic.refusals, "refusals")):
        if share:
            parts.append(f"{percent(100 * share)} {what}")
    if traffic.slow:
        parts.append(f"{percent(100 * traffic.slow)} over a service of {traffic.slow_ms} ms")
    parts.append("keyed" if traffic.is_keyed else "no keys")
    if not traffic.both_directions:
        parts.append("one direction")
    target = plan.target
    parts += [
        what
        for has, what in (
            (target.has_token, "tokens"),
            (target.has_limits, "limits"),
            (target.has_access_log, "access log"),
        )
        if has
    ]
    parts.append(f"seed {traffic.seed}")
    return ", ".join(parts)


def outcomes_line(outcomes: Mapping[str, int]) -> str:
    """Return how many transfers ended how, the most frequent first."""
    by_count = sorted(outcomes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {outcome}" for outcome, count in by_count if count) or "none"


def latencies_line(latencies: Percentiles) -> str:
    """Return the percentiles in one line."""
    parts = (
        ("P50", latencies.p50_ms),
        ("P90", latencies.p90_ms),
        ("P99", latencies.p99_ms),
        ("P99.9", latencies.p999_ms),
        ("max", latencies.max_ms),
        ("mean", latencies.mean_ms),
    )
    return "   ".join(f"{name} {milliseconds(value)}" for name, value in parts)


def schedule_line(result: Result) -> str | None:
    """Return how well an open loop kept its schedule; None for a closed one, which has none."""
    if not isinstance(result.plan.loop, Open):
        return None
    of = sent(result)
    late = f"{result.late:,} sent more than 1 ms late" + (f" ({percent(100 * result.late / of)})" if of else "")
    return f"{late}; {result.dropped:,} dropped, because too many were under way"


def flushes_line(flushes: Flushes) -> str:
    """Return a group commit in a few words."""
    return (
        f"{flushes.name} {flushes.flushes:,} of {whole(flushes.entries)} entries ({whole(flushes.transfers)} transfers)"
    )


def cpu_line(result: Result) -> str:
    """Return who used how much CPU for a transfer."""
    cpu = result.cpu
    threads = ", ".join(
        f"{name} {microseconds(used)}"
        for name, used in sorted(cpu.threads_us.items(), key=lambda item: -item[1])
        if used >= 0.1
    )
    parts = [f"{microseconds(cpu.total_us)} of the engine's process" + (f" ({threads})" if threads else "")]
    parts += [
        f"{microseconds(used)} of {who}"
        for who, used in (("the servers", cpu.servers_us), ("the load", cpu.load_us))
        if used
    ]
    if cpu.machine_us:
        parts.append(f"{microseconds(cpu.machine_us)} of the whole machine")
    return "; ".join(parts)


def stages(result: Result) -> list[tuple[str, float]]:
    """Return the stages of a transfer's CPU, the costliest first; what is below 2 % of them all is summed up."""
    by_cost = sorted(result.cpu.stages_us.items(), key=lambda item: -item[1])
    least = STAGE_LEAST * sum(used for _, used in by_cost)
    shown = [(name, used) for name, used in by_cost if used >= least]
    rest = sum(used for _, used in by_cost[len(shown) :])
    return [*shown, ("all others", rest)] if rest else shown


def memory_line(result: Result) -> str:
    """Return the memory at the end, and how late the loop's timers were."""
    lag = result.loop_lag_ms
    if lag is None:
        return f"{whole(result.rss_mib)} MiB resident"
    return (
        f"{whole(result.rss_mib)} MiB resident; loop lag in ms: P50 {milliseconds(lag.p50_ms)}, "
        f"P99 {milliseconds(lag.p99_ms)}, max {milliseconds(lag.max_ms)}"
    )


def fault_line(marked: Marked) -> str:
    """Return what was done, and when the target was back."""
    back = "not back before the end" if marked.back_s is None else f"back after {marked.back_s:.1f} s"
    return f"{fault_name(marked.fault)}: {back}"


def fault_name(fault: Fault) -> str:
    """Return what was done amid a load, and when."""
    verb, _, whom = fault.what.partition("-")
    return f"{whom} {'killed' if verb == 'kill' else 'paused'} at {fault.at_s:g} s for {fault.for_s:g} s"


def books_line(books: Books) -> str:
    """Return whether the books hold."""
    return f"hold: {books.how}" if books.hold else f"BROKEN: {books.how}: {'; '.join(books.findings)}"


def trouble(result: Result) -> str:
    """Return in a word or two what a row of a table must not hide."""
    if not result.books.hold:
        return "BOOKS BROKEN"
    parts = []
    of = sent(result)
    for count, what in (
        (counted(result, FAULT), "faults"),
        (counted(result, REFUSED), "refused"),
        (counted(result, "pending"), "pending"),
        (counted(result, "failed"), "failed"),
    ):
        if count:
            parts.append(f"{percent(100 * count / of)} {what}")
    if result.dropped:
        parts.append(f"{result.dropped:,} dropped")
    return ", ".join(parts) or "ok"


def floor_line(floor: Floor) -> str:
    """Return what a floor does, and what a transfer needs of it."""
    needs = "" if floor.things_a_transfer == 1 else f", {floor.things_a_transfer:g} a transfer"
    return f"{whole(floor.rate)} {floor.unit}/s{needs}"


def sweep_value(sweep: Sweep, value: float) -> str:
    """Return a sweep's value as its table says it."""
    if sweep.over == "overload":
        return f"{value:g} x"
    if sweep.over == "hot-share":
        return percent(100 * value)
    return f"{whole(value)}/s" if sweep.over == "rate" else whole(value)


def sweep_note(sweep: Sweep) -> str | None:
    """Return what a sweep over rates found; None of other sweeps."""
    if sweep.over != "rate":
        return None
    if sweep.knee is None:
        return "No knee: no rate was achieved within 5 % with a P99 of at most ten times the lowest rate's."
    return f"The knee, the highest rate that was kept, is at {whole(sweep.knee)}/s."


def recovery_facts(recovery: Recovery) -> list[tuple[str, str]]:
    """Return what a recovery took, by label."""
    moments = (
        (recovery.answering_s, "answering"),
        (recovery.ready_s, "ready"),
        (recovery.first_transfer_s, "a new transfer committed"),
        (recovery.settled_s, "all settled"),
    )
    engine = f"{microseconds(recovery.cpu_us)} of the engine's process, its start included"
    return [
        ("unfinished", f"{recovery.unfinished:,} transfers, of which {recovery.moved:,} had moved"),
        ("seconds", ", ".join(f"{at_s:.1f} {what}" for at_s, what in moments)),
        ("meanwhile", f"new transfers: {outcomes_line(recovery.asked)}"),
        ("µs CPU each", f"{engine}; {microseconds(recovery.servers_us)} of the servers"),
        ("health ms", latencies_line(recovery.lag_ms)),
        ("memory", f"{whole(recovery.rss_mib)} MiB resident at most"),
    ]


def idle_facts(idle: IdleWebsockets) -> list[tuple[str, str]]:
    """Return what idle websockets cost, by label."""
    return [
        ("each", f"{idle.each_kib:.1f} KiB resident"),
        ("memory", f"{whole(idle.before_mib)} MiB resident before, {whole(idle.after_mib)} MiB with all of them"),
        ("CPU", f"{idle.cpu_share:.1%} of a core while they are idle"),
    ]


GROWTH_COLUMNS: Final = (
    "transfers",
    "users",
    "CPU µs",
    "µs, small",
    "ratio",
    "rate/s",
    "rate/s, small",
    "MiB",
    "files MiB",
)
"""The columns of a growth; *small* is the same load on small books, in the same minute."""


def growth_row(step: GrowthStep) -> tuple[str, ...]:
    """Return a step of a growth by :data:`GROWTH_COLUMNS`."""
    return (
        whole(step.transfers),
        whole(step.users),
        microseconds(step.cpu_us),
        microseconds(step.small_us),
        ratio(step.ratio),
        whole(step.rate),
        whole(step.small_rate),
        whole(step.rss_mib),
        whole(step.files_mib),
    )
