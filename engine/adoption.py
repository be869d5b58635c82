"""Adoption: what a stopped engine left unfinished is carried over into this one, and driven here like any other.

Every engine watches all claims. One that has not changed for longer than a lease belongs to an engine that stopped;
one without an owner to an engine that stopped on purpose. Whoever takes the claim over (one can) makes the stopped
engine's next heartbeat fail. It reads the stopped engine's journal, journals each unfinished intent again in its *own*
shard, and has it driven. No lock protects the transfers: the ledger arbitrates between all who drive one.

The shard's mark is raised only after a second look, `adoption_recheck_ms` later: a stopped engine may wake, and what it
had sent may arrive late. Until then the adopter beats for the node, so that nobody else adopts it, too. An adopter that
dies leaves everything as it was, but for intents that are in two shards: they are driven twice, to the same end.
"""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final

import msgspec
import trio

from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.completion import Completion
from transfer_engine.engine.former_lives import FormerLives
from transfer_engine.engine.journal import Journal, Journaled
from transfer_engine.engine.leases import OVER_AFTER_LEASES, Lease, LeaseLapsed
from transfer_engine.engine.lives import ADOPTER
from transfer_engine.engine.open_transfers import Custody, OpenTransfer, OpenTransfers
from transfer_engine.engine.outbox_adoption import OutboxAdoption
from transfer_engine.engine.recorder import Recorder
from transfer_engine.engine.records.protocol import (
    BUCKET_MS,
    Claim,
    ClaimLost,
    Life,
    RecordsDamaged,
    RecordStore,
    RecordsUnavailable,
)
from transfer_engine.engine.recovery import Row, reopen, unfinished_intents
from transfer_engine.engine.services.registry import ServiceRegistry
from transfer_engine.engine.settings import Settings
from transfer_engine.schema.transfers import Intent

TURNS_MOST: Final = 100
"""Times that one blob's intents are looked at again because something about them changed meanwhile."""


class _Watched:
    """A claim, and since when it has been seen not to change (trio's clock)."""

    __slots__ = ("claim", "since")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.since = trio.current_time()


class _Adopted:
    """A node that this engine holds until its shard has been looked at once more."""

    __slots__ = ("beat", "ceiling_ms", "life", "recheck_at")

    def __init__(self, life: Life, ceiling_ms: int, recheck_at: float) -> None:
        self.life = life
        self.ceiling_ms = ceiling_ms
        self.recheck_at = recheck_at
        self.beat = 0


class AdoptionStatistics(msgspec.Struct, frozen=True):
    """What became of other engines' shards in this run."""

    taken_over: int
    """Shards that were claimed."""
    settled: int
    """Shards that were looked at twice, and given back."""
    held: tuple[int, ...]
    """Nodes that are held now, until their shards are looked at again."""
    transfers: int
    """Unfinished transfers that were carried over."""


class Adoption:
    """Watches the other engines' claims, and carries over what stopped ones left.

    Args:
        store: where claims and journals lie.
        life: this engine's own.
        lease: of this engine: without it nothing is taken over.
        former_lives: tells which owners are certainly dead, and need not be waited for.
        journal, recorder: where carried intents go.
        open_transfers, completion: where their transfers go.
        registry: the services that intents name.
        enqueue: puts a transfer into its user's mailbox.
        kick: has those that are in nobody's mailbox driven soon.
        alerts: told of faults.
        settings: the intervals.
        outbox: takes a stopped engine's messages; without it they stay for whoever has one.
    """

    def __init__(
        self,
        *,
        store: RecordStore,
        life: Life,
        lease: Lease,
        former_lives: FormerLives,
        journal: Journal,
        recorder: Recorder,
        open_transfers: OpenTransfers,
        completion: Completion,
        registry: ServiceRegistry,
        enqueue: Callable[[OpenTransfer], None],
        kick: Callable[[], None],
        alerts: Alerts,
        settings: Settings,
        outbox: OutboxAdoption | None = None,
    ) -> None:
        self._store = store
        self._node = life.node
        self._owner = f"{ADOPTER}{life.owner}"
        self._lease = lease
        self._former_lives = former_lives
        self._journal = journal
        self._recorder = recorder
        self._open = open_transfers
        self._completion = completion
        self._registry = registry
        self._enqueue = enqueue
        self._kick = kick
        self._alerts = alerts
        self._outbox = outbox
        self._over_after_s = settings.lease_ms / 1000 * OVER_AFTER_LEASES
        self._recheck_after_s = settings.adoption_recheck_ms / 1000
        self._watched: dict[int, _Watched] = {}
        self._adopted: dict[int, _Adopted] = {}
        self._settled: dict[int, int] = {}
        self._taken_over = 0
        self._given_back = 0
        self._transfers = 0

    def __repr__(self) -> str:
        return f"<Adoption of {len(self._watched)} nodes watched, {sorted(self._adopted)} held>"

    def statistics(self) -> AdoptionStatistics:
        """Return what became of other engines' shards."""
        return AdoptionStatistics(
            taken_over=self._taken_over,
            settled=self._given_back,
            held=tuple(sorted(self._adopted)),
            transfers=self._transfers,
        )

    async def look(self) -> None:
        """Look at all claims once, and take over what has stopped. Errors of the store end it until the next look.

        Cancellation leaves a node that was being adopted to whoever sees its claim unchanged for longer than a lease.
        """
        try:
            claims = await self._store.claims()
        except RecordsUnavailable as error:
            self._alerts.warn("adoption_interrupted", error=str(error))
            return
        for claim in claims:
            if claim.node != self._node and self._lease.is_held:
                await self._look_at(claim)

    async def _look_at(self, claim: Claim) -> None:
        try:
            if claim.node in self._adopted:
                await self._hold(self._adopted[claim.node])
            elif self._settled.get(claim.node) != claim.epoch and await self._is_to_be_adopted(claim):
                await self._adopt(claim)
        except ClaimLost:
            # A new life of the node, another adopter, or an owner that lives after all. What was carried over stays:
            # it is driven here, and perhaps there.
            self._adopted.pop(claim.node, None)
            self._watched.pop(claim.node, None)
            if self._outbox is not None:
                self._outbox.forget(claim.node)
        except (RecordsUnavailable, LeaseLapsed) as error:
            self._alerts.warn("adoption_interrupted", node=claim.node, error=str(error))
        except RecordsDamaged as error:
            self._alerts.critical("adoption_failed", node=claim.node, error=str(error))

    async def _is_to_be_adopted(self, claim: Claim) -> bool:
        watched = self._watched.get(claim.node)
        if watched is None or watched.claim != claim:
            watched = self._watched[claim.node] = _Watched(claim)
        if claim.owner:
            is_over = trio.current_time() - watched.since >= self._over_after_s
            return is_over or self._former_lives.is_dead(claim.owner)
        if await self._has_unfinished(claim.node):
            return True
        if self._outbox is not None and await self._outbox.holds_messages(claim.node):
            return True
        self._settled[claim.node] = claim.epoch
        return False

    async def _has_unfinished(self, node: int) -> bool:
        async with aclosing(unfinished_intents(self._store, node)) as blobs:
            async for _ in blobs:
                return True
        return False

    async def _adopt(self, claim: Claim) -> None:
        """Claim a node, carry over what it left, and hold it until the second look.

        The ceiling is raised to the end of its bucket, if anything was issued below it: so the node's next life
        journals in later buckets than any that is settled here.
        """
        ceiling_ms = claim.ceiling_ms
        if not claim.owner.startswith(ADOPTER):
            ceiling_ms = (ceiling_ms // BUCKET_MS + 1) * BUCKET_MS
        life = await self._store.claim(claim.node, self._owner, former=claim, ceiling_ms=ceiling_ms)
        self._taken_over += 1
        self._watched.pop(claim.node, None)
        self._alerts.warn("shard_adopted", node=claim.node, epoch=claim.epoch)
        self._adopted[claim.node] = _Adopted(life, ceiling_ms, trio.current_time() + self._recheck_after_s)
        await self._carry_over(claim.node)

    async def _hold(self, adopted: _Adopted) -> None:
        """Beat for a node that is held; when it is time, look once more, say what is settled, and give it back."""
        adopted.beat += 1
        await self._store.raise_ceiling(adopted.life, adopted.ceiling_ms, beat=adopted.beat)
        if trio.current_time() < adopted.recheck_at:
            return
        node = adopted.life.node
        await self._carry_over(node)
        await self._store.raise_low_water_mark(node, adopted.ceiling_ms // BUCKET_MS)
        if self._outbox is not None:
            await self._outbox.settle(node, adopted.ceiling_ms // BUCKET_MS)
        await self._store.release(adopted.life)
        self._given_back += 1
        self._settled[node] = adopted.life.epoch
        del self._adopted[node]

    async def _carry_over(self, node: int) -> None:
        """Make a shard's unfinished intents ours: durable in our own shard, and on their way to an end.

        Raises:
            LeaseLapsed: they are perhaps not found by whoever adopts *our* shard; nothing may be called settled.
        """
        async with aclosing(unfinished_intents(self._store, node)) as blobs:
            async for _, intents in blobs:
                self._lease.require()
                left: Sequence[tuple[Intent, Row]] = intents
                for _ in range(TURNS_MOST):
                    left = await self._carry(left)
                    if not left:
                        break
                else:
                    raise RecordsUnavailable(f"{len(left)} intents of node {node} change all the time")
                self._lease.require()
        self._kick()
        if self._outbox is not None:  # last: where a row was found, the message before it is found now
            await self._outbox.carry_over(node)

    async def _carry(self, intents: Sequence[tuple[Intent, Row]]) -> list[tuple[Intent, Row]]:
        """Journal these intents in our shard, unless they are there; return those to be looked at again.

        Those that nobody has under way here are taken under way first, so that a client's own resubmission joins them.
        """
        taken: dict[OpenTransfer, Custody] = {}
        entries = [(self._take(intent, row, taken), intent, row) for intent, row in intents]
        to_journal = [entry for entry, _, _ in entries if entry is not None and not entry.is_journaled]
        try:
            await self._recorder.journal(to_journal)
        finally:
            for transfer, custody in taken.items():
                self._hand_over(transfer, custody)
        again = []
        for entry, intent, row in entries:
            if isinstance(entry, OpenTransfer) and not self._is_known(entry):
                self._journal.settle(entry)  # it ended, or was refused, while it was being journaled: look anew
                again.append((intent, row))
        return again

    def _take(self, intent: Intent, row: Row, taken: dict[OpenTransfer, Custody]) -> Journaled | None:
        """Return what stands for an intent here, or None where it can never move any more.

        What nobody has under way here is from now on, in our custody; ``taken`` says in whose it is to be.
        """
        req_id = int.from_bytes(intent.req_id)
        under_way = self._open.find(req_id)
        for known in (under_way, *self._completion.behind_of(req_id)):
            if known is not None and known.intent.fingerprint == intent.fingerprint:
                known.is_recovered = True  # also where a client asked for it: its end may be another one's, and late
                return known
        if under_way is not None and under_way.owns_key:
            return None  # the ledger has given the key to another body
        transfer = reopen(intent, row, self._registry, self._alerts)
        if transfer is None:
            return self._journal.strand(intent)
        # Its row may have been written since it was read, by whoever drives it elsewhere.
        transfer.is_record_known = transfer.is_held
        self._transfers += 1
        if under_way is not None:
            self._completion.wait_behind({req_id: [transfer]})
            return transfer
        self._open.add(transfer)
        taken[transfer] = transfer.custody
        transfer.custody = Custody.DRIVEN
        return transfer

    def _is_known(self, transfer: OpenTransfer) -> bool:
        return self._open.find(transfer.req_id) is transfer or transfer in self._completion.behind_of(transfer.req_id)

    def _hand_over(self, transfer: OpenTransfer, custody: Custody) -> None:
        """Give a transfer into the custody that it is to be in, if it is still in ours."""
        if transfer.custody is not Custody.DRIVEN:
            return
        transfer.custody = custody
        if custody is Custody.QUEUED:
            self._enqueue(transfer)
