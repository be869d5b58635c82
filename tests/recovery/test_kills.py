"""`kill -9` and SIGTERM at other moments than the named ones: during recovery, at random, in a graceful stop."""

import signal
from random import Random

import pytest
import trio

from support.killing import CONFIG, Lives
from transfer_engine.http.demo_server import ServerProcess


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
    ended = await lives.live_until_answers(120, kill, slow_ms=30_000, service_timeout_ms=50)
    assert ended == -signal.SIGKILL
    for passing in (1, 2, 5):
        await lives.live_until(f"during_recovery@{passing}")
    await lives.recover()


@pytest.mark.parametrize("seed", range(2))
async def test_killed_at_random(lives: Lives, seed: int) -> None:
    moments = Random(seed)
    for _ in range(3):
        ended = await lives.live_until_answers(moments.randint(1, 250), kill, slow_ms=moments.choice((0, 5, 40)))
        assert ended == -signal.SIGKILL
    await lives.recover()
    assert lives.alerts == []


async def test_killed_while_it_opens(lives: Lives) -> None:
    assert await lives.live_until_answers(120, kill, slow_ms=30_000, service_timeout_ms=50) == -signal.SIGKILL
    moments = Random(0)
    for _ in range(4):
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
    assert await lives.live_until_answers(40, terminate, slow_ms=50_000, **config) == 0
    await lives.recover()
    assert lives.recovered[0] > 0


async def test_killed_while_it_stops(lives: Lives) -> None:
    config = {"deadline_ms": 200, "service_timeout_ms": 4_000}
    ended = await lives.live_until_answers(60, kill_while_it_drains, slow_ms=1_000, **config)
    assert ended == -signal.SIGKILL
    await lives.recover()
    assert lives.recovered[0] > 0
