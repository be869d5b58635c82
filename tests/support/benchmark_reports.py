"""Reports of benchmarks made by hand: what commands would have measured, without measuring."""

from collections.abc import Iterable

import msgspec
from hdrh.histogram import HdrHistogram

from transfer_engine.benchmarks.plan import Backends, Fault, Open, Plan, Target, Traffic
from transfer_engine.benchmarks.result import (
    Books,
    Cpu,
    Floor,
    Flushes,
    Growth,
    GrowthStep,
    IdleWebsockets,
    Machine,
    Marked,
    Percentiles,
    Recovery,
    Report,
    Result,
    Second,
    Sweep,
)

MACHINE = Machine(
    at="2026-11-21T21:00:00Z",
    cores=2,
    cpu="Some CPU @ 2.50GHz",
    memory_mib=7_950,
    load_before=(0.42, 0.31, 0.2),
    system="Linux 6.1.0",
    python="3.11.2",
    commit="0123abc",
    versions={"transfer-engine": "0.1.0", "trio": "0.35.0", "tigerbeetle": "0.17.9"},
)

FLOORS = (
    Floor(name="ledger client, full batches", rate=120_000, unit="events", cpu_us=5.1, things_a_transfer=2),
    Floor(name="record store, groups of 500", rate=60_000, unit="rows", cpu_us=14.2),
)


def percentiles(p50_ms: float) -> Percentiles:
    """Return percentiles around a median."""
    return Percentiles(
        p50_ms=p50_ms,
        p90_ms=1.5 * p50_ms,
        p99_ms=2 * p50_ms,
        p999_ms=3 * p50_ms,
        max_ms=4 * p50_ms,
        mean_ms=1.1 * p50_ms,
        count=50_000,
    )


def histogram(p50_ms: float, count: int = 2_000) -> str:
    """Return latencies from half a median to four times it, as HdrHistogram writes them."""
    recorded = HdrHistogram(1, 3_600_000_000, 3)
    for number in range(count):
        tail = 4 if number % 997 == 0 else 1.5 if number % 11 == 0 else 1
        recorded.record_value(int(1_000 * p50_ms * tail * (0.5 + number / count)))
    encoded: bytes = recorded.encode()
    return encoded.decode()


def result(name: str = "", *, p50_ms: float = 12.0, achieved: float = 15_000.0, plan: Plan | None = None) -> Result:
    """Return a run in which all went well."""
    plan = Plan() if plan is None else plan
    return Result(
        plan=plan,
        name=name or "engine, embedded + sqlite, 1,000 users",
        offered=achieved,
        achieved=achieved,
        seconds=5.0,
        outcomes={"committed": int(5 * achieved)},
        latencies=percentiles(p50_ms),
        histogram=histogram(p50_ms),
        late=0,
        dropped=0,
        series=tuple(
            Second(
                at_s=float(second),
                answered=int(achieved) + 100 * second,
                committed=int(achieved) + 100 * second,
                p50_ms=p50_ms,
                p99_ms=2 * p50_ms + second,
                max_ms=4 * p50_ms,
            )
            for second in range(5)
        ),
        flushes=(
            Flushes(name="ledger", flushes=120, entries=1_250.0, transfers=625.0),
            Flushes(name="records", flushes=130, entries=577.0, transfers=577.0),
        ),
        writes_a_transfer=1.02,
        cpu=Cpu(
            total_us=63.0,
            threads_us={"trio loop": 51.0, "Trio thread": 11.9, "idle": 0.01},
            servers_us=11.0,
            load_us=0.0,
            machine_us=80.0,
            stages_us={"trio, outcome": 10.9, "engine core": 16.8, "ledger, its events": 7.2},
        ),
        rss_mib=156.4,
        loop_lag_ms=percentiles(0.2),
        books=Books(how="every account, every record"),
    )


def report(*results: Result, floors: Iterable[Floor] = FLOORS) -> Report:
    """Return a report on runs; on one without any."""
    return Report(
        command="transfer-engine bench engine --seconds 5",
        machine=MACHINE,
        results=results or (result(),),
        floors=tuple(floors),
    )


def broken(run: Result) -> Result:
    """Return a run whose books don't hold."""
    return msgspec.structs.replace(run, books=Books(how="every account", findings=("asset 1 sums to 7, not to 0",)))


def faulty() -> Result:
    """Return an open loop over HTTP, amid which the ledger was killed, with every kind of outcome."""
    plan = Plan(
        target=Target(kind="http", batch=100, has_token=True, backends=Backends("tigerbeetle", "cassandra")),
        traffic=Traffic(pick="zipf", replays=0.02, refusals=0.01, slow=0.1, both_directions=False),
        loop=Open(rate=6_000.0),
        faults=(Fault(at_s=2.0, what="kill-ledger"),),
    )
    run = result("http, express, batches of 100, 32 connections, tigerbeetle + cassandra", p50_ms=40.0, plan=plan)
    back = Marked(fault=plan.faults[0], back_s=1.3)
    never = Marked(fault=Fault(at_s=3.5, what="pause-records", for_s=0.5), back_s=None)
    outcomes = {
        "committed": 24_000,
        "replayed": 500,
        "refused: insufficient_funds": 250,
        "fault: timeout": 40,
        "pending": 200,
        "failed": 10,
    }
    return msgspec.structs.replace(
        run,
        offered=6_000.0,
        achieved=4_900.0,
        outcomes=outcomes,
        late=20,
        dropped=3_000,
        faults=(back, never),
        loop_lag_ms=None,
        writes_a_transfer=None,
    )


def sweep(over: str = "rate") -> Sweep:
    """Return a sweep whose third rate is the last one that is kept."""
    rates = (1_000.0, 2_000.0, 4_000.0, 8_000.0, 16_000.0)
    runs = []
    for rate in rates:
        kept = min(rate, 7_000.0)
        median_ms = 4.0 if rate < 8_000 else 400.0
        runs.append(
            msgspec.structs.replace(
                result(f"engine at {rate:,.0f}/s", p50_ms=median_ms, achieved=kept, plan=Plan(loop=Open(rate=rate))),
                offered=rate,
            )
        )
    return Sweep(over=over, values=rates, results=tuple(runs), knee=4_000.0 if over == "rate" else None)


def recovery() -> Recovery:
    """Return a recovery of a hundred thousand transfers."""
    return Recovery(
        name="embedded + sqlite",
        unfinished=100_000,
        moved=40_000,
        answering_s=0.5,
        ready_s=2.1,
        first_transfer_s=2.3,
        settled_s=12.5,
        asked={"committed": 40, "fault: refused": 12},
        cpu_us=55.0,
        servers_us=7.5,
        rss_mib=310.0,
        lag_ms=percentiles(2.0),
        open_over_time=((0.5, 100_000), (4.0, 70_000), (8.0, 30_000), (12.5, 0)),
        books=Books(how="every account, every record"),
    )


def growth() -> Growth:
    """Return books that grew five hundredfold, and a cost that hardly did."""
    steps = tuple(
        GrowthStep(
            transfers=transfers,
            users=users,
            cpu_us=60.0 * worse,
            small_us=60.0,
            rate=14_000.0 / worse,
            small_rate=14_000.0,
            rss_mib=200.0 * worse,
            files_mib=transfers / 3_000,
        )
        for transfers, users, worse in ((10_000, 10, 1.0), (300_000, 1_000, 1.02), (5_000_000, 100_000, 1.08))
    )
    return Growth(name="embedded + sqlite", steps=steps, books=Books(how="every account"))


def idle() -> IdleWebsockets:
    """Return five thousand websockets that do nothing."""
    return IdleWebsockets(
        name="5,000 idle websockets",
        connections=5_000,
        is_subscribed=False,
        before_mib=90.0,
        after_mib=240.0,
        cpu_share=0.031,
        books=Books(how="every account"),
    )


def whole_report() -> Report:
    """Return a report that has one of everything."""
    return msgspec.structs.replace(
        report(result(), result("engine, one hot user", p50_ms=9.0, achieved=16_000.0), faulty()),
        sweeps=(sweep(), sweep("users")),
        baselines=(result("FastAPI + TigerBeetle, unbatched", p50_ms=30.0, achieved=4_500.0),),
        recoveries=(recovery(),),
        growths=(growth(),),
        idle_websockets=(idle(),),
        notes=("wrk sent the load",),
    )
