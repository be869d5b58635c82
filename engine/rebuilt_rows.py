"""A transfer's last row, made again from what the ledger has of it.

Nothing is guessed: the accounts say whose money moved (a core's omnibus account is everybody's, so there the user is
looked for among those that are known), and the body that comes out must have the fingerprint that the hold carries.

What the ledger does not have: the reason of a void, how often a transfer was replayed, and for a void of a transfer
whose source is a core whether it is ``failed`` (the source refused) or ``rolled_back`` (the target did). Nothing moved
in either; ``failed`` is written, over which a ``rolled_back`` still prevails, should a store have it somewhere. A
tombstone has no amount: its row can't be made again.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final
from uuid import UUID

import msgspec

from transfer_engine.engine.reconciliation import Legs, Rules
from transfer_engine.engine.services.registry import Service, ServiceKind
from transfer_engine.schema.ids import fingerprint
from transfer_engine.schema.transfers import TransferRecord, TransferState

REBUILT_VOID: Final = "rebuilt from the ledger: it was voided, the reason is not known any more"
"""``error`` of a rebuilt row of a void."""

_SOURCE_REACHED: Final = frozenset(
    {TransferState.SOURCE_DONE, TransferState.TARGET_PENDING, TransferState.COMPENSATING}
)


class Rebuilt(msgspec.Struct, frozen=True):
    """A row, and whether the ledger alone says its state."""

    row: TransferRecord
    is_state_certain: bool


def rebuild(legs: Legs, row: TransferRecord | None, rules: Rules, users: Iterable[int]) -> Rebuilt | str:
    """Return the last row of a transfer that the ledger has ended, or why it can't be known.

    Args:
        legs: what the ledger has.
        row: the unfinished row, where there is one.
        rules: the services.
        users: who is tried where an account is everybody's.
    """
    hold, end = legs.hold, legs.end
    if hold is None or end is None:
        return "a tombstone has no amount" if legs.tombstone is not None else "the ledger has not ended it"
    sides = rules.sides(hold)
    if sides is None:
        return "an account of it is no service's"
    source, _, target, _ = sides
    pair = _users_of(legs, sides, row, users)
    if pair is None:
        return "whose it is does not follow from its accounts, and none of the users that the ledger knows fits"
    state, is_certain = _state(legs, source, row)
    error = "" if state is TransferState.COMMITTED else (row.error if row is not None else "") or REBUILT_VOID
    rebuilt = TransferRecord(
        req_id=UUID(int=legs.req_id),
        source=source.name,
        target=target.name,
        user_id=pair[0],
        target_user_id=pair[1],
        asset_id=hold.ledger,
        amount=hold.amount,
        state=state,
        created_at=legs.created_at_ms or 0,
        updated_at=legs.ended_at_ms or 0,
        error=error,
        retry_count=row.retry_count if row is not None else 0,
        fingerprint=hold.user_data_64,
    )
    return Rebuilt(rebuilt, is_certain)


def _users_of(
    legs: Legs, sides: tuple[Service, int, Service, int], row: TransferRecord | None, users: Iterable[int]
) -> tuple[int, int] | None:
    """Return the user and the target's user whose body has the hold's fingerprint."""
    hold = legs.hold
    if hold is None:
        return None
    source, source_user, target, target_user = sides
    known = [(row.user_id, row.target_user_id)] if row is not None else []
    for user_id, target_user_id in chain(known, _candidates(source_user, target_user, users)):
        made = fingerprint(
            source=source.name,
            target=target.name,
            user_id=user_id,
            target_user_id=target_user_id,
            asset_id=hold.ledger,
            amount=hold.amount,
        )
        if made == hold.user_data_64:
            return user_id, target_user_id
    return None


def _candidates(source_user: int, target_user: int, users: Iterable[int]) -> Iterator[tuple[int, int]]:
    if source_user and target_user:
        yield source_user, target_user
        return
    if source_user or target_user:
        yield source_user or target_user, target_user or source_user
    for user_id in users:
        yield source_user or user_id, target_user or user_id


def _state(legs: Legs, source: Service, row: TransferRecord | None) -> tuple[TransferState, bool]:
    """Return the state that the end means, and whether that is certain; see the coordinator for what voids when."""
    if legs.is_posted:
        return TransferState.COMMITTED, True
    if source.kind is not ServiceKind.CORE:
        return TransferState.ROLLED_BACK, True  # the hold itself was the source's withdraw, so it had been reached
    if row is not None and row.state in _SOURCE_REACHED:
        return TransferState.ROLLED_BACK, True
    return TransferState.FAILED, row is not None and row.state is TransferState.SOURCE_PENDING
