"""What the gate has to say to a websocket after its handshake: how often its client may ask, and with which key."""

import itertools
from typing import Any

import pytest
import trio

from support.engines import World
from support.websocket_pair import PEER, Client, Tokens, client_of, websockets_of
from transfer_engine.http.client_addresses import ClientAddresses
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.messages import Request
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.rate_limit_settings import RateLimitSettings
from transfer_engine.http.rate_limits import RateLimits
from transfer_engine.http.websocket_connection import CloseCode
from transfer_engine.http.websocket_sessions import PATH

pytestmark = pytest.mark.usefixtures("jumping_clock")

USER = Caller(subject="u1", user_id=1, scopes=frozenset({Scope.READ, Scope.WRITE}))
OTHER = Caller(subject="u2", user_id=2, scopes=frozenset({Scope.READ}))


def limits_of(**settings: Any) -> RateLimits:
    return RateLimits(RateLimitSettings(**settings), ClientAddresses(()))


async def code_of_the_next(client: Client) -> Any:
    return (await client.hear()).get("error", {}).get("code")


# How often ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "first"),
    [
        ('{"op":"ping","id":1}', None),
        ('{"op":"unsubscribe","id":1}', None),
        ("[]", "malformed_body"),
        (b"\xc1", "malformed_body"),
        ('{"op":"dance","id":1}', "unknown_op"),
        ('{"op":"subscribe","id":1,"after":1}', "missing_field"),
        ('{"op":"batch","id":1,"transfers":[]}', "batch_empty"),
        ('{"op":"batch","id":1,"transfers":[{}]}', None),
    ],
)
async def test_whatever_is_sent_counts(message: str | bytes, first: str | None) -> None:
    async with World().engine() as engine:
        websockets = websockets_of(engine, limits=limits_of(per_address_per_minute=4))
        async with client_of(websockets) as client:
            for _ in range(5):
                client.connection.say(message)
            # The handshake was the first of the four.
            heard = [await code_of_the_next(client) for _ in range(5)]
            assert heard == [first] * 3 + ["rate_limited"] * 2


async def test_what_nobody_may_ask_counts_for_his_address() -> None:
    async with World().engine() as engine:
        websockets = websockets_of(engine, tokens=Tokens(), limits=limits_of(per_address_per_minute=4))
        async with client_of(websockets) as client:
            for call_id in range(4):
                client.ask("balances", id=call_id, user_id=1)
            heard = [await code_of_the_next(client) for _ in range(4)]
            assert heard == ["unauthenticated"] * 3 + ["rate_limited"]


async def test_what_a_token_does_not_allow_counts_for_its_user() -> None:
    async with World().engine() as engine:
        limits = limits_of(per_user_per_minute=3)
        async with client_of(websockets_of(engine, tokens=Tokens(o=OTHER), limits=limits), bearer="o") as client:
            for call_id in range(3):
                client.transfer(call_id)
            client.ask("ping", id=3)
            heard = [await code_of_the_next(client) for _ in range(4)]
            assert heard == ["insufficient_scope"] * 3 + ["rate_limited"]


@pytest.mark.parametrize("path", [PATH, "/elsewhere"])
async def test_a_refused_handshake_counts_and_says_when_to_come_again(path: str) -> None:
    websockets = websockets_of(None, tokens=Tokens(), limits=limits_of(per_address_per_minute=1))
    request = Request("GET", path, authorization=(b"Bearer nobody",), peer=PEER)
    answers = []
    for _ in range(2):
        with pytest.raises(Rejected) as refused:
            await websockets.admit(request)
        answers.append(websockets.refusal(request, refused.value))
    first, second = (dict(answer.headers) for answer in answers)
    assert [answer.status for answer in answers] == [401 if path == PATH else 404, 429]
    assert first[b"ratelimit"].startswith(b'"address";r=0;')
    assert first[b"ratelimit-policy"] == b'"address";q=1;w=60'
    assert int(second[b"retry-after"]) == 60


# With which key -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_in_header", [True, False])
async def test_a_connection_ends_with_its_key(is_in_header: bool) -> None:
    tokens = Tokens(user=USER, other=OTHER)
    async with World().engine() as engine:
        websockets = websockets_of(engine, tokens=tokens)
        async with (
            client_of(websockets, bearer="other") as other,
            client_of(websockets, bearer="user" if is_in_header else None) as client,
        ):
            if not is_in_header:
                assert (await client.authenticate(1, "user"))["ok"]
            tokens.revoke("user")
            with trio.fail_after(5):
                heard = await client.hear_all()
            assert [(message["op"], message["code"]) for message in heard] == [("closing", 4001)]
            reason = "the token is not valid any more: no such token"
            assert client.connection.closed_by_server == (CloseCode.UNAUTHENTICATED, reason)
            assert (await other.request("ping", id=1))["ok"]


async def test_while_nobody_knows_of_a_key_a_connection_goes_on() -> None:
    tokens = Tokens(user=USER)
    asked = itertools.count()
    known = tokens.authenticate

    async def undecided(authorization: Any) -> Caller:
        if next(asked) < 3:
            raise Rejected(ProblemCode.UNAVAILABLE, "the keys can't be read now")
        return await known(authorization)

    async with World().engine() as engine, client_of(websockets_of(engine, tokens=tokens), bearer="user") as client:
        tokens.authenticate = undecided  # type: ignore[method-assign]
        tokens.generation += 1
        await trio.sleep(2.5)
        assert (await client.request("ping", id=1))["ok"]
        tokens.revoke("user")
        with trio.fail_after(10):
            assert [message["code"] for message in await client.hear_all()] == [4001]


async def test_a_key_that_goes_while_its_token_is_looked_at_is_noticed() -> None:
    tokens = Tokens(user=USER)
    known = tokens.authenticate

    async def overtaken(authorization: Any) -> Caller:
        caller = await known(authorization)
        tokens.callers.pop("user", None)
        tokens.generation += 1
        return caller

    tokens.authenticate = overtaken  # type: ignore[method-assign]
    async with World().engine() as engine, client_of(websockets_of(engine, tokens=tokens), bearer="user") as client:
        with trio.fail_after(5):
            assert [message["code"] for message in await client.hear_all()] == [4001]
