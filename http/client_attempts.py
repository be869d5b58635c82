"""What the attempts at one call have told so far, and what follows from it: rules without a clock or I/O.

An attempt ends in one of four ways: an answer, a refusal (nothing was taken), a loss (nobody knows), or it never left.
A refusal says nothing of the attempts before it: one whose answer was lost may have moved the money, so after a loss no
refusal is passed on as one. The exception is a key that turns out to be another transfer's: ours can't have happened.
"""

from typing import Final

from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client_errors import (
    ClientError,
    NoAnswer,
    NotAnEngine,
    OutcomeUnknown,
    Refused,
    ServerFault,
    Unreachable,
)

KEY_IS_ANOTHERS: Final = "key_reused"

DEFAULT_BACKOFF: Final = Backoff(first_ms=50, most_ms=2_000)
"""Between attempts: a random delay below 50 ms, then 100, 200, … at most 2 s."""


class Attempts:
    """The attempts at one call.

    Args:
        key: the call's key, or None where it moves nothing.
        backoff: how long to wait between attempts.
        waits_for_server: whether to try again where there is nobody to connect to.
    """

    def __init__(self, key: str | None, backoff: Backoff = DEFAULT_BACKOFF, *, waits_for_server: bool = True) -> None:
        self._waits_for_server = waits_for_server
        self._key = key
        self._backoff = backoff
        self._failed = 0
        self._last: ClientError | None = None
        self._is_under_way = False
        self._trouble = ""
        self.may_have_happened = False
        """Whether an attempt was made that nobody knows the end of."""

    def __repr__(self) -> str:
        unknown = ", one of them with an unknown end" if self.may_have_happened else ""
        return f"<Attempts {self._failed} failed{unknown}>"

    def begin(self) -> None:
        """Note that something is sent; what is not answered before the deadline may have happened."""
        self._is_under_way = True

    def lose(self) -> None:
        """Note that what was sent has lost its answer; it will be sent again by itself."""
        self.may_have_happened = self.may_have_happened or self._is_under_way

    def hint(self, trouble: str) -> None:
        """Note why nothing can be sent, or answered, for whoever has to mend it."""
        self._trouble = trouble

    def again_after_refusal(self, refused: Refused) -> float:
        """Return after how many seconds to try again.

        Raises:
            Refused: it is final, and nothing happened before it.
            OutcomeUnknown: it is final, but an attempt before it may have happened.
        """
        self._is_under_way = False
        self._last = refused
        if not refused.retryable:
            raise self.end()
        return self._delay_s(refused.retry_after)

    def again_after_loss(self, loss: NoAnswer) -> float:
        """Return after how many seconds to try again.

        Raises:
            NotAnEngine: whatever answers there is none.
            Unreachable: there is nobody, and nobody is waited for.
            OutcomeUnknown: the same, and an attempt before it may have happened.
        """
        self._is_under_way = False
        never_left = isinstance(loss, Unreachable) and not loss.was_sent
        if not never_left:
            self.may_have_happened = True
        self._last = loss
        if isinstance(loss, NotAnEngine) or (never_left and not self._waits_for_server):
            raise self.end()
        return self._delay_s(loss.retry_after_s if isinstance(loss, ServerFault) else None)

    def again_after_pending(self) -> float:
        """Return after how many seconds to ask for the outcome again; from now on it may have happened."""
        self._is_under_way = False
        self.may_have_happened = True
        return self._delay_s(None)

    def end(self) -> ClientError:
        """Return what to raise where no more attempts are made."""
        last = self._last
        is_unknown = self.may_have_happened or self._is_under_way
        in_time = self._trouble or "there was no answer before the deadline"
        if self._key is None:
            return last or Unreachable(in_time, was_sent=True)
        if isinstance(last, Refused) and (not is_unknown or last.code == KEY_IS_ANOTHERS):
            return last
        if not is_unknown:
            return Unreachable(str(last or in_time), key=self._key)
        why = str(last) if last is not None else in_time
        unknown = OutcomeUnknown(
            f"{why}. It is not known what became of it: repeat it with the key {self._key}", key=self._key
        )
        unknown.__cause__ = last
        return unknown

    def _delay_s(self, retry_after_s: float | None) -> float:
        """Return a delay with jitter; a server's wish is a lower bound, so that not all come back at once."""
        self._failed += 1
        return (retry_after_s or 0.0) + self._backoff.delay_ms(self._failed) / 1_000
