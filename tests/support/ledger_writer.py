"""A process that writes to an embedded ledger until it is killed: ``python ledger_writer.py FILE FIRST_BATCH``.

Each batch is printed once it is answered. What a batch holds follows from its number alone.
"""

import sys
from pathlib import Path

import tigerbeetle as tb
import trio
from tigerbeetle import AccountFlags, CreateTransferStatus, TransferFlags

from transfer_engine.engine.ledger.embedded import EmbeddedLedger, open_embedded_ledger
from transfer_engine.engine.ledger.late_balances import LateLimits
from transfer_engine.engine.ledger.protocol import AMOUNT_MAX

OUTSIDE, SOURCE, TARGET = 1, 2, 3
FUNDS = 10**9
MOVES_A_BATCH = 10
RECENT_IDS_MAX = 50
"""So few that every batch merges ids, and a kill meets a merge."""
LATE_LIMITS = LateLimits(accounts_most=2, transfers_most=3 * MOVES_A_BATCH, slice_least=1)
"""So few that balances are written every few batches, one account a commit."""


def batch(number: int) -> list[tb.Transfer]:
    """Ten moves of one unit each, under ids that are all over the place; the last finds too little money."""
    events = []
    for index in range(MOVES_A_BATCH):
        move = ((number * MOVES_A_BATCH + index + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**127) & ~15
        amount = 1 if index < MOVES_A_BATCH - 1 else FUNDS + 1
        common = {
            "debit_account_id": SOURCE,
            "credit_account_id": TARGET,
            "ledger": 1,
            "code": 1,
            "user_data_128": move,
        }
        events += [
            tb.Transfer(id=move | 1, amount=amount, flags=TransferFlags.PENDING, **common),
            tb.Transfer(
                id=move | 2, amount=AMOUNT_MAX, pending_id=move | 1, flags=TransferFlags.POST_PENDING_TRANSFER, **common
            ),
        ]
    return events


async def prepare(ledger: EmbeddedLedger) -> None:
    """Make the accounts and the money; again is no harm."""
    await ledger.create_accounts(
        [
            tb.Account(id=OUTSIDE, ledger=1, code=1),
            tb.Account(id=SOURCE, ledger=1, code=1, flags=AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS),
            tb.Account(id=TARGET, ledger=1, code=1),
        ]
    )
    funds = tb.Transfer(id=1, debit_account_id=OUTSIDE, credit_account_id=SOURCE, amount=FUNDS, ledger=1, code=1)
    await ledger.create_transfers([funds])


async def write_for_ever(path: Path, number: int) -> None:
    async with open_embedded_ledger(path, recent_ids_max=RECENT_IDS_MAX, late_limits=LATE_LIMITS) as ledger:
        await prepare(ledger)
        while True:
            results = await ledger.create_transfers(batch(number))
            statuses = [result.status for result in results]
            assert statuses[:-2] == [CreateTransferStatus.CREATED] * (2 * MOVES_A_BATCH - 2)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
            number += 1


if __name__ == "__main__":
    trio.run(write_for_ever, Path(sys.argv[1]), int(sys.argv[2]))
