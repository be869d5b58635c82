import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer_engine.http.bodies import BodyDecoder
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.schema.wire import TransferRequest

DECODER = BodyDecoder(TransferRequest)
GOOD = {"from": "funding", "to": "trading", "user_id": 1, "asset_id": 1, "amount": 1}

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)
values = st.recursive(
    scalars, lambda children: st.lists(children) | st.dictionaries(st.text(max_size=5), children), max_leaves=8
)
names = st.sampled_from([*GOOD, "fee", ""])


def is_good(body: Any) -> bool:
    """An independent word on what a transfer's body is."""
    if not isinstance(body, dict) or body.keys() != GOOD.keys():
        return False
    return all(isinstance(body[name], str) for name in ("from", "to")) and all(
        isinstance(body[name], int) and not isinstance(body[name], bool) for name in ("user_id", "asset_id", "amount")
    )


@settings(deadline=None)
@given(body=st.fixed_dictionaries({}, optional=dict.fromkeys([*GOOD, "fee"], values)) | values)
def test_a_body_is_decoded_exactly_when_it_is_good(body: Any) -> None:
    content = json.dumps(body).encode()
    if is_good(body):
        decoded = DECODER.decode(content)
        assert (decoded.source, decoded.target) == (body["from"], body["to"])
        assert (decoded.user_id, decoded.asset_id, decoded.amount) == (
            body["user_id"],
            body["asset_id"],
            body["amount"],
        )
    else:
        with pytest.raises(Rejected) as caught:
            DECODER.decode(content)
        assert caught.value.code is not ProblemCode.MALFORMED_BODY
        assert caught.value.detail


@settings(deadline=None)
@given(name=names, value=values)
def test_one_wrong_field_is_named(name: str, value: Any) -> None:
    body = {**GOOD, name: value}
    if not is_good(body):
        with pytest.raises(Rejected) as caught:
            DECODER.decode(json.dumps(body).encode())
        assert caught.value.field == name
        assert name in caught.value.detail


@settings(deadline=None)
@given(content=st.binary(max_size=200))
def test_bytes_never_raise_anything_else(content: bytes) -> None:
    try:
        json.loads(content.decode())
        is_json = True
    except ValueError:
        is_json = False
    with pytest.raises(Rejected) as caught:
        DECODER.decode(content)
    if not is_json:
        assert caught.value.code is ProblemCode.MALFORMED_BODY


@settings(deadline=None)
@given(name=st.sampled_from(list(GOOD)))
def test_a_name_given_twice_is_refused(name: str) -> None:
    good = json.dumps(GOOD)
    content = f"{good[:-1]}, {json.dumps(name)}: {json.dumps(GOOD[name])}}}"
    with pytest.raises(Rejected) as caught:
        DECODER.decode(content.encode())
    assert caught.value.code is ProblemCode.DUPLICATE_FIELD
    assert caught.value.field == name


@settings(deadline=None)
@given(text=st.text(max_size=30))
def test_colons_in_a_string_are_no_fields(text: str) -> None:
    assert DECODER.decode(json.dumps({**GOOD, "from": text}).encode()).source == text
