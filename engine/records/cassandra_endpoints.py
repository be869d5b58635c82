"""Users' endpoints in Cassandra: which requests write, read and list them."""

from typing import Final

from transfer_engine.engine.records.cassandra_messages import (
    READ_CONSISTENCY,
    WRITE_CONSISTENCY,
    bigint_value,
    bytes_value,
    int_key,
    int_value,
)
from transfer_engine.engine.records.cassandra_session import CassandraSession
from transfer_engine.engine.records.cassandra_statements import Statements
from transfer_engine.engine.records.endpoint_rows import endpoint_of, page_of
from transfer_engine.engine.records.protocol import EndpointPage
from transfer_engine.schema.webhooks import Endpoint, encode_endpoint

PARTITIONS: Final = 64
"""Of the table: 100,000 endpoints are some 1,600 rows of 300 bytes in each."""

_USER_BITS: Final = 64


class CassandraEndpoints:
    """The table of endpoints; see `RecordStore` for what its methods promise."""

    def __init__(self, session: CassandraSession, statements: Statements) -> None:
        self._session = session
        self._statements = statements
        self._consistency = WRITE_CONSISTENCY[session.settings.consistency]
        self._read_consistency = READ_CONSISTENCY[session.settings.consistency]

    async def put(self, endpoint: Endpoint) -> None:
        """Write an endpoint under its version. Cancellation leaves it on its way."""
        part = endpoint.user_id % PARTITIONS
        values = (
            int_value(part),
            bigint_value(endpoint.user_id),
            bytes_value(encode_endpoint(endpoint)),
            bigint_value(endpoint.version),
        )
        await self._session.execute(
            *self._statements.request("insert_endpoint", values, self._consistency, routing_key=int_key(part))
        )

    async def get(self, user_id: int) -> Endpoint | None:
        """Return a user's endpoint, or None."""
        part = user_id % PARTITIONS
        rows = await self._session.execute(
            *self._statements.request(
                "select_endpoint",
                (int_value(part), bigint_value(user_id)),
                self._read_consistency,
                routing_key=int_key(part),
            )
        )
        return endpoint_of(user_id, rows[0][0]) if rows else None

    async def scan(self, position: int | None, limit: int) -> EndpointPage:
        """Return a page, partition by partition; one that ends a partition may be short, or empty."""
        part, after = 0, -1
        if position is not None:
            part, after = position >> _USER_BITS, (position & ((1 << _USER_BITS) - 1)) - 1
        rows = await self._session.execute(
            *self._statements.request(
                "scan_endpoints",
                (int_value(part), bigint_value(after), int_value(limit)),
                self._read_consistency,
                routing_key=int_key(part),
            )
        )
        if len(rows) == limit:
            return page_of(rows, part << _USER_BITS | rows[-1][0] + 1)
        return page_of(rows, None if part + 1 == PARTITIONS else (part + 1) << _USER_BITS)
