"""Callers that do not wait in a task of their own: each is called back, exactly once, with what became of his transfer.

A websocket with a thousand requests in flight, or a batch of as many transfers, would cost a task for each of them.
Nearly every transfer is admitted at once; one that is not (its key is contested, say) gets a task until it is.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec
import trio

from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.outcomes import Overloaded, RefusalCode, Refused, TransferOutcome

Answer = TransferOutcome | Refused
OnAnswer = Callable[[Answer | Exception], None]
"""Called once, synchronously, from within other work; it must not take long. An exception that is no refusal is a
fault: nobody knows what became of the transfer."""


class TransferOrder(msgspec.Struct, frozen=True, gc=False):
    """One transfer of a batch or stream; see :meth:`transfer_engine.engine.Engine.transfer` for the fields."""

    source: str
    target: str
    user_id: int
    asset_id: int
    amount: int
    target_user_id: int | None = None
    idempotency_key: str | None = None
    subject: str = ""


async def gather_answers(begin: Sequence[Callable[[OnAnswer], None]]) -> list[Answer | Exception]:
    """Begin many at once, each with a callback of its own; return all answers, in the order of ``begin``.

    Cancellation gives up waiting, and stops none of them.
    """
    answers: dict[int, Answer | Exception] = {}
    all_answered = trio.Event()

    def keep(index: int, answer: Answer | Exception) -> None:
        answers[index] = answer
        if len(answers) == len(begin):
            all_answered.set()

    for index, one in enumerate(begin):
        one(partial(keep, index))
    if begin:
        await all_answered.wait()
    return [answers[index] for index in range(len(begin))]


class Callers:
    """Hosts the tasks of those that were not admitted at once."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<Callers {len(self._nursery.child_tasks) if self._nursery is not None else 0} not admitted yet>"

    def tell(self, on_answer: OnAnswer, answer: Answer | Exception) -> None:
        """Call a caller back. His failure is an alert, and nobody else's: he is called from within others' work."""
        try:
            on_answer(answer)
        except Exception as error:  # noqa: BLE001  whatever it is, the actor that calls must live
            self._alerts.critical("caller_failed", error=repr(error), exc_info=error)

    def start(self, admit: Callable[[], Awaitable[None]], on_answer: OnAnswer) -> None:
        """Run ``admit`` in a task; what it raises is the answer. If it is cancelled nothing was taken, and so told."""
        if self._nursery is None:
            self.tell(on_answer, _ended())
        else:
            self._nursery.start_soon(self._run, admit, on_answer)

    def host(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Run ``work`` in a task, for whoever waits for it; what it raises is an alert. False where nothing runs."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(self._host, work)
        return True

    async def _host(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  whatever it is, the others' tasks must live
            self._alerts.critical("caller_failed", error=repr(error), exc_info=error)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Host the tasks until cancelled; then those that are not admitted yet are refused."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def _run(self, admit: Callable[[], Awaitable[None]], on_answer: OnAnswer) -> None:
        try:
            await admit()
        except trio.Cancelled:
            self.tell(on_answer, _ended())
            raise
        except Exception as error:  # noqa: BLE001  a refusal or a fault: the caller's to tell apart
            self.tell(on_answer, error)


def _ended() -> Overloaded:
    return Overloaded(RefusalCode.SHUTTING_DOWN, "the engine is shutting down: try again elsewhere, or later")
