import pytest

from transfer_engine.actors import Mailbox, MailboxFull


def test_messages_stay_until_they_are_dropped():
    mailbox = Mailbox(10)
    for message in "abc":
        mailbox.put_nowait(message)
    assert mailbox.peek(2) == ["a", "b"]
    assert mailbox.peek(9) == ["a", "b", "c"]
    mailbox.drop(2)
    assert list(mailbox) == ["c"]


def test_a_full_mailbox_refuses_and_keeps_what_it_has():
    mailbox = Mailbox(2)
    mailbox.put_nowait(1)
    mailbox.put_nowait(2)
    with pytest.raises(MailboxFull, match="2 of 2"):
        mailbox.put_nowait(3)
    assert mailbox.peek(9) == [1, 2]


def test_admitted_work_ignores_the_bound():
    mailbox = Mailbox(1)
    mailbox.put_nowait(1)
    mailbox.put_nowait(2, admitted=True)
    with pytest.raises(MailboxFull):
        mailbox.put_nowait(3)
    assert mailbox.peek(9) == [1, 2]


@pytest.mark.parametrize("count", [-1, 3])
def test_no_more_can_be_dropped_than_there_is(count):
    mailbox = Mailbox(5)
    mailbox.put_nowait(1)
    mailbox.put_nowait(2)
    with pytest.raises(ValueError, match="of 2"):
        mailbox.drop(count)
    assert len(mailbox) == 2


def test_a_capacity_below_one_is_refused():
    with pytest.raises(ValueError, match="capacity"):
        Mailbox(0)
