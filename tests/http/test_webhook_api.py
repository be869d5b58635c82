"""Users' endpoints over the handlers: registered, shown without their secrets, tried, disabled, taken away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from standardwebhooks import Webhook

from support.asking import Asker, user
from support.endpoint_server import EndpointServer, Received, Reply, endpoint_server
from transfer_engine.engine import Settings, open_engine
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.user_names import UserNames
from transfer_engine.http.webhook_settings import WebhookSettings
from transfer_engine.http.webhooks import running_webhooks

PATH = "/api/v1/user/webhook"
MINE = user(1)
ANY = user(3, Scope.ANY)
READER = Caller("1r", 1, frozenset({Scope.READ}))
CALLERS = (MINE, user(2), ANY, READER)


@asynccontextmanager
async def asking(folder: Path, *callers: Caller, **settings: Any) -> AsyncIterator[Asker]:
    fields = {"enabled": True, "allow_private_addresses": True, "retry_first_ms": 50, "retry_most_ms": 100}
    chosen = WebhookSettings(**fields | settings)
    async with open_engine(Settings(data_dir=folder), outbox=chosen.limits()) as engine:
        asker = Asker(engine, *callers, webhooks=chosen)
        if engine.outbox is None:
            yield asker
            return
        async with running_webhooks(engine.outbox, chosen, UserNames(engine.settings), "1") as webhooks:
            asker.api.webhooks.running = webhooks
            yield asker


async def received(server: EndpointServer, number: int) -> None:
    with trio.fail_after(10):
        while len(server.received) < number:  # noqa: ASYNC110  another task's progress over a socket
            await trio.sleep(0.01)


async def test_an_endpoint_is_registered_and_its_secret_shown_once(tmp_path: Path) -> None:
    async with endpoint_server() as server, asking(tmp_path, *CALLERS) as asker:
        await asker.fund(1)
        answer = await asker.ask("PUT", PATH, {"url": server.url()}, caller=MINE)
        secret = answer.data["secret"]
        assert secret.startswith("whsec_")
        shown = await asker.ask("GET", PATH, caller=READER)
        assert shown.data == {
            "user_id": 1,
            "url": server.url(),
            "enabled": True,
            "disabled_because": None,
            "created_at": answer.data["created_at"],
            "changed_at": answer.data["created_at"],
            "waiting": 0,
            "last_success_at": None,
            "last_failure_at": None,
            "last_failure": None,
        }
        await asker.engine.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=10**6)
        await received(server, 1)
        [message] = server.received
        event = Webhook(secret).verify(message.body, message.headers)
        assert event["data"]["amount"] == "0.01000000"
        assert event["data"]["amount_minor"] == 10**6
        again = await asker.ask("PUT", PATH, {"url": server.url("/other")}, caller=MINE)
        assert "secret" not in again.data
        rotated = await asker.ask("PUT", PATH, {"url": server.url("/other"), "rotate_secret": True}, caller=MINE)
        assert rotated.data["secret"] != secret
        await asker.engine.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=10**6)
        await received(server, 2)
        assert server.received[1].path == "/other"
        for one in (secret, rotated.data["secret"]):
            Webhook(one).verify(server.received[1].body, server.received[1].headers)


async def test_an_endpoint_is_tried(tmp_path: Path) -> None:
    async with endpoint_server() as server, asking(tmp_path, *CALLERS) as asker:
        secret = (await asker.ask("PUT", PATH, {"url": server.url()}, caller=MINE)).data["secret"]
        server.replies = [Reply(200), Reply(500)]
        tried = await asker.ask("POST", f"{PATH}/test", caller=MINE)
        assert tried.data == {"delivered": True, "status": 200, "detail": "it answered 200"}
        event = Webhook(secret).verify(server.received[0].body, server.received[0].headers)
        assert (event["type"], event["data"]) == ("webhook.test", {"user_id": 1})
        tried = await asker.ask("POST", f"{PATH}/test", caller=MINE)
        assert tried.data == {"delivered": False, "status": 500, "detail": "it answered 500"}
        shown = (await asker.ask("GET", PATH, caller=MINE)).data
        assert (shown["last_failure"], shown["enabled"]) == ("it answered 500", True)


async def test_one_user_tries_one_endpoint_at_a_time_and_nobody_waits_for_another(tmp_path: Path) -> None:
    users = [user(number) for number in range(1, 8)]
    answers: list[tuple[int, str | None]] = []

    async def attempt(asker: Asker, caller: Caller) -> None:
        answer = await asker.ask("POST", f"{PATH}/test", caller=caller)
        answers.append((answer.status, answer.json.get("name")))

    async def slowly(_received: Received) -> Reply:
        await trio.sleep(0.5)
        return Reply()

    async with endpoint_server() as server, asking(tmp_path, *users) as asker:
        for caller in users:
            await asker.ask("PUT", PATH, {"url": server.url()}, caller=caller)
        server.answer = slowly
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, asker, users[0])
            await received(server, 1)
            await attempt(asker, users[0])
            for caller in users[1:]:
                nursery.start_soon(attempt, asker, caller)
    assert answers == [(503, "overloaded")] * 4 + [(200, None)] * 4  # four at a time, the first user's among them


async def test_a_disabled_endpoint_says_why_and_is_enabled_again(tmp_path: Path) -> None:
    async with endpoint_server() as server, asking(tmp_path, *CALLERS) as asker:
        await asker.fund(1)
        await asker.ask("PUT", PATH, {"url": server.url()}, caller=MINE)
        server.replies = [Reply(410)]
        await asker.engine.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=10**6)
        with trio.fail_after(10):
            while (await asker.ask("GET", PATH, caller=MINE)).data["enabled"]:  # noqa: ASYNC110  the sweep's doing
                await trio.sleep(0.01)
        shown = (await asker.ask("GET", PATH, caller=MINE)).data
        assert shown["disabled_because"] == "it answered 410 Gone"
        enabled = await asker.ask("POST", f"{PATH}/enable", caller=MINE)
        assert (enabled.data["enabled"], enabled.data["disabled_because"]) == (True, None)
        await asker.engine.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=10**6)
        await received(server, 2)


async def test_an_endpoint_is_taken_away(tmp_path: Path) -> None:
    async with asking(tmp_path, *CALLERS) as asker:
        await asker.ask("PUT", PATH, {"url": "https://example.com"}, caller=MINE)
        for removed in (True, False):
            answer = await asker.ask("DELETE", PATH, caller=MINE)
            assert answer.data == {"removed": removed}
        for method, path in (("GET", PATH), ("POST", f"{PATH}/test"), ("POST", f"{PATH}/enable")):
            assert (await asker.ask(method, path, caller=MINE)).problem == (404, "no_such_webhook", None)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST /test", "POST /enable"])
async def test_whose_endpoint_it_is_comes_from_the_token(method: str, tmp_path: Path) -> None:
    name, _, below = method.partition(" ")
    body = {"url": "https://example.com/"} if name == "PUT" else None
    async with asking(tmp_path, *CALLERS) as asker:
        await asker.ask("PUT", PATH, {"url": "https://example.invalid/"}, caller=MINE)
        stranger = await asker.ask(name, PATH + below, body, caller=user(2), user_id=1)
        assert stranger.problem == (404, "not_found", "user_id")
        assert (await asker.ask(name, PATH + below, body, caller=ANY, user_id=1)).data
        reader = await asker.ask(name, PATH + below, body, caller=READER)
        assert reader.status == (200 if name == "GET" else 403)
        unknown = await asker.ask(name, PATH + below, body)
        assert unknown.status == 401


async def test_without_tokens_a_user_must_be_named(tmp_path: Path) -> None:
    async with asking(tmp_path) as asker:
        assert (await asker.ask("GET", PATH)).problem == (400, "missing_parameter", "user_id")
        assert (await asker.ask("PUT", PATH, {"url": "https://example.com"}, user_id=7)).data["user_id"] == 7
        assert (await asker.ask("GET", PATH, user_id=7)).data["url"] == "https://example.com/"


@pytest.mark.parametrize(
    ("body", "name", "field"),
    [
        ({}, "missing_field", "url"),
        ({"url": 7}, "invalid_field", "url"),
        ({"url": "https://127.0.0.1/"}, "invalid_field", "url"),
        ({"url": "http://example.com/"}, "invalid_field", "url"),
        ({"url": "https://user:pass@example.com/"}, "invalid_field", "url"),
        ({"url": "https://example.com/", "secret": "whsec_mine"}, "unknown_field", "secret"),
        ({"url": "https://example.com/", "rotate_secret": "yes"}, "invalid_field", "rotate_secret"),
    ],
)
async def test_what_is_wrong_is_named(body: dict[str, Any], name: str, field: str, tmp_path: Path) -> None:
    async with asking(tmp_path, *CALLERS, allow_private_addresses=False) as asker:
        assert (await asker.ask("PUT", PATH, body, caller=MINE)).problem == (422, name, field)


async def test_where_webhooks_are_off_it_says_so(tmp_path: Path) -> None:
    async with asking(tmp_path, *CALLERS, enabled=False) as asker:
        for method, body in (("GET", None), ("PUT", {"url": "https://example.com"}), ("DELETE", None)):
            assert (await asker.ask(method, PATH, body, caller=MINE)).problem == (404, "webhooks_disabled", None)


async def test_there_is_room_for_so_many(tmp_path: Path) -> None:
    async with asking(tmp_path, endpoints_most=2) as asker:
        for user_id in (1, 2, 1):
            assert (await asker.ask("PUT", PATH, {"url": "https://example.com"}, user_id=user_id)).status == 200
        full = await asker.ask("PUT", PATH, {"url": "https://example.com"}, user_id=3)
        assert full.problem == (503, "overloaded", None)


async def test_endpoints_outlive_the_engine(tmp_path: Path) -> None:
    async with endpoint_server() as server:
        async with asking(tmp_path, *CALLERS) as asker:
            await asker.fund(1)
            secret = (await asker.ask("PUT", PATH, {"url": server.url()}, caller=MINE)).data["secret"]
        async with asking(tmp_path, *CALLERS) as asker:
            await asker.engine.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=10**6)
            await received(server, 1)
    Webhook(secret).verify(server.received[0].body, server.received[0].headers)
