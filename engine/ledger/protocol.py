"""What the engine asks of a ledger, in TigerBeetle's own types.

The vocabulary (accounts, transfers, flags, statuses, filters) is TigerBeetle's, taken from its client package, so
that the embedded ledger and a real cluster are the same to everything above this line.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from tigerbeetle import (
    Account,
    AccountBalance,
    AccountFilter,
    CreateAccountResult,
    CreateTransferResult,
    QueryFilter,
    Transfer,
)

BATCH_EVENTS_MAX: Final = 8189
"""Events in one request: what fits TigerBeetle's 1 MiB message at 128 bytes an event."""

AMOUNT_MAX: Final = (1 << 128) - 1
"""TigerBeetle's "the whole pending amount", for posts and voids."""


class LedgerUnavailable(Exception):
    """The ledger did not answer: the outcome of the request is unknown, never failed. Ask again, by the same ids."""


class LedgerDamaged(Exception):
    """The ledger's own data can't be read or is not a ledger's: nothing helps but a person. Names the file."""


class Ledger(Protocol):
    """A TigerBeetle cluster, or what behaves like one.

    Every method may raise :class:`LedgerUnavailable`: the request may or may not have been applied. Cancelling a call
    leaves it unknown in the same way. Results stand in the order of the events that they answer.
    """

    async def create_accounts(self, accounts: Sequence[Account]) -> list[CreateAccountResult]:
        """Create up to ``BATCH_EVENTS_MAX`` accounts; one result for each, in order."""
        ...

    async def create_transfers(self, transfers: Sequence[Transfer]) -> list[CreateTransferResult]:
        """Apply up to ``BATCH_EVENTS_MAX`` transfers, in order, durably; one result for each, in order.

        A result's ``timestamp`` (ns) is the event's own: for ``EXISTS`` it is the first one's.
        """
        ...

    async def lookup_accounts(self, account_ids: Sequence[int]) -> list[Account]:
        """Return the accounts that exist among ``account_ids``, in their order; the others are left out."""
        ...

    async def lookup_transfers(self, transfer_ids: Sequence[int]) -> list[Transfer]:
        """Return the transfers that exist among ``transfer_ids``; a refused id is never found."""
        ...

    async def get_account_transfers(self, account_filter: AccountFilter) -> list[Transfer]:
        """Return an account's transfers by timestamp, as the filter says."""
        ...

    async def get_account_balances(self, account_filter: AccountFilter) -> list[AccountBalance]:
        """Return the balances after each transfer of an account that has the ``history`` flag."""
        ...

    async def query_accounts(self, query_filter: QueryFilter) -> list[Account]:
        """Return accounts by timestamp, as the filter says."""
        ...

    async def query_transfers(self, query_filter: QueryFilter) -> list[Transfer]:
        """Return transfers by timestamp, as the filter says."""
        ...
