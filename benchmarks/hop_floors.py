"""Floors of waiting: one message to an actor and its answer, and the same over bare trio memory channels.

As many are under way as the load of the run has, each caller sends its next message when it is answered. That is the
least that any engine of tasks pays for a transfer, whatever it does with it.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from transfer_engine.actors import ActorPool
from transfer_engine.benchmarks.measures import Meter, Usage
from transfer_engine.benchmarks.result import Floor

ACTORS: Final = 1_000
"""Keys that the messages go to, in turn."""
_IDLE_MS: Final = 60_000


class _Message:
    """What an actor is asked: whoever waits for the answer is woken by it."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

    async def wait(self) -> None:
        await trio.lowlevel.wait_task_rescheduled(self._give_up)

    def answer(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)

    def _give_up(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


async def actor_hop(hops: int, in_flight: int) -> Floor:
    """Send messages to the actors of a pool, as the engine's users are, and wait for each answer; counts messages."""
    turn = iter(range(hops))

    async def handle(_: int, messages: list[_Message]) -> None:
        for message in messages:
            message.answer()

    async def poison(_: int, message: _Message, error: BaseException) -> None:
        raise RuntimeError(f"{message!r} crashed its actor") from error

    pool: ActorPool[int, _Message] = ActorPool(
        "floor", handle, mailbox_capacity=max(in_flight, 1), batch_most=max(in_flight, 1), idle_ms=_IDLE_MS,
        poison=poison,
    )  # fmt: skip

    async def caller() -> None:
        for number in turn:
            message = _Message()
            pool.tell_nowait(number % ACTORS, message)
            await message.wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        usage = await _measured(caller, in_flight)
        nursery.cancel_scope.cancel()
    return _floor("actor hop, message and answer", hops, usage)


async def channel_round_trip(hops: int, in_flight: int) -> Floor:
    """Pass messages through a memory channel to a task that answers through another one; counts messages."""
    turn = iter(range(hops))

    async def answerer(questions: trio.MemoryReceiveChannel[None], answers: trio.MemorySendChannel[None]) -> None:
        async for _ in questions:
            await answers.send(None)

    async def caller() -> None:
        questions_in, questions_out = trio.open_memory_channel[None](0)
        answers_in, answers_out = trio.open_memory_channel[None](0)
        async with trio.open_nursery() as nursery, questions_in:
            nursery.start_soon(answerer, questions_out, answers_in)
            for _ in turn:
                await questions_in.send(None)
                await answers_out.receive()
            questions_in.close()

    return _floor("trio memory channels, round trip", hops, await _measured(caller, in_flight))


async def _measured(caller: Callable[[], Awaitable[None]], callers: int) -> Usage:
    meter = Meter()
    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(caller)
    return meter.read()


def _floor(name: str, hops: int, usage: Usage) -> Floor:
    return Floor(name=name, rate=hops / usage.seconds, unit="messages", cpu_us=usage.cpu_us(hops))
