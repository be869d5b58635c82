"""A bounded memory of keys that need not be written again."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class KnownKeys(Generic[Key]):
    """The keys added last, between ``most // 2`` and ``most`` of them: two generations, no order to keep up.

    Forgetting a key costs one needless write, never more.
    """

    __slots__ = ("_most", "_new", "_old")

    def __init__(self, most: int) -> None:
        self._most = max(most // 2, 1)
        self._new: set[Key] = set()
        self._old: set[Key] = set()

    def __repr__(self) -> str:
        return f"<KnownKeys {len(self)}>"

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def __contains__(self, key: Key) -> bool:
        if key in self._new:
            return True
        if key in self._old:
            self.add(key)
            return True
        return False

    def add(self, key: Key) -> None:
        """Remember a key."""
        if len(self._new) >= self._most:
            self._old, self._new = self._new, set()
        self._new.add(key)
