"""What a load was told, so that the books can be held against it: which accounts must have changed by how much.

A transfer counts when it is told as committed for the first time. What is unknown (a fault, ``pending``) is asked again
by its key when the load is over, until somebody knows.
"""

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from transfer_engine.benchmarks.sending import (
    COMMITTED,
    FAILED,
    FAULT,
    PENDING,
    REFUSED,
    REPLAYED,
    Caller,
    Order,
    Sender,
)
from transfer_engine.benchmarks.side_tasks import many

TOLD: Final = 1_000
"""So many of the last orders that were told as committed are asked again after a fault (I4)."""
_ASKING: Final = 64
_PAUSE_S: Final = 0.2
_FINDINGS_MOST: Final = 10


class Expectations:
    """Counts what was told; a sender that sits in front of another one.

    Args:
        sender: who sends.
        repeats: whether the load repeats keys: then a key counts once.
        first_user: who the orders' user 1 is.
    """

    def __init__(self, sender: Sender, *, repeats: bool, first_user: int = 1) -> None:
        self.offset = first_user - 1
        self._sender = sender
        self._moved: defaultdict[tuple[str, str], defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        self._counted: set[str | None] | None = set() if repeats else None
        self._unknown: dict[str, Order] = {}
        self.told: deque[Order] = deque(maxlen=TOLD)
        """The last orders that were told as committed."""
        self.nameless = 0
        """Transfers without a key whose outcome nobody can learn."""

    def __repr__(self) -> str:
        return f"<Expectations {len(self._unknown)} unknown, {self.nameless} without a name>"

    @property
    def callers_most(self) -> int | None:
        """As many as the sender behind it has."""
        return self._sender.callers_most

    @property
    def unknown(self) -> int:
        """How many outcomes are not known, and can be asked for."""
        return len(self._unknown)

    @asynccontextmanager
    async def caller(self, index: int) -> AsyncIterator["_WatchedCaller"]:
        """Open a caller. Raises what the sender behind it does."""
        async with self._sender.caller(index) as caller:
            yield _WatchedCaller(self, caller)

    def count(self, orders: Sequence[Order], outcomes: Sequence[str]) -> None:
        """Count what was told."""
        counted = self._counted
        for order, outcome in zip(orders, outcomes, strict=True):
            if outcome == COMMITTED:
                if counted is not None:
                    counted.add(order.key)
                self._moved[order.source, order.target][order.user_id] += order.amount
            elif outcome == PENDING or outcome.startswith(FAULT):
                self.is_unknown((order,))
        if outcomes[-1] == COMMITTED:
            self.told.append(orders[-1])

    def is_unknown(self, orders: Sequence[Order]) -> None:
        """Remember orders whose outcome nobody knows."""
        for order in orders:
            if order.key is None:
                self.nameless += 1
            else:
                self._unknown[order.key] = order

    def expected(self) -> Mapping[tuple[int, str], int]:
        """Return by how much each account must have changed, by user and account."""
        changes: defaultdict[tuple[int, str], int] = defaultdict(int)
        for (source, target), amounts in self._moved.items():
            for user_id, amount in amounts.items():
                changes[user_id, source] -= amount
                changes[user_id, target] += amount
        return changes

    async def settle(self, *, within_s: float) -> list[str]:
        """Ask again for what is unknown, each by its key, until it is known; return what is still not."""
        unknown = {
            key: order for key, order in self._unknown.items() if self._counted is None or key not in self._counted
        }
        left = iter(list(unknown.values()))
        wrong: list[str] = []
        give_up_at = trio.current_time() + within_s

        async def ask() -> None:
            async with self._sender.caller(0) as caller:
                for order in left:
                    outcome = await _verdict(caller, order, give_up_at)
                    if outcome in {COMMITTED, REPLAYED}:
                        self._moved[order.source, order.target][order.user_id] += order.amount
                    elif outcome == FAILED or outcome.startswith(REFUSED):
                        pass  # nothing moved
                    else:
                        wrong.append(f"transfer {order.key} has no outcome: {outcome} (I7)")

        await many(min(_ASKING, len(unknown)), ask)
        self._unknown = {}
        return wrong[:_FINDINGS_MOST]

    async def ask_told(self, told: Sequence[Order], *, within_s: float) -> list[str]:
        """Ask again for orders that were told as committed; return which are answered otherwise (I4)."""
        wrong: list[str] = []
        left = iter(told)
        give_up_at = trio.current_time() + within_s

        async def ask() -> None:
            async with self._sender.caller(0) as caller:
                for order in left:
                    outcome = REPLAYED if order.key is None else await _verdict(caller, order, give_up_at)
                    if outcome != REPLAYED:
                        wrong.append(f"transfer {order.key} was told as committed, and now as {outcome} (I4)")

        await many(min(_ASKING, len(told)), ask)
        return sorted(wrong)[:_FINDINGS_MOST]


class _WatchedCaller:
    """A caller whose answers are counted."""

    def __init__(self, expectations: Expectations, caller: Caller) -> None:
        self._expectations = expectations
        self._caller = caller

    async def send(self, orders: Sequence[Order]) -> Sequence[str]:
        """Send orders; what is cancelled counts as unknown."""
        offset = self._expectations.offset
        if offset:
            orders = [msgspec.structs.replace(order, user_id=order.user_id + offset) for order in orders]
        try:
            outcomes = await self._caller.send(orders)
        except trio.Cancelled:
            self._expectations.is_unknown(orders)
            raise
        self._expectations.count(orders, outcomes)
        return outcomes


async def _verdict(caller: Caller, order: Order, give_up_at: float) -> str:
    """Ask for one order until it has an outcome, or it is too late."""
    while True:
        [outcome] = await caller.send((order,))
        is_final = outcome in {COMMITTED, REPLAYED, FAILED} or outcome.startswith(REFUSED)
        if is_final and outcome not in _NO_VERDICTS:
            return outcome
        if trio.current_time() > give_up_at:
            return outcome
        await trio.sleep(_PAUSE_S)


_NO_VERDICTS: Final = frozenset(
    f"{REFUSED}{code}" for code in ("overloaded", "unavailable", "shutting_down", "rate_limited")
)
"""Refusals that say nothing of the transfer: the same may be asked again."""
