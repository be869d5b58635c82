"""Asks a record store that does not answer again and again: while an engine starts, there is nothing better to do."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from transfer_engine.actors import Backoff
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.records.protocol import RecordsUnavailable

Answer = TypeVar("Answer")


class Waiting(Protocol):
    """Who is told what is waited for, see :class:`~transfer_engine.engine.backends.Opening`."""

    waits_for: str


class Patience:
    """Waits out a record store's failures, with an alert each and a pause that grows."""

    def __init__(self, alerts: Alerts, waiting: Waiting | None = None) -> None:
        self._alerts = alerts
        self._waiting = waiting
        self._backoff = Backoff()
        self._failures = 0

    async def failed(self, error: RecordsUnavailable) -> None:
        """Alert a failure and pause. Cancellation leaves nothing behind."""
        self._failures += 1
        self._alerts.critical("records_unavailable", error=str(error), attempt=self._failures)
        self.says(f"the record store: {error}")
        await self._backoff.sleep(self._failures)

    def answered(self) -> None:
        """The store answers again."""
        self._failures = 0
        self.says("")

    def says(self, waits_for: str) -> None:
        """Tell those who ask what is waited for."""
        if self._waiting is not None:
            self._waiting.waits_for = waits_for

    async def ask(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask until the store answers. Cancellation leaves the last question unanswered."""
        while True:
            try:
                answer = await question()
            except RecordsUnavailable as error:
                await self.failed(error)
            else:
                if self._failures:
                    self.answered()
                return answer
