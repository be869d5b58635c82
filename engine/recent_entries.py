"""The newest entries of a tree in a SQLite file, in memory, until they are merged into it many at a time.

An entry is a few numbers: a key first, the number of a row last. Keys fall all over their tree: written at once, each
would cost a page of its own in every commit. The rows make entries durable anyway, in the order of time; so a bounded
number waits here, and the oldest are merged a neighbourhood of keys at a time, many to a page. What is here is lost
with the process, and rebuilt from the rows after a mark in the file (see :class:`Due`).

Entries are packed bytes, not objects: hundreds of thousands of long-lived numbers, freed here and there, would scatter
whatever the interpreter allocates after them over as much memory, and slow everything down by a third.

One thread changes it. Others may call :meth:`RecentEntries.of` at any time; they must ask here *before* they ask the
tree, for an entry leaves here only after its merge is committed.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

KEY_MODULUS: Final = 139_554_259_537_711
"""A key is a number modulo this prime below 2^47: six bytes in SQLite.

Its bits have no pattern, so numbers that count up in some of theirs are spread as evenly as hashes are.
"""

KEY_BITS: Final = 47

_NEIGHBOURHOOD_SHIFT: Final = KEY_BITS - 10
_NEIGHBOURHOODS: Final = 1 << 10
_EMPTY: Final = 1 << 63
"""As the oldest row of a neighbourhood: it has none."""

_CROWDED: Final = 16
"""A neighbourhood with so many times its share is due at once: what has one key is found by looking at all of them."""

_PART_MAX: Final = 4096
"""Entries of a neighbourhood that are due at once: if keys crowd in one, the work is still spread evenly."""

_key: Final = struct.Struct("=q")


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be merged."""

    values: list[int]
    """The numbers of the entries, one entry after the other."""

    ends: dict[int, int]
    """How much of which neighbourhood it is (bytes)."""

    first_kept: int | None
    """The oldest row that still waits afterwards; None: no row does. All before it are in the tree then, as the file's
    mark may say."""


class RecentEntries:
    """Entries of ``width`` signed numbers of 64 bits; the absolute values of rows only grow."""

    def __init__(self, width: int, entries_max: int) -> None:
        self._entry = struct.Struct(f"={width}q")
        self._entries_max = entries_max
        self._crowded_bytes = max(entries_max * _CROWDED // _NEIGHBOURHOODS, _CROWDED) * self._entry.size
        self._crowded: set[int] = set()
        self._neighbourhoods = [bytearray() for _ in range(_NEIGHBOURHOODS)]
        self._oldest = [_EMPTY] * _NEIGHBOURHOODS
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, key: int) -> list[tuple[int, ...]]:
        """Return the entries with this key, in the order of their rows."""
        entries = self._neighbourhoods[key >> _NEIGHBOURHOOD_SHIFT]
        size = self._entry.size
        wanted = _key.pack(key)
        found = []
        at = entries.find(wanted)
        while at >= 0:
            if at % size == 0:
                found.append(self._entry.unpack_from(entries, at))
            at = entries.find(wanted, at + 1)
        return found

    def add(self, added: Iterable[tuple[int, ...]]) -> None:
        """Add entries whose rows are committed, in the order of the rows."""
        neighbourhoods = self._neighbourhoods
        pack = self._entry.pack
        crowded_bytes = self._crowded_bytes
        count = 0
        for entry in added:
            index = entry[0] >> _NEIGHBOURHOOD_SHIFT
            entries = neighbourhoods[index]
            if not entries:
                self._oldest[index] = abs(entry[-1])
            entries += pack(*entry)
            if len(entries) > crowded_bytes:
                self._crowded.add(index)
            count += 1
        self._count += count

    def due(self, incoming: int) -> Due | None:
        """Return what is to be merged before ``incoming`` entries arrive; None: nothing is.

        The oldest, and their neighbours of any age. Not many more than come in, so that the work is spread evenly.
        """
        excess = self._count + incoming - self._entries_max
        if not self._count or (excess <= 0 and not self._crowded):
            return None
        most = 2 * incoming + _PART_MAX
        taken = 0
        oldest = self._oldest.copy()
        ends: dict[int, int] = {}
        values: list[int] = []
        crowded = list(self._crowded)
        while taken < most and (crowded or (taken < excess and min(oldest) != _EMPTY)):
            index = crowded.pop() if crowded else oldest.index(min(oldest))
            entries = self._neighbourhoods[index]
            start = ends.get(index, 0)
            part = entries[start : start + _PART_MAX * self._entry.size]
            end = ends[index] = start + len(part)
            oldest[index] = self._first(entries, end)
            values += memoryview(part).cast("q").tolist()
            taken += len(part) // self._entry.size
        first = min(oldest)
        return Due(values, ends, None if first == _EMPTY else first)

    def remove(self, due: Due) -> None:
        """Forget what was due, once its merge is committed; nothing was added meanwhile."""
        for index, end in due.ends.items():
            # Another thread may be looking at the former bytes.
            entries = self._neighbourhoods[index] = self._neighbourhoods[index][end:]
            self._oldest[index] = self._first(entries, 0)
            self._count -= end // self._entry.size
            if len(entries) <= self._crowded_bytes:
                self._crowded.discard(index)

    def _first(self, entries: bytearray, start: int) -> int:
        """Return the row of the entry that begins there, if one does."""
        return abs(self._entry.unpack_from(entries, start)[-1]) if start < len(entries) else _EMPTY
