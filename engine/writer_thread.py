"""A thread of one file's writer: calls of trio's tasks run in it one at a time, in order.

A thread that stays costs half of what ``trio.to_thread`` does for each call. Reads, which may run side by side, and
whatever is rare are better off with that.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

T = TypeVar("T")


class _Call(Generic[T]):
    """A call, and how it went."""

    __slots__ = ("error", "function", "result", "task", "token")

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.task: Task = trio.lowlevel.current_task()
        self.token = trio.lowlevel.current_trio_token()
        self.result: T | None = None
        self.error: BaseException | None = None


class WriterThread:
    """Runs functions in a thread of its own, started by the first call and ended by :meth:`close`.

    It must be used within one trio run.
    """

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        """One call at most: those behind it can still be cancelled."""
        self._waiting: deque[_Call[Any]] = deque()
        self._is_busy = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "busy" if self._is_busy else "idle"
        return f"<WriterThread {self.name!r} {state}, {len(self._waiting)} calls waiting>"

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in the thread, after those that were asked for before, and return what it returns.

        A call that is cancelled before its turn is not run. Afterwards it is finished first, and answered; cancellation
        is then seen by the caller's next checkpoint.

        Raises ``trio.ClosedResourceError`` once the thread is closed, and whatever the function raises.
        """
        if self._is_closed:
            raise trio.ClosedResourceError(f"the thread {self.name!r} is closed")
        return await self._run(function)

    async def close(self) -> None:
        """Wait for the calls that were asked for, then end the thread. Later calls fail; closing again does nothing.

        Not cancellable: what is under way takes milliseconds.
        """
        self._is_closed = True
        if self._thread is not None:
            with trio.CancelScope(shield=True):
                await self._run(lambda: None)
            self._calls.put(None)
            self._thread.join()
            self._thread = None

    async def _run(self, function: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        call = _Call(function)

        def abort(_: RaiseCancelT) -> Abort:
            if call not in self._waiting:
                return Abort.FAILED
            self._waiting.remove(call)
            return Abort.SUCCEEDED

        if self._is_busy:
            self._waiting.append(call)
        else:
            self._begin(call)
        await trio.lowlevel.wait_task_rescheduled(abort)
        if call.error is not None:
            try:
                raise call.error
            finally:
                del call  # else the error's traceback would hold itself
        return cast("T", call.result)

    def _begin(self, call: _Call[Any]) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=self.name, daemon=True)
            thread.start()
            self._thread = thread
        self._is_busy = True
        self._calls.put(call)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call.result = call.function()
            except BaseException as error:  # noqa: BLE001  handed to the caller
                call.error = error
            try:
                call.token.run_sync_soon(self._answer, call)
            except trio.RunFinishedError:
                return  # nobody waits any more
            del call

    def _answer(self, call: _Call[Any]) -> None:
        """Wake the caller, and begin the next call."""
        self._is_busy = False
        if self._waiting:
            self._begin(self._waiting.popleft())
        trio.lowlevel.reschedule(call.task)
