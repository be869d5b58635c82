"""The parser by itself: however the bytes are cut, the same requests come out, and what is none never raises."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from transfer_engine.http.express_requests import FEED_BYTES_MOST, RequestParser
from transfer_engine.http.messages import Request

from .test_doors import chunked, get, post, transfer

BODY_BYTES_MOST = 10_000
CHUNKED = b"POST /c HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"x" * 100, 7)
WHOLE = [
    get(b"/health?x=1", b"Accept: application/json", b"Origin: http://localhost"),
    post(transfer(), b"Idempotency-Key: a", b"Authorization: Bearer x", b"X-Forwarded-For: 1.2.3.4"),
    CHUNKED,
    get(b"/api/v1/balances/%31", b"traceparent: 00-a-b-01"),
]


def parser() -> RequestParser:
    return RequestParser("127.0.0.1", BODY_BYTES_MOST, lambda _path: BODY_BYTES_MOST)


def parse(pieces: list[bytes]) -> tuple[list[Request], RequestParser]:
    parsing = parser()
    for piece in pieces:
        for start in range(0, len(piece), FEED_BYTES_MOST):
            parsing.feed(piece[start : start + FEED_BYTES_MOST])
            if parsing.refused is not None or parsing.upgrade is not None:
                return parsing.requests, parsing
    return parsing.requests, parsing


def test_a_request_has_what_handlers_need() -> None:
    requests, parsing = parse(WHOLE)
    assert parsing.is_between
    assert requests[0] == Request(
        "GET",
        "/health",
        query=b"x=1",
        accept=b"application/json",
        peer="127.0.0.1",
        host=b"localhost",
        origin=b"http://localhost",
    )
    assert requests[1] == Request(
        "POST",
        "/api/v1/transfer",
        body=transfer(),
        content_type=b"application/json",
        idempotency_keys=(b"a",),
        authorization=(b"Bearer x",),
        forwarded_for=(b"1.2.3.4",),
        peer="127.0.0.1",
        host=b"localhost",
    )
    assert requests[2].body == b"x" * 100
    assert requests[3].path == "/api/v1/balances/1"
    assert requests[3].traceparent == b"00-a-b-01"


@given(cuts=st.lists(st.integers(0, sum(map(len, WHOLE))), max_size=40))
def test_where_the_bytes_are_cut_makes_no_difference(cuts: list[int]) -> None:
    data = b"".join(WHOLE)
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert parse(pieces)[0] == parse([data])[0]


def test_byte_by_byte() -> None:
    data = b"".join(WHOLE)
    assert parse([data[index : index + 1] for index in range(len(data))])[0] == parse(WHOLE)[0]


def test_a_websocket_leaves_with_all_that_came_behind() -> None:
    head = get(
        b"/api/v1/ws?x=1",
        b"Upgrade: websocket",
        b"Connection: keep-alive, Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    requests, parsing = parse([get(b"/health") + head + b"\x81\x85frames"])
    assert [request.path for request in requests] == ["/health"]
    assert parsing.upgrade is not None
    assert parsing.upgrade.request.path == "/api/v1/ws"
    assert parsing.upgrade.protocols == (b"websocket",)
    assert parsing.upgrade.rest == b"\x81\x85frames"
    assert dict(parsing.upgrade.headers) == {
        b"sec-websocket-version": b"13",
        b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==",
    }


@given(st.data())
def test_mutated_requests_are_requests_or_refused(data: st.DataObject) -> None:
    mutated = bytearray(b"".join(data.draw(st.lists(st.sampled_from(WHOLE), min_size=1, max_size=3))))
    for _ in range(data.draw(st.integers(1, 5))):
        index = data.draw(st.integers(0, len(mutated) - 1))
        mutated[index : index + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if not mutated:
            return
    requests, parsing = parse([bytes(mutated)])
    for request in requests:
        assert len(request.body) <= BODY_BYTES_MOST
    if parsing.refused is not None:
        assert parsing.refused.detail


@given(st.binary(max_size=20_000))
def test_random_bytes_never_raise(data: bytes) -> None:
    requests, _ = parse([data])
    assert requests == [] or data.strip(b"\r\n")
