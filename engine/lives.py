"""How an engine's life begins: it claims its node when whoever had it before is certainly over.

No wall clock decides that. A former life has released the node, or is proven dead, or its claim has not changed for
longer than its lease, by our own monotonic clock. A claim whose beat goes up belongs to an engine that runs.
"""

from collections.abc import Callable
from typing import Final
from uuid import uuid4

import msgspec
import trio

from transfer_engine.engine.former_lives import FormerLives
from transfer_engine.engine.leases import OVER_AFTER_LEASES, Lease
from transfer_engine.engine.patience import Patience
from transfer_engine.engine.records.protocol import Claim, ClaimLost, Life, RecordStore
from transfer_engine.schema.ids import SnowflakeGenerator

ADOPTER: Final = "adopter:"
"""Begins the owner token of an engine that holds another one's node only to settle what that one left."""

AHEAD_LEAST_MS: Final = 100
"""How far the ceiling is above the logical clock at least: 409,600 identifiers, enough until the next heartbeat.

Where the former life's ceiling is ahead of the clock, this is all: else an engine that restarts again and again would
run ahead of the clock by a whole ceiling at every start.
"""


class NodeInUse(Exception):
    """Another engine runs under this engine's node number; the message says what mends it."""


class Begun(msgspec.Struct, frozen=True):
    """A life that has begun: its claim, its identifiers, and its lease."""

    life: Life
    identifiers: SnowflakeGenerator
    lease: Lease


def next_ceiling_ms(clock_ms: int, logical_ms: int, ahead_ms: int) -> int:
    """Return the ceiling to promise (Unix ms): ahead of the wall clock, and of a logical clock that is ahead of it."""
    return max(clock_ms + ahead_ms, logical_ms + AHEAD_LEAST_MS)


async def begin_life(
    store: RecordStore,
    *,
    node: int,
    clock_ms: Callable[[], int],
    ahead_ms: int,
    heartbeat_ms: int,
    lease_ms: int,
    former_lives: FormerLives,
    patience: Patience,
) -> Begun:
    """Claim the node, once that is safe, and return the life; its identifiers start above those of all former lives.

    A store that does not answer is asked again and again. Cancellation leaves the node as it was, or claimed by a life
    that never issued anything.

    Raises:
        NodeInUse: an engine under this node number runs.
    """
    lease = Lease(lease_ms)
    life = await _claim(
        store,
        node,
        ceiling_ms=lambda: clock_ms() + ahead_ms,
        heartbeat_ms=heartbeat_ms,
        lease_ms=lease_ms,
        former_lives=former_lives,
        patience=patience,
    )
    identifiers = SnowflakeGenerator(node=node, clock_ms=clock_ms, after_ms=life.after_ms)
    ceiling_ms = next_ceiling_ms(clock_ms(), life.after_ms, ahead_ms)

    async def first_beat() -> float:
        sent_at = trio.current_time()
        await store.raise_ceiling(life, ceiling_ms, beat=1)
        return sent_at

    lease.renew(await patience.ask(first_beat))
    identifiers.raise_ceiling(ceiling_ms)
    return Begun(life=life, identifiers=identifiers, lease=lease)


async def _claim(
    store: RecordStore,
    node: int,
    *,
    ceiling_ms: Callable[[], int],
    heartbeat_ms: int,
    lease_ms: int,
    former_lives: FormerLives,
    patience: Patience,
) -> Life:
    owner = uuid4().hex
    await former_lives.begin(owner)
    over_after_s = lease_ms / 1000 * OVER_AFTER_LEASES
    watched: Claim | None = None
    since = 0.0
    while True:
        seen = await patience.ask(lambda: store.find_claim(node))
        if seen is None or _is_free(seen, former_lives):
            is_over = True
        elif watched is None or seen != watched:
            if watched is not None and (seen.epoch, seen.owner) == (watched.epoch, watched.owner):
                raise NodeInUse(f"node {node} is claimed by a running engine: give this engine another `node`")
            watched, since, is_over = seen, trio.current_time(), False
        else:
            is_over = trio.current_time() - since >= over_after_s
        if is_over:
            try:
                ceiling = ceiling_ms()
                life = await patience.ask(
                    lambda: store.claim(node, owner, former=seen, ceiling_ms=ceiling)  # noqa: B023  asked at once
                )
            except ClaimLost:
                continue  # somebody was faster: look who it is
            patience.says("")
            await former_lives.began(owner)
            return life
        patience.says(f"the lease of the engine that had node {node} to be over")
        await trio.sleep(heartbeat_ms / 1000)


def _is_free(claim: Claim, former_lives: FormerLives) -> bool:
    """Tell whether a node may be claimed at once. An adopter gives way: what it settles a new life settles as well."""
    return not claim.owner or claim.owner.startswith(ADOPTER) or former_lives.is_dead(claim.owner)
