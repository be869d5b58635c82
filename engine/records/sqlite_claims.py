"""The record store's claims of nodes: read, and changed within a transaction of another's. Synchronous."""

import sqlite3
from typing import Final

from transfer_engine.engine.records.protocol import Claim, ClaimLost, Life
from transfer_engine.schema.ids import SNOWFLAKE_EPOCH_MS

_SELECT: Final = "SELECT node, epoch, owner, ceiling_ms, beat FROM claims"


def read_claims(connection: sqlite3.Connection) -> list[Claim]:
    """Return the claims of all nodes, by node."""
    return [Claim(*row) for row in connection.execute(f"{_SELECT} ORDER BY node")]


def read_claim(connection: sqlite3.Connection, node: int) -> Claim | None:
    """Return a node's claim, or None."""
    row = connection.execute(f"{_SELECT} WHERE node = ?", (node,)).fetchone()
    return None if row is None else Claim(*row)


def write_claim(writer: sqlite3.Connection, node: int, owner: str, former: Claim | None, ceiling_ms: int) -> Life:
    """Begin a life, see `RecordStore`.

    Raises:
        ClaimLost: the node's claim is not ``former`` any more.
    """
    epoch, after_ms = (0, SNOWFLAKE_EPOCH_MS) if former is None else (former.epoch, former.ceiling_ms)
    life = Life(node=node, epoch=epoch + 1, owner=owner, after_ms=after_ms)
    stored = read_claim(writer, node)
    if stored is not None and (stored.epoch, stored.owner) == (life.epoch, life.owner):
        return life  # asked again
    if stored != former:
        raise _lost(life, stored)
    writer.execute(
        "INSERT OR REPLACE INTO claims (node, epoch, owner, ceiling_ms, beat) VALUES (?, ?, ?, ?, 0)",
        (node, life.epoch, owner, max(ceiling_ms, after_ms)),
    )
    return life


def write_beat(writer: sqlite3.Connection, life: Life, ceiling_ms: int, beat: int) -> None:
    """Raise a life's beat and ceiling, see `RecordStore`.

    Raises:
        ClaimLost: the claim belongs to another owner or epoch by now, or was released.
    """
    stored = read_claim(writer, life.node)
    if stored is None or (stored.epoch, stored.owner) != (life.epoch, life.owner):
        raise _lost(life, stored)
    if beat > stored.beat:
        writer.execute(
            "UPDATE claims SET ceiling_ms = ?, beat = ? WHERE node = ?",
            (max(ceiling_ms, stored.ceiling_ms), beat, life.node),
        )


def write_release(writer: sqlite3.Connection, life: Life) -> None:
    """Give a life's node up, see `RecordStore`.

    Raises:
        ClaimLost: the claim belongs to another owner or epoch by now.
    """
    stored = read_claim(writer, life.node)
    if stored is None or stored.epoch != life.epoch or stored.owner not in {life.owner, ""}:
        raise _lost(life, stored)
    writer.execute("UPDATE claims SET owner = '' WHERE node = ?", (life.node,))


def _lost(life: Life, stored: Claim | None) -> ClaimLost:
    epoch, owner = (0, "") if stored is None else (stored.epoch, stored.owner)
    return ClaimLost(f"node {life.node} is not epoch {life.epoch} of {life.owner}, but {epoch} of {owner or 'nobody'}")
