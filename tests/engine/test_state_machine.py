from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_engine.engine.state_machine import TRANSITIONS, TransferEvent, transition
from transfer_engine.schema.transfers import RANKS, TERMINAL_STATES, TransferState

EVENTS = [
    "source_call",
    "source_ok",
    "source_fail",
    "target_call",
    "target_ok",
    "target_fail",
    "rollback_ok",
    "rollback_fail",
]

# One row a state, one column an event, in the order of EVENTS; a dot: the event does not fit, the state stays.
TABLE = {
    "init": "source_pending source_done failed . . . . .",
    "source_pending": ". source_done failed . . . . .",
    "source_done": ". . . target_pending committed compensating . .",
    "target_pending": ". . . . committed compensating . .",
    "compensating": ". . . . . . rolled_back compensating",
    "failed": ". . . . . . . .",
    "rolled_back": ". . . . . . . .",
    "committed": ". . . . . . . .",
}

states = st.sampled_from(TransferState)
events = st.sampled_from(TransferEvent)


def test_the_table_covers_every_state_and_event() -> None:
    assert set(TABLE) == {state.value for state in TransferState}
    assert [event.value for event in TransferEvent] == EVENTS
    assert all(len(row.split()) == len(EVENTS) for row in TABLE.values())


@pytest.mark.parametrize(("state", "event"), list(product(TransferState, TransferEvent)))
def test_every_state_and_event(state: TransferState, event: TransferEvent) -> None:
    expected = TABLE[state.value].split()[EVENTS.index(event.value)]
    assert transition(state, event).value == (state.value if expected == "." else expected)


def test_the_transitions_can_not_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[TransferState.FAILED, TransferEvent.SOURCE_OK] = TransferState.SOURCE_DONE  # type: ignore[index]


@given(start=states, happenings=st.lists(events, max_size=30))
def test_terminal_states_absorb_every_sequence_of_events(start: TransferState, happenings: list[TransferEvent]) -> None:
    state = start
    for event in happenings:
        after = transition(state, event)
        if state.is_terminal:
            assert after is state
        state = after


def test_only_terminal_states_have_no_way_out() -> None:
    left = {before for (before, _), after in TRANSITIONS.items() if before is not after}
    assert set(TransferState) - left == TERMINAL_STATES == {"committed", "rolled_back", "failed"}


def test_every_state_is_reached_and_every_state_can_end() -> None:
    def reached_from(start: TransferState) -> set[TransferState]:
        reached, waiting = {start}, [start]
        while waiting:
            state = waiting.pop()
            found = {transition(state, event) for event in TransferEvent} - reached
            reached |= found
            waiting += found
        return reached

    assert reached_from(TransferState.INIT) == set(TransferState)
    assert len(TransferState) == 8
    for state in TransferState:
        assert reached_from(state) & TERMINAL_STATES


@given(start=states, happenings=st.lists(events, max_size=30))
def test_ranks_never_go_down(start: TransferState, happenings: list[TransferEvent]) -> None:
    state = start
    for event in happenings:
        after = transition(state, event)
        assert RANKS[after] > RANKS[state] or after is state
        state = after


@given(happenings=st.lists(events, max_size=30))
def test_money_is_never_compensated_without_a_source_that_gave_it(happenings: list[TransferEvent]) -> None:
    state, took = TransferState.INIT, False
    for event in happenings:
        before, state = state, transition(state, event)
        took = took or (state is not before and event is TransferEvent.SOURCE_OK)
        if state in (TransferState.COMPENSATING, TransferState.ROLLED_BACK, TransferState.COMMITTED):
            assert took
        if state is TransferState.FAILED:
            assert not took
