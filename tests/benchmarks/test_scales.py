"""Axes of charts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_engine.benchmarks.scales import scale

_values = st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=20)


@given(_values, st.booleans())
def test_every_value_is_within_its_axis(values: list[float], may_be_log: bool) -> None:
    axis = scale(values, may_be_log=may_be_log)
    for value in values:
        assert axis.low - 1e-9 <= axis.drawn(value) <= axis.high + 1e-9
    for tick in axis.ticks:
        assert axis.low - 1e-9 <= axis.drawn(tick) <= axis.high + 1e-9


@given(_values)
def test_ticks_are_few_and_rise(values: list[float]) -> None:
    axis = scale(values)
    assert 1 <= len(axis.ticks) <= 16
    assert list(axis.ticks) == sorted(set(axis.ticks))


def test_a_linear_axis_begins_at_zero() -> None:
    axis = scale([3, 17, 22])
    assert not axis.is_log
    assert axis.ticks == (0, 5, 10, 15, 20, 25)


def test_values_far_apart_are_drawn_on_a_logarithmic_axis() -> None:
    axis = scale([2, 90])
    assert axis.is_log
    assert axis.ticks == (2, 5, 10, 20, 50, 100)
    assert axis.drawn(10) == pytest.approx(1)
    assert not scale([2, 90], may_be_log=False).is_log


def test_nothing_or_zeros_have_an_axis() -> None:
    assert scale([]).ticks[0] == 0
    assert scale([0.0, math.inf]).high > 0
