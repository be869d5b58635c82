"""`kill -9` and SIGTERM at other moments than the named ones: during recovery, at random, in a graceful stop."""

import signal
from random import Random
from typing import Any

import pytest
import trio

from support.killing import CONFIG, Lives
from transfer_engine.http.demo_client import Client, open_client
from transfer_engine.http.demo_notes import Asked
from transfer_engine.http.demo_server import ServerProcess
from transfer_engine.schema.transfers import TERMINAL_STATES

BEHAVIOURS: list[dict[str, Any]] = [
    {},
    {"latency_ms": 40},
    {"lose_replies": 30},
    {"crash_after": 20},
    {"crash_before": 20},
    {"pending_calls": 30, "pending_applied": True},
    {"ops": ["commit", "rollback"], "lose_replies": 1_000},
]


async def kill(server: ServerProcess) -> None:
    server.send(signal.SIGKILL)


async def terminate(server: ServerProcess) -> None:
    server.send(signal.SIGTERM)


async def kill_while_it_drains(server: ServerProcess) -> None:
    server.send(signal.SIGTERM)
    while '"draining"' not in server.log_tail():  # noqa: ASYNC110  another process's progress sets no event of ours
        await trio.sleep(0.01)
    server.send(signal.SIGKILL)


async def test_killed_during_recovery(lives: Lives) -> None:
    """Transfers wait for slow cores when the first life ends: there is much to recover, and it is interrupted."""
    ended = await lives.live_until_answers(120, kill, behaviour={"latency_ms": 30_000}, service_timeout_ms=50)
    assert ended == -signal.SIGKILL
    for passing in (1, 2, 5):
        await lives.live_until(f"during_recovery@{passing}")
    await lives.recover()


@pytest.mark.parametrize("seed", range(2))
async def test_killed_at_random(lives: Lives, seed: int) -> None:
    moments = Random(seed)
    for _ in range(2):
        behaviour = moments.choice(BEHAVIOURS)
        ended = await lives.live_until_answers(moments.randint(1, 250), kill, behaviour=behaviour)
        assert ended == -signal.SIGKILL
    await lives.recover()
    assert lives.alerts == []


async def test_killed_while_it_opens(lives: Lives) -> None:
    assert (
        await lives.live_until_answers(120, kill, behaviour={"latency_ms": 30_000}, service_timeout_ms=50)
        == -signal.SIGKILL
    )
    moments = Random(0)
    for _ in range(3):
        await lives.die_while_opening(moments.uniform(0.4, 1.2))
    await lives.recover()
    assert lives.alerts == []


async def test_a_graceful_stop_under_load_leaves_nothing_to_recover(lives: Lives) -> None:
    asked_at = 0.0

    async def stop(server: ServerProcess) -> None:
        nonlocal asked_at
        asked_at = trio.current_time()
        await terminate(server)

    assert await lives.live_until_answers(150, stop, service_timeout_ms=4_000, deadline_ms=60_000) == 0
    assert (trio.current_time() - asked_at) * 1000 < CONFIG["shutdown_ms"]
    await lives.recover()
    assert lives.recovered == [0]
    assert lives.alerts == []


async def test_a_graceful_stop_gives_up_at_its_deadline(lives: Lives) -> None:
    """The cores never answer: the process ends all the same, and the next one goes on."""
    config = {"deadline_ms": 200, "service_timeout_ms": 60_000, "shutdown_ms": 500}
    assert await lives.live_until_answers(40, terminate, behaviour={"latency_ms": 50_000}, **config) == 0
    await lives.recover()
    assert lives.recovered[0] > 0


async def test_killed_while_it_stops(lives: Lives) -> None:
    config = {"deadline_ms": 200, "service_timeout_ms": 4_000}
    ended = await lives.live_until_answers(60, kill_while_it_drains, behaviour={"latency_ms": 1_000}, **config)
    assert ended == -signal.SIGKILL
    await lives.recover()
    assert lives.recovered[0] > 0


async def test_killed_while_an_operator_voids(lives: Lives) -> None:
    """The cores do not say what became of their deposits. What the operator was told before the kill stays true."""
    told: dict[int, str] = {}

    async def void(client: Client, asked: Asked, server: ServerProcess) -> None:
        report = await client.resolve(asked, "void")
        if report is not None and report.state in TERMINAL_STATES:
            told[asked.req_id] = report.state
            if len(told) == 5:
                server.send(signal.SIGKILL)

    async def void_all(server: ServerProcess) -> None:
        async with open_client(server.url, lives.notebook, connections=8) as client:
            while server.returncode is None:
                pending = [note.asked for note in lives.notebook.undecided if note.answers]
                async with trio.open_nursery() as nursery:
                    for asked in pending[:20]:
                        nursery.start_soon(void, client, asked, server)
                await trio.sleep(0.05)

    silent = {"ops": ["deposit"], "pending_calls": 1_000_000}
    ended = await lives.live_until_answers(120, void_all, behaviour=silent, service_timeout_ms=50)
    assert ended == -signal.SIGKILL
    await lives.recover()
    rows = await lives.rows()
    assert {req_id: rows[req_id].state for req_id in told} == told
    # One that had already ended by itself is what it is; those that the operator ended gave their amount back.
    assert {"rolled_back", "failed"} & set(told.values())
