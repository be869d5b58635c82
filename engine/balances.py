"""What users hold: wallet accounts as the ledger has them, and what cores report."""

from collections.abc import Iterable

from tigerbeetle import Account

from transfer_engine.engine.ledger.protocol import Ledger
from transfer_engine.engine.legs import owner_of
from transfer_engine.engine.outcomes import Balance
from transfer_engine.engine.services.protocol import ReportsBalances
from transfer_engine.engine.services.registry import ServiceRegistry


def held_in(account: Account) -> tuple[int, int]:
    """Return what a user may spend of a wallet account, and what transfers under way hold of it."""
    return account.credits_posted - account.debits_posted - account.debits_pending, account.debits_pending


def balance_of(account_id: int, holds: tuple[int, int], registry: ServiceRegistry) -> Balance:
    """Return a wallet account as its user sees it: what a hold has taken is frozen, what one promises is not there."""
    _, asset_id, code = owner_of(account_id)
    service = registry.by_code(code)
    name = service.name if service is not None else str(code)
    return Balance(account=name, asset_id=asset_id, available=holds[0], frozen=holds[1])


async def balances_of(
    user_id: int, ledger: Ledger, registry: ServiceRegistry, asset_ids: Iterable[int]
) -> list[Balance]:
    """Return what a user holds, account by account; accounts that were never used are left out.

    Cancellation leaves nothing behind.

    Raises:
        LedgerUnavailable: the ledger did not answer.
    """
    ids = [wallet.account_id(user_id, asset_id) for wallet in registry.wallets for asset_id in asset_ids]
    balances = [balance_of(account.id, held_in(account), registry) for account in await ledger.lookup_accounts(ids)]
    for name, core in registry.cores.items():
        if isinstance(core, ReportsBalances):
            balances += [
                Balance(account=name, asset_id=held.asset_id, available=held.available, frozen=held.frozen)
                for held in await core.balances(user_id)
            ]
    return balances
