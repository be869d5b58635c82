"""A batch: transfers that are sent together, each with its own key and attempts; those without an answer go again."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client_attempts import Attempts
from transfer_engine.http.client_calls import LAST_ATTEMPT_S
from transfer_engine.http.client_errors import NoAnswer, NotAnEngine, OutcomeUnknown, Refusal, Refused
from transfer_engine.http.client_results import BatchResult, Outcome, Transfer, Unknown
from transfer_engine.http.client_wire import Entry

BATCH_MOST: Final = 1_000
"""Transfers that one request may carry; more go one batch after the other, in order."""


class Batch:
    """What is known of each transfer of a batch: rules without I/O.

    Args:
        transfers: what is asked for.
        backoff: between attempts.
        waits: whether a ``pending`` outcome is asked for again.
    """

    def __init__(self, transfers: Sequence[Transfer], backoff: Backoff, *, waits: bool) -> None:
        self._transfers = transfers
        self._attempts = [Attempts(transfer.key, backoff) for transfer in transfers]
        self._results: list[BatchResult | None] = [None] * len(transfers)
        self._open = list(range(len(transfers)))
        self._waits = waits
        self._is_heard = False

    @property
    def open(self) -> list[Transfer]:
        """Those that are still to be sent, in their order."""
        return [self._transfers[index] for index in self._open]

    def begin(self) -> None:
        """Note that all open ones are sent."""
        for index in self._open:
            self._attempts[index].begin()

    def lose(self) -> None:
        """Note that their answer is lost; they will be sent again by themselves."""
        for index in self._open:
            self._attempts[index].lose()

    def hint(self, trouble: str) -> None:
        """Note why nothing can be sent, or answered."""
        for index in self._open:
            self._attempts[index].hint(trouble)

    def note(self, entries: Sequence[Entry]) -> float:
        """Take the answer to all open ones; return after how many seconds to send what is open then.

        Raises:
            NotAnEngine: it is no answer to them.
        """
        if len(entries) != len(self._open):
            raise NotAnEngine(f"{len(entries)} results came for {len(self._open)} transfers")
        self._is_heard = True
        delay_s = 0.0
        still_open = []
        for index, entry in zip(self._open, entries, strict=True):
            again_s = self._note(index, entry)
            if again_s is not None:
                still_open.append(index)
                delay_s = max(delay_s, again_s)
        self._open = still_open
        return delay_s

    def note_failure(self, error: Refused | NoAnswer) -> float:
        """Take what became of the whole request; return after how many seconds to send it again.

        Raises:
            Refused, NoAnswer: there is no sense in it, and nothing was ever heard of any of them.
        """
        delay_s = 0.0
        still_open = []
        for index in self._open:
            again_s = self._note_failure(index, error)
            if again_s is not None:
                still_open.append(index)
                delay_s = max(delay_s, again_s)
        if not still_open and not self._is_heard and not any(each.may_have_happened for each in self._attempts):
            raise error
        self._open = still_open
        return delay_s

    def end(self) -> list[BatchResult]:
        """Return what is known where nothing more is sent.

        Raises:
            Unreachable, Refused: nothing was ever taken, and that is certain.
        """
        errors = {index: self._attempts[index].end() for index in self._open}
        if errors and not self._is_heard and not any(isinstance(error, OutcomeUnknown) for error in errors.values()):
            raise next(iter(errors.values()))
        for index, error in errors.items():
            if self._results[index] is None:
                self._results[index] = _result(error, self._transfers[index].key)
        return [result for result in self._results if result is not None]

    def _note(self, index: int, entry: Entry) -> float | None:
        if entry.data is not None:
            outcome = entry.data.outcome(self._transfers[index].key, is_replay=entry.data.replayed)
            self._results[index] = outcome
            return self._attempts[index].again_after_pending() if self._waits and not outcome.is_final else None
        if entry.error is None:
            return self._note_failure(index, NotAnEngine("a result came with neither data nor error"))
        return self._note_failure(index, entry.error.exception(moves_money=True))

    def _note_failure(self, index: int, error: Refused | NoAnswer) -> float | None:
        attempts = self._attempts[index]
        try:
            if isinstance(error, Refused):
                return attempts.again_after_refusal(error)
            return attempts.again_after_loss(error)
        except (Refused, NoAnswer) as final:
            if not isinstance(self._results[index], Outcome):
                self._results[index] = _result(final, self._transfers[index].key)
            return None


async def send_batch(
    batch: Batch, send: Callable[[Sequence[Transfer]], Awaitable[Sequence[Entry]]], *, deadline_s: float
) -> list[BatchResult]:
    """Send what is open until nothing is, or the deadline is there; return a result for each transfer, in order.

    Cancellation leaves them as they are: not begun, under way or done.
    """
    end = trio.current_time() + deadline_s
    with trio.CancelScope(deadline=end):
        while batch.open:
            try:
                delay_s = batch.note(await send(batch.open))
            except (Refused, NoAnswer) as error:
                delay_s = batch.note_failure(error)
            if not batch.open or trio.current_time() + delay_s + LAST_ATTEMPT_S >= end:
                break
            await trio.sleep(delay_s)
    return batch.end()


def _result(error: Exception, key: str) -> Refusal | Unknown:
    return error.refusal if isinstance(error, Refused) else Unknown(key=key, detail=str(error))
