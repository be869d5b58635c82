"""Who is refused for want of room waits for his turn: evenly, for a second at most, and nobody else with him."""

import json
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
import trio
from trio.testing import MockClock

from support.server import ASSETS, Server, running_server
from transfer_engine.benchmarks.frames import frame, open_socket
from transfer_engine.http.refusal_pace import WAIT_MOST_S, RefusalPace

USERS = range(1, 33)
MONEY = 1_000_000
ASKED = 1_000
"""Requests of each connection."""


async def test_turns_are_given_evenly(autojump_clock: MockClock) -> None:
    pace = RefusalPace(100)
    came: list[float] = []

    async def ask() -> None:
        await pace.wait(1)
        came.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert came == pytest.approx([began + (turn + 1) / 100 for turn in range(50)])
    await trio.sleep(10)
    began = trio.current_time()
    await pace.wait(1)
    assert trio.current_time() - began == pytest.approx(0.01), "a turn that nobody took is not saved up, nor owed"


async def test_no_turn_is_further_away_than_a_second(autojump_clock: MockClock) -> None:
    pace = RefusalPace(10)
    for _ in range(1_000):
        assert pace.reserve(1_000) <= trio.current_time() + WAIT_MOST_S
    assert pace.behind_s == pytest.approx(WAIT_MOST_S)
    await trio.sleep(WAIT_MOST_S)
    assert pace.behind_s == 0


async def test_a_turn_that_is_given_up_holds_nobody_up_for_long(autojump_clock: MockClock) -> None:
    pace = RefusalPace(10)
    with trio.move_on_after(0.01):
        await pace.wait(5)
    began = trio.current_time()
    await pace.wait(1)
    assert trio.current_time() - began <= 0.6


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = {
        "assets": ASSETS,
        "deadline_ms": 20_000,
        "mailbox_capacity": 4,
        "waiting_least": 32,
        "websocket": {"in_flight_most": 48},
    }
    with running_server(tmp_path_factory.mktemp("flooded"), config=config) as running:
        for user_id in USERS:
            running.credit(user_id, MONEY)
        yield running
        assert running.faults == []
        assert running.stop() == 0


def transfer(number: int) -> dict[str, object]:
    return {"from": "funding", "to": "trading", "user_id": USERS[number % len(USERS)], "asset_id": 1, "amount": 1}


def moved(server: Server) -> int:
    return sum(server.balance(user_id, "trading")[0] for user_id in USERS)


@pytest.mark.parametrize("door", ["main", "express"])
async def test_a_flood_of_websockets_is_answered_whole(flooded: Server, door: str) -> None:
    before = moved(flooded)
    outcomes: Counter[str] = Counter()

    async def flood() -> None:
        socket = await open_socket(flooded.port if door == "main" else flooded.express_port)
        answered: set[int] = set()

        async def send() -> None:
            for number in range(ASKED):
                await socket.send(frame(msgspec.msgpack.encode({"op": "transfer", "id": number, **transfer(number)})))

        async with trio.open_nursery() as sending:
            sending.start_soon(send)
            while len(answered) < ASKED:
                messages = await socket.receive()
                assert messages, "nobody is cut off"
                for message in messages:
                    answer = msgspec.msgpack.decode(message)
                    assert answer["id"] not in answered
                    answered.add(answer["id"])
                    outcomes[answer["data"]["status"] if answer["ok"] else answer["error"]["code"]] += 1
        await socket.aclose()

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(flood)
    assert set(outcomes) == {"committed", "overloaded"}
    assert outcomes.total() == 4 * ASKED
    assert moved(flooded) - before == outcomes["committed"]
    assert sum(flooded.balance(user_id, "funding")[0] for user_id in USERS) + moved(flooded) == len(USERS) * MONEY


async def test_pipelined_requests_are_answered_whole_and_the_connection_goes_on(flooded: Server) -> None:
    before = moved(flooded)
    count = 300
    body = json.dumps({**transfer(0), "user_id": 1}).encode()
    request = (
        b"POST /api/v1/transfer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    statuses: Counter[str] = Counter()
    stream = await trio.open_tcp_stream("127.0.0.1", flooded.express_port)
    with trio.fail_after(120):
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, request * count + b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            data = b""
            while b'"healthy"' not in data:
                received = await stream.receive_some()
                assert received, "the connection stays"
                data += received
    for answer in data.split(b"HTTP/1.1 ")[1:-1]:
        status, _, told = answer.partition(b" ")
        assert status in {b"200", b"503"}
        statuses[json.loads(told[told.index(b"\r\n\r\n") + 4 :])["status"]] += 1
    assert set(statuses) <= {"committed", "failed"}
    assert statuses["failed"] > 0
    assert statuses.total() == count
    assert moved(flooded) - before == statuses["committed"]
