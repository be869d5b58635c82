"""What is measured around a run: CPU by thread and process, memory, the loop's lag."""

import subprocess
import sys
import threading
import time

import pytest
import trio

from transfer_engine.benchmarks.measures import TRIO_LOOP, LoopLag, Meter, rss_mib


def test_cpu_is_told_by_thread() -> None:
    meter = Meter()
    burnt, read = threading.Event(), threading.Event()

    def work() -> None:
        while time.thread_time() < 0.2:
            pass
        burnt.set()
        read.wait()

    thread = threading.Thread(target=work, name="worker-1 from a test")
    thread.start()
    burnt.wait()
    usage = meter.read()
    read.set()
    thread.join()
    assert 0.15 <= usage.threads_s["worker"] <= usage.cpu_s + 0.05
    assert usage.cpu_us(1_000) == pytest.approx(usage.cpu_s * 1_000)
    assert TRIO_LOOP in usage.threads_s


def test_cpu_and_memory_of_the_engines_process_and_of_servers() -> None:
    burning = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    command = [sys.executable, "-c", burning]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        meter = Meter((process.pid,), engine=process.pid)
        assert process.stdout is not None
        process.stdout.readline()
        usage = meter.read(process.pid)
        assert 0.1 <= usage.engine_s <= 1
        assert usage.engine_s == usage.servers_s
        assert usage.machine_s >= 0.1
        assert rss_mib(process.pid) > 1
        process.communicate(b"\n")
    assert rss_mib(process.pid) == 0


async def test_a_loop_that_is_held_up_lags() -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        await trio.sleep(0.05)
        lag.clear()
        time.sleep(0.1)  # noqa: ASYNC251  that is what holds it up
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    found = lag.percentiles()
    assert found.count >= 1
    assert found.max_ms >= 80
