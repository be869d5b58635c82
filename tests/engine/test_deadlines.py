"""The engine's own deadline: who is let go when, and what is kept of those that are gone."""

import trio
from trio.testing import MockClock

from transfer_engine.engine.deadlines import SWEEPS_IN_DEADLINE, Deadlines
from transfer_engine.engine.open_transfers import Waiter


class Answerable:
    """What callers wait for: as much of an open transfer as deadlines see."""

    def __init__(self) -> None:
        self.answer: object | None = None
        self.waiters: list[Waiter] = []

    def new_waiter(self) -> Waiter:
        waiter = Waiter(trio.lowlevel.current_task(), self.waiters)
        self.waiters.append(waiter)
        return waiter

    def give(self) -> None:
        self.answer = object()
        for waiter in list(self.waiters):
            waiter.wake()


async def test_who_was_answered_is_not_kept_until_the_deadline(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    deadlines = Deadlines(1_000)
    await nursery.start(deadlines.run)
    transfers = [Answerable() for _ in range(10)]
    for transfer in transfers:
        nursery.start_soon(deadlines.wait, transfer, None)
    await trio.testing.wait_all_tasks_blocked()
    assert ": 10 callers" in repr(deadlines)
    for transfer in transfers:
        transfer.give()
    await trio.sleep(2 / SWEEPS_IN_DEADLINE)
    assert ": 0 callers" in repr(deadlines)


async def test_who_waits_keeps_those_behind_it_no_longer_than_its_deadline(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    deadlines = Deadlines(1_000)
    await nursery.start(deadlines.run)
    slow, quick = Answerable(), Answerable()
    let_go: list[tuple[str, float]] = []
    began = trio.current_time()

    async def wait(name: str, transfer: Answerable) -> None:
        await deadlines.wait(transfer, None)  # type: ignore[arg-type]
        let_go.append((name, trio.current_time() - began))

    nursery.start_soon(wait, "slow", slow)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(wait, "quick", quick)
    await trio.testing.wait_all_tasks_blocked()
    quick.give()
    await trio.sleep(0.5)
    assert [name for name, _ in let_go] == ["quick"]
    await trio.sleep(0.6)
    [_, (name, waited)] = let_go
    assert name == "slow"
    assert 1 - 1 / SWEEPS_IN_DEADLINE - 0.001 <= waited <= 1
    assert ": 0 callers" in repr(deadlines)
