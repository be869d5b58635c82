"""Rate limits: the buckets against a model, the gate, and what both doors say."""

import tracemalloc
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from support.asking import KnownCallers, user
from support.server import ASSETS, running_server
from support.tokens import claims_of, hs256, new_secret
from transfer_engine.engine import Engine, Settings, open_engine
from transfer_engine.http.client_addresses import ClientAddresses
from transfer_engine.http.gate import Gate
from transfer_engine.http.handlers import Api
from transfer_engine.http.identity import NoTokens, Scope
from transfer_engine.http.messages import JSON, Request, Response
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.rate_limit_settings import RateLimitSettings
from transfer_engine.http.rate_limits import WINDOW_S, Buckets, RateLimits

LATER = 4_000_000_000
"""The server's clock is the real one."""

MINE = user(1)
OTHER = user(2)
READER_ONLY = user(3)


# The buckets ----------------------------------------------------------------------------------------------------------


class ExactBucket:
    """A token bucket by the book, in fractions."""

    def __init__(self, per_minute: int) -> None:
        self.size = Fraction(per_minute)
        self.tokens = self.size
        self.at = Fraction(0)

    def take(self, cost: int, at: Fraction) -> bool:
        self.tokens = min(self.size, self.tokens + (at - self.at) * self.size / WINDOW_S)
        self.at = at
        if cost > self.tokens:
            return False
        self.tokens -= cost
        return True


@given(
    per_minute=st.integers(1, 1_000),
    begin=st.integers(0, 1_000_000),
    steps=st.lists(st.tuples(st.integers(0, 90_000), st.integers(1, 1_200)), max_size=30),
)
def test_a_bucket_is_a_token_bucket(per_minute: int, begin: int, steps: list[tuple[int, int]]) -> None:
    buckets = Buckets("user", per_minute, 10)
    exact = ExactBucket(per_minute)
    exact.at = Fraction(begin)
    at_ms = begin * 1000
    for pause_ms, cost in steps:
        at_ms += pause_ms
        now = at_ms / 1000
        is_there = buckets.wait_s("key", cost, now) == 0
        missing = cost - min(exact.size, exact.tokens + (Fraction(at_ms, 1000) - exact.at) * exact.size / WINDOW_S)
        assert is_there == exact.take(cost, Fraction(at_ms, 1000)) or abs(missing) < Fraction(1, 100)
        assert (buckets.take("key", cost, now) == 0) == is_there
        if is_there:
            exact.tokens = max(exact.tokens, Fraction(0))
        left, full_in_s = buckets.left("key", now)
        assert abs(left - exact.tokens) <= 1
        assert 0 <= left <= per_minute
        assert abs(full_in_s - (exact.size - exact.tokens) * WINDOW_S / exact.size) <= 1 + Fraction(
            WINDOW_S, per_minute
        )


def test_tokens_come_back_evenly_and_all_at_last() -> None:
    buckets = Buckets("user", 60, 10)
    for _ in range(60):
        assert buckets.take("a", 1, 100.0) == 0
    assert buckets.take("a", 1, 100.0) == pytest.approx(1)
    assert buckets.wait_s("a", 1, 100.0) == pytest.approx(1)
    assert buckets.left("a", 100.0) == (0, 60)
    assert buckets.left("a", 101.0) == (1, 59)
    assert buckets.left("a", 1_000.0) == buckets.left("b", 100.0) == (60, 0)


def test_buckets_are_bounded_and_who_is_refused_is_not_forgotten_for_it() -> None:
    buckets = Buckets("address", 2, 3)
    buckets.take("flood", 2, 0.0)
    for number in range(10):
        assert buckets.take("flood", 1, 0.0) > 0
        buckets.take(f"other {number}", 1, 0.0)
        assert len(buckets) <= 3
    assert buckets.wait_s("flood", 1, 0.0) > 0


# Addresses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        ("203.0.113.9", (), "203.0.113.9"),
        ("203.0.113.9", (b"198.51.100.1",), "203.0.113.9"),
        ("10.0.0.7", (), "10.0.0.7"),
        ("10.0.0.7", (b"198.51.100.1",), "198.51.100.1"),
        ("10.0.0.7", (b"1.1.1.1, 198.51.100.1",), "198.51.100.1"),
        ("10.0.0.7", (b"1.1.1.1", b"198.51.100.1"), "198.51.100.1"),
        ("10.0.0.7", (b"1.1.1.1, 198.51.100.1, 10.0.0.8",), "198.51.100.1"),
        ("10.0.0.7", (b"10.0.0.9, 10.0.0.8",), "10.0.0.9"),
        ("10.0.0.7", (b"198.51.100.1, nonsense",), "10.0.0.7"),
        ("10.0.0.7", (b"198.51.100.1, nonsense, 10.0.0.8",), "10.0.0.8"),
        ("10.0.0.7", (b"198.51.100.1, ",), "10.0.0.7"),
        ("10.0.0.7", (b"198.51.100.1:4711",), "198.51.100.1"),
        ("10.0.0.7", (b"[2001:db8::1]:4711",), "2001:db8::1"),
        ("10.0.0.7", (b"198.51.100.1, " + b"10.0.0.8," * 400 + b"10.0.0.8",), "10.0.0.8"),
        ("::ffff:10.0.0.7", (b"::ffff:198.51.100.1",), "198.51.100.1"),
        ("fd00::1", (b"2001:db8::1",), "2001:db8::1"),
        ("fe80::1%eth0", (), "fe80::1"),
        ("", (b"198.51.100.1",), ""),
        ("10.0.0.7", ("\u0661\u0660.0.0.1".encode(), b"\xff\xfe"), "10.0.0.7"),
    ],
)
def test_whose_address_is_believed(peer: str, forwarded_for: tuple[bytes, ...], expected: str) -> None:
    addresses = ClientAddresses(["10.0.0.0/8", "fd00::/8"])
    assert addresses.find(peer, forwarded_for) == expected


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert ClientAddresses().find("10.0.0.7", (b"198.51.100.1",)) == "10.0.0.7"


@pytest.mark.parametrize("trusted", [(), ("198.51.100.1",)])
def test_headers_are_not_kept(trusted: tuple[str, ...]) -> None:
    addresses = ClientAddresses(trusted)
    tracemalloc.start()
    for number in range(200):
        hops = b"192.0.2.1, " * 1_000 + b"203.0.113.%d" % number
        expected = f"203.0.113.{number}" if trusted else "198.51.100.1"
        assert addresses.bucket_of("198.51.100.1", (hops,)) == expected
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 200_000


def test_an_ipv6_subscriber_has_one_bucket() -> None:
    bucket_of = ClientAddresses().bucket_of
    assert bucket_of("2001:db8:1:2::1", ()) == bucket_of("2001:db8:1:2:ffff:ffff:ffff:ffff", ()) == "2001:db8:1:2::/64"
    assert bucket_of("2001:db8:1:3::1", ()) != bucket_of("2001:db8:1:2::1", ())
    assert bucket_of("::ffff:198.51.100.1", ()) == "198.51.100.1"


@pytest.mark.parametrize("text", ["", "nonsense", "10.0.0.1/8", "10.0.0.0/33", "localhost", "10.0.0.1:80"])
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no address or network"):
        ClientAddresses([text])


# The gate -------------------------------------------------------------------------------------------------------------


def limited(*, tokens: bool = True, trusted: tuple[str, ...] = (), **settings: Any) -> Gate:
    limits = RateLimits(RateLimitSettings(**settings), ClientAddresses(trusted))
    return Gate(KnownCallers(MINE, OTHER, READER_ONLY) if tokens else NoTokens(), limits)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with open_engine(Settings(data_dir=tmp_path)) as running:
        yield running


class Door:
    """Asks an API whose gate has limits."""

    def __init__(self, engine: Engine, gate: Gate) -> None:
        self.api = Api(engine.settings, version="1", gate=gate)
        self.api.serve(engine)

    async def get(self, path: str, subject: str = "", peer: str = "198.51.100.1", **request: Any) -> Response:
        authorization = (subject.encode(),) if subject else ()
        asked = Request("GET", path, authorization=authorization, peer=peer, host=b"127.0.0.1", **request)
        return await self.api.answer(asked)


def rate(response: Response) -> tuple[bytes | None, bytes | None]:
    headers = dict(response.headers)
    return headers.get(b"ratelimit-policy"), headers.get(b"ratelimit")


async def test_every_answer_tells_what_is_left(engine: Engine) -> None:
    door = Door(engine, limited(per_user_per_minute=60, per_address_per_minute=600))
    policy = b'"user";q=60;w=60, "address";q=600;w=60'
    answers = [
        (await door.get("/api/v1/balances/1", "1"), 200, b'"user";r=59;t=1, "address";r=599;t=1'),
        (await door.get("/api/v1/balances/2", "1"), 404, b'"user";r=58;t=2, "address";r=598;t=1'),
        (await door.get("/api/v1/admin/statistics", "1"), 403, b'"user";r=57;t=3, "address";r=597;t=1'),
        (await door.get("/api/v1/balances/1"), 401, b'"address";r=596;t=1'),
        (await door.get("/api/v1/assets"), 200, b'"address";r=595;t=1'),
        (await door.get("/nowhere"), 404, b'"address";r=594;t=1'),
        (await door.get("/api/v1/transfer"), 405, b'"address";r=593;t=1'),
        (await door.get("/api/v1/balances/2", "2"), 200, b'"user";r=59;t=1, "address";r=592;t=1'),
    ]
    for answer, status, left in answers:
        assert (answer.status, *rate(answer)) == (status, policy, left)
    for path in ("/health", "/ready"):
        assert rate(await door.get(path)) == (None, None)


@pytest.mark.usefixtures("autojump_clock")
async def test_too_often_is_a_429_that_says_when_to_come_again(autojump_clock: MockClock) -> None:
    gate = limited(per_user_per_minute=2)
    request = Request("GET", "/", authorization=(b"1",), host=b"127.0.0.1")
    for _ in range(2):
        await gate.enter(request, Scope.READ)
    with pytest.raises(Rejected) as refused:
        await gate.enter(request, Scope.READ)
    assert refused.value.code is ProblemCode.RATE_LIMITED
    assert dict(refused.value.headers) == {b"retry-after": b"30"}
    assert refused.value.detail == "the rate limit is 2 in a minute for one user: try again in 30 s"
    await trio.sleep(30)
    await gate.enter(request, Scope.READ)
    with pytest.raises(Rejected):
        await gate.enter(request, Scope.READ)
    await gate.enter(Request("GET", "/", authorization=(b"2",), host=b"127.0.0.1"), Scope.READ)


async def test_the_answer_of_who_asks_too_often(engine: Engine) -> None:
    door = Door(engine, limited(per_user_per_minute=1, per_address_per_minute=5))
    await door.get("/api/v1/balances/1", "1")
    refused = await door.get("/api/v1/balances/1", "1")
    assert (refused.status, refused.media_type) == (429, b"application/problem+json")
    assert b'"retryable":true' in refused.body
    assert dict(refused.headers)[b"retry-after"] == b"60"
    assert rate(refused)[1] == b'"user";r=0;t=60, "address";r=3;t=24'
    for _ in range(3):
        assert (await door.get("/api/v1/balances/1", "nobody's")).status == 401
    assert (await door.get("/api/v1/balances/2", "2")).status == 429, "what is refused counts for the address, too"
    assert (await door.get("/api/v1/balances/2", "2", peer="198.51.100.2")).status == 200
    assert (await door.get("/health")).status == 200


async def test_without_tokens_only_addresses_are_counted(engine: Engine) -> None:
    door = Door(engine, limited(tokens=False, per_user_per_minute=1, per_address_per_minute=3))
    assert [(await door.get("/api/v1/balances/1")).status for _ in range(4)] == [200, 200, 200, 429]


async def test_the_header_of_a_client_makes_no_new_address(engine: Engine) -> None:
    door = Door(engine, limited(per_address_per_minute=2, trusted=("10.0.0.0/8",)))
    spoofed = [
        await door.get("/api/v1/assets", peer="198.51.100.1", forwarded_for=(b"192.0.2.%d" % number,))
        for number in range(4)
    ]
    assert [answer.status for answer in spoofed] == [200, 200, 429, 429]
    behind = [
        await door.get("/api/v1/assets", peer="10.0.0.1", forwarded_for=(b"192.0.2.%d, 203.0.113.5" % number,))
        for number in range(4)
    ]
    assert [answer.status for answer in behind] == [200, 200, 429, 429]


@pytest.mark.usefixtures("autojump_clock")
async def test_a_batch_counts_as_its_transfers_and_all_of_it_or_nothing() -> None:
    gate = limited(per_user_per_minute=10, per_address_per_minute=100)
    request = Request("POST", "/", authorization=(b"1",), peer="198.51.100.1", host=b"127.0.0.1")
    gate.charge(request, MINE, 8)
    with pytest.raises(Rejected) as refused:
        gate.charge(request, MINE, 3)
    assert refused.value.code is ProblemCode.RATE_LIMITED
    assert gate.headers(request, MINE)[1][1] == b'"user";r=2;t=48, "address";r=92;t=5'
    gate.charge(request, MINE, 2)
    with pytest.raises(Rejected) as refused:
        gate.charge(request, OTHER, 11)
    assert (refused.value.code, refused.value.headers) == (ProblemCode.EXCEEDS_RATE_LIMIT, ())
    assert refused.value.detail == (
        "11 at once are more than the rate limit ever allows, 10 in a minute for one user: send fewer together"
    )


async def test_a_batch_of_the_api_is_charged_to_its_sender(engine: Engine) -> None:
    door = Door(engine, limited(per_user_per_minute=5))
    item = b'{"from":"funding","to":"trading","user_id":1,"asset_id":1,"amount":1000000}'

    def batch(count: int) -> Request:
        body = b'{"transfers":[' + b",".join([item] * count) + b"]}"
        return Request("POST", "/api/v1/transfers/batch", body, JSON, authorization=(b"1",), host=b"127.0.0.1")

    answers = [await door.api.answer(batch(count)) for count in (3, 3, 2, 6)]
    assert [answer.status for answer in answers] == [200, 429, 429, 429]
    assert rate(answers[0])[1] == b'"user";r=2;t=36'
    never = await Door(engine, limited(per_user_per_minute=5)).api.answer(batch(6))
    assert (never.status, b"6 at once are more than the rate limit ever allows" in never.body) == (422, True)


def test_off_is_off() -> None:
    assert limited().rate_limits is None


# The doors ------------------------------------------------------------------------------------------------------------


def test_both_doors_count_the_same_buckets(tmp_path: Path) -> None:
    secret = new_secret()
    (tmp_path / "secret").write_bytes(secret)
    config = {
        "assets": ASSETS,
        "tokens": {"secret_file": str(tmp_path / "secret")},
        "rate_limits": {"per_user_per_minute": 4, "per_address_per_minute": 10},
        "trusted_proxies": ["127.0.0.1"],
    }
    token = {"Authorization": f"Bearer {hs256(claims_of('7', exp=LATER), secret)}"}
    with running_server(tmp_path, config=config) as server:
        urls = (server.url, server.express_url)
        answers: list[httpx.Response] = []
        with httpx.Client(trust_env=False) as client:
            for number in range(5):
                headers = {**token, "X-Forwarded-For": "192.0.2.1, 198.51.100.1"}
                answers.append(client.get(f"{urls[number % 2]}/api/v1/balances/7", headers=headers))
            for url in urls:
                answers.append(client.get(f"{url}/nowhere", headers={"X-Forwarded-For": "198.51.100.1"}))
                answers.append(client.get(f"{url}/api/v1/balances/7", headers={"X-Forwarded-For": "198.51.100.2"}))
            too_large = [
                client.post(
                    f"{url}/api/v1/transfer", content=b" " * 100_000, headers={"X-Forwarded-For": "198.51.100.1"}
                )
                for url in urls
            ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429, 404, 401, 404, 401]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"user";q=4;w=60, "address";q=10;w=60'}
    left = [answer.headers["ratelimit"].split(";")[1] for answer in answers[:5]]
    assert left == ["r=3", "r=2", "r=1", "r=0", "r=0"]
    assert '"address";r=4;' in answers[5].headers["ratelimit"]
    assert '"address";r=3;' in answers[7].headers["ratelimit"]
    assert 1 <= int(answers[4].headers["retry-after"]) <= 15
    assert [answer.status_code for answer in too_large] == [413, 413]
    assert [answer.headers["ratelimit"].split(";")[1] for answer in too_large] == ["r=2", "r=1"]
