"""The lease: for how long after its last proof of life an engine may ask anything of the ledger and the cores.

It is a deadline on trio's monotonic clock: `lease_ms` after the last successful heartbeat was *sent*. Others take this
engine for stopped when they have seen no beat of it for `lease_ms` and a quarter, by clocks of their own. So between
the two nobody acts: an intent that was durable before the lease ended is found by whoever adopts it.
"""

from typing import Final

import trio

from transfer_engine.engine.records.protocol import ClaimLost

OVER_AFTER_LEASES: Final = 1.25
"""Leases without a beat after which an engine counts as stopped: clocks that run up to a fifth too fast do no harm."""


class LeaseLapsed(Exception):
    """This engine may ask nothing of the ledger and the cores now: its lease is over, or its claim is lost."""


class Lease:
    """Whether this engine may ask anything of the ledger and the cores.

    A lapse ends with the next successful heartbeat: the claim was still ours. A lost claim is lost for good.
    """

    def __init__(self, lease_ms: int) -> None:
        self._lease_s = lease_ms / 1000
        self._now = trio.current_time
        """Trio's clock: asked of the loop at first, and then without the way through it."""
        self._until = float("-inf")
        self._lost: ClaimLost | None = None
        self._changed = trio.Event()
        self.lost = trio.Event()

    def __repr__(self) -> str:
        left_s = self._until - trio.current_time()
        return f"<Lease {'lost' if self._lost else f'held for {left_s:.3f} s' if left_s > 0 else 'lapsed'}>"

    @property
    def is_held(self) -> bool:
        """Whether it may ask now."""
        return self._now() < self._until

    @property
    def not_held_because(self) -> str:
        """Why it may not ask now, or an empty string."""
        if self._lost is not None:
            return "this engine has lost its claim on its node"
        return "" if self.is_held else "this engine's lease has lapsed: the record store confirms no heartbeat"

    @property
    def loss(self) -> ClaimLost | None:
        """How the claim was lost, if it was."""
        return self._lost

    def require(self) -> None:
        """Check it before something is asked.

        Raises:
            LeaseLapsed: nothing may be asked now.
        """
        if trio.current_time() >= self._until:
            raise LeaseLapsed(self.not_held_because)

    async def until_held(self) -> bool:
        """Wait for the end of a lapse; False if the claim is lost instead. Cancellation leaves nothing behind."""
        while not self.is_held:
            if self._lost is not None:
                return False
            await self._changed.wait()
        return True

    def renew(self, sent_at: float) -> None:
        """A heartbeat that was sent at ``sent_at`` (trio's clock) has succeeded; an older one changes nothing."""
        if self._lost is None:
            self._now = trio.lowlevel.current_clock().current_time
            self._until = max(self._until, sent_at + self._lease_s)
            self._tell()

    def lose(self, error: ClaimLost) -> None:
        """Another engine has claimed the node: nothing may be asked any more."""
        if self._lost is None:
            self._lost = error
            self._until = float("-inf")
            self.lost.set()
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
