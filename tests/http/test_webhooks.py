"""Delivering an outbox: pauses that grow, what endpoints ask for, who is given up, and who waits for whom."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import trio

from support.engines import World, in_a_loop, now_ms, until
from support.receivers import Receivers
from transfer_engine.engine.outbox_limits import OutboxLimits
from transfer_engine.http.user_names import UserNames
from transfer_engine.http.webhook_sender import Delivery
from transfer_engine.http.webhook_settings import WebhookSettings
from transfer_engine.http.webhooks import Webhooks
from transfer_engine.schema.webhooks import Endpoint

OK = Delivery(True, "it answered 204", status=204)
ERROR = Delivery(False, "it answered 500", status=500)
GONE = Delivery(False, "it answered 410", is_gone=True, status=410)


class Senders:
    """Endpoints that answer by ``answer``; each attempt takes so long, and is noted."""

    def __init__(self) -> None:
        self.attempts: list[tuple[int, float, str, dict[str, Any]]] = []
        self.answer: Callable[[int], Delivery] = lambda _user_id: OK
        self.takes_s = 0.1
        self.at_once: set[int] = set()
        self.most_at_once = 0

    async def send(self, endpoint: Endpoint, message_id: str, body: bytes) -> Delivery:
        assert endpoint.user_id not in self.at_once
        self.at_once.add(endpoint.user_id)
        self.most_at_once = max(self.most_at_once, len(self.at_once))
        began = trio.current_time()
        try:
            await trio.sleep(self.takes_s)
        finally:
            self.at_once.discard(endpoint.user_id)
        self.attempts.append((endpoint.user_id, began, message_id, msgspec.json.decode(body)))
        return self.answer(endpoint.user_id)

    def times(self, user_id: int) -> list[float]:
        return [began for user, began, *_ in self.attempts if user == user_id]

    def pauses(self, user_id: int) -> list[float]:
        times = self.times(user_id)
        return [later - earlier - self.takes_s for earlier, later in pairwise(times)]


@asynccontextmanager
async def telling(
    senders: Senders, *users: int, world: World | None = None, **settings: Any
) -> AsyncIterator[tuple[World, Any, Webhooks]]:
    if world is None:
        world = World()
        await world.fund(*users)
        world.outbox = OutboxLimits()
        await Receivers(world).register(*users)
    chosen = WebhookSettings(enabled=True, **settings)
    async with world.engine() as engine, trio.open_nursery() as nursery:
        assert engine.outbox is not None
        webhooks = Webhooks(engine.outbox, senders, UserNames(world.settings), chosen, clock_ms=now_ms)
        await nursery.start(webhooks.run)
        await trio.sleep(1)
        yield world, engine, webhooks
        nursery.cancel_scope.cancel()


async def test_the_body_tells_the_transfer_as_the_user_api_does(autojump_clock: object) -> None:
    senders = Senders()
    async with telling(senders, 1, 2) as (world, engine, _):
        told = await world.ask(engine, "funding", "trading", target_user_id=2, amount=123)
        await until(lambda: len(senders.attempts) == 2)
    assert {user_id for user_id, *_ in senders.attempts} == {1, 2}
    for user_id, _, message_id, event in senders.attempts:
        req_id = told.outcome.req_id
        assert message_id == f"msg_{req_id.hex}_{user_id}"
        row = world.row(req_id)
        assert event["type"] == "transfer.finished"
        assert event["timestamp"].startswith("20")
        assert event["timestamp"].endswith("Z")
        assert event["data"] == msgspec.to_builtins(UserNames(world.settings).transfer(row)) | {
            "asset_id": 1,
            "amount_minor": 123,
        }
        assert event["data"]["amount"] == "0.00000123"
        assert event["data"]["status"] == "success"


async def test_pauses_double_up_to_the_most_with_jitter_and_the_message_is_the_same(autojump_clock: object) -> None:
    senders = Senders()
    senders.answer = lambda _: ERROR
    async with telling(senders, 1, retry_first_ms=1_000, retry_most_ms=60_000) as (world, engine, webhooks):
        await world.ask(engine, "funding", "trading")
        await trio.sleep(600)
        assert webhooks.attempts(1).last_failure == "it answered 500"
        assert webhooks.attempts(1).last_success_at is None
        senders.answer = lambda _: OK
        await trio.sleep(61)
        assert webhooks.attempts(1).last_success_at is not None
        count = len(senders.attempts)
        await trio.sleep(1_000)
        assert len(senders.attempts) == count
    for pause, most in zip(senders.pauses(1), [1, 2, 4, 8, 16, 32, *[60] * 100], strict=False):
        assert most * 0.8 - 0.01 <= pause <= most + 0.01
    assert len({(message_id, str(event)) for *_, message_id, event in senders.attempts}) == 1


@pytest.mark.parametrize(("asked_s", "least", "most"), [(30, 24, 30), (0, 0.8, 1), (10**9, 96, 120)])
async def test_what_an_endpoint_asks_for_is_granted_within_bounds(
    asked_s: float, least: float, most: float, autojump_clock: object
) -> None:
    senders = Senders()
    busy = Delivery(False, "it answered 429", status=429, retry_after_s=asked_s)
    senders.answer = lambda _: busy if len(senders.attempts) == 1 else OK
    async with telling(senders, 1, retry_first_ms=1_000, retry_most_ms=120_000) as (world, engine, _):
        await world.ask(engine, "funding", "trading")
        await until(lambda: len(senders.attempts) == 2)
    [pause] = senders.pauses(1)
    assert least - 0.01 <= pause <= most + 0.01


async def test_410_disables_the_endpoint_for_good_until_its_user_enables_it(autojump_clock: object) -> None:
    senders = Senders()
    senders.answer = lambda _: GONE
    async with telling(senders, 1) as (world, engine, webhooks):
        await world.ask(engine, "funding", "trading", amount=1)
        await trio.sleep(10)
        await world.ask(engine, "funding", "trading", amount=2)
        assert len(senders.attempts) == 1
        stored = await webhooks.outbox.endpoints.get(1)
        assert stored is not None
        assert stored.disabled_because == "it answered 410 Gone"
    senders.answer = lambda _: OK
    async with telling(senders, 1, world=world) as (_, engine, webhooks):
        await world.ask(engine, "funding", "trading", amount=3)
        await trio.sleep(10)
        assert len(senders.attempts) == 1
        await webhooks.outbox.endpoints.enable(1)
        await world.ask(engine, "funding", "trading", amount=4)
        await trio.sleep(10)
    assert [event["data"]["amount_minor"] for *_, event in senders.attempts] == [1, 4]


async def test_an_endpoint_that_fails_for_too_long_is_given_up_also_across_restarts(autojump_clock: object) -> None:
    senders = Senders()
    senders.answer = lambda _: ERROR
    settings = {"retry_first_ms": 1_000, "retry_most_ms": 10_000, "give_up_after_ms": 300_000}
    async with telling(senders, 1, 2, **settings) as (world, engine, webhooks):
        await world.ask(engine, "funding", "trading", amount=1)
        await trio.sleep(200)
        assert webhooks.outbox.endpoints.enabled.keys() == {1, 2}
    before = len(senders.attempts)
    async with telling(senders, 1, world=world, **settings) as (_, engine, webhooks):
        await trio.sleep(150)
        assert webhooks.outbox.endpoints.enabled.keys() == {2}
        stored = await webhooks.outbox.endpoints.get(1)
        assert stored is not None
        assert stored.disabled_because.startswith("a message could not be delivered for")
        assert stored.disabled_because.endswith("it answered 500")
        assert webhooks.outbox.statistics().waiting == 0
    assert len(senders.attempts) > before
    assert max(senders.pauses(1)[-3:]) < 11  # the next life went on with the pauses where the former one was


async def test_endpoints_do_not_wait_for_one_another_and_each_gets_one_at_a_time(autojump_clock: object) -> None:
    senders = Senders()
    senders.takes_s = 2
    async with telling(senders, *range(1, 9), concurrency=4) as (world, engine, _):
        for _ in range(3):
            for user_id in range(1, 9):
                await world.ask(engine, "funding", "trading", user_id=user_id, amount=1)
        began = trio.current_time()
        await until(lambda: len(senders.attempts) == 24)
        assert trio.current_time() - began < 14
    assert senders.most_at_once == 4


async def test_one_that_hangs_delays_no_other(autojump_clock: object) -> None:
    senders = Senders()

    class Hanging(Senders):
        async def send(self, endpoint: Endpoint, message_id: str, body: bytes) -> Delivery:
            if endpoint.user_id == 1:
                await trio.sleep(10)
                return Delivery(False, "no answer within 10 s")
            return await senders.send(endpoint, message_id, body)

    async with telling(Hanging(), 1, 2, concurrency=2) as (world, engine, _):
        for _ in range(5):
            await world.ask(engine, "funding", "trading", user_id=1, amount=1)
            await world.ask(engine, "funding", "trading", user_id=2, amount=1)
        await trio.sleep(1)
    assert len(senders.attempts) == 5


async def test_a_sender_that_crashes_loses_nothing(autojump_clock: object) -> None:
    class Crashing(Senders):
        async def send(self, endpoint: Endpoint, message_id: str, body: bytes) -> Delivery:
            delivery = await super().send(endpoint, message_id, body)
            if len(self.attempts) == 1:
                raise ZeroDivisionError
            return delivery

    senders = Crashing()
    async with telling(senders, 1, 2, retry_first_ms=100, retry_most_ms=1_000) as (world, engine, webhooks):
        await world.ask(engine, "funding", "trading", user_id=1, amount=1)
        await world.ask(engine, "funding", "trading", user_id=2, amount=1)
        await trio.sleep(10)
        assert webhooks.outbox.statistics().delivered == 2
    assert len(senders.attempts) == 3


async def test_what_a_former_url_answered_says_nothing_of_the_one_now(autojump_clock: object) -> None:
    senders = Senders()
    senders.takes_s = 5
    senders.answer = lambda _: GONE
    async with telling(senders, 1) as (world, engine, webhooks):
        await world.ask(engine, "funding", "trading", amount=1)
        await trio.sleep(1)
        await webhooks.outbox.endpoints.register(1, "https://moved.example/")
        await trio.sleep(4.5)
        senders.answer = lambda _: OK
        await trio.sleep(60)
        assert webhooks.outbox.endpoints.enabled.keys() == {1}
    assert len(senders.attempts) == 2


def test_a_new_url_is_tried_at_once() -> None:
    async def once() -> None:
        senders = Senders()
        senders.answer = lambda _: ERROR
        async with telling(senders, 1, retry_first_ms=600_000) as (world, engine, webhooks):
            await world.ask(engine, "funding", "trading", amount=1)
            await trio.sleep(1)
            senders.answer = lambda _: OK
            await webhooks.outbox.endpoints.register(1, "https://moved.example/")
            await trio.sleep(1)
            assert webhooks.outbox.statistics().delivered == 1

    in_a_loop(once)
