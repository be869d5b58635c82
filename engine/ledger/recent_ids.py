"""The ids of the latest transfers, in memory, until they are merged into the tree by id.

Hashed ids fall all over that tree: written at once, each would cost a page of its own in every commit. The rows of
the transfers make their ids durable anyway, in the order of time; so a bounded number of ids stays here, and the
oldest are merged into the tree a neighbourhood at a time. What is here is rebuilt from the rows when the file is
opened: everything after the mark that each merge leaves.

Ids that differ in their last byte only, as the legs of one move do, are kept together: a prefix (the id without its
last byte) and its cells, each the last byte and the timestamp.

One thread changes it. Others may ask for :meth:`cells` at any time; they must ask here *before* they ask the tree, for
an id leaves here only after its merge is committed.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

IDS_MAX: Final = 262_144
"""How many ids wait here at most: 65 bytes each in pairs, 122 alone, so 32 MiB.

With more of them, a page of the tree takes more at once.
"""

PREFIX_SHIFT: Final = 8
PREFIX_BYTES: Final = 15

Cells = tuple[int, bytes]
"""A prefix, and the last bytes and timestamps of ids that have it."""

_CELL: Final = struct.Struct(">Bq")
_TWO_CELLS: Final = struct.Struct(">BqBq")
_NEIGHBOURHOOD_BITS: Final = 6
_NEIGHBOURHOOD_SHIFT: Final = 8 * PREFIX_BYTES - _NEIGHBOURHOOD_BITS
_MERGE_MIN: Final = 2048
"""Prefixes."""


def each_id(prefix: int, cells: bytes) -> Iterator[tuple[int, int]]:
    """Yield the ids of a prefix and their timestamps (ns), negative where the id was burnt at that time."""
    high = prefix << PREFIX_SHIFT
    for last_byte, timestamp in _CELL.iter_unpack(cells):
        yield high | last_byte, timestamp


def id_cells(transfer_id: int, timestamp: int) -> Cells:
    """Return an id and its timestamp (ns), which is negative where the id was burnt at that time, as a cell."""
    return transfer_id >> PREFIX_SHIFT, _CELL.pack(transfer_id & 0xFF, timestamp)


def move_cells(legs: int, timestamp: int) -> bytes:
    """Return the cells of a move: the last bytes of its hold and its post, and the hold's timestamp (ns)."""
    return _TWO_CELLS.pack(legs >> 8, timestamp, legs & 0xFF, timestamp + 1)


def has_id(cells: bytes, transfer_id: int) -> bool:
    """Say whether these cells of its prefix have the id."""
    return transfer_id & 0xFF in cells[:: _CELL.size]


class RecentIds:
    """Ids and their timestamps (ns); negative where the id was burnt at that time."""

    def __init__(self, ids_max: int) -> None:
        self._ids_max = ids_max
        self._neighbourhoods: list[dict[int, bytes]] = [{} for _ in range(1 << _NEIGHBOURHOOD_BITS)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def cells(self, prefix: int) -> bytes | None:
        """Return the cells of a prefix that are here; the tree may have others."""
        return self._neighbourhoods[prefix >> _NEIGHBOURHOOD_SHIFT].get(prefix)

    def find(self, prefixes: Iterable[int]) -> list[Cells]:
        """Return the cells of those prefixes that are here; the tree may have others."""
        neighbourhoods = self._neighbourhoods
        return [
            (prefix, cells)
            for prefix in prefixes
            if (cells := neighbourhoods[prefix >> _NEIGHBOURHOOD_SHIFT].get(prefix)) is not None
        ]

    def add(self, entries: Iterable[Cells]) -> None:
        """Add ids, in the order of their timestamps, once they are committed."""
        neighbourhoods = self._neighbourhoods
        added = 0
        for prefix, cells in entries:
            neighbourhood = neighbourhoods[prefix >> _NEIGHBOURHOOD_SHIFT]
            former = neighbourhood.get(prefix)
            neighbourhood[prefix] = cells if former is None else former + cells
            added += len(cells)
        self._count += added // _CELL.size

    def due(self, incoming: int) -> list[Cells]:
        """Return the prefixes to merge before ``incoming`` ids arrive: the oldest, and their neighbours of any age.

        Not many more than come in, and never few at a time, so that the work is spread evenly.
        """
        excess = self._count + incoming - self._ids_max
        taken: list[Cells] = []
        if excess > 0:
            oldest_first = sorted((cells for cells in self._neighbourhoods if cells), key=_first_moment)
            for cells in oldest_first:
                taken.extend(islice(cells.items(), max(incoming, _MERGE_MIN) - len(taken)))
                if _count_ids(taken) >= excess:
                    break
        return taken

    def remove(self, merged: list[Cells]) -> None:
        """Forget what :meth:`due` returned, once its merge is committed."""
        for prefix, _ in merged:
            del self._neighbourhoods[prefix >> _NEIGHBOURHOOD_SHIFT][prefix]
        self._count -= _count_ids(merged)

    def complete_until(self, merged: list[Cells], last_timestamp: int) -> int:
        """Return up to when (ns) every id is in the tree, once ``merged`` is; ``last_timestamp`` if all are."""
        gone = {prefix for prefix, _ in merged}
        firsts = (
            next((_moment(cells) for prefix, cells in neighbourhood.items() if prefix not in gone), None)
            for neighbourhood in self._neighbourhoods
        )
        return min((first - 1 for first in firsts if first is not None), default=last_timestamp)


def _moment(cells: bytes) -> int:
    """Return the timestamp of the first cell, which is the oldest."""
    timestamp: int = _CELL.unpack_from(cells)[1]
    return abs(timestamp)


def _first_moment(neighbourhood: dict[int, bytes]) -> int:
    return _moment(next(iter(neighbourhood.values())))


def _count_ids(taken: list[Cells]) -> int:
    return sum([len(cells) for _, cells in taken]) // _CELL.size
