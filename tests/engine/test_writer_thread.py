"""A writer's thread: one call at a time, in order; nothing half done, nothing lost, and no thread left behind."""

import threading

import pytest
import trio
import trio.testing

from transfer_engine.engine.writer_thread import WriterThread


async def test_calls_are_run_in_order_in_one_thread_that_is_not_ours() -> None:
    thread = WriterThread("test")
    ran: list[tuple[int, int]] = []

    def note(number: int) -> int:
        ran.append((number, threading.get_ident()))
        return number * 2

    async def ask(number: int) -> None:
        assert await thread.run(lambda: note(number)) == number * 2

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
    await thread.close()
    assert [number for number, _ in ran] == list(range(20))
    [identity] = {identity for _, identity in ran}
    assert identity != threading.get_ident()


async def test_what_a_call_raises_is_its_callers_only() -> None:
    thread = WriterThread("test")

    def fail() -> None:
        raise KeyError("mine")

    async def ask_and_fail() -> None:
        with pytest.raises(KeyError, match="mine"):
            await thread.run(fail)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_and_fail)
        nursery.start_soon(ask_and_fail)
        assert await thread.run(lambda: 5) == 5
    await thread.close()


async def test_a_call_cancelled_before_its_turn_is_not_run_and_one_begun_is_finished() -> None:
    thread = WriterThread("test")
    begun, may_end = threading.Event(), threading.Event()
    ran: list[str] = []

    def slow() -> str:
        begun.set()
        may_end.wait(10)
        ran.append("slow")
        return "finished"

    answers: list[str] = []

    async def ask(scope: trio.CancelScope, name: str) -> None:
        with scope:
            answers.append(await thread.run(slow if name == "slow" else lambda: ran.append(name) or name))

    scopes = {name: trio.CancelScope() for name in ("slow", "cancelled", "kept")}
    async with trio.open_nursery() as nursery:
        for name, scope in scopes.items():
            nursery.start_soon(ask, scope, name)
            await trio.testing.wait_all_tasks_blocked()
        begun.wait(10)
        scopes["slow"].cancel()
        scopes["cancelled"].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not ran
        assert "1 calls waiting" in repr(thread)
        may_end.set()
    assert ran == ["slow", "kept"]
    assert answers == ["finished", "kept"]
    with trio.CancelScope() as scope:
        scope.cancel()
        await thread.run(lambda: ran.append("never"))
    assert ran == ["slow", "kept"]
    await thread.close()


async def test_closing_waits_for_what_was_asked_and_ends_the_thread() -> None:
    thread = WriterThread("a writer of this test")
    may_end = threading.Event()
    ran: list[int] = []

    async def ask(number: int) -> None:
        await thread.run(lambda: may_end.wait(10) and ran.append(number))

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(ask, number)
        await trio.testing.wait_all_tasks_blocked()
        assert "a writer of this test" in {each.name for each in threading.enumerate()}
        nursery.start_soon(thread.close)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError, match="a writer of this test"):
            await thread.run(lambda: ran.append(9))
        may_end.set()
    assert sorted(ran) == [0, 1, 2]
    assert "a writer of this test" not in {each.name for each in threading.enumerate()}
    await thread.close()


async def test_a_thread_that_was_never_used_is_never_started() -> None:
    before = threading.active_count()
    thread = WriterThread("test")
    assert threading.active_count() == before
    await thread.close()
    with pytest.raises(trio.ClosedResourceError):
        await thread.run(lambda: None)
