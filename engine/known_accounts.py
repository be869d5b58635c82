"""Which accounts the ledger has acknowledged, as far as that is remembered.

It owns a bounded memory, and never asks anybody. One that was forgotten is acknowledged again: that costs a trip to the
ledger, and harms nothing.
"""

from collections import deque
from typing import Final


class KnownAccounts:
    """The accounts that were acknowledged last, at most ``most``: some 100 bytes each."""

    __slots__ = ("_in_order", "_known", "_most")

    def __init__(self, most: int) -> None:
        self._most: Final = most
        self._known: set[int] = set()
        # A dict alone would do for the order, but its oldest key is found behind all that were deleted before.
        self._in_order: deque[int] = deque()

    def __repr__(self) -> str:
        return f"<KnownAccounts {len(self)} of {self._most}>"

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, account_id: int) -> bool:
        return account_id in self._known

    def add(self, account_id: int) -> None:
        """Remember an account; where there are too many, the one is forgotten that came first."""
        if account_id in self._known:
            return
        if len(self._known) >= self._most:
            self._known.remove(self._in_order.popleft())
        self._known.add(account_id)
        self._in_order.append(account_id)
