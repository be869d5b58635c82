"""One run: the target is brought up and funded, loaded, measured, and its books are looked at.

A bench is measured as often as one likes, each time by a plan of its own; its books are looked at once, at the end.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import msgspec
import trio

from transfer_engine.benchmarks.engine_sender import open_engine_subject
from transfer_engine.benchmarks.loops import clock, run_loop
from transfer_engine.benchmarks.measures import LoopLag, Meter, Usage, rss_mib
from transfer_engine.benchmarks.orders import Orders
from transfer_engine.benchmarks.plan import Fault, Open, Plan, Target, Traffic, plan_name
from transfer_engine.benchmarks.progress import Progress, Silence
from transfer_engine.benchmarks.recording import Recording
from transfer_engine.benchmarks.result import Books, Cpu, Flushes, Marked, Result
from transfer_engine.benchmarks.sources import Sources
from transfer_engine.benchmarks.stage_profile import stage_profile
from transfer_engine.benchmarks.subject import Commits, Counters, LoadedByWrk, Subject

NOT_LOOKED_AT: Final = Books(how="not looked at yet")


class Bench:
    """A target that is up and funded; made by :func:`open_bench`."""

    def __init__(self, subject: Subject, progress: Progress) -> None:
        self.subject = subject
        self._progress = progress

    async def measure(self, plan: Plan, *, is_profiled: bool = False) -> Result:
        """Run one load; the result's books are not looked at yet.

        Plans of one bench have the bench's target, and users that are among the bench's.

        Args:
            plan: what is to be run.
            is_profiled: whether it is sampled where the CPU of the engine goes, if the engine's process is known.

        Raises:
            NoProfile: there is no profiler, or it may not look at the process.
            OSError, RuntimeError: the target can't be reached.
            ValueError: the traffic contradicts itself.
        """
        recording, lag = Recording(), LoopLag()
        measures = _Measures(self.subject, recording, lag)
        marks: list[_Mark] = []
        failures: list[Exception] = []
        self._progress.load(plan)
        async with AsyncExitStack() as stack:
            is_profiled = is_profiled and (self.subject.is_here or self.subject.pid is not None)
            profile = await stack.enter_async_context(stage_profile(self.subject.pid)) if is_profiled else None
            nursery = await stack.enter_async_context(trio.open_nursery())

            async def guarded(work: Callable[[], Awaitable[None]]) -> None:
                try:
                    await work()
                except Exception as error:  # noqa: BLE001  not for the nursery to wrap
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            if plan.target.generator == "python":
                nursery.start_soon(self._tell_seconds, recording)
            if self.subject.is_here:
                nursery.start_soon(lag.run)
            for fault in plan.faults:
                nursery.start_soon(guarded, partial(self._make, fault, recording, measures.begun, marks))
            await guarded(partial(self._load, plan, recording, measures))
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]
        result = self._result(plan, recording, measures, lag, marks)
        if profile is None:
            return result
        cpu = msgspec.structs.replace(result.cpu, stages_us=profile.stages_us(result.cpu.total_us))
        return msgspec.structs.replace(result, cpu=cpu)

    async def books(self) -> Books:
        """End what serves, and look whether the books hold; nothing can be measured afterwards."""
        self._progress.step("looking at the books")
        return await self.subject.books()

    async def _load(self, plan: Plan, recording: Recording, measures: "_Measures") -> None:
        orders = Orders(plan.traffic, f"{time.time_ns():x}-")
        if plan.target.generator == "wrk":
            if not isinstance(self.subject, LoadedByWrk):
                raise RuntimeError("wrk loads doors alone")
            await self.subject.load_by_wrk(plan, recording, measures)
            return
        await run_loop(
            self.subject.sender,
            orders,
            recording,
            loop=plan.loop,
            batch=plan.target.batch,
            length=plan.length,
            around=measures,
        )

    async def _tell_seconds(self, recording: Recording) -> None:
        told = 0
        while True:
            await trio.sleep(0.25)
            recording.turn(clock())
            for second in recording.seconds[told:]:
                self._progress.second(second)
                told += 1

    async def _make(self, fault: Fault, recording: Recording, begun: trio.Event, marks: "list[_Mark]") -> None:
        await begun.wait()
        await trio.sleep(fault.at_s)
        at = clock()
        marks.append(_Mark(fault, at, recording.mark(at)))
        with trio.CancelScope(shield=True):  # bounded by its time: nothing is to stay paused or dead after the load
            await self.subject.make(fault)

    def _result(
        self, plan: Plan, recording: Recording, measures: "_Measures", lag: LoopLag, marks: "Sequence[_Mark]"
    ) -> Result:
        began, ended = recording.began or 0.0, recording.ended or 0.0
        seconds = max(ended - began, 1e-9)
        offered = recording.sent + (recording.dropped if isinstance(plan.loop, Open) else 0)
        is_here = self.subject.is_here
        return Result(
            plan=plan,
            name=plan_name(plan),
            offered=offered / seconds,
            achieved=recording.achieved / seconds,
            seconds=seconds,
            outcomes=dict(recording.outcomes.most_common()),
            latencies=recording.percentiles(),
            histogram=recording.encoded(),
            late=recording.late,
            dropped=recording.dropped,
            series=tuple(recording.seconds),
            flushes=tuple(measures.flushes()),
            writes_a_transfer=measures.writes_a_transfer(),
            cpu=measures.cpu(),
            rss_mib=rss_mib(None if is_here else self.subject.pid) if is_here or self.subject.pid else 0.0,
            loop_lag_ms=lag.percentiles() if is_here else None,
            books=NOT_LOOKED_AT,
            refusals=recording.refusals(),
            faults=tuple(
                Marked(fault=mark.fault, back_s=mark.back[0] - mark.at if mark.back else None) for mark in marks
            ),
        )


@asynccontextmanager
async def open_bench(
    target: Target, traffic: Traffic, sources: Sources, progress: Progress | None = None
) -> AsyncIterator[Bench]:
    """Bring a target up and give its users money; take it down again.

    Args:
        target: what is loaded.
        traffic: whose users are funded, and what services it touches.
        sources: the settings, where its books are, the token.
        progress: who is told.

    Raises:
        UNUSABLE: see :mod:`transfer_engine.benchmarks.sources`.
    """
    progress = progress or Silence()
    progress.step(f"bringing up {target.kind}, {sources.backends.name}, {traffic.users:,} users")
    async with _open_subject(target, traffic, sources) as subject:
        yield Bench(subject, progress)


async def run(plan: Plan, sources: Sources, progress: Progress | None = None, *, is_profiled: bool = False) -> Result:
    """Bring the target up, run the plan's load (sampled with ``is_profiled``), and look at the books.

    Raises:
        NoProfile: see :meth:`Bench.measure`.
        UNUSABLE: see :mod:`transfer_engine.benchmarks.sources`.
    """
    async with open_bench(plan.target, plan.traffic, sources, progress) as bench:
        measured = await bench.measure(plan, is_profiled=is_profiled)
        result = msgspec.structs.replace(measured, books=await bench.books())
    if progress is not None:
        progress.result(result)
    return result


def _open_subject(target: Target, traffic: Traffic, sources: Sources) -> AbstractAsyncContextManager[Subject]:
    if target.kind == "engine":
        return open_engine_subject(target, traffic, sources)
    from transfer_engine.benchmarks.door_subject import open_door_subject  # noqa: PLC0415  only doors need it

    return open_door_subject(target, traffic, sources)


class _Mark(msgspec.Struct, frozen=True):
    fault: Fault
    at: float
    back: Sequence[float]


class _Measures:
    """What is measured around the part of a load that counts."""

    def __init__(self, subject: Subject, recording: Recording, lag: LoopLag) -> None:
        self.begun = trio.Event()
        self._subject = subject
        self._recording = recording
        self._lag = lag
        self._meter: Meter | None = None
        self._usage: Usage | None = None
        self._before: Counters | None = None
        self._after: Counters | None = None
        self._count = 1

    async def begin(self) -> None:
        """The warm-up is over."""
        self._before = await self._subject.counters()
        self._lag.clear()
        self._meter = Meter(self._subject.servers, self._subject.pid)
        self.begun.set()

    async def end(self) -> None:
        """Nothing more is sent."""
        if self._meter is not None:
            self._usage = self._meter.read(self._subject.pid)
        self._count = max(self._recording.answered, 1)
        self._after = await self._subject.counters()

    def cpu(self) -> Cpu:
        """Return what each transfer cost that was answered meanwhile."""
        usage = self._usage
        if usage is None:
            return Cpu(total_us=0.0, threads_us={}, servers_us=0.0, load_us=0.0, machine_us=0.0)
        each = 1e6 / self._count
        is_here = self._subject.is_here
        return Cpu(
            total_us=(usage.cpu_s if is_here else usage.engine_s) * each,
            threads_us={
                name: cpu_s * each
                for name, cpu_s in (usage.threads_s if is_here else usage.engine_threads_s).items()
                if cpu_s
            },
            servers_us=usage.servers_s * each,
            load_us=0.0 if is_here else (usage.cpu_s + usage.children_s) * each,
            machine_us=usage.machine_s * each,
        )

    def flushes(self) -> list[Flushes]:
        """Return what each group commit did."""
        before, after = _commits(self._before), _commits(self._after)
        found = []
        for name, commits in after.items():
            began = before.get(name)
            flushes = commits.flushes - (began.flushes if began is not None else 0)
            entries = commits.entries - (began.entries if began is not None else 0)
            if flushes > 0:
                each = Flushes(name=name, flushes=flushes, entries=entries / flushes, transfers=self._count / flushes)
                found.append(each)
        return found

    def writes_a_transfer(self) -> float | None:
        """Return how much the record store was given for each transfer."""
        before, after = self._before, self._after
        if before is None or after is None or before.writes is None or after.writes is None:
            return None
        return (after.writes - before.writes) / self._count


def _commits(counters: Counters | None) -> Mapping[str, Commits]:
    return counters.commits if counters is not None else {}
