"""Every module belongs to one stage of a transfer, stacks are read as py-spy writes them, and a process is sampled."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import trio

import transfer_engine.engine
from transfer_engine.benchmarks.hop_floors import actor_hop
from transfer_engine.benchmarks.stage_profile import NoProfile, stage_profile, with_collector
from transfer_engine.benchmarks.stages import (
    ACTOR,
    ADMISSION,
    COLLECTOR,
    DOOR,
    LEDGER,
    MODULES,
    NATIVE,
    OTHER,
    RECORDS,
    TRIO,
    count_samples,
    share_out,
    stage_of_stack,
    stages_of_module,
)

PACKAGE = Path(transfer_engine.engine.__file__).parent.parent
LIBRARY = "/lib/python3.11/site-packages"
LOOP = [f"run (/venv{LIBRARY}/trio/_core/_run.py:2000)", f"unrolled_run (/venv{LIBRARY}/trio/_core/_run.py:2700)"]


def modules() -> list[str]:
    return sorted(
        str(file.relative_to(PACKAGE).with_suffix(""))
        for layer in ("engine", "actors", "schema", "http")
        for file in (PACKAGE / layer).rglob("*.py")
    )


def test_every_module_belongs_to_one_stage() -> None:
    claimed = {module: stages_of_module(module) for module in modules()}
    wrong = {module: stages for module, stages in claimed.items() if len(stages) != 1}
    assert len(claimed) > 100
    assert not wrong, f"MODULES of benchmarks/stages.py gives them no stage, or more than one: {wrong}"


def test_the_table_names_no_module_that_is_gone() -> None:
    exact = {name for names in MODULES.values() for name in names if "*" not in name}
    assert exact - set(modules()) == set()


def ours(module: str) -> str:
    return f"work (/somewhere/build/transfer_engine/{module}.py:12)"


@pytest.mark.parametrize(
    ("frames", "stage"),
    [
        ([*LOOP, ours("engine/admission")], ADMISSION),
        ([*LOOP, ours("engine/ledger/book"), "encode (json/encoder.py:3)"], LEDGER),
        ([*LOOP, ours("engine/admission"), f"checkpoint (/venv{LIBRARY}/trio/_core/_run.py:1)"], TRIO),
        ([*LOOP, ours("http/express"), f"feed (/venv{LIBRARY}/msgspec/_utils.py:1)"], DOOR),
        ([*LOOP, "request (/usr/lib/python3.11/http/client.py:7)"], TRIO),
        (["bootstrap (/usr/lib/python3.11/threading.py:1002)", ours("engine/records/sqlite_rows")], RECORDS),
        (["bootstrap (/usr/lib/python3.11/threading.py:1002)"], OTHER),
        ([*LOOP, f"on_data (/venv{LIBRARY}/wsproto/connection.py:5)"], DOOR),
    ],
    ids=["ours", "a caller's library", "trio's own", "a C library", "the other http", "a thread", "nobody", "a door's"],
)
def test_a_sample_belongs_to_the_innermost_frame_that_is_known(frames: list[str], stage: str) -> None:
    assert stage_of_stack(frames) == stage


def test_samples_are_counted_by_thread() -> None:
    lines = [
        f"thread (11): MainThread;{LOOP[1]};{ours('engine/admission')} 3",
        f"thread (11): MainThread;{LOOP[1]} 1",
        f"thread (12);{ours('engine/ledger/writer')} 5",
        "no stack at all",
        "",
    ]
    assert count_samples(lines) == {11: Counter({ADMISSION: 3, TRIO: 1}), 12: Counter({LEDGER: 5})}


def test_a_threads_cpu_is_shared_out_as_its_samples_are() -> None:
    samples = {11: Counter({ADMISSION: 30, TRIO: 10}), 12: Counter({LEDGER: 500})}
    shares = share_out(samples, {11: 8.0, 12: 1.0, 13: 1.0})
    assert shares == pytest.approx({ADMISSION: 0.6, TRIO: 0.2, LEDGER: 0.1, NATIVE: 0.1})
    assert list(shares)[:2] == [ADMISSION, TRIO]
    assert share_out({}, {}) == {}


def test_the_collectors_share_is_taken_out_of_the_others() -> None:
    assert with_collector({TRIO: 0.75, ACTOR: 0.25}, 0.2) == pytest.approx({TRIO: 0.6, ACTOR: 0.2, COLLECTOR: 0.2})


async def test_this_process_is_sampled() -> None:
    try:
        async with stage_profile() as profile:
            with trio.move_on_after(0.4):
                while True:
                    await actor_hop(2_000, 100)
    except NoProfile as reason:
        pytest.skip(f"NOT TESTED: {reason}")
    assert profile.samples > 5
    assert {ACTOR, TRIO} <= profile.shares.keys()
    assert sum(profile.stages_us(50.0).values()) == pytest.approx(50.0)


async def test_another_process_is_sampled() -> None:
    async with trio.open_nursery() as nursery:
        process = await nursery.start(trio.run_process, [sys.executable, "-c", "while True: pass"])
        await trio.sleep(0.2)  # else Python itself is still being started
        try:
            async with stage_profile(process.pid) as profile:
                await trio.sleep(0.4)
        except NoProfile as reason:
            pytest.skip(f"NOT TESTED: {reason}")
        finally:
            nursery.cancel_scope.cancel()
    assert profile.shares == {OTHER: 1.0}


async def test_a_process_that_is_not_there() -> None:
    with pytest.raises(NoProfile, match="py-spy"):
        async with stage_profile(4_000_000):
            pass
