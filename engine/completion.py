"""The end of a transfer in memory: its intent is settled, its callers are answered, it is let go."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from transfer_engine.engine import crash_points
from transfer_engine.engine.journal import Journal
from transfer_engine.engine.open_transfers import Custody, OpenTransfer, OpenTransfers
from transfer_engine.engine.outcomes import Refused, TransferOutcome
from transfer_engine.engine.streams import Streams


class Completion:
    """Lets transfers go, all at once and synchronously: nobody ever sees one half let go.

    Args:
        requeue: puts a transfer into its user's mailbox.
        streams: told of every end.
    """

    def __init__(
        self,
        open_transfers: OpenTransfers,
        journal: Journal,
        requeue: Callable[[OpenTransfer], None],
        streams: Streams,
    ) -> None:
        self.recovered = 0
        self._open = open_transfers
        self._journal = journal
        self._requeue = requeue
        self._streams = streams
        self._counts: Counter[str] = Counter()
        self._behind: dict[int, list[OpenTransfer]] = {}

    def wait_behind(self, behind: dict[int, list[OpenTransfer]]) -> None:
        """Keep recovered transfers of another body under the same key, until the first one's end is known."""
        for req_id, others in behind.items():
            self._behind.setdefault(req_id, []).extend(others)

    @property
    def behind(self) -> Iterator[OpenTransfer]:
        """The transfers that wait for another body's end, and for nobody to drive them."""
        return (transfer for others in list(self._behind.values()) for transfer in others)

    def behind_of(self, req_id: int) -> Sequence[OpenTransfer]:
        """Return those that wait for the end of another body under this key."""
        return self._behind.get(req_id, ())

    def ended(self, transfer: OpenTransfer) -> None:
        """Let a transfer go whose last row is durable: its key is its body's for ever.

        Told again, because the row was written again, it does nothing.
        """
        if self._open.find(transfer.req_id) is not transfer:
            return
        if transfer.is_recovered:
            crash_points.reach("during_recovery")
        self._counts[transfer.state.value] += 1
        for other in self._behind.pop(transfer.req_id, ()):
            self._journal.settle(other)
        self._let_go(transfer)
        transfer.reply(transfer.final_outcome())
        self._streams.note(transfer)

    def close(self, transfer: OpenTransfer, answer: TransferOutcome | Refused) -> None:
        """Let a transfer go that needs no row of its own: answered before, or refused and never asked for.

        Refused, it did not get the key: who waits behind it comes next.
        """
        self._let_go(transfer)
        others = self._behind.pop(transfer.req_id, [])
        if not isinstance(answer, Refused):
            for other in others:
                self._journal.settle(other)
        elif others:
            self._behind[transfer.req_id] = others[1:]
            self._open.add(others[0])
            self._requeue(others[0])
        transfer.reply(answer)
        self._streams.note_closed(transfer, answer)

    def ended_counts(self) -> dict[str, int]:
        """Return how many transfers ended in this run, by their last state."""
        return dict(self._counts)

    def _let_go(self, transfer: OpenTransfer) -> None:
        """Forget a transfer. Its callers are answered last: one may ask again from within his answer."""
        transfer.custody = Custody.ENDING
        self._open.remove(transfer)
        self._journal.settle(transfer)
