"""W3C Trace Context: what is taken over, what is left out, and what our lines say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_engine.http.trace_context import add_trace, begin_trace, enter, leave, take_over

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def test_a_valid_one_is_taken_over_under_a_span_of_our_own() -> None:
    trace = take_over(f"00-{TRACE_ID}-{PARENT}-01".encode())
    assert trace is not None
    assert trace.trace_id == TRACE_ID
    assert trace.span_id != PARENT
    assert trace.header() == f"00-{TRACE_ID}-{trace.span_id}-01".encode()
    assert take_over(trace.header()) is not None


@pytest.mark.parametrize(("flags", "answered"), [("00", "00"), ("01", "01"), ("03", "03"), ("ff", "03"), ("08", "00")])
def test_only_known_flags_are_answered(flags: str, answered: str) -> None:
    trace = take_over(f"00-{TRACE_ID}-{PARENT}-{flags}".encode())
    assert trace is not None
    assert trace.header().endswith(b"-" + answered.encode())


@pytest.mark.parametrize("later", [f"01-{TRACE_ID}-{PARENT}-01", f"cc-{TRACE_ID}-{PARENT}-01-what-the-future-will-be"])
def test_a_later_version_is_read_as_far_as_it_is_known(later: str) -> None:
    trace = take_over(later.encode())
    assert trace is not None
    assert trace.header().startswith(f"00-{TRACE_ID}-".encode())


@pytest.mark.parametrize(
    "invalid",
    [
        "",
        "doubled",
        f"ff-{TRACE_ID}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{PARENT}-01",
        f"00-{TRACE_ID}-{PARENT}-01-more",
        f"00-{TRACE_ID}-{PARENT}-01 ",
        f"00-{TRACE_ID}-{PARENT}-1",
        f"00-{TRACE_ID}-{PARENT}",
        f"00-{TRACE_ID[1:]}-{PARENT}-01",
        f"cc-{TRACE_ID}-{PARENT}-01.more",
        f"00-{TRACE_ID}-{PARENT}-01\n",
    ],
)
def test_an_invalid_one_is_left_out(invalid: str) -> None:
    assert take_over(invalid.encode()) is None


@given(st.binary(max_size=80))
def test_whatever_comes_what_goes_out_is_valid(header: bytes) -> None:
    trace = take_over(header) or begin_trace()
    assert take_over(trace.header()) is not None


def test_no_two_traces_of_our_own_are_the_same() -> None:
    traces = [begin_trace() for _ in range(1_000)]
    assert len({trace.trace_id for trace in traces}) == len({trace.span_id for trace in traces}) == 1_000


async def test_lines_name_the_trace_of_the_request_that_their_task_answers() -> None:
    import trio

    trace = begin_trace()
    seen = []

    async def brought_to_life() -> None:
        seen.append(add_trace(None, "info", {"event": "x"}))

    assert add_trace(None, "info", {"event": "x"}) == {"event": "x"}
    entered = enter(trace)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(brought_to_life)
    during = add_trace(None, "info", {"event": "x"})
    leave(entered)
    assert during == {"event": "x", "trace_id": trace.trace_id, "span_id": trace.span_id}
    assert seen == [{"event": "x"}]
    assert add_trace(None, "info", {"event": "x"}) == {"event": "x"}
