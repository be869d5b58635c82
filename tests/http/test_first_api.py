"""The first API, end to end: a real server, a real socket."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from support.server import Server, eventually, running_server

from .conftest import CONFIG

RECORD_FIELDS = [
    "req_id",
    "state",
    "source",
    "target",
    "user_id",
    "asset_id",
    "amount",
    "created_at",
    "updated_at",
    "error",
    "retry_count",
]


@pytest.fixture
def server(door: Server) -> Server:
    """Every test runs at both doors."""
    return door


def transfer(server: Server, *, key: str | None = None, **changes: Any) -> Any:
    body = {"from": "funding", "to": "trading", "user_id": 1, "asset_id": 1, "amount": 1000, **changes}
    headers = {} if key is None else {"Idempotency-Key": f"{server.users_from} {key}"}
    return server.client.post("/api/v1/transfer", json=body, headers=headers)


def record(server: Server, req_id: str) -> Any:
    return server.client.get(f"/api/v1/transfer/{req_id}").json()


def test_the_six_checks_of_the_plan(server: Server) -> None:
    server.credit(server.users_from + 4001, 2_000_000)

    there = transfer(server, user_id=server.users_from + 4001, amount=1_000_000)
    assert there.status_code == 200
    assert there.json()["status"] == "committed"
    assert there.json()["message"] is None
    assert list(there.json()) == ["req_id", "status", "message"]

    back = transfer(server, user_id=server.users_from + 4001, amount=500_000, **{"from": "trading", "to": "funding"})
    assert back.json()["status"] == "committed"

    found = record(server, back.json()["req_id"])
    assert found["state"] == "committed"

    nothing = transfer(server, user_id=server.users_from + 4001, amount=0)
    assert nothing.json()["status"] == "failed"
    assert nothing.json()["message"] == "Amount must be positive"
    assert nothing.json()["req_id"] == ""

    unknown = transfer(server, user_id=server.users_from + 4001, **{"from": "invalid"})
    assert unknown.json()["status"] == "failed"

    nobody = server.client.get("/api/v1/transfer/00000000-0000-0000-0000-000000000000")
    assert nobody.status_code == 404
    assert nobody.json()["error"] == "Transfer not found"

    assert server.balance(server.users_from + 4001, "funding") == (1_500_000, 0)
    assert server.balance(server.users_from + 4001, "trading") == (500_000, 0)


def test_a_record_has_exactly_its_eleven_fields(server: Server) -> None:
    server.credit(server.users_from + 4002, 1_000)
    req_id = transfer(server, user_id=server.users_from + 4002).json()["req_id"]
    found = record(server, req_id)
    assert list(found) == RECORD_FIELDS
    assert found == {
        "req_id": req_id,
        "state": "committed",
        "source": "funding",
        "target": "trading",
        "user_id": server.users_from + 4002,
        "asset_id": 1,
        "amount": 1000,
        "created_at": found["created_at"],
        "updated_at": found["updated_at"],
        "error": None,
        "retry_count": 0,
    }
    assert 1_735_689_600_000 < found["created_at"] <= found["updated_at"]


def test_insufficient_funds_is_a_verdict(server: Server) -> None:
    server.credit(server.users_from + 4003, 999)
    refused = transfer(server, user_id=server.users_from + 4003, amount=1000)
    assert refused.status_code == 200
    assert refused.json()["status"] == "failed"
    assert refused.json()["message"]
    assert record(server, refused.json()["req_id"])["state"] == "failed"
    assert record(server, refused.json()["req_id"])["error"]
    assert server.balance(server.users_from + 4003, "funding") == (999, 0)


def test_a_look_up_takes_the_uuid_in_any_case_and_without_hyphens(server: Server) -> None:
    server.credit(server.users_from + 4004, 1_000)
    req_id = transfer(server, user_id=server.users_from + 4004).json()["req_id"]
    assert record(server, req_id.upper())["req_id"] == req_id
    assert record(server, UUID(req_id).hex)["req_id"] == req_id


def test_the_same_key_gives_the_same_answer_once_more(server: Server) -> None:
    server.credit(server.users_from + 4005, 5_000)
    first = transfer(server, key="order 66", user_id=server.users_from + 4005)
    again = transfer(server, key="order 66", user_id=server.users_from + 4005)
    assert first.json() == again.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.status_code == first.status_code == 200
    assert server.balance(server.users_from + 4005, "trading") == (1_000, 0)


def test_a_refusal_is_replayed_too_even_when_the_money_has_come(server: Server) -> None:
    first = transfer(server, key="too early", user_id=server.users_from + 4006)
    server.credit(server.users_from + 4006, 5_000)
    again = transfer(server, key="too early", user_id=server.users_from + 4006)
    assert first.json()["status"] == "failed"
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"


def test_a_key_with_another_body_is_refused(server: Server) -> None:
    server.credit(server.users_from + 4007, 5_000)
    assert transfer(server, key="once", user_id=server.users_from + 4007, amount=1).json()["status"] == "committed"
    other = transfer(server, key="once", user_id=server.users_from + 4007, amount=2)
    assert other.status_code == 422
    assert other.headers["Content-Type"] == "application/problem+json"
    problem = other.json()
    assert (problem["code"], problem["status"], problem["req_id"]) == ("key_reused", "failed", "")
    assert server.balance(server.users_from + 4007, "trading") == (1, 0)


def test_credits_are_keyed_and_answer_201(server: Server) -> None:
    body = {"user_id": server.users_from + 4008, "account": "funding", "asset_id": 2, "amount": 7}
    answers = [
        server.client.post(
            "/api/v1/admin/credits", json=body, headers={"Idempotency-Key": f"deposit {server.users_from}"}
        )
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["status"] == "committed"
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert server.balance(server.users_from + 4008, "funding", asset_id=2) == (7, 0)


def test_a_transfer_and_a_credit_of_one_key_are_two_things(server: Server) -> None:
    body = {"user_id": server.users_from + 4009, "account": "funding", "asset_id": 1, "amount": 1000}
    credited = server.client.post(
        "/api/v1/admin/credits", json=body, headers={"Idempotency-Key": f"{server.users_from} same"}
    )
    moved = transfer(server, key="same", user_id=server.users_from + 4009)
    assert credited.json()["status"] == moved.json()["status"] == "committed"
    assert credited.json()["req_id"] != moved.json()["req_id"]


def test_an_alias_names_the_same_account(server: Server) -> None:
    server.credit(server.users_from + 4010, 1_000)
    moved = transfer(server, user_id=server.users_from + 4010, to="spot").json()
    assert record(server, moved["req_id"])["target"] == "trading"


def test_a_slow_core_answers_202_and_the_scanner_commits(server: Server) -> None:
    server.credit(server.users_from + 4011, 1_000)
    behaviour = {"ops": ["deposit"], "pending_calls": 1_000_000}
    told = server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json=behaviour)
    assert told.status_code == 200
    assert told.json()["pending_calls"] == 1_000_000
    moved = transfer(server, key="slow", user_id=server.users_from + 4011, to="core")
    assert moved.status_code == 202
    assert moved.json()["status"] == "pending"
    req_id = moved.json()["req_id"]
    assert server.balance(server.users_from + 4011, "funding") == (0, 1_000)
    server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={})
    eventually(lambda: record(server, req_id)["state"], lambda state: state == "committed")
    assert server.balance(server.users_from + 4011, "core") == (1_000, 0)
    assert server.balance(server.users_from + 4011, "funding") == (0, 0)
    again = transfer(server, key="slow", user_id=server.users_from + 4011, to="core")
    assert (again.status_code, again.json()["status"]) == (200, "committed")


def test_a_refused_deposit_is_rolled_back(server: Server) -> None:
    server.credit(server.users_from + 4012, 1_000)
    server.client.put("/api/v1/admin/simulated-cores/vault/behaviour", json={"ops": ["deposit"], "refuse": "closed"})
    moved = transfer(server, user_id=server.users_from + 4012, to="vault")
    server.client.put("/api/v1/admin/simulated-cores/vault/behaviour", json={})
    assert moved.status_code == 200
    assert moved.json()["status"] == "rolled_back"
    assert "closed" in moved.json()["message"]
    assert server.balance(server.users_from + 4012, "funding") == (1_000, 0)


def test_an_operator_ends_what_does_not_end_by_itself(server: Server) -> None:
    server.credit(server.users_from + 4013, 1_000)
    server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={"ops": ["deposit"], "crash_before": 10_000})
    req_id = transfer(server, user_id=server.users_from + 4013, to="core").json()["req_id"]
    assert server.balance(server.users_from + 4013, "funding") == (0, 1_000)
    resolved = server.client.post(f"/api/v1/admin/transfers/{req_id}/resolve", json={"action": "void"})
    server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={})
    assert resolved.status_code == 200, resolved.text
    assert resolved.json()["req_id"] == req_id
    assert resolved.json()["steps"]
    assert record(server, req_id)["state"] == resolved.json()["state"] == "rolled_back"
    assert server.balance(server.users_from + 4013, "funding") == (1_000, 0)


def test_a_transfer_nobody_knows_is_not_resolved(server: Server) -> None:
    for req_id in ("00000000-0000-0000-0000-000000000000", "019a0000-0000-8000-8000-000000000010"):
        answer = server.client.post(f"/api/v1/admin/transfers/{req_id}/resolve", json={"action": "void"})
        assert answer.status_code == 404, answer.text


@pytest.mark.parametrize("path", ["/health", "/ready", "/api/v1/assets", "/api/v1/admin/statistics"])
def test_what_monitors_ask(server: Server, path: str) -> None:
    answer = server.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    head = server.client.head(path)
    assert (head.status_code, head.content) == (200, b"")


def test_health_and_readiness(server: Server) -> None:
    health = server.client.get("/health").json()
    assert health["status"] == "healthy"
    assert list(health) == ["status", "version"]
    assert server.client.get("/ready").json() == {
        "ready": True,
        "ledger": {"ready": True, "detail": ""},
        "records": {"ready": True, "detail": ""},
        "scanner": {"ready": True, "detail": ""},
    }


def test_the_assets(server: Server) -> None:
    assets = server.client.get("/api/v1/assets").json()["assets"]
    assert assets[0] == {"asset_id": 1, "symbol": "USDT", "decimals": 8, "enabled": True}


def test_a_user_without_accounts_has_none(server: Server) -> None:
    assert server.client.get("/api/v1/balances/999999").json() == {"balances": []}


def test_what_was_answered_survives_kill_9_and_what_was_not_is_recovered(tmp_path: Path) -> None:
    with running_server(tmp_path, config=CONFIG) as first:
        first.credit(1, 10_000)
        committed = transfer(first, key="a", amount=1_000).json()
        failed = transfer(first, key="b", amount=1_000_000).json()
        first.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={"pending_calls": 1_000_000})
        pending = transfer(first, key="c", to="core", amount=2_000).json()
        assert (committed["status"], failed["status"], pending["status"]) == ("committed", "failed", "pending")
        first.kill()
    with running_server(tmp_path, config=CONFIG) as second:  # the core behaves well again
        assert record(second, committed["req_id"])["state"] == "committed"
        assert record(second, failed["req_id"])["state"] == "failed"
        eventually(lambda: record(second, pending["req_id"]).get("state"), lambda state: state == "committed")
        assert transfer(second, key="a", amount=1_000).json() == committed
        assert transfer(second, key="b", amount=1_000_000).json() == failed
        assert second.balance(1, "funding") == (7_000, 0)
        assert second.balance(1, "trading") == (1_000, 0)
        assert second.balance(1, "core") == (2_000, 0)
        assert second.stop() == 0
