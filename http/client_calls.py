"""One call of the client: attempts, one after the other, until there is an answer or the deadline is there."""

import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client_attempts import Attempts
from transfer_engine.http.client_errors import NoAnswer, Refused

Answer = TypeVar("Answer")

LAST_ATTEMPT_S: Final = 0.2
"""No further attempt begins so shortly before the deadline: one that is cut off makes a certain refusal an unknown."""


async def call(
    attempt: Callable[[Attempts], Awaitable[Answer]],
    *,
    key: str | None,
    deadline_s: float,
    backoff: Backoff,
    is_pending: Callable[[Answer], bool] | None = None,
    waits_for_server: bool = True,
) -> Answer:
    """Make the same attempt again and again until it has an answer.

    Cancellation ends the attempt under way; what was asked for by a key may have happened, or happen yet.

    Args:
        attempt: sends the same request, by the same key, each time, and says when. Raises Refused or NoAnswer.
        key: of a call that moves money.
        deadline_s: how long, in seconds.
        backoff: between attempts.
        is_pending: whether to ask again for a better answer; at the deadline the last one is returned.
        waits_for_server: whether to try again where there is nobody to connect to.

    Raises:
        Refused: the server refused for good, or until the deadline, and no attempt took anything.
        OutcomeUnknown: of a keyed call nobody knows what became.
        NoAnswer: a call that moves nothing was not answered, or nothing could be sent at all.
    """
    attempts = Attempts(key, backoff, waits_for_server=waits_for_server)
    pending: list[Answer] = []
    end = trio.current_time() + deadline_s
    with trio.CancelScope(deadline=end):
        while True:
            try:
                answer = await attempt(attempts)
            except Refused as refused:
                delay_s = attempts.again_after_refusal(refused)
            except NoAnswer as loss:
                delay_s = attempts.again_after_loss(loss)
            else:
                if is_pending is None or not is_pending(answer):
                    return answer
                pending = [answer]
                delay_s = attempts.again_after_pending()
            if trio.current_time() + delay_s + LAST_ATTEMPT_S >= end:
                break
            await trio.sleep(delay_s)
    if pending:
        return pending[0]
    raise attempts.end()


def bounded(deadline_s: float | None, default_s: float) -> float:
    """Return the deadline of a call, or say what is wrong with it."""
    if deadline_s is None:
        return default_s
    if math.isnan(deadline_s) or deadline_s <= 0:
        raise ValueError(f"deadline_s is {deadline_s}: it must be a number of seconds above 0")
    return deadline_s
