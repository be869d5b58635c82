"""Latencies and what is measured around a run."""

import threading
import time

import pytest

from transfer_engine.benchmarks.measures import TRIO_LOOP, Latencies, Meter


def test_percentiles_are_samples_by_nearest_rank() -> None:
    latencies = Latencies()
    for number in range(1_000, 0, -1):
        latencies.add(number / 1_000)
    summary = latencies.summary()
    assert (summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.p999_ms, summary.most_ms) == (
        500.0,
        900.0,
        990.0,
        999.0,
        1_000.0,
    )


def test_a_single_sample_is_every_percentile() -> None:
    latencies = Latencies()
    latencies.add(0.25)
    summary = latencies.summary()
    assert summary.p50_ms == summary.p999_ms == summary.most_ms == 250.0


def test_no_samples() -> None:
    assert Latencies().summary().most_ms == 0.0


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
