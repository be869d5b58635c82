"""Query strings: what is well-formed comes through as it was meant, and everything else is refused by name."""

from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.asking import Asker, user
from support.engines import World, in_a_loop
from support.record_stores import record
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.queries import QUERY_BYTES_MOST, parse_query

NAMES = ("asset", "from", "start_time", "naïve")
HISTORY = "/api/v1/user/internal_transfer/history"
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
raw = st.binary(max_size=30) | st.text(alphabet="%&=+0123456789abcdefASST_imetrlucso,", max_size=40).map(str.encode)


@settings(deadline=None)
@given(parameters=st.dictionaries(st.sampled_from(NAMES), text), plus=st.booleans())
def test_what_is_encoded_comes_back(parameters: dict[str, str], plus: bool) -> None:
    query = urlencode(parameters) if plus else "&".join(f"{quote(k, '')}={quote(v, '')}" for k, v in parameters.items())
    assert parse_query(query.encode(), NAMES) == parameters


@settings(deadline=None, max_examples=400)
@given(query=raw)
def test_no_query_is_more_than_refused(query: bytes) -> None:
    try:
        parameters = parse_query(query, NAMES)
    except Rejected as rejected:
        assert rejected.code in {  # noqa: PT017  either outcome is right
            ProblemCode.UNKNOWN_PARAMETER,
            ProblemCode.DUPLICATE_PARAMETER,
            ProblemCode.INVALID_PARAMETER,
        }
    else:
        assert set(parameters) <= set(NAMES)


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        (b"asset=a&asset=a", ProblemCode.DUPLICATE_PARAMETER, "asset"),
        (b"asset=a&%61sset=b", ProblemCode.DUPLICATE_PARAMETER, "asset"),
        (b"asset=%", ProblemCode.INVALID_PARAMETER, "asset"),
        (b"asset=%4", ProblemCode.INVALID_PARAMETER, "asset"),
        (b"asset=%u0041", ProblemCode.INVALID_PARAMETER, "asset"),
        (b"asset=%C0%80", ProblemCode.INVALID_PARAMETER, "asset"),
        (b"asset=%ED%A0%80", ProblemCode.INVALID_PARAMETER, "asset"),
        (b"%ff=a", ProblemCode.INVALID_PARAMETER, "a parameter's name"),
        (b"ASSET=a", ProblemCode.UNKNOWN_PARAMETER, "ASSET"),
        (b"asset[]=a", ProblemCode.UNKNOWN_PARAMETER, "asset[]"),
        (b"asset=a;from=b&;", ProblemCode.UNKNOWN_PARAMETER, ";"),
        (b"x" * 200 + b"=1", ProblemCode.UNKNOWN_PARAMETER, "x" * 64),
        (b"asset=" + b"a" * QUERY_BYTES_MOST, ProblemCode.INVALID_PARAMETER, None),
    ],
)
def test_abuse_is_told_by_name(query: bytes, code: ProblemCode, field: str | None) -> None:
    with pytest.raises(Rejected) as caught:
        parse_query(query, NAMES)
    assert (caught.value.code, caught.value.field) == (code, field)


def test_an_empty_value_is_a_value() -> None:
    assert parse_query(b"", NAMES) == {}
    assert parse_query(b"asset=&from", NAMES) == {"asset": "", "from": ""}
    assert parse_query(b"asset=a=b;c", NAMES) == {"asset": "a=b;c"}


values = raw | st.sampled_from([b"USDT", b"funding", b"success,failed", b"1795285759256", b"5", b"1", b"external"])
names = st.sampled_from(
    [b"asset", b"from", b"to", b"status", b"start_time", b"end_time", b"limit", b"cursor", b"user_id", b"x"]
)


@settings(deadline=None, max_examples=60)
@given(queries=st.lists(st.lists(st.tuples(names, values), max_size=4) | raw, min_size=5, max_size=20))
def test_a_history_answers_every_query(queries: list[Any]) -> None:
    async def program() -> None:
        world = World()
        await world.records.write([], [record(number, user_id=1) for number in range(30)])
        async with world.engine() as engine:
            asker = Asker(engine, user(1))
            for one in queries:
                query = one if isinstance(one, bytes) else b"&".join(name + b"=" + value for name, value in one)
                answer = await asker.ask("GET", HISTORY, caller=user(1), query=query)
                if answer.status != 200:
                    assert answer.problem[0] in {400, 404, 422}

    in_a_loop(program)
