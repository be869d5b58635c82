"""Identifiers, against the layout spelled out bit by bit: top first, as text of zeros and ones."""

import hashlib
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from transfer_engine.schema import ids

snowflakes = st.integers(0, 2**63 - 1)
texts = st.text(max_size=40)


def bits(number: int, width: int) -> str:
    assert 0 <= number < 1 << width
    return f"{number:0{width}b}"


def laid_out(payload: str, tag: str) -> int:
    """48 payload, version 8, 12 payload, variant 10, 3 payload, tag, 54 payload, 4 zeros."""
    assert len(payload) == 117
    return int(payload[:48] + "1000" + payload[48:60] + "10" + payload[60:63] + tag + payload[63:] + "0000", 2)


def hashed(*parts: str) -> str:
    """BLAKE2b-128 over the parts, each behind its length in four bytes; its top 117 bits."""
    content = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return bits(int(hashlib.blake2b(content, digest_size=16).hexdigest(), 16), 128)[:117]


@given(snowflakes)
def test_an_issued_id_is_the_snowflake_at_the_top_of_the_payload(snowflake: int) -> None:
    req_id = ids.issued_req_id(snowflake)
    assert req_id == laid_out(bits(snowflake, 63) + "0" * 54, "0")
    assert ids.snowflake_of(req_id) == snowflake
    assert ids.is_req_id(req_id)
    assert not ids.is_keyed(req_id)


@given(texts, texts, texts)
def test_a_keyed_id_is_the_hash_of_subject_scheme_and_key(subject: str, scheme: str, key: str) -> None:
    req_id = ids.keyed_req_id(subject, scheme, key)
    assert req_id == laid_out(hashed(subject, scheme, key), "1")
    assert ids.is_req_id(req_id)
    assert ids.is_keyed(req_id)


def test_identifiers_of_every_release_are_these() -> None:
    # An id that changes its value with a release would move money twice: literals, computed once.
    assert UUID(int=ids.issued_req_id(0)) == UUID("00000000-0000-8000-8000-000000000000")
    assert UUID(int=ids.issued_req_id(2**63 - 1)) == UUID("ffffffff-ffff-8fff-b800-000000000000")
    assert UUID(int=ids.keyed_req_id("", "transfer", "k-1")) == UUID("df8bf956-ba6b-8288-bf78-176dbc6bf270")
    assert UUID(int=ids.keyed_req_id("alice", "credit", "naïve 🪙")) == UUID("0bf771dc-083a-8ff8-86e8-bde245a72210")


@given(snowflakes, texts)
def test_both_kinds_are_uuids_of_version_8(snowflake: int, key: str) -> None:
    for req_id in (ids.issued_req_id(snowflake), ids.keyed_req_id("", "transfer", key)):
        uuid = UUID(int=req_id)
        assert uuid.version == 8
        assert uuid.variant == "specified in RFC 4122"
        assert req_id & 0xF == 0


@given(snowflakes, snowflakes)
def test_issued_ids_are_ordered_as_their_snowflakes(first: int, second: int) -> None:
    assert (first < second) == (ids.issued_req_id(first) < ids.issued_req_id(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("ab", "", "c"), ("a", "b", "c")),
        (("a", "transfer", "k"), ("a", "credit", "k")),
        (("a", "transfer", "k"), ("b", "transfer", "k")),
        (("a", "transfer", "k"), ("a", "transfer", "K")),
        (("", "transfer", "é"), ("", "transfer", "e\u0301")),
    ],
)
def test_other_parts_give_another_id(first: tuple[str, str, str], second: tuple[str, str, str]) -> None:
    assert ids.keyed_req_id(*first) != ids.keyed_req_id(*second)


@given(
    st.integers(-1, 2**130) | snowflakes.map(ids.issued_req_id) | texts.map(lambda key: ids.keyed_req_id("", "", key))
)
def test_the_shape_is_recognised(number: int) -> None:
    text = f"{number:0128b}"
    has_shape = (
        number >= 0
        and len(text) == 128
        and text[48:52] == "1000"
        and text[64:66] == "10"
        and text[-4:] == "0000"
        and (text[69] == "1" or "1" not in text[70:])
    )
    assert ids.is_req_id(number) == has_shape


@given(snowflakes.map(ids.issued_req_id) | texts.map(lambda key: ids.keyed_req_id("", "", key)), st.integers(0, 127))
def test_one_wrong_bit_of_the_frame_spoils_the_shape(req_id: int, position: int) -> None:
    frame = [*range(4), *range(62, 64), *range(76, 80)]
    if not ids.is_keyed(req_id):
        frame += range(4, 58)
    assume(position in frame)
    assert not ids.is_req_id(req_id ^ 1 << position)


# The second API's decimal names


@given(snowflakes)
def test_an_issued_transfers_request_id_is_its_snowflake(snowflake: int) -> None:
    text = ids.request_id(ids.issued_req_id(snowflake))
    assert text == str(snowflake)
    assert int(text) < 2**63
    assert ids.parse_request_id(text) == ids.issued_req_id(snowflake)


@given(texts)
def test_a_keyed_transfers_request_id_is_the_whole_uuid(key: str) -> None:
    req_id = ids.keyed_req_id("", "transfer", key)
    assert ids.request_id(req_id) == str(req_id)
    assert req_id >= 2**79
    assert ids.parse_request_id(str(req_id)) == req_id


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1\n", "+1", "-1", "01", "00", "1e3", "1.0", "0x1", "1_000", "٣", "²", "a", "null", "9" * 5_000],
)
def test_what_is_no_request_id(text: str) -> None:
    assert ids.parse_request_id(text) is None


@given(st.integers(2**63, 2**128 - 1))
def test_a_large_number_without_the_shape_names_nothing(number: int) -> None:
    assume(not (ids.is_req_id(number) and ids.is_keyed(number)))
    assert ids.parse_request_id(str(number)) is None


def test_an_issued_transfer_has_one_name_only() -> None:
    assert ids.parse_request_id(str(ids.issued_req_id(5))) is None  # its UUID in decimals is no second one


def test_the_smallest_and_the_next_to_largest() -> None:
    assert ids.parse_request_id("0") == ids.issued_req_id(0)
    assert ids.parse_request_id(str(2**63 - 1)) == ids.issued_req_id(2**63 - 1)
    assert ids.parse_request_id(str(2**63)) is None


# Legs


@given(snowflakes, texts)
def test_legs_of_all_transfers_differ(snowflake: int, key: str) -> None:
    transfers = [ids.issued_req_id(snowflake), ids.keyed_req_id("", "transfer", key)]
    legs = [ids.HOLD, *ids.POSTS, *ids.VOIDS]
    assert sorted(legs) == list(range(1, 16))
    assert len({ids.leg_id(req_id, leg) for req_id in transfers for leg in legs}) == 30
    for leg in legs:
        assert ids.leg_id(transfers[1], leg) >> 4 == transfers[1] >> 4


def test_the_first_post_is_2_and_the_first_void_3() -> None:
    assert (ids.HOLD, ids.POSTS[0], ids.POSTS[1], ids.VOIDS[0], ids.VOIDS[1]) == (1, 2, 4, 3, 5)


# Fingerprints

BODY = {"source": "funding", "target": "trading", "user_id": 1, "target_user_id": 2, "asset_id": 3, "amount": 4}


@pytest.mark.parametrize(
    "change",
    [{"source": "spot"}, {"target": "spot"}, {"user_id": 9}, {"target_user_id": 1}, {"asset_id": 4}, {"amount": 3}],
)
def test_every_part_of_the_body_is_in_the_fingerprint(change: dict[str, int | str]) -> None:
    assert ids.fingerprint(**BODY) != ids.fingerprint(**BODY | change)


def test_digits_do_not_move_from_one_field_to_the_next() -> None:
    assert ids.fingerprint(**BODY | {"asset_id": 1, "amount": 11}) != ids.fingerprint(
        **BODY | {"asset_id": 11, "amount": 1}
    )


def test_the_fingerprint_of_every_release_is_this() -> None:
    content = b"funding\0trading\x001\x002\x003\x004"
    assert ids.fingerprint(**BODY) == int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
    assert ids.fingerprint(**BODY) == 0x85B7B62965137E6F
