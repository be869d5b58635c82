"""A service holds one side's money. The coordinator asks it; what it answers is final, or it is asked again.

Two kinds exist. A *ledger wallet*'s money lies in our ledger: the hold, post and void of the transfer itself are its
withdraw, commit and rollback, so it has accounts but no calls of its own. A *core*'s money lies elsewhere (a matching
engine, an HTTP service): in our ledger it is one omnibus account an asset, and the coordinator calls it.
"""

from typing import Final, Protocol, runtime_checkable
from uuid import UUID

import msgspec


class Success(msgspec.Struct, frozen=True):
    """Done, now or before: final for this `req_id`."""


class Failed(msgspec.Struct, frozen=True):
    """Refused, and nothing was moved: final for this `req_id`."""

    reason: str


class Pending(msgspec.Struct, frozen=True):
    """In flight, or a technical fault: unknown, ask again by the same `req_id`."""

    reason: str = ""


Answer = Success | Failed | Pending

SUCCESS: Final = Success()


class ServiceCall(msgspec.Struct, frozen=True):
    """The body of a withdraw or deposit. ``amount`` is in minor units."""

    req_id: UUID
    user_id: int
    asset_id: int
    amount: int


class CoreBalance(msgspec.Struct, frozen=True):
    """What a core holds of a user's asset, in minor units."""

    asset_id: int
    available: int
    frozen: int


@runtime_checkable
class Core(Protocol):
    """A service whose money lives outside of our ledger.

    Every call is idempotent per `req_id`. An exception, like a cancelled call, counts as :class:`Pending`. The same
    `req_id` with another body is refused (``Failed``) and changes nothing for the first body. ``rollback`` before its
    ``withdraw``, and ``cancel`` before its ``deposit``, are fences: the call that comes later answers ``Failed``.
    """

    name: str
    freezes: bool
    """Whether ``withdraw`` freezes until ``commit``; without a freeze ``commit`` is a no-op, ``rollback`` reverses."""

    async def withdraw(self, call: ServiceCall) -> Answer:
        """Take (or freeze) the amount from the user's account."""
        ...

    async def deposit(self, call: ServiceCall) -> Answer:
        """Give the amount to the user's account."""
        ...

    async def commit(self, req_id: UUID) -> Answer:
        """Make a withdraw final. Failed after a rollback or a refused withdraw; Pending where none is known."""
        ...

    async def rollback(self, req_id: UUID) -> Answer:
        """Undo a withdraw, or fence one that has not come. Failed after a commit."""
        ...

    async def cancel(self, req_id: UUID) -> Answer:
        """Fence a deposit that has not come. Success where it was refused or fenced; Failed once taken."""
        ...

    async def query(self, req_id: UUID) -> Answer:
        """Tell how the withdraw or deposit of this `req_id` ended; Pending where it is not known."""
        ...


@runtime_checkable
class ReportsBalances(Protocol):
    """A core that can also say what a user holds in it."""

    async def balances(self, user_id: int) -> list[CoreBalance]:
        """Return the user's balances."""
        ...
