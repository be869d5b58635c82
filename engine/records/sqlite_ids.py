"""The identifiers of the latest rows, in memory, until they are merged into their tree.

Clients' keys are hashes: each falls on a page of its own, and written at once each would cost a page in every commit.
The rows of ``transfers`` make them durable anyway, in the order in which they came; so a bounded number stays here, and
the oldest are merged a neighbourhood at a time, many to a page. What is here is rebuilt from the rows on opening.

One thread changes it; others may look at any time. They must look here *before* they look into the tree: an identifier
leaves here only after its merge is committed.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Final

IDS_MOST: Final = 131_072
"""Identifiers that wait here, some 200 bytes each. With more of them a page of the tree takes more at once."""

MERGE_LEAST: Final = 2_048
"""Identifiers merged at once, if so many neighbours wait."""

_NEIGHBOURHOODS: Final = 64
_SHIFT: Final = 122
"""What is left of an identifier without its low bits numbers the neighbourhood."""

Entry = tuple[int, int]
"""An identifier, and the number of its row."""


class RecentIds:
    """Identifiers and the numbers of their rows; within a neighbourhood, in the order of their rows."""

    def __init__(self, ids_most: int, merge_least: int) -> None:
        self._ids_most = ids_most
        self._merge_least = merge_least
        self._neighbourhoods: list[dict[int, int]] = [{} for _ in range(_NEIGHBOURHOODS)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def find(self, keys: Iterable[int]) -> dict[int, int]:
        """Return the numbers of the rows of those identifiers that are here."""
        neighbourhoods = self._neighbourhoods
        return {key: number for key in keys if (number := neighbourhoods[key >> _SHIFT].get(key)) is not None}

    def add(self, entries: Iterable[Entry]) -> None:
        """Add identifiers of rows that are committed, in the order of the rows; none of them is here."""
        neighbourhoods = self._neighbourhoods
        count = 0
        for key, number in entries:
            neighbourhoods[key >> _SHIFT][key] = number
            count += 1
        self._count += count

    def due(self, incoming: int) -> list[Entry]:
        """Return what is to be merged before ``incoming`` more arrive: the oldest, and their neighbours of any age.

        Not many more than come in, and not few at a time: so the work is spread evenly.
        """
        excess = self._count + incoming - self._ids_most
        taken: list[Entry] = []
        if excess > 0:
            most = max(incoming, self._merge_least)
            for entries in sorted(filter(None, self._neighbourhoods), key=_oldest):
                taken += islice(entries.items(), most - len(taken))
                if len(taken) >= min(excess, most):
                    break
        return taken

    def merged_below(self, merged: list[Entry], next_number: int) -> int:
        """Return the row below which every identifier is in the tree once ``merged`` (of :meth:`due`) is.

        That is ``next_number`` if no identifier stays here.
        """
        gone = {key for key, _ in merged}
        firsts = (
            next((number for key, number in entries.items() if key not in gone), None)
            for entries in self._neighbourhoods
        )
        return min((first for first in firsts if first is not None), default=next_number)

    def remove(self, merged: list[Entry]) -> None:
        """Forget what was merged, once that is committed."""
        for key, _ in merged:
            del self._neighbourhoods[key >> _SHIFT][key]
        self._count -= len(merged)


def _oldest(entries: dict[int, int]) -> int:
    return next(iter(entries.values()))
