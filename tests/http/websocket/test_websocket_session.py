"""Sessions over a connection in memory: requests, answers, tokens, bounds, ends."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from support.engines import FREEZING, World
from support.websocket_pair import Client, PairedConnection, Tokens, client_of, websockets_of
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.websocket_connection import CloseCode, MessageRefused

pytestmark = pytest.mark.usefixtures("jumping_clock")


@asynccontextmanager
async def connected(
    *, tokens: Tokens | None = None, bearer: str | None = None, **settings: Any
) -> AsyncIterator[Client]:
    world = World()
    await world.fund(1, 2, amount=1_000)
    async with world.engine() as engine:
        websockets = websockets_of(engine, tokens=tokens, **settings)
        async with client_of(websockets, bearer=bearer) as client:
            client.world = world
            yield client


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with connected() as client:
        yield client


def error_of(answer: Any) -> tuple[Any, str, str | None]:
    assert answer["ok"] is False
    return answer["id"], answer["error"]["code"], answer["error"].get("field")


@pytest.mark.parametrize("is_binary", [False, True])
async def test_a_transfer_is_answered_in_the_kind_of_its_frame(client: Client, is_binary: bool) -> None:
    client.is_binary = is_binary
    client.transfer("a")
    answer = await client.hear()
    data = answer.pop("data")
    assert answer == {"id": "a", "op": "transfer", "ok": True}
    assert (data["status"], data["message"], data["replayed"]) == ("committed", None, False)
    found = await client.request("get", id=2, req_id=data["req_id"])
    assert found["data"]["state"] == "committed"
    assert (found["data"]["source"], found["data"]["to_user_id"]) == ("funding", 1)
    balances = await client.request("balances", id=3, user_id=1)
    assert balances["data"]["balances"][:2] == [
        {"account": "funding", "asset_id": 1, "available": 990, "frozen": 0},
        {"account": "trading", "asset_id": 1, "available": 10, "frozen": 0},
    ]
    assert await client.request("ping", id=-4) == {"id": -4, "op": "ping", "ok": True}


async def test_answers_come_when_they_are_known_not_in_turn(client: Client) -> None:
    client.world.wire.down.add(FREEZING)
    client.transfer("slow", to=FREEZING)
    client.transfer("fast")
    client.ask("ping", id="now")
    heard = [await client.hear() for _ in range(3)]
    assert [answer["id"] for answer in heard] == ["now", "fast", "slow"]
    assert heard[2]["data"]["status"] == "pending"


async def test_the_same_key_is_one_transfer(client: Client) -> None:
    for call_id in range(64):
        client.transfer(call_id, idempotency_key="k")
    client.transfer("other", idempotency_key="k", amount=11)
    answers = {answer["id"]: answer for answer in [await client.hear() for _ in range(65)]}
    assert error_of(answers.pop("other"))[1:] == ("key_reused", "idempotency_key")
    assert len({answer["data"]["req_id"] for answer in answers.values()}) == 1
    assert sorted(answer["data"]["replayed"] for answer in answers.values()) == [False] + 63 * [True]
    client.transfer("later", idempotency_key="k")
    assert (await client.hear())["data"]["replayed"] is True


async def test_a_refusal_by_the_ledger_is_a_result(client: Client) -> None:
    client.transfer(1, amount=5_000)
    answer = await client.hear()
    assert answer["ok"] is True
    assert answer["data"]["status"] == "failed"
    assert answer["data"]["message"]


@pytest.mark.parametrize("is_binary", [False, True])
async def test_one_bad_item_of_a_batch_does_not_spoil_the_rest(client: Client, is_binary: bool) -> None:
    client.is_binary = is_binary
    good = {"from": "funding", "to": "trading", "user_id": 1, "asset_id": 1, "amount": 10}
    transfers: list[Any] = [
        good,
        good | {"amount": "10"},
        good | {"amount": 0},
        good | {"colour": "red"},
        17,
        {key: value for key, value in good.items() if key != "to"},
        good | {"user_id": 2, "idempotency_key": "x"},
    ]
    answer = await client.request("batch", id=1, transfers=transfers)
    results = answer["data"]["results"]
    assert [result["ok"] for result in results] == [True, False, False, False, False, False, True]
    assert [(one["error"]["code"], one["error"].get("field")) for one in results[1:6]] == [
        ("invalid_field", "amount"),
        ("amount_not_positive", "amount"),
        ("unknown_field", "colour"),
        ("invalid_field", None),
        ("missing_field", "to"),
    ]
    assert all(one["error"]["status"] == "failed" for one in results[1:6])


async def test_batches_are_bounded(client: Client) -> None:
    assert error_of(await client.request("batch", id=1, transfers=[])) == (1, "batch_empty", "transfers")
    answer = await client.request("batch", id=2, transfers=[{}] * 1_001)
    assert error_of(answer) == (2, "batch_too_large", "transfers")


@pytest.mark.parametrize(
    ("message", "call_id", "code", "field"),
    [
        ("", None, "malformed_body", None),
        ("{", None, "malformed_body", None),
        ("[]", None, "malformed_body", None),
        ('"op"', None, "malformed_body", None),
        ("{}", None, "unknown_op", "op"),
        ('{"id":7}', 7, "unknown_op", "op"),
        ('{"op":"drop","id":"x"}', "x", "unknown_op", "op"),
        ('{"op":["ping"],"id":"x"}', "x", "unknown_op", "op"),
        ('{"op":"ping"}', None, "invalid_field", "id"),
        ('{"op":"ping","id":null}', None, "invalid_field", "id"),
        ('{"op":"ping","id":1.5}', None, "invalid_field", "id"),
        ('{"op":"ping","id":9223372036854775808}', None, "invalid_field", "id"),
        ('{"op":"ping","id":' + "9" * 5_000 + "}", None, "malformed_body", None),
        ('{"op":"ping","id":"' + "x" * 65 + '"}', None, "invalid_field", "id"),
        ('{"op":"ping","id":1,"id":1}', 1, "duplicate_field", "id"),
        ('{"op":"ping","op":"ping","id":1}', 1, "duplicate_field", "op"),
        ('{"op":"ping","id":1,"i\\u0064":1}', 1, "duplicate_field", "id"),
        ('{"op":"ping","id":1,"more":1}', 1, "unknown_field", "more"),
        ('{"op":"get","id":1}', 1, "missing_field", "req_id"),
        ('{"op":"get","id":1,"req_id":"1"}', 1, "invalid_req_id", "req_id"),
        ('{"op":"transfer","id":1}', 1, "missing_field", "from"),
        (
            '{"op":"transfer","id":1,"from":"funding","to":"trading","user_id":1,"asset_id":1,"amount":1,"amount":2}',
            1,
            "duplicate_field",
            "amount",
        ),
        (
            '{"op":"transfer","id":1,"from":"funding","to":"trading","user_id":1,"asset_id":1,"amount":1.0}',
            1,
            "invalid_field",
            "amount",
        ),
        (
            '{"op":"transfer","id":1,"from":"funding","to":"trading","asset_id":1,"amount":1}',
            1,
            "missing_field",
            "user_id",
        ),
        (
            '{"op":"transfer","id":1,"from":"nowhere","to":"trading","user_id":1,"asset_id":1,"amount":1}',
            1,
            "unknown_service",
            "from",
        ),
        ('{"op":"subscribe","id":1,"user_id":1,"stream":"x"}', 1, "missing_field", "after"),
        ('{"op":"subscribe","id":1,"user_id":0}', 1, "invalid_user_id", "user_id"),
        ("[" * 100_000, None, "malformed_body", None),
        ('{"op":"ping","id":1,"x":' + "[" * 100_000 + "]" * 100_000 + "}", None, "malformed_body", None),
    ],
)
async def test_a_bad_request_has_an_answer_and_no_other_consequence(
    client: Client, message: str, call_id: Any, code: str, field: str | None
) -> None:
    client.connection.say(message)
    assert error_of(await client.hear()) == (call_id, code, field)
    assert (await client.request("ping", id=1))["ok"]


@pytest.mark.parametrize(
    ("message", "call_id", "code"),
    [
        (b"", None, "malformed_body"),
        (b"\xc1", None, "malformed_body"),
        (msgspec.msgpack.encode({"op": "ping", "id": 1})[:-1], None, "malformed_body"),
        (msgspec.msgpack.encode([1]), None, "malformed_body"),
        (msgspec.msgpack.encode({"op": "ping", "id": b"x"}), None, "invalid_field"),
        (msgspec.msgpack.encode({"op": "ping", "id": 1, "more": b"x"}), 1, "unknown_field"),
        (msgspec.msgpack.encode({"op": "get", "id": 1, "req_id": 5}), 1, "invalid_field"),
        (b"\x91" * 100_000, None, "malformed_body"),
    ],
)
async def test_a_bad_binary_request_has_an_answer_in_messagepack(
    client: Client, message: bytes, call_id: Any, code: str
) -> None:
    client.is_binary = True
    client.connection.say(message)
    assert error_of(await client.hear())[:2] == (call_id, code)
    assert isinstance(client.raw[-1], bytes)
    assert (await client.request("ping", id=1))["ok"]


async def test_too_many_that_are_no_requests_end_the_connection() -> None:
    async with connected(faults_most=5) as client:
        for _ in range(4):
            client.connection.say("?")
        client.ask("ping", id=1)
        for _ in range(10):
            client.connection.say("?")
        heard = await client.hear_all()
        assert [answer.get("id", "last") for answer in heard] == [None] * 4 + [1] + [None] * 5 + ["last"]
        assert client.connection.closed_by_server == (CloseCode.FLOOD, "5 messages in a row were no requests")


async def test_what_is_above_the_bound_of_unanswered_requests_is_refused_at_once() -> None:
    async with connected(in_flight_most=4) as client:
        client.world.wire.down.add("ledger")
        for call_id in range(6):
            client.transfer(call_id)
        assert error_of(await client.hear())[:2] == (4, "overloaded")
        refused = await client.hear()
        assert error_of(refused)[:2] == (5, "overloaded")
        assert refused["error"]["retryable"] is True
        assert refused["error"]["retry_after_s"] == 1
        assert (await client.hear())["data"]["status"] == "pending"


async def test_a_flood_above_the_bound_ends_the_connection() -> None:
    async with connected(in_flight_most=2) as client:
        client.world.wire.down.add("ledger")
        for call_id in range(100):
            client.transfer(call_id)
        heard = await client.hear_all()
        assert len(heard) == 16 + 1 + 2, "refused, the notice, and those that were in flight"
        assert client.connection.closed_by_server is not None
        assert client.connection.closed_by_server[0] is CloseCode.FLOOD


@pytest.mark.parametrize("code", [CloseCode.TOO_LARGE, CloseCode.BAD_UTF8, CloseCode.PROTOCOL_ERROR])
async def test_what_a_door_refuses_closes_the_connection_behind_the_last_answers(
    client: Client, code: CloseCode
) -> None:
    client.transfer(1)
    client.break_rules(MessageRefused(code, "no"))
    heard = await client.hear_all()
    assert [message["op"] for message in heard] == ["closing", "transfer"]
    assert client.connection.closed_by_server == (code, "no")


async def test_a_client_that_leaves_loses_nothing(client: Client) -> None:
    client.transfer(1, idempotency_key="k")
    client.leave()
    await client.ended.wait()
    async with client_of(client.websockets) as again:
        again.transfer(1, idempotency_key="k")
        assert (await again.hear())["data"] | {"req_id": ""} == {
            "req_id": "",
            "status": "committed",
            "message": None,
            "replayed": True,
        }


# Streams.


async def test_a_subscription_is_a_snapshot_then_events(client: Client) -> None:
    subscribed = await client.request("subscribe", id=1, user_id=1)
    stream = subscribed["data"]["stream"]
    assert subscribed["data"] == {"stream": stream, "user_id": 1, "resumed": False}
    snapshot = await client.hear()
    assert snapshot == {
        "op": "snapshot",
        "stream": stream,
        "seq": 0,
        "user_id": 1,
        "balances": [{"account": "funding", "asset_id": 1, "available": 1_000, "frozen": 0}],
        "transfers": [],
    }
    client.transfer("t")
    answer, ended, funding, trading = [await client.hear() for _ in range(4)]
    req_id = answer["data"]["req_id"]
    assert [(event["op"], event["type"], event["seq"], event["req_id"]) for event in (ended, funding, trading)] == [
        ("event", "transfer", 1, req_id),
        ("event", "balance", 2, req_id),
        ("event", "balance", 3, req_id),
    ]
    assert ended["transfer"]["state"] == "committed"
    assert trading["balance"] == {"account": "trading", "asset_id": 1, "available": 10, "frozen": 0}
    assert (await client.request("unsubscribe", id=2, user_id=1))["ok"]
    client.transfer("u")
    assert (await client.hear())["id"] == "u"
    with trio.move_on_after(5) as waiting:
        await client.hear()
    assert waiting.cancelled_caught


async def test_a_stream_is_resumed_on_another_connection_in_another_kind(client: Client) -> None:
    stream = (await client.request("subscribe", id=1, user_id=1))["data"]["stream"]
    await client.hear()
    client.leave()
    await client.ended.wait()
    async with client_of(client.websockets) as again:
        again.is_binary = True
        again.transfer(1)
        await again.hear()
        await trio.sleep(1)
        resumed = await again.request("subscribe", id=2, user_id=1, stream=stream, after=1)
        assert resumed["data"] == {"stream": stream, "user_id": 1, "resumed": True}
        assert [(await again.hear())["seq"] for _ in range(2)] == [2, 3]
        resumed = await again.request("subscribe", id=3, user_id=1, stream="another's", after=1)
        assert resumed["data"]["resumed"] is False
        snapshot = await again.hear()
        assert (snapshot["op"], snapshot["seq"]) == ("snapshot", 3)


async def test_subscriptions_of_a_connection_are_bounded_and_can_all_be_ended() -> None:
    async with connected(subscriptions_most=2) as client:
        for user_id in (1, 2):
            await client.request("subscribe", id=1, user_id=user_id)
            await client.hear()
        assert error_of(await client.request("subscribe", id=2, user_id=3))[:2] == (2, "overloaded")
        assert (await client.request("unsubscribe", id=3))["ok"]
        assert client.engine.statistics().streams.subscriptions == 0


async def test_who_does_not_read_is_told_where_to_resume_and_cut_off() -> None:
    async with connected(waiting_bytes_most=65_536) as client:
        stream = (await client.request("subscribe", id=1, user_id=1))["data"]["stream"]
        await client.hear()
        client.connection.stop_reading()
        for call_id in range(400):
            client.transfer(call_id, amount=1)
        await trio.sleep(1)
        assert client.websockets.statistics().waiting_bytes < 65_536 + 2_000
        client.connection.read_on()
        heard = await client.hear_all()
        lagged, closing = heard[-2:]
        last = max(message["seq"] for message in heard if message["op"] == "event")
        assert lagged == {"op": "lagged", "stream": stream, "after": last}
        assert closing["code"] == CloseCode.LAGGED
        assert client.connection.closed_by_server == (CloseCode.LAGGED, "the client does not read what it is sent")
        async with client_of(client.websockets) as again:
            resumed = await again.request("subscribe", id=1, user_id=1, stream=stream, after=last)
            assert resumed["data"]["resumed"] is True
            assert (await again.hear())["seq"] == last + 1


async def test_who_reads_nothing_at_all_is_cut_off_in_time() -> None:
    async with connected(send_timeout_ms=3_000) as client:
        client.connection.stop_reading()
        client.transfer(1)
        began = trio.current_time()
        await client.ended.wait()
        assert 3 <= trio.current_time() - began < 5
        assert client.websockets.statistics().open == 0


# Who asks.

READER = Caller(subject="u1", user_id=1, scopes=frozenset({Scope.READ}))
USER = Caller(subject="u1", user_id=1, scopes=frozenset({Scope.READ, Scope.WRITE}))
OTHER = Caller(subject="u2", user_id=2, scopes=frozenset({Scope.READ, Scope.WRITE}))
SERVICE = Caller(subject="s", user_id=None, scopes=frozenset({Scope.READ, Scope.WRITE, Scope.ANY}))


@pytest.fixture
async def tokens() -> Tokens:
    return Tokens(reader=READER, user=USER, other=OTHER, service=SERVICE)


async def test_the_first_message_says_who_asks(tokens: Tokens) -> None:
    async with connected(tokens=tokens) as client:
        client.transfer(1)
        assert error_of(await client.hear())[:2] == (1, "unauthenticated")
        assert error_of(await client.authenticate(2, "nobody"))[:2] == (2, "unauthenticated")
        assert await client.authenticate(3, "user") == {
            "id": 3,
            "op": "auth",
            "ok": True,
            "data": {"user_id": 1, "expires_at": None},
        }
        client.transfer(4)
        assert (await client.hear())["data"]["status"] == "committed"
        client.transfer(5, user_id=None)
        assert (await client.hear())["data"]["status"] == "committed"
        assert error_of(await client.authenticate(6, "other"))[:2] == (6, "unauthenticated")


async def test_who_does_not_say_it_in_time_is_closed(tokens: Tokens) -> None:
    async with connected(tokens=tokens, token_timeout_ms=2_000) as client:
        began = trio.current_time()
        heard = await client.hear_all()
        assert [(message["op"], message["code"]) for message in heard] == [("closing", 4001)]
        assert client.connection.closed_by_server == (CloseCode.UNAUTHENTICATED, "no token came in time")
        assert 2 <= trio.current_time() - began < 4


async def test_a_header_says_it_too(tokens: Tokens) -> None:
    async with connected(tokens=tokens, bearer="user") as client:
        client.transfer(1)
        assert (await client.hear())["ok"]


async def test_scopes_and_other_users_are_as_they_are_by_http(tokens: Tokens) -> None:
    async with connected(tokens=tokens, bearer="reader") as client:
        client.transfer(1)
        assert error_of(await client.hear()) == (1, "insufficient_scope", None)
        assert error_of(await client.request("balances", id=2, user_id=2)) == (2, "not_found", None)
        assert error_of(await client.request("subscribe", id=3, user_id=2)) == (3, "not_found", None)
        assert (await client.request("subscribe", id=4))["data"]["user_id"] == 1
    async with connected(tokens=tokens, bearer="user") as client:
        client.transfer(1, user_id=2)
        assert error_of(await client.hear()) == (1, "insufficient_scope", "user_id")
        client.transfer(2, to="funding", to_user_id=2)
        assert error_of(await client.hear()) == (2, "insufficient_scope", "to_user_id")
        client.transfer(3)
        req_id = (await client.hear())["data"]["req_id"]
        async with client_of(client.websockets, bearer="other") as other:
            assert error_of(await other.request("get", id=1, req_id=req_id)) == (1, "not_found", None)
        async with client_of(client.websockets, bearer="service") as service:
            assert (await service.request("get", id=1, req_id=req_id))["ok"]
            service.transfer(2, user_id=2, to="funding", to_user_id=1)
            assert (await service.hear())["data"]["status"] == "committed"
            assert error_of(await service.request("balances", id=3)) == (3, "missing_field", "user_id")


async def test_keys_of_different_subjects_never_meet(tokens: Tokens) -> None:
    async with connected(tokens=tokens, bearer="user") as client:
        client.transfer(1, idempotency_key="k")
        mine = (await client.hear())["data"]
        async with client_of(client.websockets, bearer="service") as service:
            service.transfer(1, idempotency_key="k")
            theirs = (await service.hear())["data"]
        assert mine["req_id"] != theirs["req_id"]
        assert theirs["replayed"] is False


async def test_a_token_that_expires_ends_the_connection(tokens: Tokens) -> None:
    tokens.expires_in("user", 10)
    async with connected(tokens=tokens, bearer="user") as client:
        await client.request("subscribe", id=0)
        await client.hear()
        client.world.wire.down.add(FREEZING)
        client.transfer("before", to=FREEZING)
        await trio.sleep(0.01)
        tokens.skew_s = 10  # so that a request finds it expired, before anybody looks
        client.transfer("after")
        heard = await client.hear_all()
        answers = {message.get("id"): message for message in heard if "id" in message}
        assert answers["before"]["data"]["status"] == "pending"
        assert error_of(answers["after"])[:2] == ("after", "unauthenticated")
        assert next(message for message in heard if message["op"] == "closing")["code"] == 4001
        assert client.connection.closed_by_server == (CloseCode.UNAUTHENTICATED, "the token has expired")


async def test_a_silent_connection_ends_when_its_token_does(tokens: Tokens) -> None:
    tokens.expires_in("user", 10)
    async with connected(tokens=tokens, bearer="user") as client:
        began = trio.current_time()
        await client.hear_all()
        assert client.connection.closed_by_server == (CloseCode.UNAUTHENTICATED, "the token has expired")
        assert 9 <= trio.current_time() - began < 12


async def test_a_token_is_renewed_on_a_live_connection(tokens: Tokens) -> None:
    tokens.expires_in("user", 10)
    async with connected(tokens=tokens, bearer="user") as client:
        await trio.sleep(9)
        tokens.expires_in("user", 20)
        assert (await client.authenticate(1, "user"))["ok"]
        await trio.sleep(15)
        client.transfer(2)
        assert (await client.hear())["ok"]


# Time.


async def test_who_answers_no_ping_is_cut_off() -> None:
    async with connected(ping_interval_ms=1_000) as client:
        await trio.sleep(10)
        assert client.connection.pings > 5
        assert not client.ended.is_set()
        client.connection.answers = False
        began = trio.current_time()
        await client.ended.wait()
        assert 1 < trio.current_time() - began < 4


async def test_a_stop_answers_what_is_in_flight_and_closes() -> None:
    async with connected() as client:
        client.world.wire.down.add(FREEZING)
        client.transfer("slow", to=FREEZING)
        await client.request("ping", id=1)
        client.websockets.stop()
        client.transfer("late")
        heard = await client.hear_all()
        assert [message.get("id", message["op"]) for message in heard] == ["closing", "slow"]
        assert client.connection.closed_by_server == (CloseCode.GOING_AWAY, "the server is shutting down")
        late = PairedConnection()
        await client.websockets.serve(late, client.admitted)
        assert late.closed_by_server == (CloseCode.GOING_AWAY, "the server is shutting down")


async def test_before_the_engine_is_open_it_is_said_what_is_waited_for() -> None:
    async with client_of(websockets_of(None)) as client:
        client.transfer(1)
        answer = await client.hear()
        assert error_of(answer)[:2] == (1, "unavailable")
        assert answer["error"]["detail"] == "the engine is starting"
        assert error_of(await client.request("get", id=2, req_id="00000000-0000-8000-8000-000000000000"))[1] == (
            "unavailable"
        )
        assert (await client.request("ping", id=3))["ok"]


async def test_faults_are_told_as_unknown_never_as_failed() -> None:
    async with connected() as client:
        client.world.wire.down.add("records")
        client.transfer(1, idempotency_key="k")
        answer = await client.hear()
        status = answer["data"]["status"] if answer["ok"] else answer["error"]["status"]
        assert status == "pending"
        assert json.dumps(answer)
