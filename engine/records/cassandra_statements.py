"""Every statement that the record store sends, prepared once, with the timestamps that no clock makes."""
# ruff: noqa: S608  (the keyspace is checked by the settings; every value is bound)

from collections.abc import Callable, Sequence
from typing import Any, Final

from cassandra.cluster import Session

from transfer_engine.engine.records.cassandra_messages import Request, batch_prefix, execute_request
from transfer_engine.engine.records.cassandra_rows import HISTORY_VALUES, PERIOD_VALUES, ROW_VALUES, SELECTED
from transfer_engine.engine.records.cassandra_session import Routing

COMPONENT: Final = "records"
"""The partition of what concerns the store as a whole."""

HISTORY_TIMESTAMP: Final = 1
"""Of what is never changed and never deleted."""

NODE_TIMESTAMP: Final = 1
APPEND_TIMESTAMP: Final = 1
SETTLED_TIMESTAMP: Final = 2
"""A settled bucket is deleted above its appends: one that comes later stays dead. Buckets are never used again."""

LOOK_UP_MOST: Final = 50
"""Partitions in one look-up; ScyllaDB allows 100."""

_TEXTS: Final = {
    "insert_row": "INSERT INTO {keyspace}.transfers (record, req_id) VALUES (?, ?) USING TIMESTAMP ?",
    "insert_history": "INSERT INTO {keyspace}.history (part, period, user_id, created_at, req_id) "
    f"VALUES (?, ?, ?, ?, ?) USING TIMESTAMP {HISTORY_TIMESTAMP}",
    "insert_period": "INSERT INTO {keyspace}.history_periods (user_id, period) "
    f"VALUES (?, ?) USING TIMESTAMP {HISTORY_TIMESTAMP}",
    "select_rows": f"SELECT {SELECTED} FROM {{keyspace}}.transfers WHERE req_id IN ?",
    "scan_rows": f"SELECT token(req_id), {SELECTED} FROM {{keyspace}}.transfers WHERE token(req_id) >= ? LIMIT ?",
    "select_periods": "SELECT period FROM {keyspace}.history_periods WHERE user_id = ? AND period <= ? LIMIT ?",
    "select_history": "SELECT created_at, req_id FROM {keyspace}.history "
    "WHERE part = ? AND period = ? AND (user_id, created_at, req_id) < (?, ?, ?) AND (user_id) >= (?) LIMIT ?",
    "insert_intents": "INSERT INTO {keyspace}.intents (shard, bucket, seq, body) "
    f"VALUES (?, ?, ?, ?) USING TIMESTAMP {APPEND_TIMESTAMP}",
    "insert_bucket": "INSERT INTO {keyspace}.intent_buckets (shard, bucket) "
    f"VALUES (?, ?) USING TIMESTAMP {APPEND_TIMESTAMP}",
    "select_buckets": "SELECT bucket FROM {keyspace}.intent_buckets "
    "WHERE shard = ? AND bucket >= ? AND bucket < ? LIMIT ?",
    "select_intents": "SELECT seq, body FROM {keyspace}.intents WHERE shard = ? AND bucket = ? AND seq > ? LIMIT ?",
    "delete_intents": f"DELETE FROM {{keyspace}}.intents USING TIMESTAMP {SETTLED_TIMESTAMP} "
    "WHERE shard = ? AND bucket = ?",
    "delete_buckets": f"DELETE FROM {{keyspace}}.intent_buckets USING TIMESTAMP {SETTLED_TIMESTAMP} "
    "WHERE shard = ? AND bucket < ?",
    "select_mark": "SELECT bucket FROM {keyspace}.marks WHERE shard = ?",
    "raise_mark": "INSERT INTO {keyspace}.marks (shard, bucket) VALUES (?, ?) USING TIMESTAMP ?",
    "insert_endpoint": "INSERT INTO {keyspace}.webhook_endpoints (part, user_id, body) "
    "VALUES (?, ?, ?) USING TIMESTAMP ?",
    "select_endpoint": "SELECT body FROM {keyspace}.webhook_endpoints WHERE part = ? AND user_id = ?",
    "scan_endpoints": "SELECT user_id, body FROM {keyspace}.webhook_endpoints WHERE part = ? AND user_id > ? LIMIT ?",
    "insert_node": "INSERT INTO {keyspace}.claimed_nodes (component, node) "
    f"VALUES ('{COMPONENT}', ?) USING TIMESTAMP {NODE_TIMESTAMP}",
    "select_nodes": f"SELECT node FROM {{keyspace}}.claimed_nodes WHERE component = '{COMPONENT}'",
    "select_claims": "SELECT node, epoch, owner, ceiling_ms, beat FROM {keyspace}.claims WHERE node IN ?",
    "select_claim": "SELECT node, epoch, owner, ceiling_ms, beat FROM {keyspace}.claims WHERE node = ?",
    "first_claim": "INSERT INTO {keyspace}.claims (node, epoch, owner, ceiling_ms, beat) "
    "VALUES (?, ?, ?, ?, ?) IF NOT EXISTS",
    "next_claim": "UPDATE {keyspace}.claims SET epoch = ?, owner = ?, ceiling_ms = ?, beat = ? WHERE node = ? "
    "IF epoch = ? AND owner = ? AND ceiling_ms = ? AND beat = ?",
    "beat": "UPDATE {keyspace}.claims SET ceiling_ms = ?, beat = ? WHERE node = ? "
    "IF epoch = ? AND owner = ? AND ceiling_ms <= ? AND beat < ?",
    "release": "UPDATE {keyspace}.claims SET owner = '' WHERE node = ? IF epoch = ? AND owner = ?",
}


class Statements:
    """The prepared statements of one session, and how to build their requests.

    Holds the driver's own objects, by which it prepares them again on a server that has forgotten them.
    """

    def __init__(self, keyspace: str, prepare: Callable[[str], Any]) -> None:
        self.keyspace = keyspace
        self._prepared = {name: prepare(text.format(keyspace=keyspace)) for name, text in _TEXTS.items()}
        self._ids: dict[str, bytes] = {name: prepared.query_id for name, prepared in self._prepared.items()}
        self.row_prefix = batch_prefix(self._ids["insert_row"], ROW_VALUES)
        self.history_prefix = batch_prefix(self._ids["insert_history"], HISTORY_VALUES)
        self.period_prefix = batch_prefix(self._ids["insert_period"], PERIOD_VALUES)

    def request(
        self,
        name: str,
        values: Sequence[bytes],
        consistency: int,
        *,
        routing_key: bytes | None = None,
        serial_consistency: int | None = None,
    ) -> tuple[Request, Routing]:
        """Return the request of a statement with its bound values, and where it goes."""
        request = execute_request(self._ids[name], values, consistency, serial_consistency=serial_consistency)
        return request, Routing(self.keyspace, routing_key)


def prepare_statements(driver: Session, keyspace: str) -> Statements:
    """Prepare every statement; blocks. Errors are the driver's."""
    return Statements(keyspace, driver.prepare)
