"""Whatever a client sends: a clear answer that names the field and the fix, nothing moved, no traceback."""

import json
from typing import Any

import pytest

from support.server import Server

BODY: dict[str, Any] = {"from": "funding", "to": "trading", "user_id": 1, "asset_id": 1, "amount": 1000}
WITHOUT: Any = object()


@pytest.fixture
def server(door: Server) -> Server:
    """Every test runs at both doors."""
    return door


def post(server: Server, content: bytes | str, path: str = "/api/v1/transfer", **headers: str) -> Any:
    return server.client.post(path, content=content, headers={"Content-Type": "application/json", **headers})


def changed(field: str, value: Any) -> str:
    body = {**BODY, field: value}
    return json.dumps({name: value for name, value in body.items() if value is not WITHOUT})


def assert_problem(answer: Any, status: int, code: str, *words: str, field: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code
    assert problem["type"] == f"urn:transfer-engine:problem:{code}"
    assert problem["title"]
    assert isinstance(problem["retryable"], bool)
    assert problem.get("field") == field
    for word in words:
        assert word in problem["detail"]
    if answer.request.url.path in {"/api/v1/transfer", "/api/v1/admin/credits"}:
        assert problem["req_id"] == ""
        assert problem["status"] == "failed"
        assert problem["message"] == problem["detail"]
    else:
        assert problem["status"] == status


@pytest.mark.parametrize(
    ("field", "value", "code", "word"),
    [
        ("amount", 0, "amount_not_positive", "Amount must be positive"),
        ("amount", -1, "amount_not_positive", "Amount must be positive"),
        ("amount", -(2**63), "amount_not_positive", "Amount must be positive"),
        ("amount", 1.5, "invalid_field", "not a number with a fraction"),
        ("amount", 1.0, "invalid_field", "must be an integer in minor units"),
        ("amount", "1000", "invalid_field", "not a string"),
        ("amount", True, "invalid_field", "not true or false"),
        ("amount", None, "invalid_field", "not null"),
        ("amount", [1000], "invalid_field", "not an array"),
        ("amount", {"units": 1}, "invalid_field", "not an object"),
        ("amount", 2**63, "amount_too_large", "9223372036854775807"),
        ("amount", 2**64, "amount_too_large", "9223372036854775807"),
        ("amount", 10**100, "amount_too_large", "9223372036854775807"),
        ("amount", WITHOUT, "missing_field", "integer in minor units"),
        ("from", "invalid", "unknown_service", "funding"),
        ("to", "invalid", "unknown_service", "trading"),
        ("from", "external", "unknown_service", "funding"),
        ("from", "Funding", "unknown_service", "funding"),
        ("to", "", "unknown_service", "trading"),
        ("to", "\u0000", "unknown_service", "trading"),
        ("from", "x" * 10_000, "unknown_service", "funding"),
        ("from", 2, "invalid_field", "not an integer"),
        ("from", None, "invalid_field", "not null"),
        ("from", WITHOUT, "missing_field", "a string"),
        ("to", WITHOUT, "missing_field", "a string"),
        ("asset_id", 99, "unknown_asset", "1, 2, 3"),
        ("asset_id", 0, "unknown_asset", "1, 2, 3"),
        ("asset_id", -1, "unknown_asset", "1, 2, 3"),
        ("asset_id", 2**80, "unknown_asset", "1, 2, 3"),
        ("asset_id", "USDT", "invalid_field", "not a string"),
        ("asset_id", WITHOUT, "missing_field", "integer"),
        ("user_id", 0, "invalid_user_id", "1"),
        ("user_id", -1, "invalid_user_id", "1"),
        ("user_id", 2**63, "invalid_user_id", "9223372036854775807"),
        ("user_id", "4001", "invalid_field", "not a string"),
        ("user_id", 1.5, "invalid_field", "not a number with a fraction"),
        ("user_id", WITHOUT, "missing_field", "integer"),
        ("fee", 1, "unknown_field", "it takes from, to, user_id, asset_id, amount"),
        ("target_user_id", 2, "unknown_field", "it takes"),
    ],
)
def test_a_wrong_field_is_named(server: Server, field: str, value: Any, code: str, word: str) -> None:
    assert_problem(post(server, changed(field, value)), 422, code, word, field=field)


def test_a_number_of_thousands_of_digits(server: Server) -> None:
    content = changed("amount", 7).replace(": 7", ": 1" + "0" * 9_000)
    assert_problem(post(server, content), 422, "invalid_field", field="amount")


def test_the_same_account_on_both_sides(server: Server) -> None:
    assert_problem(post(server, changed("to", "funding")), 422, "same_account", "different", field="to")


def test_a_field_that_stands_there_twice(server: Server) -> None:
    content = changed("amount", 1)[:-1] + ', "amount": 2}'
    assert_problem(post(server, content), 422, "duplicate_field", "give it once", field="amount")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"{", "too early"),
        (b"not json", "not JSON"),
        (b"amount=1", "not JSON"),
        (b"{'from': 'funding'}", "not JSON"),
        (json.dumps(BODY).encode() + b"x", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b'{"from": "\xff"}', "not UTF-8"),
        (b'{"from": "\\ud800"}', "not JSON"),
        (b'{"amount": NaN}', "not JSON"),
        (b'{"amount": 01}', "not JSON"),
        (b'{"fee": ' + b"1" * 10 + b"x}", "not JSON"),
        (b"[" * 30_000, "too deeply"),
        (b"[" * 30_000 + b"]" * 30_000, "too deeply"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "too deeply"),
        (b'{"amount":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "too deeply"),
    ],
)
def test_what_is_not_json(server: Server, content: bytes, word: str) -> None:
    assert_problem(post(server, content), 400, "malformed_body", word)


@pytest.mark.parametrize("content", [b"[]", b"null", b"1", b'"from"', b"true", b"{}"])
def test_json_that_is_no_transfer(server: Server, content: bytes) -> None:
    answer = post(server, content)
    assert answer.status_code == 422
    assert "from" in answer.json()["message"]


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonx",
        "multipart/form-data; boundary=x",
        "",
        ";",
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/transfer", "/api/v1/admin/credits"])
def test_other_media_types(server: Server, media_type: str, path: str) -> None:
    answer = server.client.post(path, content=json.dumps(BODY), headers={"Content-Type": media_type})
    assert_problem(answer, 415, "unsupported_media_type", "application/json")
    assert answer.headers["Accept"] == "application/json"


def test_no_media_type_at_all(server: Server) -> None:
    assert_problem(server.client.post("/api/v1/transfer", content=json.dumps(BODY)), 415, "unsupported_media_type")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON", "application/json ;v=1"])
def test_json_by_its_other_spellings(server: Server, media_type: str) -> None:
    answer = server.client.post("/api/v1/transfer", content=changed("amount", 0), headers={"Content-Type": media_type})
    assert answer.json()["code"] == "amount_not_positive"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/v1/transfer", "POST"),
        ("PUT", "/api/v1/transfer", "POST"),
        ("DELETE", "/api/v1/transfer/00000000-0000-0000-0000-000000000000", "GET, HEAD"),
        ("POST", "/api/v1/balances/1", "GET, HEAD"),
        ("OPTIONS", "/api/v1/assets", "GET, HEAD"),
        ("PATCH", "/health", "GET, HEAD"),
        ("POST", "/ready", "GET, HEAD"),
        ("GET", "/api/v1/admin/credits", "POST"),
        ("GET", "/api/v1/admin/simulated-cores/core/behaviour", "PUT"),
    ],
)
def test_wrong_methods(server: Server, method: str, path: str, allow: str) -> None:
    answer = server.client.request(method, path)
    assert answer.headers["Allow"] == allow
    assert_problem(answer, 405, "method_not_allowed", allow)


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/api", "/api/v1", "/api/v2/transfer", "/api/v1/transfer/", "/api/v1/transfer/a/b", "//", "/%00"],
)
def test_unknown_paths(server: Server, path: str) -> None:
    for method in ("GET", "POST"):
        assert_problem(server.client.request(method, path), 404, "no_such_path")


@pytest.mark.parametrize(
    "req_id", ["x", "123", "0" * 31, "0" * 33, "g" * 32, "{00000000-0000-0000-0000-000000000000}", "%E2%82%AC", "%20"]
)
def test_what_is_no_uuid(server: Server, req_id: str) -> None:
    answer = server.client.get(f"/api/v1/transfer/{req_id}")
    assert_problem(answer, 400, "invalid_req_id", field="req_id")
    assert answer.json()["error"] == "Invalid req_id format"
    resolved = post(server, b'{"action":"post"}', f"/api/v1/admin/transfers/{req_id}/resolve")
    assert_problem(resolved, 400, "invalid_req_id", field="req_id")


@pytest.mark.parametrize(
    "req_id",
    [
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "550e8400-e29b-41d4-a716-446655440000",
        "019a0000-0000-8000-8000-000000000010",
    ],
)
def test_uuids_that_name_nothing(server: Server, req_id: str) -> None:
    answer = server.client.get(f"/api/v1/transfer/{req_id}")
    assert answer.status_code == 404
    assert answer.json()["error"] == "Transfer not found"
    assert answer.json()["retryable"] is False


@pytest.mark.parametrize("user_id", ["x", "-1", "1.5", "1" * 20, "%D9%A1", "1e3", "0x1", "%20"])
def test_balances_of_no_user(server: Server, user_id: str) -> None:
    answer = server.client.get(f"/api/v1/balances/{user_id}")
    assert_problem(answer, 400, "invalid_user_id", "integer", field="user_id")


@pytest.mark.parametrize("user_id", ["0", "9223372036854775808", "9999999999999999999"])
def test_balances_of_users_that_can_not_be(server: Server, user_id: str) -> None:
    assert server.client.get(f"/api/v1/balances/{user_id}").status_code == 400


@pytest.mark.parametrize(
    ("key", "word"), [("", "empty"), ("k" * 256, "256"), ("tab\tinside", "printable"), ("caf\xe9", "printable")]
)
def test_keys_that_can_not_be(server: Server, key: str, word: str) -> None:
    headers = {b"Content-Type": b"application/json", b"Idempotency-Key": key.encode("latin-1")}
    answer = server.client.post("/api/v1/transfer", content=json.dumps(BODY), headers=headers)
    assert_problem(answer, 400, "invalid_idempotency_key", word, field="Idempotency-Key")


def test_two_keys(server: Server) -> None:
    headers = [("Content-Type", "application/json"), ("Idempotency-Key", "a"), ("idempotency-key", "a")]
    answer = server.client.post("/api/v1/transfer", content=json.dumps(BODY), headers=headers)
    assert_problem(answer, 400, "invalid_idempotency_key", "send one", field="Idempotency-Key")


def test_the_longest_key(server: Server) -> None:
    answer = post(server, changed("user_id", 2), **{"Idempotency-Key": "k" * 255})
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"  # no money, but a key


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"user_id": 1, "account": "nowhere", "asset_id": 1, "amount": 1}, "unknown_service", "account"),
        ({"user_id": 1, "account": "external", "asset_id": 1, "amount": 1}, "unknown_service", "account"),
        ({"user_id": 1, "account": "funding", "asset_id": 9, "amount": 1}, "unknown_asset", "asset_id"),
        ({"user_id": 1, "account": "funding", "asset_id": 1, "amount": 0}, "amount_not_positive", "amount"),
        ({"user_id": 1, "account": "funding", "asset_id": 1, "amount": "1"}, "invalid_field", "amount"),
        ({"user_id": 1, "account": "funding", "asset_id": 1}, "missing_field", "amount"),
        ({"user_id": 1, "account": "funding", "asset_id": 1, "amount": 1, "x": 1}, "unknown_field", "x"),
    ],
)
def test_credits_that_can_not_be(server: Server, body: dict[str, Any], code: str, field: str) -> None:
    assert_problem(post(server, json.dumps(body), "/api/v1/admin/credits"), 422, code, field=field)


@pytest.mark.parametrize(
    "body", [{"action": "undo"}, {"action": "POST"}, {"action": 1}, {}, {"action": "post", "x": 1}]
)
def test_resolutions_that_can_not_be(server: Server, body: dict[str, Any]) -> None:
    path = "/api/v1/admin/transfers/019a0000-0000-8000-8000-000000000010/resolve"
    answer = post(server, json.dumps(body), path)
    assert answer.status_code == 422
    assert "action" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"latency_ms": -1}, "latency_ms"),
        ({"ops": ["steal"]}, "ops"),
        ({"x": 1}, "latency_ms"),
        ({"refuse": ""}, "refuse"),
    ],
)
def test_behaviours_that_can_not_be(server: Server, body: dict[str, Any], word: str) -> None:
    answer = server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json=body)
    assert answer.status_code == 422
    assert word in answer.json()["detail"]


def test_only_simulated_cores_can_be_told(server: Server) -> None:
    for name in ("funding", "nowhere"):
        answer = server.client.put(f"/api/v1/admin/simulated-cores/{name}/behaviour", json={})
        assert_problem(answer, 404, "no_such_core", name)


def test_nothing_of_all_this_moved_anything(server: Server) -> None:
    assert server.client.get("/api/v1/balances/1").json() == {"balances": []}
