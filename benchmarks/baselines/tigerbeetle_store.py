"""A transfer as one ``create_transfers`` call of one event on TigerBeetle, by its client for asyncio; no records.

The event's id is derived from the key, so TigerBeetle itself tells a replay. What its client does on its own, such as
putting the calls that wait for one session into one message, it does here as well.
"""

import hashlib
from typing import Final
from uuid import uuid4

import tigerbeetle
from fastapi.responses import JSONResponse
from tigerbeetle import CreateTransferStatus

from transfer_engine.benchmarks.baselines.shapes import (
    ACCOUNTS,
    ASSET_ID,
    Account,
    Balance,
    Opening,
    TransferBody,
    committed,
    failed,
    misused,
    replayed,
)

_CODE: Final = 1
_EXTERNAL: Final = 1
_AT_A_TIME: Final = 2_000
_PLACE: Final[dict[Account, int]] = {"funding": 2, "trading": 3}
_OTHER_BODY: Final = frozenset(status for status in CreateTransferStatus if "EXISTS_WITH_DIFFERENT" in status.name)
_NO_MONEY: Final = frozenset({CreateTransferStatus.EXCEEDS_CREDITS, CreateTransferStatus.ID_ALREADY_FAILED})


class TigerBeetleStore:
    """Accounts in an empty cluster.

    Args:
        addresses: of the replicas, as its client takes them.
        cluster_id: of the cluster.
    """

    def __init__(self, addresses: str, cluster_id: int) -> None:
        self._addresses = addresses
        self._cluster_id = cluster_id

    async def open(self, opening: Opening) -> None:
        """Connect, and make and fund the accounts."""
        self._client = tigerbeetle.ClientAsync(self._cluster_id, self._addresses)
        self._users = range(1, opening.users + 1)
        flags = tigerbeetle.AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS
        accounts = [
            tigerbeetle.Account(id=account_id, ledger=ASSET_ID, code=_CODE, flags=flags)
            for account_id in self._accounts()
        ]
        await self._client.create_accounts([tigerbeetle.Account(id=_EXTERNAL, ledger=ASSET_ID, code=_CODE)])
        credits_ = [
            _event(uuid4().int, _EXTERNAL, account_id, ASSET_ID, opening.funds) for account_id in self._accounts()
        ]
        for start in range(0, len(accounts), _AT_A_TIME):
            await self._client.create_accounts(accounts[start : start + _AT_A_TIME])
            await self._client.create_transfers(credits_[start : start + _AT_A_TIME])

    async def transfer(self, body: TransferBody, key: str | None) -> JSONResponse:
        """Carry out one transfer and answer."""
        number = _number_of(key) if key is not None else uuid4().int
        req_id = f"{number:032x}"
        source, target = _account_id(body.user_id, body.source), _account_id(body.user_id, body.target)
        [result] = await self._client.create_transfers([_event(number, source, target, body.asset_id, body.amount)])
        status = result.status
        if status is CreateTransferStatus.CREATED:
            return committed(req_id)
        if status is CreateTransferStatus.EXISTS:
            return replayed(req_id)
        if status in _OTHER_BODY:
            return misused()
        return failed(req_id, "Insufficient funds" if status in _NO_MONEY else status.name)

    async def balances(self) -> list[Balance]:
        """Return what every account has."""
        ids = self._accounts()
        names = {place: name for name, place in _PLACE.items()}
        balances = []
        for start in range(0, len(ids), _AT_A_TIME):
            for account in await self._client.lookup_accounts(ids[start : start + _AT_A_TIME]):
                user_id, place = divmod(account.id, 4)
                balance = account.credits_posted - account.debits_posted
                balances.append(Balance(user_id=user_id, account=names[place], balance=balance))
        return balances

    async def servers(self) -> list[int]:
        """Return none: whoever started TigerBeetle knows its process."""
        return []

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()

    def _accounts(self) -> list[int]:
        return [_account_id(user_id, account) for user_id in self._users for account in ACCOUNTS]


def _account_id(user_id: int, account: Account) -> int:
    return user_id * 4 + _PLACE[account]


def _event(number: int, debit: int, credit: int, ledger: int, amount: int) -> tigerbeetle.Transfer:
    return tigerbeetle.Transfer(
        id=number, debit_account_id=debit, credit_account_id=credit, amount=amount, ledger=ledger, code=_CODE
    )


def _number_of(key: str) -> int:
    """Return the 128 bits that a key stands for, neither 0 nor all ones."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return int.from_bytes(digest) % ((1 << 128) - 2) + 1
