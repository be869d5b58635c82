"""What a load was told against what the books say, and what becomes of outcomes that nobody knows."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from trio.testing import MockClock

from transfer_engine.benchmarks.door_subject import wrong_balances
from transfer_engine.benchmarks.expectations import Expectations
from transfer_engine.benchmarks.sending import Order

BEFORE = {(7, "funding"): (100, 0), (7, "trading"): (100, 0)}


class Saying:
    """A sender that says by key what it is told to, in turn; the last word stays."""

    callers_most = None

    def __init__(self, **said: list[str]) -> None:
        self._said = said
        self.users: list[int] = []

    @asynccontextmanager
    async def caller(self, index: int) -> AsyncIterator["Saying"]:
        yield self

    async def send(self, orders: Sequence[Order]) -> Sequence[str]:
        self.users += [order.user_id for order in orders]
        return [self._next(order.key or "nobody") for order in orders]

    def _next(self, key: str) -> str:
        said = self._said[key]
        return said.pop(0) if len(said) > 1 else said[0]


def order(key: str | None, amount: int = 5) -> Order:
    return Order(number=0, user_id=7, source="funding", target="trading", amount=amount, key=key)


async def told(sender: Saying, *orders: Order, repeats: bool = False, first_user: int = 1) -> Expectations:
    expectations = Expectations(sender, repeats=repeats, first_user=first_user)
    async with expectations.caller(0) as caller:
        for each in orders:
            await caller.send([each])
    return expectations


async def test_what_is_told_as_committed_counts_once() -> None:
    sender = Saying(a=["committed", "replayed"], b=["failed"], c=["refused: overloaded"], d=["committed"])
    expectations = await told(sender, order("a"), order("a"), order("b"), order("c"), order("d", 2))
    assert expectations.expected() == {(7, "funding"): -7, (7, "trading"): 7}
    assert expectations.unknown == 0


@pytest.mark.parametrize("first", ["fault: cut", "pending"])
@pytest.mark.parametrize(("then", "moved"), [("committed", 5), ("replayed", 5), ("failed", 0), ("refused: x", 0)])
async def test_what_is_unknown_is_asked_for_again(first: str, then: str, moved: int, autojump_clock: MockClock) -> None:
    expectations = await told(Saying(a=[first, "fault: HTTP 500", "refused: overloaded", then]), order("a"))
    assert expectations.expected().get((7, "trading"), 0) == 0
    assert expectations.unknown == 1
    assert await expectations.settle(within_s=30) == []
    assert expectations.expected().get((7, "trading"), 0) == moved


async def test_what_nobody_ever_knows_is_found(autojump_clock: MockClock) -> None:
    expectations = await told(Saying(a=["pending"]), order("a"))
    [finding] = await expectations.settle(within_s=0)
    assert "I7" in finding


async def test_a_repeated_key_that_was_counted_is_not_asked_for_again() -> None:
    expectations = await told(Saying(a=["fault: cut", "committed"]), order("a"), order("a"), repeats=True)
    assert await expectations.settle(within_s=0) == []
    assert expectations.expected()[7, "trading"] == 5


async def test_what_has_no_key_can_not_be_asked_for() -> None:
    expectations = await told(Saying(nobody=["fault: cut"]), order(None))
    assert (expectations.unknown, expectations.nameless) == (0, 1)


async def test_what_was_told_stays_true(autojump_clock: MockClock) -> None:
    sender = Saying(a=["committed", "replayed"], b=["committed", "committed"], c=["committed", "failed"])
    expectations = await told(sender, order("a"), order("b"), order("c"))
    findings = await expectations.ask_told(list(expectations.told), within_s=0)
    assert [finding.split()[1] for finding in findings] == ["b", "c"]


async def test_orders_are_of_the_runs_own_users() -> None:
    sender = Saying(a=["committed"])
    expectations = await told(sender, order("a"), first_user=1_000_001)
    assert sender.users == [1_000_007]
    assert set(expectations.expected()) == {(1_000_007, "funding"), (1_000_007, "trading")}


def test_balances_that_fit() -> None:
    after = {(7, "funding"): (95, 0), (7, "trading"): (105, 0)}
    assert wrong_balances(BEFORE, after, {(7, "funding"): -5, (7, "trading"): 5}, may_differ=False) == []
    assert wrong_balances(BEFORE, after, {}, may_differ=True) == []


@pytest.mark.parametrize(
    ("after", "invariant"),
    [
        ({(7, "funding"): (94, 0), (7, "trading"): (106, 0)}, "I2"),
        ({(7, "funding"): (95, 0), (7, "trading"): (104, 0)}, "I2"),
        ({(7, "funding"): (95, 0)}, "I2"),
        ({(7, "funding"): (90, 5), (7, "trading"): (105, 0)}, "I7"),
    ],
    ids=["one more moved", "some was lost", "an account is gone", "still held"],
)
def test_balances_that_do_not_fit(after: dict[tuple[int, str], tuple[int, int]], invariant: str) -> None:
    changes = {(7, "funding"): -5, (7, "trading"): 5}
    assert any(invariant in finding for finding in wrong_balances(BEFORE, after, changes, may_differ=False))


def test_money_that_came_from_nowhere() -> None:
    after = {(7, "funding"): (95, 0), (7, "trading"): (106, 0)}
    [finding] = wrong_balances(BEFORE, after, {}, may_differ=True)
    assert "I1" in finding
