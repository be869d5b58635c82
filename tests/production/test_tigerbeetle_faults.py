"""TigerBeetle dies, stops, hides behind a bad wire: what clients were told stays true, and all goes on by itself."""

import signal
from pathlib import Path

from support.cassandra_server import CassandraServer
from support.production import Pair, running_pair
from support.proxy import running_proxy
from support.scenes import Scene


async def test_killed_under_load(pair: Pair, tmp_path: Path) -> None:
    scene = Scene(pair, tmp_path)
    [replica] = pair.cluster.replicas
    async with scene.played() as (_, users):
        await users.until_decided(60)
        replica.kill()
        await users.until(lambda users: users.pending > 0 and users.refused > 0)
        await pair.tigerbeetle_returns()
        await users.until_decided(60)


async def test_stopped_past_every_deadline(pair: Pair, tmp_path: Path) -> None:
    """Nobody was told anything but `pending` and 503; the posts that come late contradict none of it."""
    scene = Scene(pair, tmp_path)
    [replica] = pair.cluster.replicas
    async with scene.played() as (_, users):
        for _ in range(2):
            await users.until_decided(60)
            replica.pause()
            pending, refused = users.pending, users.refused
            await users.until(
                lambda users, pending=pending, refused=refused: users.pending > pending and users.refused > refused + 20
            )
            replica.resume()
        await users.until_decided(60)


async def test_primary_of_three_killed_under_load(binary: str, cassandra: CassandraServer, tmp_path: Path) -> None:
    with running_pair(binary, cassandra, tmp_path, replica_count=3) as pair:
        scene = Scene(pair, tmp_path)
        async with scene.played() as (_, users):
            await users.until_decided(60)
            pair.cluster.primary().kill()
            await users.until_decided(120)


async def test_absent_at_the_start(pair: Pair, tmp_path: Path) -> None:
    """The engine is there, says what it lacks, and needs no restart."""
    scene = Scene(pair, tmp_path)
    pair.cluster.stop()
    async with scene.server() as server:
        said = await scene.until_ready(503)
        assert not said.ledger.ready
        assert said.ledger.detail
        await pair.tigerbeetle_returns()
        await scene.until_ready()
        await scene.users.fund()
        async with scene.load() as users:
            await users.until_decided(60)
        await scene.heal()
        assert await server.stop() == 0, server.log_tail()
    await scene.examine()


async def test_gone_at_the_end(pair: Pair, tmp_path: Path) -> None:
    """A graceful stop does not wait for it for ever; the next life ends what was under way."""
    scene = Scene(pair, tmp_path)
    async with scene.server() as server:
        await scene.users.fund()
        async with scene.load() as users:
            await users.until_decided(60)
            pair.cluster.replicas[0].kill()
            await users.until(lambda users: users.pending > 0)
            server.send(signal.SIGTERM)
            assert await server.wait() == 0, server.log_tail()
            users.stop()
    await pair.tigerbeetle_returns()
    assert await scene.unrecorded() == set()
    async with scene.server() as server:
        await scene.heal()
        assert await server.stop() == 0, server.log_tail()
    await scene.examine()


async def test_a_bad_wire(pair: Pair, tmp_path: Path) -> None:
    """Connections are cut in the middle of requests and answers, and what is sent comes late."""
    async with running_proxy(pair.cluster.addresses) as proxy:
        scene = Scene(pair, tmp_path, tigerbeetle=proxy.address)
        async with scene.played() as (_, users):
            for _ in range(10):
                await users.until_answers(10)
                proxy.cut()
            proxy.delay(0.1)
            await users.until_answers(20)
            proxy.drop_replies()
            await users.until(lambda users: users.pending > 0 and users.refused > 0)
            proxy.heal()
            await users.until_decided(60)
