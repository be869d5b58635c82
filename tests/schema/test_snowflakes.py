"""The generator of Snowflakes: unique and rising, whatever the clock does, and never above the ceiling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_engine.schema.ids import (
    MILLISECOND_MAX,
    NODE_MAX,
    SEQUENCE_MAX,
    SNOWFLAKE_EPOCH_MS,
    CeilingReached,
    SnowflakeGenerator,
    issued_req_id,
)

IN_A_MILLISECOND = 4_096


class Clock:
    def __init__(self, ms: int = 0) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return SNOWFLAKE_EPOCH_MS + self.ms


def generator(clock: Clock, *, node: int = 1, after: int = 0, ceiling: int | None = None) -> SnowflakeGenerator:
    """Return a generator; ``after`` and ``ceiling`` are ms since the Snowflakes' epoch."""
    made = SnowflakeGenerator(node=node, clock_ms=clock, after_ms=SNOWFLAKE_EPOCH_MS + after)
    if ceiling is not None:
        made.raise_ceiling(SNOWFLAKE_EPOCH_MS + ceiling)
    return made


def parts(snowflake: int) -> tuple[int, int, int]:
    """Return milliseconds, node, sequence: of 41, 10 and 12 bits, from the top."""
    text = f"{snowflake:063b}"
    assert len(text) == 63
    return int(text[:41], 2), int(text[41:51], 2), int(text[51:], 2)


def test_the_epoch_is_the_first_of_january_2025() -> None:
    assert SNOWFLAKE_EPOCH_MS == (20_089 * 24 * 3600) * 1000  # days from 1970 to 2025


@pytest.mark.parametrize("node", [0, 1, NODE_MAX])
def test_its_parts(node: int) -> None:
    made = generator(Clock(123_456), node=node, ceiling=200_000)
    assert [parts(made.issue()) for _ in range(3)] == [(123_456, node, sequence) for sequence in range(3)]
    assert made.logical_ms == SNOWFLAKE_EPOCH_MS + 123_456


def test_a_full_millisecond_borrows_from_the_next() -> None:
    made = generator(Clock(10), ceiling=100)
    issued = [parts(made.issue()) for _ in range(2 * IN_A_MILLISECOND + 1)]
    assert issued[SEQUENCE_MAX] == (10, 1, SEQUENCE_MAX)
    assert issued[IN_A_MILLISECOND] == (11, 1, 0)
    assert issued[-1] == (12, 1, 0)
    assert made.logical_ms == SNOWFLAKE_EPOCH_MS + 12


def test_a_clock_that_catches_up_opens_its_own_millisecond() -> None:
    clock = Clock(10)
    made = generator(clock, ceiling=100)
    made.issue()
    clock.ms = 11
    assert parts(made.issue()) == (11, 1, 0)


def test_a_clock_that_steps_back_repeats_nothing() -> None:
    clock = Clock(50)
    made = generator(clock, ceiling=100)
    before = made.issue()
    clock.ms = 20
    assert parts(made.issue()) == (50, 1, 1)
    clock.ms = 51
    assert parts(made.issue()) == (51, 1, 0)
    assert made.issue() > before


def test_nothing_is_issued_before_a_ceiling_is_durable() -> None:
    made = generator(Clock(50))
    with pytest.raises(CeilingReached):
        made.issue()
    made.raise_ceiling(SNOWFLAKE_EPOCH_MS + 50)
    assert parts(made.issue()) == (50, 1, 0)


def test_the_ceilings_own_millisecond_is_used_up_and_no_more() -> None:
    clock = Clock(99)
    made = generator(clock, ceiling=100)
    issued = [made.issue() for _ in range(2 * IN_A_MILLISECOND)]
    assert parts(issued[-1]) == (100, 1, SEQUENCE_MAX)
    for clock.ms in (99, 100, 5_000):
        with pytest.raises(CeilingReached, match="left below"):
            made.issue()
    made.raise_ceiling(SNOWFLAKE_EPOCH_MS + 6_000)
    assert parts(made.issue()) == (5_000, 1, 0)


def test_the_ceiling_never_goes_down() -> None:
    made = generator(Clock(50), ceiling=100)
    made.raise_ceiling(SNOWFLAKE_EPOCH_MS + 10)
    assert made.ceiling_ms == SNOWFLAKE_EPOCH_MS + 100
    assert parts(made.issue()) == (50, 1, 0)


def test_a_life_starts_above_the_ceiling_of_the_former() -> None:
    clock = Clock(95)
    former = generator(clock, ceiling=100)
    issued = [former.issue() for _ in range(6 * IN_A_MILLISECOND)]
    clock.ms = 3  # and its clock may be wrong
    present = generator(clock, after=100, ceiling=200)
    assert present.issue() > max(issued)


def test_the_logical_clock_follows_the_clock_up_to_the_ceiling() -> None:
    clock = Clock(10)
    made = generator(clock, ceiling=100)
    assert [made.advance() - SNOWFLAKE_EPOCH_MS for clock.ms in (10, 40, 30, 100, 500)] == [10, 40, 40, 100, 100]
    assert parts(made.issue()) == (100, 1, 0)


def test_a_logical_clock_that_is_ahead_creeps_on_and_repeats_nothing() -> None:
    clock = Clock(50)
    made = generator(clock, ceiling=100)
    before = made.issue()
    clock.ms = 20
    made.creep(10)
    assert parts(made.issue()) == (60, 1, 0)
    made.creep(0)
    assert parts(made.issue()) == (60, 1, 1)
    made.creep(1_000)
    assert parts(made.issue()) == (100, 1, 0)
    assert made.issue() > before
    clock.ms = 100
    made.creep(10)
    assert made.logical_ms == SNOWFLAKE_EPOCH_MS + 100


def test_a_clock_that_is_not_behind_needs_no_creeping() -> None:
    made = generator(Clock(50), ceiling=100)
    made.advance()
    made.creep(10)
    assert parts(made.issue()) == (50, 1, 0)


def test_a_look_at_the_clock_takes_no_identifier_away() -> None:
    clock = Clock(10)
    made = generator(clock, ceiling=10)
    made.issue()
    made.advance()
    assert parts(made.issue()) == (10, 1, 1)


@pytest.mark.parametrize("node", [-1, NODE_MAX + 1])
def test_a_node_that_does_not_fit_is_refused(node: int) -> None:
    with pytest.raises(ValueError, match=f"node is {node}: it must be between 0 and 1023"):
        generator(Clock(), node=node)


@pytest.mark.parametrize("after", [-1, MILLISECOND_MAX + 1])
def test_a_former_life_out_of_range_is_refused(after: int) -> None:
    with pytest.raises(ValueError, match="after_ms"):
        generator(Clock(), after=after)


def test_a_clock_of_another_century_ends_the_numbers_instead_of_wrapping_them() -> None:
    clock = Clock(MILLISECOND_MAX + 5_000)
    made = generator(clock, node=NODE_MAX, ceiling=MILLISECOND_MAX + 10_000)
    issued = [made.issue() for _ in range(IN_A_MILLISECOND)]
    assert issued[-1] == 2**63 - 1
    assert issued_req_id(issued[-1]) < 2**128
    with pytest.raises(CeilingReached):
        made.issue()


@given(
    st.lists(
        st.tuples(st.sampled_from(["tick", "jump", "raise", "advance"]), st.integers(-60, 60)), min_size=1, max_size=60
    ),
    st.integers(0, NODE_MAX),
)
def test_whatever_the_clock_does_identifiers_rise_within_the_ceiling(work: list[tuple[str, int]], node: int) -> None:
    clock = Clock(500)
    made = generator(clock, node=node, after=400)
    last = -1
    for action, amount in work:
        if action == "jump":
            clock.ms += amount
        elif action == "raise":
            made.raise_ceiling(clock() + amount)
        elif action == "advance":
            made.advance()
        for _ in range(abs(amount) * 100):
            try:
                issued = made.issue()
            except CeilingReached:
                assert made.logical_ms == made.ceiling_ms
                break
            ms, its_node, _ = parts(issued)
            assert issued > last
            assert its_node == node
            assert SNOWFLAKE_EPOCH_MS + 400 < SNOWFLAKE_EPOCH_MS + ms == made.logical_ms <= made.ceiling_ms
            last = issued
