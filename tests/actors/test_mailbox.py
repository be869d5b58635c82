import pytest
import trio
from trio.testing import wait_all_tasks_blocked

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


async def test_a_reader_is_woken_once_however_many_messages_come():
    mailbox = Mailbox(10)
    woken = []

    async def reader():
        await mailbox.wait_for_message()
        woken.append(mailbox.peek(10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await wait_all_tasks_blocked()
        assert "awaited" in repr(mailbox)
        mailbox.put_nowait(1)
        mailbox.put_nowait(2)
    assert woken == [[1, 2]]


async def test_waiting_returns_at_once_if_there_is_a_message_but_lets_others_run():
    mailbox = Mailbox(10)
    mailbox.put_nowait(1)
    with trio.testing.assert_checkpoints():
        await mailbox.wait_for_message()


async def test_a_cancelled_reader_loses_nothing_and_another_may_wait():
    mailbox = Mailbox(10)
    with trio.move_on_after(0):
        await mailbox.wait_for_message()
    mailbox.put_nowait(1)
    await mailbox.wait_for_message()
    assert mailbox.peek(1) == [1]


async def test_a_reader_that_is_cancelled_as_it_is_woken_leaves_the_message():
    mailbox = Mailbox(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.wait_for_message)
        await wait_all_tasks_blocked()
        mailbox.put_nowait(1)
        nursery.cancel_scope.cancel()
    assert mailbox.peek(1) == [1]


async def test_a_second_reader_is_refused():
    mailbox = Mailbox(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.wait_for_message)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await mailbox.wait_for_message()
        mailbox.put_nowait(1)
