"""Engines on one pair of clusters, killed and stopped in turn: the others end what they left, nothing moves twice."""

import signal
from pathlib import Path

from support.peers import LEASE, peers_under_load
from support.production import Pair


async def test_killed_in_turn(pair: Pair, tmp_path: Path) -> None:
    """The survivor adopts what the dead one left; then the dead one comes back, and it is the other one's turn."""
    async with peers_under_load(pair, tmp_path) as peers:
        for dead, survivor in ((0, 1), (1, 0)):
            await peers.users.until_decided(60)
            await peers.kill(dead)
            await peers.until_adopted_by(survivor)
            await peers.users.until_decided(30)
            await peers.start(dead)
        await peers.users.until_decided(60)


async def test_killed_and_back_before_anybody_noticed(pair: Pair, tmp_path: Path) -> None:
    """A restart on the same directory waits for no lease: nobody else ever takes the shard over."""
    async with peers_under_load(pair, tmp_path) as peers:
        for dead in (0, 1, 0):
            await peers.users.until_decided(40)
            await peers.kill(dead)
            await peers.start(dead)
        await peers.users.until_decided(40)


async def test_never_back(pair: Pair, tmp_path: Path) -> None:
    """Of three engines two die, and some of their clients, too: the last one ends what nobody asks for any more."""
    async with peers_under_load(pair, tmp_path, nodes=3) as peers:
        await peers.users.until_decided(60)
        [replica] = pair.cluster.replicas
        replica.pause()
        pending = peers.users.pending
        await peers.users.until(lambda users: users.pending > pending + 2 * len(users.ids))
        await peers.kill(0)
        await peers.kill(1)
        replica.resume()
        await peers.until(2, ("adoption", "settled"), 2)
        await peers.users.until_decided(30)
        assert (await peers.figures(2))["adoption"]["transfers"] > 0


async def test_stopped_for_longer_than_its_lease(pair: Pair, tmp_path: Path) -> None:
    """It wakes when another one has its shard: it does no harm, and ends."""
    async with peers_under_load(pair, tmp_path, answer_s=3) as peers:
        for stopped, other in ((0, 1), (1, 0)):
            await peers.users.until_decided(60)
            peers.pause(stopped)
            await peers.until_adopted_by(other)
            await peers.users.until_decided(30)
            assert await peers.resume_to_its_end(stopped) == 1
            await peers.start(stopped)
        await peers.users.until_decided(60)


async def test_stopped_and_nobody_took_over(pair: Pair, tmp_path: Path) -> None:
    """Its lease has lapsed when it wakes, and its claim is still its own: it goes on."""
    async with peers_under_load(pair, tmp_path, nodes=1, answer_s=1.5 * LEASE["lease_ms"] / 1000) as peers:
        await peers.users.until_decided(60)
        peers.pause(0)
        await peers.users.until(lambda users: users.unanswered > 0)
        peers.running[0].send(signal.SIGCONT)
        await peers.users.until_decided(60)


async def test_both_killed_at_once(pair: Pair, tmp_path: Path) -> None:
    """Nobody is there to adopt anything: their next lives end it."""
    async with peers_under_load(pair, tmp_path) as peers:
        await peers.users.until_decided(60)
        await peers.kill(0)
        await peers.kill(1)
        assert await peers.unrecorded() == set()
        await peers.start(1)
        await peers.start(0)
        await peers.users.until_decided(60)
