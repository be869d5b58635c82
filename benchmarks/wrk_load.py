"""A plan's load made by wrk, on whatever answers the first API's transfers: a door, or a baseline."""

from transfer_engine.benchmarks.expectations import Expectations
from transfer_engine.benchmarks.http_wire import Address
from transfer_engine.benchmarks.loops import Around, clock
from transfer_engine.benchmarks.plan import Plan
from transfer_engine.benchmarks.recording import Recording
from transfer_engine.benchmarks.wrk import WrkResult, find_wrk, run_wrk, why_not_wrk


async def load_by_wrk(
    plan: Plan,
    recording: Recording,
    around: Around,
    *,
    address: Address,
    expectations: Expectations,
    token: str | None = None,
) -> None:
    """Have wrk make a plan's load; what it leaves under way at the end has an outcome that nobody knows.

    Raises:
        RuntimeError: wrk can't, or failed.
    """
    wrk = find_wrk()
    if wrk is None or (reason := why_not_wrk(plan)) is not None:
        raise RuntimeError(f"wrk can't make this load: {reason if wrk is not None else 'it is not on PATH'}")
    connections, traffic = plan.target.connections, plan.traffic
    expectations.nameless += connections

    async def load(seconds: float) -> WrkResult:
        return await run_wrk(
            wrk,
            address,
            connections=connections,
            seconds=seconds,
            token=token,
            users=traffic.users,
            first_user=expectations.offset + 1,
            seed=traffic.seed,
        )

    if plan.length.warm_up_s:
        await load(plan.length.warm_up_s)
    await around.begin()
    recording.begin(clock())
    got = await load(plan.length.seconds)
    recording.take_over(got.outcomes, got.latencies_us, seconds=got.seconds)
    await around.end()
