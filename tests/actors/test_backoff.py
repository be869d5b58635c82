import random

import pytest
import trio

from transfer_engine.actors import Backoff, CrashWindow


def test_the_ceiling_doubles_up_to_its_bound():
    backoff = Backoff(first_ms=10, most_ms=100)
    assert [backoff.ceiling_ms(attempt) for attempt in (1, 2, 3, 4, 5, 1_000_000)] == [10, 20, 40, 80, 100, 100]


def test_the_jitter_is_full_and_comes_from_the_injected_source():
    draws = iter([0.0, 0.5, 0.999])
    backoff = Backoff(first_ms=100, most_ms=1_000, random=lambda: next(draws))
    assert [backoff.delay_ms(2) for _ in range(3)] == [0.0, 100.0, 199.8]


def test_one_seed_gives_one_series():
    first, second = (Backoff(random=random.Random(7).random) for _ in range(2))
    assert [first.delay_ms(n) for n in range(1, 9)] == [second.delay_ms(n) for n in range(1, 9)]


@pytest.mark.parametrize(("first_ms", "most_ms"), [(-1, 10), (11, 10)])
def test_senseless_bounds_are_refused(first_ms, most_ms):
    with pytest.raises(ValueError, match="0 <= first_ms <= most_ms"):
        Backoff(first_ms=first_ms, most_ms=most_ms)


def test_attempts_are_counted_from_one():
    with pytest.raises(ValueError, match="from 1"):
        Backoff().delay_ms(0)


async def test_sleep_takes_the_delay(autojump_clock):
    await Backoff(first_ms=2_000, most_ms=2_000, random=lambda: 0.75).sleep(1)
    assert trio.current_time() == pytest.approx(1.5)


async def test_a_window_counts_only_what_lies_within_it(autojump_clock):
    window = CrashWindow(2, window_ms=1_000)
    assert [window.record(), window.record()] == [False, False]
    await trio.sleep(0.6)
    assert window.record()
    await trio.sleep(0.6)
    # The first two are now outside of the window.
    assert not window.record()
    assert window.record()
    window.clear()
    assert not window.record()


async def test_a_window_may_allow_no_crash_at_all(autojump_clock):
    assert CrashWindow(0, window_ms=1).record()


@pytest.mark.parametrize(("crashes_most", "window_ms", "field"), [(-1, 1, "crashes_most"), (1, 0, "window_ms")])
def test_a_senseless_window_is_refused(crashes_most, window_ms, field):
    with pytest.raises(ValueError, match=field):
        CrashWindow(crashes_most, window_ms)
