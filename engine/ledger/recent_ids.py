"""The ids of the latest transfers, in memory, until they are merged into the tree by id.

Hashed ids fall all over that tree: written at once, each would cost a page of its own in every commit. The rows of
the transfers make their ids durable anyway, in the order of time; so a bounded number of ids stays here, and the
oldest are merged into the tree a neighbourhood at a time. What is here is rebuilt from the rows when the file is
opened: everything after the mark that each merge leaves.

One thread changes it. Others may call :meth:`get` at any time; they must ask here *before* they ask the tree, for an id
leaves here only after its merge is committed.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Final

IDS_MAX: Final = 131_072
"""How many ids wait here at most, about 190 bytes each. More of them, and a page of the tree takes more at once."""

_NEIGHBOURHOOD_BITS: Final = 6
_SHIFT: Final = 128 - _NEIGHBOURHOOD_BITS
_MERGE_MIN: Final = 4096


class RecentIds:
    """Ids and their timestamps (ns); negative where the id was burnt at that time."""

    def __init__(self, ids_max: int) -> None:
        self._ids_max = ids_max
        self._neighbourhoods: list[dict[int, int]] = [{} for _ in range(1 << _NEIGHBOURHOOD_BITS)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, transfer_id: int) -> int | None:
        """Return the id's timestamp, if it is here."""
        return self._neighbourhoods[transfer_id >> _SHIFT].get(transfer_id)

    def add(self, entries: Iterable[tuple[int, int]]) -> None:
        """Add ids, in the order of their timestamps, once they are committed."""
        neighbourhoods = self._neighbourhoods
        for transfer_id, timestamp in entries:
            neighbourhoods[transfer_id >> _SHIFT][transfer_id] = timestamp
            self._count += 1

    def due(self, incoming: int) -> list[tuple[int, int]]:
        """Return the ids to merge before ``incoming`` more arrive: the oldest, and their neighbours of any age.

        Not many more than come in, and never few at a time, so that the work is spread evenly.
        """
        excess = self._count + incoming - self._ids_max
        taken: list[tuple[int, int]] = []
        if excess > 0:
            oldest_first = sorted((ids for ids in self._neighbourhoods if ids), key=_first_moment)
            for ids in oldest_first:
                taken.extend(islice(ids.items(), max(2 * incoming, _MERGE_MIN) - len(taken)))
                if len(taken) >= excess:
                    break
        return taken

    def remove(self, merged: list[tuple[int, int]]) -> None:
        """Forget ids that :meth:`due` returned, once their merge is committed."""
        for transfer_id, _ in merged:
            del self._neighbourhoods[transfer_id >> _SHIFT][transfer_id]
        self._count -= len(merged)

    def complete_until(self, merged: list[tuple[int, int]], last_timestamp: int) -> int:
        """Return up to when (ns) every id is in the tree, once ``merged`` is; ``last_timestamp`` if all are."""
        gone = {transfer_id for transfer_id, _ in merged}
        firsts = (
            next((abs(timestamp) for transfer_id, timestamp in ids.items() if transfer_id not in gone), None)
            for ids in self._neighbourhoods
        )
        return min((first - 1 for first in firsts if first is not None), default=last_timestamp)


def _first_moment(ids: dict[int, int]) -> int:
    return abs(next(iter(ids.values())))
