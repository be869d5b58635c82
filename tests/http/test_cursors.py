"""Cursors: what was sealed comes back, and nothing else is taken for it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer_engine.http.cursors import Cursor, decode_cursor, encode_cursor
from transfer_engine.http.problems import ProblemCode, Rejected

times = st.integers(0, 2**63 - 1)
cursors = st.builds(Cursor, created_at=times, req_id=st.integers(0, 2**128 - 1), oldest_ms=times)
scopes = st.binary(max_size=40)


def is_refused(text: str, scope: bytes) -> bool:
    with pytest.raises(Rejected) as caught:
        decode_cursor(text, scope)
    return (caught.value.code, caught.value.field) == (ProblemCode.INVALID_CURSOR, "cursor")


@settings(deadline=None)
@given(cursor=cursors, scope=scopes)
def test_a_cursor_comes_back_as_it_was(cursor: Cursor, scope: bytes) -> None:
    text = encode_cursor(cursor, scope)
    assert decode_cursor(text, scope) == cursor
    assert text.isascii()
    assert text.replace("-", "").replace("_", "").isalnum()


@settings(deadline=None)
@given(cursor=cursors, scope=scopes, other=scopes)
def test_a_cursor_is_good_for_its_own_user_and_filters_alone(cursor: Cursor, scope: bytes, other: bytes) -> None:
    if scope != other:
        assert is_refused(encode_cursor(cursor, scope), other)


@settings(deadline=None, max_examples=300)
@given(cursor=cursors, scope=scopes, data=st.data())
def test_whatever_is_changed_is_refused(cursor: Cursor, scope: bytes, data: st.DataObject) -> None:
    text = encode_cursor(cursor, scope)
    at = data.draw(st.integers(0, len(text)))
    change = data.draw(st.text(max_size=3))
    until = data.draw(st.integers(at, min(at + 3, len(text))))
    changed = text[:at] + change + text[until:]
    if changed != text:
        assert is_refused(changed, scope)


@settings(deadline=None, max_examples=300)
@given(text=st.text(max_size=80) | st.from_regex(r"[A-Za-z0-9_-]{64}", fullmatch=True), scope=scopes)
def test_what_is_made_up_is_refused(text: str, scope: bytes) -> None:
    assert is_refused(text, scope)


def test_a_place_that_no_store_can_be_asked_for_is_refused_however_it_is_sealed() -> None:
    for cursor in (Cursor(2**63, 0, 0), Cursor(0, 0, 2**63)):
        assert is_refused(encode_cursor(cursor, b""), b"")


def test_the_form_of_cursors_is_stable_over_restarts_and_engines() -> None:
    text = "AQAAAaH_XrUYBvAanIuAgACAAAAAAAAAAAAAAaHbUjEdsMWpHKnFVR96q8VJp6mW"
    cursor = Cursor(1_795_285_759_256, 0x06F01A9C8B80_8000_8000_000000000000, 1_794_680_959_261)
    assert encode_cursor(cursor, b"user 1") == text
