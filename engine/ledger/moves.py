"""Moves: a hold and its post, side by side in one batch, taken as one thing. Nearly all money goes this way.

A move is only a shorter way to what the rules of ``transfer_rules`` make of the same two events: whatever is not plain
about the events, their accounts or their ids is left to those. In the file it is one row, see ``schema/ledger.sql``.
"""

from collections.abc import Sequence
from typing import Final

from tigerbeetle import Transfer, TransferFlags

from transfer_engine.engine.ledger.book import MARK_EVERY_ROWS, Book, Move
from transfer_engine.engine.ledger.columns import INTEGER_END
from transfer_engine.engine.ledger.flags import CLOSED, CREDITS_MUST_NOT_EXCEED_DEBITS, HISTORY, U128_MAX
from transfer_engine.engine.ledger.flags import DEBITS_MUST_NOT_EXCEED_CREDITS as LIMITED
from transfer_engine.engine.ledger.recent_ids import PREFIX_BYTES, PREFIX_SHIFT

LEG_MASK: Final = 15
"""The low four bits of a transfer's id name a leg; what is above them usually is its ``user_data_128`` too."""

_PENDING: Final = TransferFlags.PENDING
_POST: Final = TransferFlags.POST_PENDING_TRANSFER
_PREFIX_MAX: Final = U128_MAX >> PREFIX_SHIFT
_NOT_PLAIN: Final = CLOSED | CREDITS_MUST_NOT_EXCEED_DEBITS | HISTORY


def find_moves(transfers: Sequence[Transfer]) -> tuple[dict[int, Move], list[int]]:
    """Return the moves of a batch by the prefix of their ids, and the places of the events that are in none.

    Every number of a move fits its field. Other events of the batch may have ids with a move's prefix.

    Raises:
        TypeError: something is not a number.
    """
    moves: dict[int, Move] = {}
    others: list[int] = []
    hold: Transfer | None = None
    for index, event in enumerate(transfers):
        if hold is not None:
            move = _as_move(hold, event, index - 1)
            if move is not None and moves.setdefault(move[1], move) is move:
                hold = None
                continue
            others.append(index - 1)
        hold = event if event.flags is _PENDING else None
        if hold is None:
            others.append(index)
    if hold is not None:
        others.append(len(transfers) - 1)
    return moves, others


def _as_move(hold: Transfer, post: Transfer, index: int) -> Move | None:
    """Return what a pending transfer and the next event say, if they are a move."""
    hold_id = hold.id
    if post.flags is not _POST or post.pending_id != hold_id:
        return None
    post_id = post.id
    prefix = hold_id >> PREFIX_SHIFT
    debit_id = hold.debit_account_id
    credit_id = hold.credit_account_id
    amount = hold.amount
    posted = post.amount
    own_data = hold_id & ~LEG_MASK
    user_data_64 = hold.user_data_64
    ledger = hold.ledger
    code = hold.code
    if (
        post.debit_account_id != debit_id
        or post.credit_account_id != credit_id
        or posted not in (U128_MAX, amount)
        or hold.user_data_128 != own_data
        or post.user_data_128 != own_data
        or post_id & ~LEG_MASK != own_data
        or post_id == hold_id
        or post.user_data_64 != user_data_64
        or post.ledger != ledger
        or post.code != code
        or not code
        or not 0 < prefix < _PREFIX_MAX
        # Whatever is too large, negative or should be nothing leaves something behind.
        or hold.user_data_32 | post.user_data_32 | hold.timeout | post.timeout
        or hold.pending_id | hold.timestamp | post.timestamp
        or (debit_id | credit_id | posted) >> 128
        or (amount | code << 47) >> 63
        or (user_data_64 | ledger << 32) >> 64
    ):
        return None
    legs = (hold_id & 0xFF) << 8 | post_id & 0xFF
    key = bytearray(prefix.to_bytes(PREFIX_BYTES, "big"))
    return index, prefix, key, legs, debit_id, credit_id, amount, user_data_64, ledger, code


def ids_of(move: Move) -> tuple[int, int]:
    """Return the ids of a move's hold and post."""
    prefix, legs = move[1], move[3]
    return prefix << PREFIX_SHIFT | legs >> 8, prefix << PREFIX_SHIFT | legs & 0xFF


def take_move(book: Book, move: Move, timestamp: int) -> bool:
    """Apply a move whose ids nobody has used, or leave it, both events of it, to the rules."""
    debit_id, credit_id, amount, ledger = move[4], move[5], move[6], move[8]
    debit = book.accounts.get(debit_id)
    credit = book.accounts.get(credit_id)
    if (
        debit is None
        or credit is None
        or debit is credit
        or debit.ledger != ledger
        or credit.ledger != ledger
        or (debit.flags | credit.flags) & _NOT_PLAIN
    ):
        return False
    debits_posted = debit.debits_posted + amount
    credits_posted = credit.credits_posted + amount
    debits = debits_posted + debit.debits_pending
    if (
        (debit.flags & LIMITED and debits > debit.credits_posted)
        or debits >= INTEGER_END
        or credits_posted + credit.credits_pending >= INTEGER_END
    ):
        return False
    # From here on the move is taken.
    debit.debits_posted = debits_posted
    credit.credits_posted = credits_posted
    book.moves.append((timestamp, move, debit, credit, debit.transfer_last, credit.transfer_last))
    debit.transfer_last = credit.transfer_last = timestamp
    debit.transfer_count += 1
    credit.transfer_count += 1
    if not debit.transfer_count % MARK_EVERY_ROWS:
        book.marks.append((debit.timestamp, timestamp))
    if not credit.transfer_count % MARK_EVERY_ROWS:
        book.marks.append((credit.timestamp, timestamp))
    return True
