"""Messages that would cost the server more than they cost their sender, and tokens that see less than before."""

import json
import time
from typing import Any

import msgspec
import pytest
import trio

from support.engines import World
from support.websocket_pair import Client, Tokens, client_of, websockets_of
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.problems import ProblemCode
from transfer_engine.http.websocket_connection import CloseCode
from transfer_engine.http.websocket_messages import Unreadable, decode, decode_item

pytestmark = pytest.mark.usefixtures("jumping_clock")

ITEM = '{"from":"funding","to":"trading","user_id":1,"asset_id":1,"amount":10}'


async def test_a_name_is_looked_for_once_however_many_stand_beside_it() -> None:
    names = ",".join(f'"{number:x}":1' for number in range(20_000))
    began = time.process_time()
    decode(f'{{"op":"batch","id":1,"transfers":[{{"\\u0041":1,{names}}}]}}')
    assert time.process_time() - began < 1  # it is 20 ms, and was 5 s


async def test_a_number_of_any_length_spoils_no_connection_and_no_other_transfer() -> None:
    digits = "9" * 5_000
    world = World()
    await world.fund(1, 2, amount=1_000)
    async with world.engine() as engine, client_of(websockets_of(engine)) as client:
        item = f'{{"from":"\\u0041","to":"trading","user_id":1,"asset_id":1,"amount":{digits}}}'
        client.connection.say(f'{{"op":"batch","id":1,"transfers":[{item},{ITEM}]}}')
        answer = await client.hear()
        assert [entry["ok"] for entry in answer["data"]["results"]] == [False, True]
        assert (await client.request("ping", id=2))["ok"]


async def test_a_name_given_twice_in_one_item_spoils_no_other() -> None:
    world = World()
    await world.fund(1, 2, amount=1_000)
    async with world.engine() as engine, client_of(websockets_of(engine)) as client:
        item = '{"from":"funding","to":"trading","user_id":1,"asset_id":1,"amount":10,"am\\u006funt":20}'
        client.connection.say(f'{{"op":"batch","id":1,"transfers":[{item},{ITEM}]}}')
        results = (await client.hear())["data"]["results"]
        assert [entry["ok"] for entry in results] == [False, True]
        assert results[0]["error"]["code"] == "duplicate_field"
        client.connection.say(f'{{"op":"batch","id":1,"transfers":[],"tr\\u0061nsfers":[{ITEM}]}}')
        assert (await client.hear())["error"]["code"] == "duplicate_field"


async def test_tokens_that_are_refused_one_after_the_other_end_the_connection() -> None:
    tokens = Tokens(user=Caller(subject="1", user_id=1, scopes=frozenset({Scope.READ})))
    async with World().engine() as engine:
        websockets = websockets_of(engine, tokens=tokens, faults_most=5)
        async with client_of(websockets) as client:
            for call_id in range(20):
                client.ask("auth", id=call_id, token="nobody")  # noqa: S106  of nobody
            with trio.fail_after(60):
                heard = await client.hear_all()
            assert [answer.get("id") for answer in heard[:-1]] == [0, 1, 2, 3, 4]
            assert client.connection.closed_by_server == (CloseCode.FLOOD, "5 tokens in a row were refused")


async def test_a_token_that_sees_less_than_what_is_subscribed_is_refused() -> None:
    every = frozenset({Scope.READ, Scope.ANY})
    tokens = Tokens(
        wide=Caller(subject="1", user_id=1, scopes=every),
        narrow=Caller(subject="1", user_id=1, scopes=frozenset({Scope.READ})),
        blind=Caller(subject="1", user_id=1, scopes=frozenset({Scope.WRITE})),
    )
    async with World().engine() as engine:
        with trio.fail_after(60):
            async with client_of(websockets_of(engine, tokens=tokens), bearer="wide") as client:
                await _subscribe(client, 2)
                refused = await client.authenticate(2, "narrow")
                assert (refused["ok"], refused["error"]["code"]) == (False, "insufficient_scope")
                assert (await client.request("unsubscribe", id=3, user_id=2))["ok"]
                assert (await client.authenticate(4, "narrow"))["ok"]
                await _subscribe(client, 1)
                assert (await client.authenticate(6, "blind"))["error"]["code"] == "insufficient_scope"


async def test_who_lags_before_the_first_event_is_told_where_he_was() -> None:
    async with World().engine() as engine:
        websockets = websockets_of(engine, waiting_bytes_most=65_536)
        async with client_of(websockets) as first:
            snapshot = await _subscribe(first, 1)
        async with client_of(websockets) as client:
            await client.request("subscribe", id=1, user_id=1, stream=snapshot["stream"], after=snapshot["seq"])
            client.connection.stop_reading()
            for call_id in range(2_000):
                client.ask("ping", id=call_id)
            await trio.sleep(1)
            client.connection.read_on()
            with trio.fail_after(60):
                lagged, closing = (await client.hear_all())[-2:]
            assert lagged == {"op": "lagged", "stream": snapshot["stream"], "after": snapshot["seq"]}
            assert closing["code"] == CloseCode.LAGGED


async def _subscribe(client: Client, user_id: int) -> Any:
    assert (await client.request("subscribe", id=1, user_id=user_id))["ok"]
    snapshot = await client.hear()
    assert snapshot["op"] == "snapshot", json.dumps(snapshot)
    return snapshot


async def test_an_item_with_a_backslash_is_read_like_any_other() -> None:
    call = decode('{"op":"batch","id":1,"transfers":[{"fr\\u006fm":"funding","to":"trading","asset_id":1,"amount":1}]}')
    assert decode_item(call.transfers[0], is_text=True).source == "funding"  # type: ignore[union-attr]


def packed(*pairs: tuple[str, Any], is_long: bool = False) -> bytes:
    """Return a MessagePack map of these pairs, whatever their names."""
    head = b"\xdf" + len(pairs).to_bytes(4) if is_long else bytes((0x80 | len(pairs),))
    return head + b"".join(msgspec.msgpack.encode(name) + msgspec.msgpack.encode(value) for name, value in pairs)


CALL = (("op", "transfer"), ("id", 1), ("from", "funding"), ("to", "trading"), ("asset_id", 1), ("amount", 10))


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize(
    "pairs",
    [
        (*CALL, ("amount", 20)),
        (*CALL, ("user_id", 1), ("user_id", None)),
        (("op", "ping"), ("id", 1), ("id", 2)),
        (("op", "batch"), ("id", 1), ("transfers", []), ("transfers", [])),
    ],
)
async def test_a_name_given_twice_in_messagepack_is_refused(pairs: tuple[tuple[str, Any], ...], is_long: bool) -> None:
    with pytest.raises(Unreadable) as unreadable:
        decode(packed(*pairs, is_long=is_long))
    rejected = unreadable.value.rejected
    assert (rejected.code, rejected.field) == (ProblemCode.DUPLICATE_FIELD, pairs[-1][0])
    assert (unreadable.value.call_id, unreadable.value.op) == (pairs[-1][1] if pairs[-1][0] == "id" else 1, pairs[0][1])


async def test_what_is_left_out_may_be_nil_in_messagepack() -> None:
    call = decode(packed(*CALL, ("user_id", None), ("to_user_id", 7), ("idempotency_key", None), is_long=True))
    assert (call.user_id, call.to_user_id) == (None, 7)  # type: ignore[union-attr]


async def test_a_name_given_twice_in_one_item_of_messagepack_spoils_no_other() -> None:
    world = World()
    await world.fund(1, 2, amount=1_000)
    pairs = (*CALL[2:], ("user_id", 1))
    doubled, plain = packed(*pairs, ("amount", 20)), packed(*pairs)
    async with world.engine() as engine, client_of(websockets_of(engine)) as client:
        client.is_binary = True
        head = b"\x83" + b"".join(map(msgspec.msgpack.encode, ("op", "batch", "id", 1, "transfers")))
        client.connection.say(head + b"\x92" + doubled + plain)
        results = (await client.hear())["data"]["results"]
        assert [entry["ok"] for entry in results] == [False, True]
        assert results[0]["error"]["code"] == "duplicate_field"
