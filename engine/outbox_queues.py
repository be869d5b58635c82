"""Messages that wait to be delivered, in memory: a queue for each user, one message of each under way at a time.

Synchronous but for :meth:`Queues.take`. What is durable is the outbox's matter; whatever is lost from here is read
again from there.
"""

import enum
import heapq
from collections import deque
from collections.abc import Iterator
from typing import Final

import trio

from transfer_engine.schema.webhooks import OutboxMessage

_NEVER: Final = float("inf")


class Waiting:
    """A message that waits: the bucket that it is journaled in, and how often it was tried."""

    __slots__ = ("attempts", "bucket", "due_at", "message")

    def __init__(self, message: OutboxMessage, bucket: int) -> None:
        self.message = message
        self.bucket = bucket
        self.attempts = message.attempts
        self.due_at = message.due_at

    def __repr__(self) -> str:
        return f"<Waiting {self.message.message_id} attempts={self.attempts}>"


class _State(enum.Enum):
    READY = enum.auto()
    """In the line of users whose first message may be delivered."""
    TAKEN = enum.auto()
    """Its first message is being delivered."""
    RESTING = enum.auto()
    """Its first message failed, and is not due yet."""


class _Queue:
    __slots__ = ("rests_until", "state", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self.state = _State.READY
        self.rests_until = 0.0


class Queues:
    """The queues of all users; whose turn it is goes round."""

    def __init__(self) -> None:
        self._queues: dict[int, _Queue] = {}
        self._keys: set[tuple[bytes, int]] = set()
        self._ready: deque[int] = deque()
        self._resting: list[tuple[float, int]] = []
        self._arrival = trio.Event()

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Waiting]:
        return iter([waiting for queue in self._queues.values() for waiting in queue.waiting])

    def __contains__(self, message: OutboxMessage) -> bool:
        return message.key in self._keys

    def of_user(self, user_id: int) -> int:
        """Return how many messages wait for a user."""
        queue = self._queues.get(user_id)
        return 0 if queue is None else len(queue.waiting)

    def longest_failing(self) -> tuple[int, int]:
        """Return the user with the most messages behind one that failed, and how many; (0, 0) where there is none."""
        return max(
            (
                (len(queue.waiting), user_id)
                for user_id, queue in self._queues.items()
                if queue.state is not _State.READY and queue.waiting[0].attempts
            ),
            default=(0, 0),
        )[::-1]

    def add(self, waiting: Waiting, *, rest_s: float = 0.0) -> None:
        """Put a message at the end of its user's queue; alone in it, it rests for so long first."""
        user_id = waiting.message.to_user_id
        self._keys.add(waiting.message.key)
        queue = self._queues.get(user_id)
        if queue is not None:
            queue.waiting.append(waiting)
            return
        queue = self._queues[user_id] = _Queue()
        queue.waiting.append(waiting)
        if rest_s > 0:
            self._rest(user_id, queue, rest_s)
        else:
            self._line_up(user_id, queue)

    async def take(self) -> Waiting:
        """Return the next message that may be delivered, once there is one; :meth:`done` or :meth:`rest` it.

        For one taker. Cancellation takes nothing.
        """
        await trio.lowlevel.checkpoint()
        while True:
            now = trio.current_time()
            while self._resting and self._resting[0][0] <= now:
                rested_until, user_id = heapq.heappop(self._resting)
                queue = self._queues.get(user_id)
                if queue is not None and queue.state is _State.RESTING and queue.rests_until == rested_until:
                    self._line_up(user_id, queue)
            while self._ready:
                queue = self._queues.get(self._ready.popleft())
                if queue is not None and queue.state is _State.READY:
                    queue.state = _State.TAKEN
                    return queue.waiting[0]
            self._arrival = trio.Event()
            with trio.move_on_at(self._resting[0][0] if self._resting else _NEVER):
                await self._arrival.wait()

    def done(self, waiting: Waiting) -> bool:
        """A message that was taken needs no delivery any more; False where its queue was dropped meanwhile."""
        user_id = waiting.message.to_user_id
        queue = self._queues.get(user_id)
        if queue is None or queue.waiting[0] is not waiting:
            return False
        queue.waiting.popleft()
        self._keys.discard(waiting.message.key)
        if queue.waiting:
            self._line_up(user_id, queue)
        else:
            del self._queues[user_id]
        return True

    def rest(self, waiting: Waiting, rest_s: float) -> None:
        """A message that was taken is to be tried again so much later, and those behind it wait."""
        user_id = waiting.message.to_user_id
        queue = self._queues.get(user_id)
        if queue is not None and queue.waiting[0] is waiting:
            self._rest(user_id, queue, rest_s)

    def wake(self, user_id: int) -> None:
        """A user's endpoint has changed: what rests is tried at once."""
        queue = self._queues.get(user_id)
        if queue is not None and queue.state is _State.RESTING:
            self._line_up(user_id, queue)

    def drop(self, user_id: int) -> list[Waiting]:
        """Forget a user's messages, also the one that is under way, and return them."""
        queue = self._queues.pop(user_id, None)
        if queue is None:
            return []
        self._keys.difference_update(waiting.message.key for waiting in queue.waiting)
        return list(queue.waiting)

    def _line_up(self, user_id: int, queue: _Queue) -> None:
        queue.state = _State.READY
        self._ready.append(user_id)
        self._arrival.set()

    def _rest(self, user_id: int, queue: _Queue, rest_s: float) -> None:
        queue.state = _State.RESTING
        queue.rests_until = trio.current_time() + rest_s
        heapq.heappush(self._resting, (queue.rests_until, user_id))
        self._arrival.set()
