"""Claims of nodes in Cassandra: lightweight transactions, and what to make of one whose answer was lost.

A transaction that timed out may have been applied, or may be yet. It is read back (a serial read ends what was begun),
and asked again only where nothing has changed: its condition lets it be applied once at most.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from transfer_engine.engine.records.cassandra_messages import (
    CLAIM_CONSISTENCY,
    READ_CONSISTENCY,
    SERIAL_CONSISTENCY,
    bigint_value,
    int_key,
    int_value,
    list_value,
    text_value,
)
from transfer_engine.engine.records.cassandra_session import CassandraSession
from transfer_engine.engine.records.cassandra_statements import COMPONENT, LOOK_UP_MOST, Statements
from transfer_engine.engine.records.protocol import Claim, ClaimLost, Life, RecordsDamaged, RecordsUnavailable
from transfer_engine.schema.ids import SNOWFLAKE_EPOCH_MS

CONTENTION_PAUSE_S: Final = 0.02
"""Between two attempts at a claim that others are after, too."""


class CassandraClaims:
    """The table of claims; see `RecordStore` for what its methods promise."""

    def __init__(self, session: CassandraSession, statements: Statements) -> None:
        self._session = session
        self._statements = statements
        consistency = session.settings.consistency
        self._consistency = CLAIM_CONSISTENCY[consistency]
        self._read_consistency = READ_CONSISTENCY[consistency]
        self._serial = SERIAL_CONSISTENCY[consistency]
        self._timeout_s = session.settings.timeout_ms / 1000

    async def claims(self) -> list[Claim]:
        """Return all claims, by node, as a quorum knows them."""
        nodes = await self._session.execute(
            *self._statements.request("select_nodes", (), self._read_consistency, routing_key=COMPONENT.encode())
        )
        keys = [int_key(node) for (node,) in nodes]
        answers = await self._session.execute_all(
            [
                self._statements.request(
                    "select_claims", (list_value(keys[start : start + LOOK_UP_MOST]),), self._read_consistency
                )
                for start in range(0, len(keys), LOOK_UP_MOST)
            ]
        )
        return sorted((_claim_of(row) for rows in answers for row in rows), key=lambda claim: claim.node)

    async def find(self, node: int) -> Claim | None:
        """Return a node's claim, linearizable, or None."""
        rows = await self._session.execute(
            *self._statements.request("select_claim", (int_value(node),), self._serial, routing_key=int_key(node))
        )
        return _claim_of(rows[0]) if rows else None

    async def claim(self, node: int, owner: str, *, former: Claim | None, ceiling_ms: int) -> Life:
        """Begin a life. Cancellation leaves the claim on its way."""
        epoch, after_ms = (0, SNOWFLAKE_EPOCH_MS) if former is None else (former.epoch, former.ceiling_ms)
        life = Life(node=node, epoch=epoch + 1, owner=owner, after_ms=after_ms)
        new = (bigint_value(life.epoch), text_value(owner), bigint_value(max(ceiling_ms, after_ms)), bigint_value(0))
        name: str
        values: tuple[bytes, ...]
        if former is None:
            await self._list(node)
            name, values = "first_claim", (int_value(node), *new)
        else:
            read = (
                bigint_value(former.epoch),
                text_value(former.owner),
                bigint_value(former.ceiling_ms),
                bigint_value(former.beat),
            )
            name, values = "next_claim", (*new, int_value(node), *read)

        async def is_done() -> bool:
            stored = await self.find(node)
            if stored is not None and (stored.epoch, stored.owner) == (life.epoch, owner):
                return True
            if stored != former:
                raise _lost(life, stored)
            return False

        await self._decide(node, name, lambda: values, is_done)
        return life

    async def _list(self, node: int) -> None:
        """See to it that :meth:`claims` will read a node, before it can have a claim."""
        await self._session.execute(
            *self._statements.request(
                "insert_node", (int_value(node),), self._consistency, routing_key=COMPONENT.encode()
            )
        )

    async def beat(self, life: Life, ceiling_ms: int, beat: int) -> None:
        """Raise a life's beat and ceiling. Cancellation leaves it on its way."""
        ceiling = ceiling_ms

        def values() -> Sequence[bytes]:
            return (
                bigint_value(ceiling),
                bigint_value(beat),
                int_value(life.node),
                bigint_value(life.epoch),
                text_value(life.owner),
                bigint_value(ceiling),
                bigint_value(beat),
            )

        async def is_done() -> bool:
            nonlocal ceiling
            stored = await self.find(life.node)
            if stored is None or (stored.epoch, stored.owner) != (life.epoch, life.owner):
                raise _lost(life, stored)
            ceiling = max(ceiling, stored.ceiling_ms)
            return stored.beat >= beat

        await self._decide(life.node, "beat", values, is_done)

    async def release(self, life: Life) -> None:
        """Give a life's node up. Cancellation leaves it on its way."""

        async def is_done() -> bool:
            stored = await self.find(life.node)
            if stored is None or stored.epoch != life.epoch or stored.owner not in {life.owner, ""}:
                raise _lost(life, stored)
            return not stored.owner

        values = (int_value(life.node), bigint_value(life.epoch), text_value(life.owner))
        await self._decide(life.node, "release", lambda: values, is_done)

    async def _decide(
        self, node: int, name: str, values: Callable[[], Sequence[bytes]], is_done: Callable[[], Awaitable[bool]]
    ) -> None:
        """Ask a lightweight transaction until it is certain what became of it, or ``timeout_ms`` have passed.

        The last attempt may take as long again. ``is_done`` reads the claim back: True where the transaction counts as
        applied, False where it may be asked again; it raises ClaimLost where it never can be.
        """
        give_up_at = trio.current_time() + self._timeout_s
        is_asked = False
        while True:
            fault: RecordsUnavailable | None = None
            try:
                if not is_asked:
                    is_asked = True
                    if await self._ask(node, name, values()):
                        return
                if await is_done():
                    return
                is_asked = False
            except RecordsUnavailable as error:
                fault = error
            if trio.current_time() >= give_up_at:
                raise fault or RecordsUnavailable(f"the claim of node {node} is contended")
            await trio.sleep(CONTENTION_PAUSE_S)

    async def _ask(self, node: int, name: str, values: Sequence[bytes]) -> bool:
        rows = await self._session.execute(
            *self._statements.request(
                name, values, self._consistency, routing_key=int_key(node), serial_consistency=self._serial
            )
        )
        return bool(rows and rows[0][0])


def _claim_of(row: Sequence[object]) -> Claim:
    node, epoch, owner, ceiling_ms, beat = row
    if (
        isinstance(node, int)
        and isinstance(epoch, int)
        and isinstance(owner, str)
        and isinstance(ceiling_ms, int)
        and isinstance(beat, int)
    ):
        return Claim(node=node, epoch=epoch, owner=owner, ceiling_ms=ceiling_ms, beat=beat)
    raise RecordsDamaged(
        f"node {node} in table claims lacks a column: it was written by hand; delete that row with "
        "a lightweight transaction (DELETE … IF EXISTS) while no engine runs as this node"
    )


def _lost(life: Life, stored: Claim | None) -> ClaimLost:
    epoch, owner = (0, "") if stored is None else (stored.epoch, stored.owner)
    return ClaimLost(f"node {life.node} is not epoch {life.epoch} of {life.owner}, but {epoch} of {owner or 'nobody'}")
