"""The websocket client against real servers: pipelined, cut, killed, resumed; nothing moves twice."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from support.proxy import Proxy, running_proxy
from support.server import Server, start_server
from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client import (
    BalanceChanged,
    Client,
    Event,
    NotFound,
    Outcome,
    Refusal,
    Refused,
    Snapshot,
    Transfer,
    TransferChanged,
    TransferRefused,
    Unreachable,
    WebSocketClient,
)

UNIT = 100_000_000
AT_ONCE = Backoff(first_ms=5, most_ms=50)


def port_of(server: Server, door: str) -> int:
    return server.express_port if door == "express" else server.port


@asynccontextmanager
async def connected(
    server: Server, *, door: str = "express", ping_interval_s: float = 10.0
) -> AsyncIterator[tuple[WebSocketClient, Proxy]]:
    async with (
        running_proxy(f"127.0.0.1:{port_of(server, door)}") as proxy,
        Client(f"http://{proxy.address}", backoff=AT_ONCE) as client,
        client.websocket(ping_interval_s=ping_interval_s) as websocket,
    ):
        yield websocket, proxy


async def move(websocket: WebSocketClient, user_id: int, *, key: str | None = None, wait: bool = False) -> Outcome:
    return await websocket.transfer(
        source="funding", target="trading", user_id=user_id, asset_id=1, amount=UNIT, key=key, wait=wait
    )


async def until_moved(events: AsyncIterator[Event], user_id: int, available: int) -> list[Event]:
    """Take events until the user's trading account is told to hold so much; what a snapshot says counts as well."""
    taken: list[Event] = []
    with trio.fail_after(20):
        async for event in events:
            taken.append(event)
            balances = (
                event.balances
                if isinstance(event, Snapshot)
                else [event.balance]
                if isinstance(event, BalanceChanged)
                else []
            )
            if any(each.account == "trading" and each.available == available for each in balances):
                return taken
    raise AssertionError(f"the subscription of user {user_id} ended")


@pytest.mark.parametrize("door", ["main", "express"])
async def test_what_can_be_asked(server: Server, door: str) -> None:
    user = {"main": 9301, "express": 9302}[door]
    server.credit(user, 1_000 * UNIT)
    async with connected(server, door=door) as (websocket, _):
        outcome = await move(websocket, user)
        assert outcome.is_committed
        record = await websocket.get(outcome.req_id)
        assert (record.user_id, record.to_user_id, record.amount) == (user, user, UNIT)
        balances = {balance.account: balance.available for balance in await websocket.balances(user)}
        assert balances == {"funding": 999 * UNIT, "trading": UNIT}
        await websocket.ping()
        with pytest.raises(NotFound):
            await websocket.get("00000000-0000-0000-0000-000000000000")
        with pytest.raises(TransferRefused) as refused:
            await websocket.transfer(source="funding", target="trading", user_id=user, asset_id=1, amount=0)
        assert (refused.value.code, refused.value.field) == ("amount_not_positive", "amount")
        transfer = Transfer(source="funding", target="trading", user_id=user, asset_id=1, amount=UNIT)
        zero = Transfer(source="funding", target="trading", user_id=user, asset_id=1, amount=0)
        first, second, third = await websocket.transfer_many([transfer, zero, transfer])
        assert isinstance(first, Outcome)
        assert isinstance(second, Refusal)
        assert isinstance(third, Outcome)
        assert first.req_id == third.req_id
    assert server.balance(user, "trading") == (2 * UNIT, 0)


async def test_many_calls_share_one_connection(server: Server) -> None:
    server.credit(9303, 1_000 * UNIT)
    outcomes: list[Outcome] = []
    async with connected(server) as (websocket, _):

        async def send() -> None:
            outcomes.append(await move(websocket, 9303))

        async with trio.open_nursery() as nursery:
            for _ in range(600):
                nursery.start_soon(send)
        assert websocket.connections == 1
    assert len({outcome.req_id for outcome in outcomes}) == 600
    assert server.balance(9303, "trading") == (600 * UNIT, 0)


async def test_cancelled_calls_leave_the_connection_to_the_others(server: Server) -> None:
    server.credit(9304, 1_000 * UNIT)
    outcomes: list[Outcome] = []
    async with connected(server) as (websocket, _):

        async def give_up(number: int) -> None:
            with trio.CancelScope(deadline=trio.current_time() + number / 20_000):
                await move(websocket, 9304, key=f"given-up-{number}")

        async def stay(number: int) -> None:
            outcomes.append(await move(websocket, 9304, key=f"stays-{number}"))

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(give_up, number)
                nursery.start_soon(stay, number)
        again = [await move(websocket, 9304, key=f"given-up-{number}") for number in range(100)]
        assert websocket.connections == 1
    assert all(outcome.is_committed for outcome in outcomes + again)
    assert server.balance(9304, "trading") == (200 * UNIT, 0)


async def test_connections_break_and_nothing_moves_twice(server: Server) -> None:
    server.credit(9305, 1_000 * UNIT)
    outcomes: list[Outcome] = []
    async with connected(server) as (websocket, proxy):

        async def work(worker: int) -> None:
            for number in range(40):
                outcome = await move(websocket, 9305, key=f"cut-{worker}-{number}")
                outcomes.append(outcome)

        async with trio.open_nursery() as nursery:
            for worker in range(10):
                nursery.start_soon(work, worker)
            for _ in range(10):
                await trio.sleep(0.02)
                proxy.cut()
        assert websocket.connections > 1
    assert len({outcome.req_id for outcome in outcomes}) == 400
    assert all(outcome.is_committed for outcome in outcomes)
    assert server.balance(9305, "trading") == (400 * UNIT, 0)


async def test_answers_are_lost_and_asked_for_again(server: Server) -> None:
    server.credit(9306, 1_000 * UNIT)
    outcomes: list[Outcome] = []
    async with connected(server, ping_interval_s=0.2) as (websocket, proxy):
        await websocket.ping()
        proxy.drop_replies()

        async def send(number: int) -> None:
            outcomes.append(await move(websocket, 9306, key=f"deaf-{number}"))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(send, number)
            with trio.fail_after(10):
                while not proxy.replies_dropped:  # noqa: ASYNC110  bytes through a real socket ring no bell
                    await trio.sleep(0.01)
            proxy.heal()
        results = await websocket.transfer_many(
            [Transfer(source="funding", target="trading", user_id=9306, asset_id=1, amount=UNIT, key="deaf-0")]
        )
    assert all(isinstance(result, Outcome) and result.is_replay for result in results)
    assert any(outcome.is_replay for outcome in outcomes)
    assert server.balance(9306, "trading") == (20 * UNIT, 0)


async def test_a_deaf_connection_is_given_up(server: Server) -> None:
    async with connected(server, ping_interval_s=0.1) as (websocket, proxy):
        await websocket.ping()
        proxy.drop_replies()
        with pytest.raises(Unreachable):
            await websocket.ping(deadline_s=0.6)
        proxy.heal()
        await websocket.ping()
        assert websocket.connections > 1


async def test_nobody_there() -> None:
    async with Client("http://127.0.0.1:1", backoff=AT_ONCE) as client, client.websocket() as websocket:
        with pytest.raises(Unreachable) as unreachable:
            await websocket.transfer(
                source="funding", target="trading", user_id=1, asset_id=1, amount=1, key="k", deadline_s=0.5
            )
        assert unreachable.value.key == "k"
        assert "127.0.0.1:1" in str(unreachable.value)


async def test_what_is_raised_inside_comes_out_as_it_is(server: Server) -> None:
    async def fail() -> None:
        async with Client(server.express_url) as client, client.websocket() as websocket:
            await websocket.ping()
            raise LookupError

    with pytest.raises(LookupError):
        await fail()


async def test_a_path_without_a_websocket(server: Server) -> None:
    async with Client(f"{server.express_url}/nowhere", backoff=AT_ONCE) as client, client.websocket() as websocket:
        with pytest.raises(Refused) as refused:
            await websocket.ping()
    assert refused.value.refusal.http_status == 404


async def test_a_subscription_begins_with_a_snapshot_and_goes_on(server: Server) -> None:
    server.credit(9310, 10 * UNIT)
    async with connected(server) as (websocket, _), websocket.subscribe(9310) as events:
        snapshot = await anext(events)
        assert isinstance(snapshot, Snapshot)
        assert [(balance.account, balance.available) for balance in snapshot.balances] == [("funding", 10 * UNIT)]
        outcome = await move(websocket, 9310)
        taken = await until_moved(events, 9310, UNIT)
        assert [event.seq for event in taken] == list(range(snapshot.seq + 1, snapshot.seq + 1 + len(taken)))
        changed = [event for event in taken if isinstance(event, TransferChanged)]
        assert {event.req_id for event in changed} == {outcome.req_id}


async def test_a_subscription_survives_its_connection(server: Server) -> None:
    server.credit(9311, 1_000 * UNIT)
    async with connected(server) as (websocket, proxy), websocket.subscribe(9311) as events:
        snapshot = await anext(events)
        for _ in range(5):
            await move(websocket, 9311)
            proxy.cut()
            await move(websocket, 9311)
        taken = await until_moved(events, 9311, 10 * UNIT)
        assert websocket.connections > 1
        assert not any(isinstance(event, Snapshot) for event in taken)
        assert [event.seq for event in taken] == list(range(snapshot.seq + 1, snapshot.seq + 1 + len(taken)))


async def test_events_that_are_not_taken_in_time_are_asked_for_again(server: Server) -> None:
    server.credit(9312, 1_000 * UNIT)
    async with connected(server) as (websocket, _), websocket.subscribe(9312, waiting_most=5) as events:
        for _ in range(20):
            await move(websocket, 9312)
        taken = await until_moved(events, 9312, 20 * UNIT)
        seqs = [event.seq for event in taken]
        assert seqs == sorted(set(seqs))


async def test_subscriptions_of_several_users_and_one_that_ends(server: Server) -> None:
    for user in (9313, 9314):
        server.credit(user, 10 * UNIT)
    async with connected(server) as (websocket, _), websocket.subscribe(9313) as first:
        async with websocket.subscribe(9314) as second:
            await move(websocket, 9314)
            await until_moved(second, 9314, UNIT)
            with pytest.raises(ValueError, match="9314"):
                async with websocket.subscribe(9314):
                    pass
        await move(websocket, 9313)
        await until_moved(first, 9313, UNIT)


async def test_the_server_is_killed_and_comes_back(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    try:
        server.credit(1, 1_000 * UNIT)
        outcomes: list[Outcome] = []
        some_are_done = trio.Event()
        async with connected(server) as (websocket, proxy), websocket.subscribe(1) as events:
            before = await anext(events)

            async def work(worker: int) -> None:
                for number in range(30):
                    outcome = await move(websocket, 1, key=f"killed-{worker}-{number}", wait=True)
                    outcomes.append(outcome)
                    if len(outcomes) == 40:
                        some_are_done.set()

            async with trio.open_nursery() as nursery:
                for worker in range(10):
                    nursery.start_soon(work, worker)
                await some_are_done.wait()
                server.signal(signal.SIGKILL)
                await trio.to_thread.run_sync(server.wait)
                server.close()
                server = await trio.to_thread.run_sync(start_server, tmp_path)
                proxy.target = f"127.0.0.1:{server.express_port}"
            taken = await until_moved(events, 1, 300 * UNIT)
        assert isinstance(before, Snapshot)
        snapshots = [event for event in taken if isinstance(event, Snapshot)]
        assert snapshots
        assert snapshots[-1].stream != before.stream
        assert all(outcome.is_committed for outcome in outcomes)
        assert len({outcome.req_id for outcome in outcomes}) == 300
        assert server.balance(1, "funding") == (700 * UNIT, 0)
        assert server.balance(1, "trading") == (300 * UNIT, 0)
    finally:
        server.close()
