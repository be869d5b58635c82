"""What streams are made of: events, snapshots, and the last events of one user's stream, for those who come back."""

from collections import deque
from collections.abc import Callable
from typing import Final
from uuid import UUID

import msgspec

from transfer_engine.engine.outcomes import Balance
from transfer_engine.schema.transfers import TransferRecord

_TRANSFER_BYTES: Final = 640
_BALANCE_BYTES: Final = 320
"""What an event takes in memory, more or less; a transfer's error text comes on top."""


class StreamEvent(msgspec.Struct, frozen=True, gc=False):
    """Something has happened to a user.

    Attributes:
        stream: whose number it is.
        seq: its number in the stream: one more than the event's before it.
        req_id: the transfer that it is about; of a balance, the last transfer told that touches the account.
        what: the transfer as it stands now, or what the account holds now.
    """

    stream: str
    seq: int
    req_id: UUID
    what: TransferRecord | Balance


class StreamSnapshot(msgspec.Struct, frozen=True):
    """What stands at ``seq``: the next event that is told has the number after it.

    Attributes:
        stream: whose number it is.
        seq: of the last event before it, 0 where there was none.
        user_id: whose.
        balances: the user's accounts in the engine's own ledger; those that were never used are left out.
        transfers: those under way; the end of each is told as an event.
    """

    stream: str
    seq: int
    user_id: int
    balances: list[Balance]
    transfers: list[TransferRecord]


OnMessage = Callable[[StreamEvent | StreamSnapshot], None]
"""Called synchronously, from within other work: it must not take long."""


class Ring:
    """The last events of a stream, bounded by their number and by their bytes."""

    __slots__ = ("_bytes_most", "_events", "_events_most", "bytes", "seq", "stream_id")

    def __init__(self, stream_id: str, *, events_most: int, bytes_most: int) -> None:
        self.stream_id = stream_id
        self.seq = 0
        """The number of the last event."""
        self._events: deque[StreamEvent] = deque()
        self._events_most = events_most
        self.bytes = 0
        """What its events take, more or less."""
        self._bytes_most = bytes_most

    def __len__(self) -> int:
        return len(self._events)

    def append(self, req_id: UUID, what: TransferRecord | Balance) -> StreamEvent:
        """Give an event the next number, and keep it; the oldest go where there is no room."""
        self.seq += 1
        event = StreamEvent(self.stream_id, self.seq, req_id, what)
        self._events.append(event)
        self.bytes += _bytes_of(event)
        while len(self._events) > self._events_most or self.bytes > self._bytes_most:
            self.bytes -= _bytes_of(self._events.popleft())
        return event

    def trim(self, bytes_most: int) -> None:
        """Let the oldest events go until the others take no more than this."""
        while self.bytes > bytes_most:
            self.bytes -= _bytes_of(self._events.popleft())

    def after(self, seq: int) -> list[StreamEvent] | None:
        """Return all events behind the one numbered ``seq``, or None where they are not all here, or never were."""
        missed = self.seq - seq
        if not 0 <= missed <= len(self._events):
            return None
        first = len(self._events) - missed
        return [event for index, event in enumerate(self._events) if index >= first] if missed else []


def _bytes_of(event: StreamEvent) -> int:
    what = event.what
    return _TRANSFER_BYTES + 4 * len(what.error) if isinstance(what, TransferRecord) else _BALANCE_BYTES
