"""A server whose node another engine has taken over ends with an error of one line, so that it is started again."""

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from support.server import eventually, running_server


def test_a_server_that_was_taken_over_answers_first_and_ends(tmp_path: Path) -> None:
    environment = {"TRANSFER_ENGINE_HEARTBEAT_MS": "100", "TRANSFER_ENGINE_LEASE_MS": "2000"}
    with running_server(tmp_path, environment=environment) as server:
        server.credit(1, 100)
        with closing(sqlite3.connect(tmp_path / "data" / "records.db", isolation_level=None)) as connection:
            connection.execute("UPDATE claims SET epoch = epoch + 1, owner = 'another'")

        def refused() -> bool:
            body = {"from": "funding", "to": "trading", "user_id": 1, "asset_id": 1, "amount": 1}
            try:
                answer = server.client.post("/api/v1/transfer", json=body)
            except httpx.TransportError:
                return True
            return answer.status_code == 503

        eventually(refused, bool)
        assert server.wait() == 1
        last = server.logged.splitlines()[-1]
        assert last.startswith("transfer-engine: node 0: this engine was taken for stopped")
        assert "start it again" in last
    with running_server(tmp_path, environment=environment) as server:
        assert server.balance(1, "funding")[0] + server.balance(1, "trading")[0] == 100
        assert server.stop() == 0
