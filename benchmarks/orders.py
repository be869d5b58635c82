"""Orders without end, as the traffic asks for: whose money moves, where to, and which requests are out of the ordinary.

The same traffic makes the same orders, in every run; only what comes before the number in their keys differs, so that
two runs on the same books don't take each other's orders for repeats.
"""

import random
from bisect import bisect
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

from transfer_engine.benchmarks.plan import AMOUNT, REFUSED_AMOUNT, SLOW_CORE, Traffic
from transfer_engine.benchmarks.sending import Order

RECENT: Final = 1_000
"""Among so many orders before it is the one that a replay repeats: some are still under way, most were answered."""
HOT_USER: Final = 1
_DRAWN_AT_A_TIME: Final = 1_024


class Orders:
    """Makes orders, about 1 µs each.

    A user's first transfer goes from funding to trading. A replay has the key and the body of one of the last
    ordinary orders. A refusal asks for more than a user ever has. A slow one goes to the simulated core.

    Args:
        traffic: what is asked for.
        run: what keys begin with; of its own for each load on the same books.

    Raises:
        ValueError: the traffic contradicts itself; the message names the field.
    """

    def __init__(self, traffic: Traffic, run: str = "") -> None:
        check(traffic)
        self._traffic = traffic
        self._run = f"{run}{traffic.seed}-"
        self._chance = random.Random(traffic.seed).random
        self._picks = _picks(traffic)
        self._goes_back = bytearray(traffic.users + 1)
        self._below_replays = traffic.replays
        self._below_refusals = traffic.replays + traffic.refusals
        self._below_slow = traffic.replays + traffic.refusals + traffic.slow
        self._recent: list[Order] = []
        self._made = 0

    def __repr__(self) -> str:
        return f"<Orders {self._made} made, {self._traffic}>"

    @property
    def made(self) -> int:
        """How many were taken."""
        return self._made

    def take(self, count: int) -> list[Order]:
        """Return the next orders."""
        if count == 1:  # spares the closed loop of singles a third of the time
            return [self._next()]
        return [self._next() for _ in range(count)]

    def _next(self) -> Order:
        number = self._made
        self._made = number + 1
        if self._below_slow and (chance := self._chance()) < self._below_slow:
            return self._unusual(number, chance)
        user_id = next(self._picks)
        source, target = "funding", "trading"
        if self._traffic.both_directions:
            goes_back = self._goes_back[user_id]
            self._goes_back[user_id] = not goes_back
            if goes_back:
                source, target = target, source
        return self._order(number, user_id, source, target, AMOUNT)

    def _unusual(self, number: int, chance: float) -> Order:
        if chance < self._below_replays and self._recent:
            earlier = self._recent[int(self._chance() * len(self._recent))]
            return Order(number, earlier.user_id, earlier.source, earlier.target, earlier.amount, earlier.key)
        user_id = next(self._picks)
        if self._below_replays <= chance < self._below_refusals:
            return Order(number, user_id, "funding", "trading", REFUSED_AMOUNT, self._key(number))
        target = "trading" if chance < self._below_replays else SLOW_CORE
        return self._order(number, user_id, "funding", target, AMOUNT)

    def _order(self, number: int, user_id: int, source: str, target: str, amount: int) -> Order:
        order = Order(number, user_id, source, target, amount, self._key(number))
        if self._below_replays:
            if len(self._recent) < RECENT:
                self._recent.append(order)
            else:
                self._recent[number % RECENT] = order
        return order

    def _key(self, number: int) -> str | None:
        return f"{self._run}{number}" if self._traffic.is_keyed else None


def check(traffic: Traffic) -> None:
    """See that the traffic does not contradict itself.

    Raises:
        ValueError: it does; the message names the field.
    """
    if traffic.users < 1:
        raise ValueError(f"users is {traffic.users}: there must be one")
    for name in ("hot_share", "replays", "refusals", "slow"):
        share = getattr(traffic, name)
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}: a share is between 0 and 1")
    if traffic.replays + traffic.refusals + traffic.slow > 1:
        raise ValueError("replays, refusals and slow are more than all of it together")
    if traffic.replays and not traffic.is_keyed:
        raise ValueError("replays repeat a key: they need keyed transfers")
    if not 0 <= traffic.zipf_exponent <= 10:
        raise ValueError(f"zipf_exponent is {traffic.zipf_exponent}: it must be between 0 and 10")


def _picks(traffic: Traffic) -> Iterator[int]:
    """Yield the users whose money moves; the first user is the hot one, and the most frequent of Zipf's."""
    chance = random.Random(f"users {traffic.seed}")
    draw = _drawing(traffic, chance)
    while True:
        users = draw(_DRAWN_AT_A_TIME)
        if traffic.hot_share:
            users = [HOT_USER if chance.random() < traffic.hot_share else user_id for user_id in users]
        yield from users


def _drawing(traffic: Traffic, chance: random.Random) -> Callable[[int], list[int]]:
    """Return what draws so many users at a time, by the pick."""
    count = traffic.users
    if traffic.pick == "hot":
        return lambda drawn: [HOT_USER] * drawn
    if traffic.pick == "uniform":
        return lambda drawn: [int(chance.random() * count) + 1 for _ in range(drawn)]
    sums = list(accumulate(rank**-traffic.zipf_exponent for rank in range(1, count + 1)))
    whole = sums[-1]
    return lambda drawn: [bisect(sums, chance.random() * whole, 0, count - 1) + 1 for _ in range(drawn)]
