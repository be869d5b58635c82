"""Batches: each transfer its own outcome, in order, whatever the others are; one trip; hostile bodies."""

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.asking import Answer, Asker, user
from support.server import Server, eventually
from transfer_engine.engine import Engine, Settings, open_engine
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.http.batch_bodies import TRANSFERS_MOST, decode_batch, decode_lines
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.messages import NDJSON
from transfer_engine.http.problems import Rejected
from transfer_engine.schema.wire import TransferItem

BTC = 2
"""An asset without limits."""
PATH = "/api/v1/transfers/batch"
MINE = user(1)
ANY = user(9, Scope.ANY)
READER = Caller("r", 1, frozenset({Scope.READ}))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with open_engine(Settings(data_dir=tmp_path)) as running:
        yield running


@pytest.fixture
async def nobody(engine: Engine) -> Asker:
    asker = Asker(engine)
    await asker.fund(1, 2, 3, asset_id=BTC)
    return asker


def item(**changes: Any) -> dict[str, Any]:
    return {"from": "funding", "to": "trading", "user_id": 1, "asset_id": BTC, "amount": 5} | changes


async def batch(asker: Asker, *items: Any, caller: Caller | None = None) -> list[Any]:
    answer = await asker.ask("POST", PATH, {"transfers": items}, caller=caller)
    assert answer.status == 200, answer
    assert list(answer.json) == ["results"]
    results: list[Any] = answer.json["results"]
    assert [result["index"] for result in results] == list(range(len(items)))
    return results


def told(results: list[Any]) -> list[str]:
    return [result.get("code", result["status"]) for result in results]


async def test_each_has_its_own_outcome_and_a_bad_one_spoils_nothing(nobody: Asker) -> None:
    results = await batch(
        nobody,
        item(idempotency_key="a"),
        item(amount=0),
        item(to="nowhere"),
        item(amount="5"),
        item(fee=1),
        5,
        None,
        {},
        item(user_id=4),
        item(idempotency_key="a"),
        item(idempotency_key="a", amount=6),
        item(idempotency_key=""),
        item(asset_id=99),
        item(to="funding", to_user_id=2),
        item(**{"from": "trading", "to": "funding"}),
    )
    assert told(results) == [
        "committed",
        "amount_not_positive",
        "unknown_service",
        "invalid_field",
        "unknown_field",
        "invalid_field",
        "invalid_field",
        "missing_field",
        "failed",
        "committed",
        "key_reused",
        "key_empty",
        "unknown_asset",
        "committed",
        "committed",
    ]
    assert results[0] == {"index": 0, "status": "committed", "req_id": results[0]["req_id"], "message": None}
    assert results[9] == results[0] | {"index": 9, "replayed": True}
    assert results[1]["field"] == results[3]["field"] == "amount"
    assert results[3]["detail"].startswith("amount must be an integer in minor units")
    assert "a transfer must be a JSON object" in results[5]["detail"]
    for index in (1, 2, 3, 4, 5, 6, 7, 10, 11, 12):
        assert (results[index]["req_id"], results[index]["status"]) == ("", "failed")
        assert results[index]["type"] == f"urn:transfer-engine:problem:{results[index]['code']}"
    assert results[8]["message"]


async def test_the_same_batch_again_moves_nothing(nobody: Asker) -> None:
    items = [item(idempotency_key=f"k{number}", amount=number + 1) for number in range(50)]
    first = await batch(nobody, *items)
    again = await batch(nobody, *items)
    assert again == [result | {"replayed": True} for result in first]
    alone = await nobody.ask(
        "POST", "/api/v1/transfer", {key: items[7][key] for key in items[7] if key != "idempotency_key"}, key="k7"
    )
    assert alone.json["req_id"] == first[7]["req_id"]


async def test_order_is_kept_for_each_user(nobody: Asker) -> None:
    """Each transfer needs what the one before it brought."""
    there_and_back = []
    for number in range(40):
        way = {"from": "funding", "to": "trading"} if number % 2 == 0 else {"from": "trading", "to": "funding"}
        there_and_back += [item(user_id=user_id, amount=10**12, **way) for user_id in (1, 2, 3)]
    assert set(told(await batch(nobody, *there_and_back))) == {"committed"}


async def test_a_thousand_in_one_trip(nobody: Asker) -> None:
    flushes = nobody.engine.statistics().submitter.flushes
    results = await batch(nobody, *(item(user_id=1 + number % 3) for number in range(TRANSFERS_MOST)))
    assert set(told(results)) == {"committed"}
    assert nobody.engine.statistics().submitter.flushes - flushes <= 12


async def test_whose_money_it_is(engine: Engine) -> None:
    asker = Asker(engine, MINE, ANY, READER)
    await asker.fund(1, 2, asset_id=BTC)
    own = item()
    del own["user_id"]
    results = await batch(
        asker, own, item(), item(user_id=2), item(to="funding", to_user_id=2), item(to_user_id=1), caller=MINE
    )
    assert told(results) == ["committed", "committed", "insufficient_scope", "insufficient_scope", "committed"]
    assert (results[2]["field"], results[3]["field"]) == ("user_id", "to_user_id")
    assert told(await batch(asker, item(user_id=2), item(to="funding", to_user_id=2), caller=ANY)) == ["committed"] * 2
    refused = await asker.ask("POST", PATH, {"transfers": [item()]}, caller=READER)
    assert (refused.status, refused.json["code"]) == (403, "insufficient_scope")
    nobody = Asker(engine)
    assert told(await batch(nobody, own)) == ["missing_field"]


async def test_a_slow_core_is_pending_at_its_place_alone(tmp_path: Path) -> None:
    cores = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "deadline_ms": 200,
            "service_timeout_ms": 100,
            "services": [
                {"name": "funding", "code": 2},
                {"name": "trading", "code": 3},
                {"name": "core", "code": 10, "kind": "simulated_core"},
            ],
        }
    )
    async with open_engine(cores) as engine:
        asker = Asker(engine)
        await asker.fund(1, asset_id=BTC)
        await asker.ask("PUT", "/api/v1/admin/simulated-cores/core/behaviour", {"pending_calls": 1_000_000})
        results = await batch(asker, item(), item(to="core"), item(amount=10**13), item())
        await asker.ask("PUT", "/api/v1/admin/simulated-cores/core/behaviour", {})
    assert told(results) == ["committed", "pending", "failed", "committed"]


async def test_a_fault_at_one_place_claims_nothing_about_it(nobody: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = nobody.engine.submit

    def faulty(order: Any, on_answer: Any) -> None:
        if order.amount == 7:
            on_answer(LedgerUnavailable("secret"))
        else:
            submit(order, on_answer)

    monkeypatch.setattr(nobody.engine, "submit", faulty)
    results = await batch(nobody, item(), item(amount=7), item(amount=7, idempotency_key="k"), item())
    assert told(results) == ["committed", "unavailable", "unavailable", "committed"]
    assert [results[index]["status"] for index in (1, 2)] == ["pending", "pending"]
    assert [results[index]["retryable"] for index in (1, 2)] == [False, True]
    assert "secret" not in str(results)


async def lines(asker: Asker, content: bytes, content_type: bytes = NDJSON) -> tuple[Answer, list[Any]]:
    answer = await asker.ask("POST", PATH, content, content_type=content_type)
    return answer, [json.loads(line) for line in answer.body.splitlines()]


async def test_lines_in_lines_out(nobody: Asker) -> None:
    encoded = [json.dumps(one).encode() for one in (item(), item(amount=0), item(idempotency_key="k:{}"))]
    content = encoded[0] + b"\r\n\n" + encoded[1] + b"\n" + encoded[0][:-1] + b"\n\xff\n  \n" + encoded[2]
    answer, results = await lines(nobody, content)
    assert (answer.status, answer.media_type) == (200, NDJSON)
    assert told(results) == ["committed", "amount_not_positive", "malformed_body", "malformed_body", "committed"]
    assert [result["index"] for result in results] == [0, 1, 2, 3, 4]
    assert answer.body.endswith(b"\n")
    answer, results = await lines(nobody, b"\n".join(encoded), b"Application/X-NDJSON; charset=utf-8")
    assert told(results) == ["committed", "amount_not_positive", "committed"]
    answer, _ = await lines(nobody, b"\n \n")
    assert (answer.status, answer.json["code"]) == (422, "batch_empty")


@pytest.mark.parametrize(
    "content",
    [
        b"%s%s" % (json.dumps(item()).encode(), json.dumps(item()).encode()),  # two on a line
        json.dumps(item(), indent=1).encode(),  # one over many lines
        b'{"from":"funding","to":"trading","user_id":1,"asset_id":2\n,"amount":5}',
        b"[%s]" % json.dumps(item()).encode(),
    ],
)
async def test_a_line_is_one_transfer(nobody: Asker, content: bytes) -> None:
    _, results = await lines(nobody, content)
    assert "committed" not in told(results)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "malformed_body"),
        (b"{", 400, "malformed_body"),
        (b'{"transfers":[', 400, "malformed_body"),
        (b"\xff", 400, "malformed_body"),
        (b'{"transfers":[{"from":"\xff"}]}', 400, "malformed_body"),
        (b'{"transfers":[{"from":}]}', 400, "malformed_body"),
        (b"[" * 100_000, 400, "malformed_body"),
        (b'{"transfers":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}", 400, "malformed_body"),
        (b"[]", 422, "invalid_field"),
        (b"5", 422, "invalid_field"),
        (b"{}", 422, "missing_field"),
        (b'{"transfers":5}', 422, "invalid_field"),
        (b'{"transfers":{}}', 422, "invalid_field"),
        (b'{"transfers":[]}', 422, "batch_empty"),
        (b'{"transfers":[5],"transfers":[6]}', 422, "duplicate_field"),
        (b'{"transfers":[5],"tr\\u0061nsfers":[6]}', 422, "duplicate_field"),
        (b'{"transfers":[5],"atomic":true}', 422, "unknown_field"),
        (b'{"transfers":[' + b"5," * TRANSFERS_MOST + b"5]}", 422, "batch_too_large"),
    ],
)
async def test_a_body_that_is_no_batch_is_one_problem(nobody: Asker, content: bytes, status: int, code: str) -> None:
    answer = await nobody.ask("POST", PATH, content)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.media_type == b"application/problem+json"
    assert answer.json["status"] == status


@pytest.mark.parametrize("key", ["é", "a\nb", "\0", " k", "k ", "k\u202e"])
async def test_a_key_that_no_header_can_hold_is_refused(nobody: Asker, key: str) -> None:
    bad, good = await batch(nobody, item(idempotency_key=key), item(idempotency_key="a key"))
    assert (bad["code"], bad["field"]) == ("invalid_idempotency_key", "idempotency_key")
    assert good["status"] == "committed"


async def test_a_batch_has_no_key(nobody: Asker) -> None:
    answer = await nobody.ask("POST", PATH, {"transfers": [item()]}, key="k")
    assert (answer.status, answer.json["code"]) == (400, "invalid_idempotency_key")


DOUBLED = [
    b'{"from":"funding","to":"trading","user_id":1,"asset_id":2,"amount":5,"amount":6}',
    b'{"from":"funding","to":"trading","user_id":1,"asset_id":2,"amount":5,"am\\u006funt":6}',
    b'{"from":"funding","to":"trading","user_id":null,"user_id":1,"asset_id":2,"amount":5}',
    b'{"from":"funding","to":"trading","user_id":1,"asset_id":2,"amount":6,"amount":5,"idempotency_key":"\\u003a"}',
]


@pytest.mark.parametrize("doubled", DOUBLED)
async def test_names_given_twice_are_refused_where_they_are(nobody: Asker, doubled: bytes) -> None:
    good = json.dumps(item(idempotency_key="a:b")).encode()
    answer = await nobody.ask("POST", PATH, b'{"transfers":[%s,%s]}' % (good, doubled))
    assert told(answer.json["results"]) == ["committed", "duplicate_field"]
    _, results = await lines(nobody, good + b"\n" + doubled)
    assert told(results) == ["committed", "duplicate_field"]


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
items = st.fixed_dictionaries(
    {"from": st.sampled_from(["funding", "a:b", "\\"]), "to": st.text(max_size=3), "asset_id": st.integers(0, 3)},
    optional={
        "amount": st.integers(-1, 9) | scalars,
        "user_id": st.integers(0, 3) | st.none(),
        "to_user_id": st.integers(0, 3) | st.none(),
        "idempotency_key": st.text(max_size=5) | st.none(),
        "more": scalars,
    },
)


@settings(deadline=None, max_examples=300)
@given(asked=st.lists(items | scalars | st.lists(scalars, max_size=2), min_size=1, max_size=6), text=st.booleans())
def test_all_at_once_or_one_by_one_the_same_is_understood(asked: list[Any], text: bool) -> None:
    """Whatever stands beside it: an item is decoded or refused as it is by itself."""
    encoded = [json.dumps(one, ensure_ascii=text).encode() for one in asked]
    whole = decode_batch(b'{"transfers":[%s]}' % b",".join(encoded))
    by_lines = decode_lines(b"\n".join(encoded))
    for one, found, in_lines in zip(encoded, whole, by_lines, strict=True):
        try:
            expected: Any = msgspec.json.decode(one, type=TransferItem)
        except msgspec.ValidationError:
            expected = None
        for each in (found, in_lines):
            if expected is None:
                assert isinstance(each, Rejected)
            else:
                assert each == expected


@settings(deadline=None, max_examples=300)
@given(content=st.binary(max_size=60) | st.text(alphabet='{}[]":,1transfers\\', max_size=40).map(str.encode))
def test_no_bytes_are_more_than_refused(content: bytes) -> None:
    for decode in (decode_batch, decode_lines):
        for body in (content, b'{"transfers":[%s]}' % content):
            with suppress(Rejected):
                assert all(isinstance(one, TransferItem | Rejected) for one in decode(body))


def test_large_batches_pass_both_doors_and_larger_ones_do_not(server: Server) -> None:
    server.credit(8001, 10**9, asset_id=BTC)
    asked = [
        item(user_id=8001, amount=1, idempotency_key=f"{number:04}" + "k" * 250) for number in range(TRANSFERS_MOST)
    ]
    content = json.dumps({"transfers": asked}, separators=(",", ":")).encode()
    assert 64 << 10 < len(content) < 512 << 10
    for url in (server.url, server.express_url):
        answer = server.client.post(f"{url}{PATH}", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 200, answer.text
        assert {result["status"] for result in answer.json()["results"]} <= {"committed", "pending"}
        headers = {"Content-Type": "application/json"}
        refused = server.client.post(f"{url}{PATH}", content=b" " * (513 << 10), headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
        refused = server.client.post(f"{url}/api/v1/transfer", content=b" " * (65 << 10), headers=headers)
        assert refused.status_code == 413
    eventually(lambda: server.balance(8001, "trading", BTC), lambda balance: balance == (TRANSFERS_MOST, 0))
