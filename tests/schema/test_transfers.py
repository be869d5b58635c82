"""Records and intents: the order of versions, and blobs that are read as they were written or not at all."""

from itertools import pairwise
from uuid import UUID

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from transfer_engine.schema.ids import issued_req_id, keyed_req_id
from transfer_engine.schema.transfers import (
    RANKS,
    RETRY_COUNT_MAX,
    STATUS_OF_STATE,
    TERMINAL_STATES,
    Intent,
    TransferRecord,
    TransferState,
    TransferStatus,
    body_fingerprint,
    decode_intents,
    encode_intents,
)

IN_ORDER = [
    "init",
    "source_pending",
    "source_done",
    "target_pending",
    "compensating",
    "failed",
    "rolled_back",
    "committed",
]
TERMINAL = {"failed", "rolled_back", "committed"}

states = st.sampled_from(list(TransferState))
retries = st.integers(0, RETRY_COUNT_MAX)
fingerprints = st.integers(0, 2**64 - 1)
numbers = st.integers(0, 2**63 - 1)
intents = st.builds(
    Intent,
    req_id=(st.integers(0, 2**63 - 1).map(issued_req_id) | st.text().map(lambda key: keyed_req_id("", "", key))).map(
        lambda req_id: req_id.to_bytes(16, "big")
    ),
    source=st.text(max_size=32),
    target=st.text(max_size=32),
    user_id=numbers,
    target_user_id=numbers,
    asset_id=numbers,
    amount=numbers,
    accepted_at=numbers,
    fingerprint=fingerprints,
)
AN_INTENT = Intent(
    req_id=issued_req_id(1).to_bytes(16, "big"),
    source="funding",
    target="trading",
    user_id=1,
    target_user_id=1,
    asset_id=1,
    amount=100,
    accepted_at=1_800_000_000_000,
    fingerprint=2**64 - 1,
)


def version(state: str, retry_count: int = 0, fingerprint: int = 0) -> int:
    return TransferRecord(
        req_id=UUID(int=issued_req_id(1)),
        source="funding",
        target="trading",
        user_id=1,
        target_user_id=1,
        asset_id=1,
        amount=1,
        state=TransferState(state),
        created_at=0,
        updated_at=0,
        error="",
        retry_count=retry_count,
        fingerprint=fingerprint,
    ).version


def test_the_states_and_their_ranks() -> None:
    assert [state.value for state in TransferState] == IN_ORDER
    assert {state.value: rank for state, rank in RANKS.items()} == dict(zip(IN_ORDER, range(1, 9), strict=True))
    assert {state.value for state in TERMINAL_STATES} == TERMINAL
    assert {state.value for state in TransferState if state.is_terminal} == TERMINAL


def test_what_a_client_is_told() -> None:
    for state in TransferState:
        assert STATUS_OF_STATE[state] is TransferStatus(state.value if state in TERMINAL else "pending")


def test_a_later_state_always_has_the_higher_version() -> None:
    for earlier, later in pairwise(IN_ORDER):
        assert version(earlier, RETRY_COUNT_MAX, 2**64 - 1) < version(later)


@given(states, retries, fingerprints)
def test_the_version_is_rank_retries_and_20_bits_of_the_fingerprint(
    state: TransferState, retry_count: int, fingerprint: int
) -> None:
    shown = 0 if state.value in TERMINAL else retry_count
    expected = f"{IN_ORDER.index(state) + 1:04b}" + f"{shown:020b}" + f"{fingerprint:064b}"[:20]
    assert version(state, retry_count, fingerprint) == int(expected, 2)


@given(states, retries, retries, fingerprints, fingerprints)
def test_of_one_state_more_retries_are_higher(
    state: TransferState, fewer: int, more: int, first: int, second: int
) -> None:
    assume(fewer < more)
    assume(not state.is_terminal)
    assert version(state, fewer, first) < version(state, more, second)


@given(st.sampled_from(sorted(TERMINAL)), retries, retries, fingerprints)
def test_two_engines_that_end_one_transfer_write_the_same_version(
    state: str, first: int, second: int, fingerprint: int
) -> None:
    assert version(state, first, fingerprint) == version(state, second, fingerprint)


@pytest.mark.parametrize("retry_count", [RETRY_COUNT_MAX, RETRY_COUNT_MAX + 1, 2**31 - 1])
def test_too_many_retries_never_make_another_state(retry_count: int) -> None:
    assert version("init", retry_count) == version("init", RETRY_COUNT_MAX) < version("source_pending")


@given(st.lists(intents, max_size=20))
def test_intents_are_read_as_they_were_written(written: list[Intent]) -> None:
    assert decode_intents(encode_intents(written)) == written


def test_a_blob_of_every_release_is_this() -> None:
    # Journals outlive releases: a blob that an older engine wrote must be read for ever.
    assert encode_intents([AN_INTENT]).hex() == BLOB
    assert decode_intents(bytes.fromhex(BLOB)) == [AN_INTENT]


BLOB = (
    "9199c41000000000000080008800000000000000a766756e64696e67a774"
    "726164696e6701010164cf000001a3185c5000cfffffffffffffffff"
)


@given(st.lists(intents, min_size=1, max_size=4), st.data())
def test_a_blob_cut_short_is_damaged(written: list[Intent], data: st.DataObject) -> None:
    blob = encode_intents(written)
    with pytest.raises(msgspec.DecodeError):
        decode_intents(blob[: data.draw(st.integers(0, len(blob) - 1))])


@pytest.mark.parametrize("tail", [b"\0", b"\x90", encode_intents([AN_INTENT])])
def test_a_blob_with_a_tail_is_damaged(tail: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_intents(encode_intents([AN_INTENT]) + tail)


@given(st.lists(intents, min_size=1, max_size=3), st.data())
def test_wrong_bytes_are_damage_or_well_formed_intents(written: list[Intent], data: st.DataObject) -> None:
    blob = bytearray(encode_intents(written))
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_intents(bytes(blob))
    except msgspec.DecodeError:
        return
    assert all(len(intent.req_id) == 16 for intent in decoded)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        list(msgspec.structs.astuple(AN_INTENT)[:-1]),
        [*msgspec.structs.astuple(AN_INTENT), 1],
        [b"short", *msgspec.structs.astuple(AN_INTENT)[1:]],
        [AN_INTENT.req_id + b"\0", *msgspec.structs.astuple(AN_INTENT)[1:]],
        [str(AN_INTENT.req_id), *msgspec.structs.astuple(AN_INTENT)[1:]],
        [*msgspec.structs.astuple(AN_INTENT)[:6], "100", *msgspec.structs.astuple(AN_INTENT)[7:]],
        [*msgspec.structs.astuple(AN_INTENT)[:6], 1.5, *msgspec.structs.astuple(AN_INTENT)[7:]],
    ],
)
def test_intents_of_another_shape_are_damage(fields: list[object]) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_intents(msgspec.msgpack.encode([fields]))


@given(intents)
def test_an_intents_body_has_its_fingerprint(intent: Intent) -> None:
    assert body_fingerprint(intent) == body_fingerprint(msgspec.structs.replace(intent, req_id=b"x", accepted_at=0))
    assert body_fingerprint(intent) != body_fingerprint(msgspec.structs.replace(intent, amount=intent.amount + 1))
