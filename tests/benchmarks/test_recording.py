"""What is recorded is what was answered: percentiles to three digits, outcomes, seconds."""

import math

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer_engine.benchmarks.recording import LATENCY_MOST_US, Recording
from transfer_engine.benchmarks.sending import COMMITTED, FAILED, REPLAYED

LATENCIES_S = st.lists(st.floats(0, 300), min_size=1, max_size=500)
REFUSED = "refused: overloaded"
CUT = "fault: cut"


def recorded(latencies_s: list[float], outcome: str = COMMITTED) -> Recording:
    recording = Recording()
    recording.begin(0.0)
    for latency_s in latencies_s:
        recording.record((outcome,), 0.0, latency_s)
    return recording


@settings(max_examples=15, deadline=None)
@given(LATENCIES_S)
def test_percentiles_are_those_of_the_sorted_samples(latencies_s: list[float]) -> None:
    found = recorded(latencies_s).percentiles()
    samples_ms = sorted(latency_s * 1e3 for latency_s in latencies_s)
    for share, at_ms in ((0.5, found.p50_ms), (0.9, found.p90_ms), (0.99, found.p99_ms), (0.999, found.p999_ms)):
        rank = max(math.floor(share * len(samples_ms) + 0.5), 1)  # HdrHistogram's
        assert at_ms == pytest.approx(samples_ms[rank - 1], rel=0.001, abs=0.001)
    assert found.max_ms == pytest.approx(samples_ms[-1], abs=0.001)
    assert found.mean_ms == pytest.approx(sum(samples_ms) / len(samples_ms), rel=0.001, abs=0.001)
    assert found.count == len(latencies_s)


def test_no_samples() -> None:
    assert Recording().percentiles().max_ms == 0.0


def test_others_can_read_the_histogram() -> None:
    recording = recorded([0.001 * number for number in range(1, 1_001)])
    found = HdrHistogram.decode(recording.encoded())
    assert found.get_total_count() == 1_000
    assert found.get_value_at_percentile(50) == pytest.approx(500_000, rel=0.001)
    assert found.highest_trackable_value == LATENCY_MOST_US


def test_what_was_meant_for_the_warm_up_has_no_outcome() -> None:
    recording = Recording()
    recording.record((COMMITTED,), 0.5, 0.9)
    recording.begin(1.0)
    recording.record((COMMITTED,), 0.9, 1.1)
    recording.record((FAILED,), 1.0, 1.2)
    recording.record((COMMITTED,), 1.1, 1.3)
    recording.end(2.0)
    assert dict(recording.outcomes) == {FAILED: 1, COMMITTED: 1}
    assert recording.sent == recording.percentiles().count == 2
    assert (recording.answered, recording.achieved) == (3, 2)
    assert recording.seconds[0].answered == 3
    assert recording.seconds[0].max_ms == pytest.approx(200, rel=0.001)


def test_what_is_answered_after_the_end_has_an_outcome_and_is_not_achieved() -> None:
    recording = Recording()
    recording.begin(0.0)
    recording.end(1.0)
    recording.record((COMMITTED,), 0.9, 1.4)
    assert dict(recording.outcomes) == {COMMITTED: 1}
    assert recording.percentiles().max_ms == pytest.approx(500, abs=0.001)
    assert recording.achieved == 0


def test_a_batch_counts_each_transfer() -> None:
    recording = Recording()
    recording.begin(0.0)
    recording.record((COMMITTED, REPLAYED, FAILED, REFUSED, CUT), 0.0, 0.1)
    assert recording.outcomes.total() == recording.answered == recording.sent == 5
    assert recording.achieved == 2
    assert recording.percentiles().count == 4


def test_a_refusal_has_no_latency_and_a_fault_has() -> None:
    assert recorded([0.1], REFUSED).percentiles().count == 0
    assert recorded([0.1], CUT).percentiles().count == 1


def test_seconds() -> None:
    recording = Recording()
    recording.begin(10.0)
    for moment, now in ((10.1, 10.2), (10.1, 10.4), (12.5, 12.6)):
        recording.record((COMMITTED,), moment, now)
    recording.record((FAILED,), 12.5, 12.9)
    recording.end(13.0)
    assert [(second.at_s, second.answered, second.committed) for second in recording.seconds] == [
        (0, 2, 2),
        (1, 0, 0),
        (2, 2, 1),
    ]
    assert recording.seconds[0].max_ms == pytest.approx(300, rel=0.001)
    assert recording.seconds[1].p99_ms == 0
    assert recording.seconds[2].p50_ms == pytest.approx(100, rel=0.001)


def test_a_mark_is_told_the_first_success_of_a_later_transfer() -> None:
    recording = recorded([0.1])
    back = recording.mark(1.0)
    recording.record((COMMITTED,), 0.9, 1.2)
    recording.record((CUT,), 1.1, 1.3)
    assert list(back) == []
    recording.record((COMMITTED,), 1.2, 1.5)
    recording.record((COMMITTED,), 1.2, 1.6)
    assert list(back) == [1.5]
