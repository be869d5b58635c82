"""A subscription of a websocket client: what has come and was not yet taken, and where to resume."""

from collections import deque
from collections.abc import Callable
from typing import Self

import trio

from transfer_engine.http.client_errors import ClientError
from transfer_engine.http.client_events import Event, Snapshot, Subscribed


class Subscription:
    """An async iterator of a user's events, across reconnections; for one task.

    What is not taken in time waits, up to a bound; beyond it events are dropped, and once all that waits is taken the
    stream is resumed behind it: none is missed, unless the server has forgotten them; then a snapshot comes.

    Args:
        user_id: whose events; None for the token's own user.
        waiting_most: events that may wait.
        resume: called when everything that waits was taken, where some were dropped.
    """

    def __init__(self, user_id: int | None, *, waiting_most: int, resume: Callable[["Subscription"], None]) -> None:
        self.user_id = user_id
        self.told_user_id: int | None = None
        """The user by his number, once the server has said it."""
        self.stream: str | None = None
        """The stream that is told now."""
        self.after: int | None = None
        """The number of the last event that waits or was taken."""
        self.is_established = False
        """Whether the server has said yes, and was not asked again since."""
        self._waiting: deque[Event] = deque()
        self._waiting_most = waiting_most
        self._resume = resume
        self._news = trio.lowlevel.ParkingLot()
        self._end: ClientError | None = None
        self._is_dropping = False

    def __repr__(self) -> str:
        return f"<Subscription of user {self.user_id}: {len(self._waiting)} wait, at {self.stream} {self.after}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event. Cancellation loses none.

        Raises:
            Refused: the subscription is not allowed any more.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._waiting:
            if self._is_dropping:
                self._is_dropping = False
                if self.is_established:
                    self._resume(self)
            if self._end is not None:
                raise self._end
            await self._news.park()
        event = self._waiting.popleft()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return event

    def begin(self, told: Subscribed) -> None:
        """Take the server's yes: the stream that is told from now on."""
        if told.stream != self.stream:
            self.after = None
        self.stream = told.stream
        self.told_user_id = told.user_id
        self.is_established = True

    def expects(self, event: Event) -> bool:
        """Tell whether an event is of the stream that is told now."""
        return self.is_established and event.stream == self.stream

    def put(self, event: Event) -> bool:
        """Take an event that has come; False where one before it is missing, and the stream has to be resumed."""
        if self._is_dropping:
            return True
        if not isinstance(event, Snapshot):
            if self.after is None or event.seq > self.after + 1:
                return False
            if event.seq <= self.after:
                return True
        if len(self._waiting) >= self._waiting_most:
            self._is_dropping = True
            return True
        self.after = event.seq
        self._waiting.append(event)
        self._news.unpark()
        return True

    def end(self, error: ClientError) -> None:
        """End it: what waits may still be taken, then ``error`` is raised."""
        self._end = error
        self._news.unpark_all()
