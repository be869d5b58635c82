"""The backlog of former lives: handed to the users' actors bit by bit, so that a restart serves newcomers, too.

What waits goes to the ledger first in, first out. Were 100,000 unfinished transfers handed over at one go, whoever asks
after a restart would wait behind all of them, or be refused for as long. So some of them are under way at a time, fewer
than would have anybody refused, and newcomers come in between. Nobody overtakes himself: before a user's new transfer
is taken, all that he left unfinished is handed over.

What lives here: who was not handed over yet, user by user, in order. What never does: how a transfer is driven.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from transfer_engine.engine.open_transfers import OpenTransfer

_SLICE: Final = 256
"""Transfers of one user that are handed over at a time; then it is the others' turn."""

PAUSE_S: Final = 0.005
"""Between two looks at how many are under way: what leaves meanwhile is a small part of them."""

_SHARE_UNDER_OVERLOAD: Final = 256
"""The part of what may wait that is handed over each time while newcomers alone are too many: all that may wait takes a
third of the deadline, so that is about half of what gets through at a deadline of 2 s."""


def room_of(waiting: int, waiting_most: int) -> int:
    """Return how many may be handed over while so many wait: newcomers are refused beyond ``waiting_most``.

    Half of that room is theirs. Where they are too many even so, something is handed over all the same: who overloads
    an engine may not keep it from what it owes.
    """
    if waiting < waiting_most // 2:
        return waiting_most // 2 - waiting
    if waiting_most * 3 // 4 <= waiting < 2 * waiting_most:
        return max(1, waiting_most // _SHARE_UNDER_OVERLOAD)
    return 0


class Backlog:
    """Transfers of former lives that no actor has yet. All of them are open, and QUEUED.

    Args:
        hand_over: puts a transfer into its user's mailbox.
        room: tells how many may be handed over now.
    """

    def __init__(self, hand_over: Callable[[OpenTransfer], None], room: Callable[[], int]) -> None:
        self._hand_over = hand_over
        self._room = room
        self._of_user: dict[int, deque[OpenTransfer]] = {}
        self._left = 0

    def __repr__(self) -> str:
        return f"<Backlog {self._left} transfers of {len(self._of_user)} users>"

    def __len__(self) -> int:
        return self._left

    def add(self, transfer: OpenTransfer) -> None:
        """Take a transfer, behind its user's others."""
        self._of_user.setdefault(transfer.intent.user_id, deque()).append(transfer)
        self._left += 1

    def release(self, user_id: int) -> None:
        """Hand over all of a user's, because he asks for something."""
        transfers = self._of_user.pop(user_id, None)
        if transfers is not None:
            self._hand_some(transfers, len(transfers))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hand over, until cancelled, as others get through. Cancellation leaves the rest for the next run, or life."""
        task_status.started()
        while self._of_user:
            room = self._room()
            while self._of_user and room > 0:
                user_id = next(iter(self._of_user))
                transfers = self._of_user.pop(user_id)
                count = min(len(transfers), _SLICE, room)
                room -= count
                self._hand_some(transfers, count)
                if transfers:
                    self._of_user[user_id] = transfers
            await trio.sleep(PAUSE_S)
        await trio.sleep_forever()

    def _hand_some(self, transfers: deque[OpenTransfer], count: int) -> None:
        for _ in range(count):
            self._left -= 1
            self._hand_over(transfers.popleft())
