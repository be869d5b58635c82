"""What follows from the attempts at one call: a refusal after a loss is none."""

import pytest

from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client_attempts import Attempts
from transfer_engine.http.client_errors import (
    NotAnEngine,
    OutcomeUnknown,
    Refusal,
    Refused,
    ServerFault,
    TransferRefused,
    Unreachable,
)

LONGEST = Backoff(first_ms=100, most_ms=400, random=lambda: 1.0)
OVERLOADED = TransferRefused(Refusal("overloaded", "too busy", is_retryable=True, retry_after_s=2.0))
DISABLED = TransferRefused(Refusal("asset_disabled", "not now"))
KEY_REUSED = TransferRefused(Refusal("key_reused", "another body"))
NEVER_SENT = Unreachable("nobody there")
LOST = Unreachable("cut", was_sent=True)
FAULT = ServerFault("oops")


def keyed() -> Attempts:
    return Attempts("k", LONGEST)


def test_delays_grow_and_a_wish_of_the_server_is_a_lower_bound() -> None:
    attempts = keyed()
    assert [attempts.again_after_loss(NEVER_SENT) for _ in range(4)] == [0.1, 0.2, 0.4, 0.4]
    assert attempts.again_after_refusal(OVERLOADED) == 2.4
    assert keyed().again_after_loss(ServerFault("oops", retry_after_s=3.0)) == 3.1


def test_a_final_refusal_at_first_is_one() -> None:
    with pytest.raises(TransferRefused) as refused:
        keyed().again_after_refusal(DISABLED)
    assert refused.value is DISABLED


@pytest.mark.parametrize("loss", [LOST, FAULT])
def test_a_refusal_after_a_loss_says_nothing_of_it(loss: Unreachable | ServerFault) -> None:
    attempts = keyed()
    attempts.again_after_loss(loss)
    with pytest.raises(OutcomeUnknown) as unknown:
        attempts.again_after_refusal(DISABLED)
    assert unknown.value.key == "k"
    assert unknown.value.__cause__ is DISABLED
    attempts.again_after_refusal(OVERLOADED)
    assert isinstance(attempts.end(), OutcomeUnknown)


def test_a_refusal_after_pending_says_nothing_of_it() -> None:
    attempts = keyed()
    attempts.again_after_pending()
    with pytest.raises(OutcomeUnknown):
        attempts.again_after_refusal(DISABLED)


def test_a_key_of_another_body_is_certain_whatever_was_lost() -> None:
    attempts = keyed()
    attempts.again_after_loss(LOST)
    with pytest.raises(TransferRefused):
        attempts.again_after_refusal(KEY_REUSED)


def test_refused_until_the_deadline_is_refused() -> None:
    attempts = keyed()
    attempts.begin()
    attempts.again_after_refusal(OVERLOADED)
    assert attempts.end() is OVERLOADED
    attempts.begin()
    assert isinstance(attempts.end(), OutcomeUnknown), "the attempt under way may have been taken"


def test_never_sent_is_certain() -> None:
    attempts = keyed()
    attempts.begin()
    attempts.again_after_loss(NEVER_SENT)
    ended = attempts.end()
    assert isinstance(ended, Unreachable)
    assert ended.key == "k"


def test_what_is_no_engine_is_not_asked_twice() -> None:
    with pytest.raises(OutcomeUnknown):
        keyed().again_after_loss(NotAnEngine("a page"))
    with pytest.raises(NotAnEngine):
        Attempts(None).again_after_loss(NotAnEngine("a page"))


def test_a_call_that_moves_nothing_passes_on_the_last_it_heard() -> None:
    attempts = Attempts(None, LONGEST)
    attempts.again_after_loss(LOST)
    with pytest.raises(Refused) as refused:
        attempts.again_after_refusal(DISABLED)
    assert refused.value is DISABLED
    attempts.again_after_loss(FAULT)
    assert attempts.end() is FAULT
    assert isinstance(Attempts(None).end(), Unreachable)
