"""One batch of events: timestamps and chains of linked events. The rules of single events are in their own files."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from tigerbeetle import (
    Account,
    AccountFlags,
    CreateAccountResult,
    CreateAccountStatus,
    CreateTransferResult,
    CreateTransferStatus,
    Transfer,
    TransferFlags,
)

from transfer_engine.engine.ledger.account_rules import create_account
from transfer_engine.engine.ledger.book import Book, Move
from transfer_engine.engine.ledger.moves import take_move
from transfer_engine.engine.ledger.transfer_rules import create_transfer

_LINKED: Final = 1
_ACCOUNT_IMPORTED: Final = int(AccountFlags.IMPORTED)
_TRANSFER_IMPORTED: Final = int(TransferFlags.IMPORTED)
_CREATED: Final = 0xFFFFFFFF
_TRANSFER_CREATED: Final = CreateTransferStatus.CREATED

_Event = TypeVar("_Event", Account, Transfer)
_Result = TypeVar("_Result", CreateAccountResult, CreateTransferResult)


def apply_accounts(book: Book, accounts: Sequence[Account], timestamp_first: int) -> list[CreateAccountResult]:
    """Create accounts in order; the n-th event's timestamp is ``timestamp_first + n``."""

    def refuse(timestamp: int, status: str) -> CreateAccountResult:
        return CreateAccountResult(timestamp, CreateAccountStatus[status])

    return _apply(book, accounts, timestamp_first, _ACCOUNT_IMPORTED, create_account, refuse)


def apply_transfers(
    book: Book, transfers: Sequence[Transfer], timestamp_first: int, moves: Iterable[Move] = ()
) -> list[CreateTransferResult]:
    """Apply transfers in order; the n-th event's timestamp is ``timestamp_first + n``.

    ``moves`` are those of the batch whose ids nothing else has, neither in the batch nor in the book.
    """

    def refuse(timestamp: int, status: str) -> CreateTransferResult:
        return CreateTransferResult(timestamp, CreateTransferStatus[status])

    starts = {move[0]: move for move in moves}
    results: list[CreateTransferResult] = []
    index = 0
    while index < len(transfers):
        timestamp = timestamp_first + index
        move = starts.get(index)
        if move is not None and take_move(book, move, timestamp):
            results.append(CreateTransferResult(timestamp, _TRANSFER_CREATED))
            results.append(CreateTransferResult(timestamp + 1, _TRANSFER_CREATED))
            index += 2
            continue
        # One event, or a whole chain: moves within it stand and fall with it.
        end = index + 1
        while end < len(transfers) and int(transfers[end - 1].flags) & _LINKED:
            end += 1
        results += _apply(book, transfers[index:end], timestamp, _TRANSFER_IMPORTED, create_transfer, refuse)
        index = end
    return results


def _apply(
    book: Book,
    events: Sequence[_Event],
    timestamp_first: int,
    imported: int,
    create: Callable[[Book, _Event, int, int], _Result],
    refuse: Callable[[int, str], _Result],
) -> list[_Result]:
    results: list[_Result] = []
    chain: int | None = None
    chain_broken = False
    index_last = len(events) - 1
    for index, event in enumerate(events):
        timestamp = timestamp_first + index
        flags = int(event.flags)
        linked = flags & _LINKED
        if linked and chain is None:
            chain = index
            book.chain_open()
        if linked and index == index_last:
            result = refuse(timestamp, "LINKED_EVENT_CHAIN_OPEN")
        elif chain_broken:
            result = refuse(timestamp, "LINKED_EVENT_FAILED")
        elif flags & imported:
            result = refuse(timestamp, "IMPORTED_EVENT_NOT_EXPECTED")
        elif event.timestamp:
            result = refuse(timestamp, "TIMESTAMP_MUST_BE_ZERO")
        else:
            result = create(book, event, flags, timestamp)
        results.append(result)
        if chain is None:
            continue
        if result.status != _CREATED and not chain_broken:
            chain_broken = True
            book.chain_discard()
            for earlier in range(chain, index):
                # Their timestamps stay: each keeps the one it was tried with.
                results[earlier] = refuse(timestamp_first + earlier, "LINKED_EVENT_FAILED")
        if not linked or index == index_last:
            book.chain_keep()
            chain = None
            chain_broken = False
    return results
