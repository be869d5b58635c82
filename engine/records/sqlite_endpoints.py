"""Users' endpoints in the embedded record store. Synchronous."""

import sqlite3

from transfer_engine.engine.records.endpoint_rows import endpoint_of, page_of
from transfer_engine.engine.records.protocol import EndpointPage
from transfer_engine.schema.webhooks import Endpoint, encode_endpoint


def write_endpoint(writer: sqlite3.Connection, endpoint: Endpoint) -> None:
    """Write an endpoint, unless a later version is there."""
    writer.execute(
        "INSERT INTO webhook_endpoints (user_id, version, body) VALUES (?, ?, ?) ON CONFLICT (user_id) DO UPDATE SET "
        "version = excluded.version, body = excluded.body WHERE excluded.version > webhook_endpoints.version",
        (endpoint.user_id, endpoint.version, encode_endpoint(endpoint)),
    )


def read_endpoint(connection: sqlite3.Connection, user_id: int) -> Endpoint | None:
    """Return a user's endpoint, or None.

    Raises:
        RecordsDamaged: the row can't be understood.
    """
    row = connection.execute("SELECT body FROM webhook_endpoints WHERE user_id = ?", (user_id,)).fetchone()
    return None if row is None else endpoint_of(user_id, row[0])


def scan_endpoints(connection: sqlite3.Connection, position: int | None, limit: int) -> EndpointPage:
    """Return a page of all endpoints, by user."""
    rows = connection.execute(
        "SELECT user_id, body FROM webhook_endpoints WHERE user_id > ? ORDER BY user_id LIMIT ?",
        (-1 if position is None else position, limit),
    ).fetchall()
    return page_of(rows, rows[-1][0] if len(rows) == limit else None)
