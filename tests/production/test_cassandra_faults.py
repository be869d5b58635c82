"""Cassandra dies, stops, hides behind a wire that loses its replies: what clients were told stays true."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import yaml

from support.cassandra_server import CassandraServer
from support.production import Pair, running_pair
from support.proxy import running_proxy
from support.scenes import Scene
from support.server import COMMAND, PATIENCE_S
from transfer_engine.engine.records import cassandra_cluster
from transfer_engine.engine.settings import CassandraSettings


async def test_killed_and_restarted_under_load(pair: Pair, tmp_path: Path) -> None:
    scene = Scene(pair, tmp_path)
    async with scene.played() as (_, users):
        await users.until_decided(60)
        await pair.kill_cassandra()
        await users.until(lambda users: users.pending > 0 and users.refused > 0)
        await pair.cassandra_returns()
        await users.until_decided(60)


async def test_stopped_past_every_deadline(pair: Pair, tmp_path: Path) -> None:
    """Appends that timed out may have landed: nobody was told 503 whose intent did."""
    scene = Scene(pair, tmp_path)
    async with scene.played() as (_, users):
        for _ in range(2):
            await users.until_decided(60)
            pair.cassandra.pause()
            pending, refused = users.pending, users.refused
            await users.until(
                lambda users, pending=pending, refused=refused: users.pending > pending and users.refused > refused + 20
            )
            pair.cassandra.resume()
        await users.until_decided(60)


async def test_replies_are_lost(pair: Pair, tmp_path: Path) -> None:
    """What was written and not acknowledged is written again: no request runs twice, and none gets lost."""
    async with running_proxy(pair.cassandra.address) as proxy:
        scene = Scene(pair, tmp_path, cassandra=proxy.address)
        async with scene.played() as (_, users):
            for _ in range(3):
                await users.until_decided(40)
                proxy.drop_replies()
                pending, refused = users.pending, users.refused
                await users.until(
                    lambda users, pending=pending, refused=refused: users.pending > pending and users.refused > refused
                )
                proxy.heal()
            assert proxy.replies_dropped
            for _ in range(5):
                await users.until_answers(10)
                proxy.cut()
            await users.until_decided(40)


async def test_killed_while_replies_are_lost(pair: Pair, tmp_path: Path) -> None:
    """The engine dies while it does not know which intents have landed: those that did are driven, by the next life."""
    async with running_proxy(pair.cassandra.address) as proxy:
        scene = Scene(pair, tmp_path, cassandra=proxy.address)
        async with scene.server() as server:
            await scene.users.fund()
            async with scene.load() as users:
                await users.until_decided(40)
                proxy.drop_replies()
                await users.until(lambda users: users.pending > 0 and users.refused > 0)
                await server.kill()
                users.stop()
        assert await scene.unrecorded() == set()
        proxy.heal()
        async with scene.server() as server:
            await scene.heal()
            assert await server.stop() == 0, server.log_tail()
        await scene.examine()


async def test_both_are_gone_at_the_end_and_at_the_next_start(pair: Pair, tmp_path: Path) -> None:
    """The stop is bounded; the next process waits for Cassandra, says so, and needs no restart."""
    scene = Scene(pair, tmp_path)
    async with scene.server() as server:
        await scene.users.fund()
        async with scene.load() as users:
            await users.until_decided(60)
            await pair.kill_cassandra()
            pair.cluster.stop()
            await users.until(lambda users: users.pending > 0)
            server.send(signal.SIGTERM)
            assert await server.wait() == 0, server.log_tail()
            users.stop()

    async def live_next() -> None:
        async with scene.server() as server:
            await scene.heal()
            assert await server.stop() == 0, server.log_tail()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live_next)
        said = await scene.until_ready(503)
        while "record store" not in said.records.detail:
            said = await scene.until_ready(503)
        assert pair.cassandra.address in said.records.detail
        await pair.tigerbeetle_returns()
        await pair.cassandra_returns()
    await scene.examine()


@contextmanager
def foreign_keyspace(pair: Pair) -> Iterator[str]:
    """Make a keyspace without our tables."""
    settings = CassandraSettings.model_validate(pair.backends()["cassandra"])
    session = cassandra_cluster.connect(settings)
    try:
        session.execute(
            f"CREATE KEYSPACE {pair.keyspace} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
        )
        yield pair.keyspace
    finally:
        cassandra_cluster.shut_down(session)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_keyspace_that_is_not_ours(binary: str, cassandra: CassandraServer, tmp_path: Path, is_there: bool) -> None:
    """Missing, or without our schema: the server does not wait for it, and one line says which command mends it."""
    with running_pair(binary, cassandra, tmp_path, schema=False) as pair:
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({**pair.backends(), "log_format": "json", "data_dir": str(tmp_path / "data")}))
        if is_there:
            with foreign_keyspace(pair):
                pass
        served = subprocess.run(
            [COMMAND, "serve", "--port", "0", "--config", str(config)],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert served.returncode == 1
        assert served.stdout == ""
        [line] = [line for line in served.stderr.splitlines() if not line.startswith("{")]
        assert pair.keyspace in line
        assert "transfer-engine schema apply" in line
