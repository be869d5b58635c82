"""The second API's transfers and accounts: on the handlers in somebody's name, and on a real server."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from support.asking import Answer, Asker, user
from support.engines import World, in_a_loop
from support.server import Server, eventually
from transfer_engine.engine import AssetSettings, Engine, Settings, open_engine
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.schema.ids import request_id
from transfer_engine.schema.transfers import TransferState
from transfer_engine.schema.user_wire import USER_STATUS_OF_STATE

PATH = "/api/v1/user/internal_transfer"
MINE = user(1)
OTHER = user(2)
ANY = user(3, Scope.ANY)
SERVICE = Caller("service", None, frozenset({Scope.READ, Scope.WRITE, Scope.ANY}))
READER = Caller("1r", 1, frozenset({Scope.READ}))
SETTINGS: dict[str, Any] = {
    "assets": (
        AssetSettings(asset_id=1, symbol="USDT", decimals=8),
        AssetSettings(asset_id=2, symbol="JPY", decimals=0),
        AssetSettings(asset_id=3, symbol="OLD", decimals=2, enabled=False),
        AssetSettings(asset_id=4, symbol="ETH", decimals=18),
    )
}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with open_engine(Settings(data_dir=tmp_path, **SETTINGS)) as running:
        yield running


@pytest.fixture
async def tokens(engine: Engine) -> Asker:
    asker = Asker(engine, MINE, OTHER, ANY, SERVICE, READER)
    await asker.fund(1, 2)
    return asker


@pytest.fixture
async def nobody(engine: Engine) -> Asker:
    """Without tokens."""
    asker = Asker(engine)
    await asker.fund(1, 2)
    return asker


def body(
    amount: Any = "100.00000000",
    *,
    asset: str = "USDT",
    of: int | None = None,
    to: int | None = None,
    **accounts: str,
) -> dict[str, Any]:
    source = {"account_type": accounts.get("source", "funding"), "asset": asset}
    target = {"account_type": accounts.get("target", "spot"), "asset": asset}
    return {
        "from_account": source if of is None else source | {"user_id": of},
        "to_account": target if to is None else target | {"user_id": to},
        "amount": amount,
    }


async def test_a_transfer_is_told_in_full_and_the_same_by_every_look_up(tokens: Asker) -> None:
    answer = await tokens.ask("POST", PATH, body(), caller=MINE, key="order:1 +%")
    data = answer.data
    assert answer.status == 200
    assert data == {
        "request_id": request_id(UUID(data["req_id"]).int),
        "req_id": data["req_id"],
        "from_account": {"account_type": "funding", "user_id": 1, "asset": "USDT"},
        "to_account": {"account_type": "trading", "user_id": 1, "asset": "USDT"},
        "amount": "100.00000000",
        "status": "success",
        "state": "committed",
        "error": None,
        "created_at": data["created_at"],
        "updated_at": data["updated_at"],
    }
    assert 1_735_689_600_000 < data["created_at"] <= data["updated_at"]
    for path in (f"{PATH}/{data['request_id']}", f"{PATH}/{data['req_id']}", f"{PATH}/{data['req_id'].upper()}"):
        assert (await tokens.ask("GET", path, caller=MINE)).data == data
    assert (await tokens.ask("GET", PATH, caller=MINE, idempotency_key="order:1 +%")).data == data
    first_api = await tokens.ask("GET", f"/api/v1/transfer/{data['req_id']}", caller=MINE)
    assert first_api.json["amount"] == 10_000_000_000


async def test_a_transfer_without_a_key_has_a_short_decimal_name(tokens: Asker) -> None:
    data = (await tokens.ask("POST", PATH, body("0.1"), caller=MINE)).data
    assert int(data["request_id"]) < 1 << 63
    assert data["amount"] == "0.10000000"
    assert (await tokens.ask("GET", f"{PATH}/{data['request_id']}", caller=MINE)).data == data


async def test_a_key_names_one_transfer_on_both_apis(tokens: Asker) -> None:
    first = await tokens.ask("POST", PATH, body("1"), caller=MINE, key="k")
    again = await tokens.ask("POST", PATH, body("1.0", target="trading"), caller=MINE, key="k")
    assert again.body == first.body
    assert b"idempotent-replayed" not in first.headers
    assert again.headers[b"idempotent-replayed"] == b"true"
    old = {"from": "funding", "to": "trading", "user_id": 1, "asset_id": 1, "amount": 100_000_000}
    elsewhere = await tokens.ask("POST", "/api/v1/transfer", old, caller=MINE, key="k")
    assert elsewhere.json["req_id"] == first.data["req_id"]
    assert elsewhere.headers[b"idempotent-replayed"] == b"true"
    reused = await tokens.ask("POST", PATH, body("2"), caller=MINE, key="k")
    assert reused.problem == (422, "key_reused", "Idempotency-Key")
    assert (await tokens.ask("POST", PATH, body("2"), caller=OTHER, key="k")).data["status"] == "success"


async def test_one_key_asked_by_many_at_once_moves_once(tokens: Asker) -> None:
    answers: list[Answer] = []

    async def ask(asked: Any) -> None:
        answers.append(await tokens.ask("POST", PATH, asked, caller=MINE, key="all at once"))

    async with trio.open_nursery() as nursery:
        for number in range(64):
            nursery.start_soon(ask, body("1" if number % 2 == 0 else "2"))
    told = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status != 200]
    assert len(told) == len(refused) == 32
    assert len({answer.body for answer in told}) == 1
    assert sum(b"idempotent-replayed" not in answer.headers for answer in told) == 1
    assert {answer.problem for answer in refused} == {(422, "key_reused", "Idempotency-Key")}
    balances = (await tokens.ask("GET", "/api/v1/user/balances", caller=MINE)).data["balances"]
    assert [one["available"] for one in balances if one["account_type"] == "trading"] == [told[0].data["amount"]]


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
accounts = st.fixed_dictionaries(
    {}, optional={"account_type": st.just("funding") | scalars, "asset": st.just("USDT") | scalars, "user_id": scalars}
)
bodies = st.fixed_dictionaries(
    {}, optional={"from_account": accounts | scalars, "to_account": accounts | scalars, "amount": scalars, "x": scalars}
)


@settings(deadline=None, max_examples=50)
@given(asked=st.lists(bodies | scalars | st.binary(max_size=30), min_size=5, max_size=20))
def test_whatever_is_sent_is_answered(asked: list[Any]) -> None:
    async def program() -> None:
        async with World().engine() as engine:
            asker = Asker(engine)
            for one in asked:
                answer = await asker.ask("POST", PATH, one if isinstance(one, bytes) else json.dumps(one).encode())
                if answer.status != 200:
                    assert answer.problem[0] in {400, 422}

    in_a_loop(program)


async def test_a_verdict_is_an_answer(tokens: Asker) -> None:
    answer = await tokens.ask("POST", PATH, body("99999999"), caller=MINE, key="too much")
    assert (answer.status, answer.data["status"], answer.data["state"]) == (200, "failed", "failed")
    assert answer.data["error"]
    found = await tokens.ask("GET", PATH, caller=MINE, idempotency_key="too much")
    assert found.data == answer.data
    again = await tokens.ask("POST", PATH, body("99999999"), caller=MINE, key="too much")
    assert again.data == answer.data


def test_every_state_has_its_status() -> None:
    assert {state.value: status.value for state, status in USER_STATUS_OF_STATE.items()} == {
        "init": "requesting",
        "source_pending": "requesting",
        "source_done": "pending",
        "target_pending": "pending",
        "compensating": "pending",
        "committed": "success",
        "failed": "failed",
        "rolled_back": "failed",
    }
    assert USER_STATUS_OF_STATE.keys() == set(TransferState)


@pytest.mark.parametrize(
    ("caller", "of", "to", "told"),
    [
        (MINE, None, None, (1, 1)),
        (MINE, 1, None, (1, 1)),
        (MINE, None, 1, (1, 1)),
        (ANY, 1, 2, (1, 2)),
        (ANY, 1, None, (1, 3)),
        (ANY, None, 2, (3, 2)),
        (SERVICE, 1, None, (1, 1)),
        (SERVICE, None, 2, (2, 2)),
        (MINE, None, 2, "to_account.user_id"),
        (MINE, 2, 1, "from_account.user_id"),
        (MINE, 2, 2, "from_account.user_id"),
        (SERVICE, None, None, None),
    ],
)
async def test_whose_money_it_is(tokens: Asker, caller: Caller, of: Any, to: Any, told: Any) -> None:
    answer = await tokens.ask("POST", PATH, body("1", of=of, to=to), caller=caller)
    if told is None:
        assert answer.problem == (422, "missing_field", "from_account.user_id")
    elif isinstance(told, str):
        assert answer.problem == (403, "insufficient_scope", told)
    else:
        assert (answer.data["from_account"]["user_id"], answer.data["to_account"]["user_id"]) == told


async def test_without_tokens_the_other_account_names_the_user(nobody: Asker) -> None:
    assert (await nobody.ask("POST", PATH, body("1"))).problem == (422, "missing_field", "from_account.user_id")
    for of, to in ((1, None), (None, 1)):
        data = (await nobody.ask("POST", PATH, body("1", of=of, to=to))).data
        assert data["from_account"]["user_id"] == data["to_account"]["user_id"] == 1
    data = (await nobody.ask("POST", PATH, body("1", of=1, to=2, target="funding"))).data
    assert (data["from_account"]["user_id"], data["to_account"]["user_id"]) == (1, 2)


async def test_scopes(tokens: Asker) -> None:
    assert (await tokens.ask("POST", PATH, body("1"), caller=READER)).problem == (403, "insufficient_scope", None)
    assert (await tokens.ask("POST", PATH, body("1"))).problem == (401, "unauthenticated", None)
    assert (await tokens.ask("GET", f"{PATH}/1", caller=READER)).problem == (404, "not_found", None)


async def test_both_users_see_it_and_others_do_not(tokens: Asker) -> None:
    data = (await tokens.ask("POST", PATH, body("1", of=1, to=2), caller=ANY, key="gift")).data
    for caller in (MINE, OTHER, ANY, SERVICE):
        assert (await tokens.ask("GET", f"{PATH}/{data['request_id']}", caller=caller)).data == data
    own = (await tokens.ask("POST", PATH, body("1"), caller=MINE)).data
    for name in (own["request_id"], own["req_id"]):
        assert (await tokens.ask("GET", f"{PATH}/{name}", caller=OTHER)).problem == (404, "not_found", None)
    assert (await tokens.ask("GET", PATH, caller=MINE, idempotency_key="gift")).problem == (404, "not_found", None)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("0", 404),
        ("1", 404),
        (str(2**63 - 1), 404),
        (str(2**63), 404),
        (str(2**79), 404),
        (str(2**128), 404),
        ("9" * 39, 404),
        ("00000000-0000-0000-0000-000000000000", 404),
        ("019a0000-0000-8000-8000-000000000010", 404),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", 404),
        ("9" * 40, 400),
        ("01", 400),
        ("-1", 400),
        ("1.0", 400),
        ("1e3", 400),
        ("\u0661", 400),
        ("nonsense", 400),
        ("019a0000-0000-8000-8000", 400),
        ("x" * 10_000, 400),
    ],
)
async def test_names_that_nobody_has(tokens: Asker, name: str, status: int) -> None:
    answer = await tokens.ask("GET", f"{PATH}/{name}", caller=MINE)
    problem = (404, "not_found", None) if status == 404 else (400, "invalid_request_id", "request_id")
    assert answer.problem == problem


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (b"", (400, "missing_parameter", "idempotency_key")),
        (b"idempotency_key=", (400, "invalid_idempotency_key", "idempotency_key")),
        (b"idempotency_key=%00", (400, "invalid_idempotency_key", "idempotency_key")),
        (b"idempotency_key=%C3%A9", (400, "invalid_idempotency_key", "idempotency_key")),
        (b"idempotency_key=" + b"a" * 256, (400, "invalid_idempotency_key", "idempotency_key")),
        (b"idempotency_key=a&idempotency_key=a", (400, "duplicate_parameter", "idempotency_key")),
        (b"idempotency_key=%zz", (400, "invalid_parameter", "idempotency_key")),
        (b"idempotency_key=%ff", (400, "invalid_parameter", "idempotency_key")),
        (b"idempotency_key=a&", (400, "unknown_parameter", "")),
        (b"key=a", (400, "unknown_parameter", "key")),
        (b"idempotency_key=" + b"a" * 9_000, (400, "invalid_parameter", None)),
        (b"idempotency_key=nobody's", (404, "not_found", None)),
    ],
)
async def test_keys_that_are_none(tokens: Asker, query: bytes, problem: tuple[int, str, str | None]) -> None:
    assert (await tokens.ask("GET", PATH, caller=MINE, query=query)).problem == problem


@pytest.mark.parametrize(
    ("amount", "code", "word"),
    [
        ("", "invalid_amount", "plain decimal"),
        ("0", "amount_not_positive", "positive"),
        ("0.00000000", "amount_not_positive", "positive"),
        ("-1", "invalid_amount", "no sign"),
        ("+1", "invalid_amount", "no sign"),
        ("1e2", "invalid_amount", "exponent"),
        (" 1", "invalid_amount", "blank"),
        ("1\n", "invalid_amount", "blank"),
        ("01", "invalid_amount", "leading zero"),
        (".5", "invalid_amount", "plain decimal"),
        ("5.", "invalid_amount", "plain decimal"),
        ("1,000", "invalid_amount", "plain decimal"),
        ("0x10", "invalid_amount", "plain decimal"),
        ("\u0661", "invalid_amount", "plain decimal"),
        ("\uff11", "invalid_amount", "plain decimal"),
        ("NaN", "invalid_amount", "plain decimal"),
        ("0.000000001", "invalid_amount", "USDT has 8 at most"),
        ("92233720368.54775808", "amount_too_large", "2^63"),
        ("9" * 10_000, "amount_too_large", "2^63"),
        (100, "invalid_field", "not an integer"),
        (1.5, "invalid_field", "not a number with a fraction"),
        (None, "invalid_field", "not null"),
        (["1"], "invalid_field", "not an array"),
    ],
)
async def test_amounts_that_are_none_are_refused_by_name(tokens: Asker, amount: Any, code: str, word: str) -> None:
    answer = await tokens.ask("POST", PATH, body(amount), caller=MINE, key="never used")
    assert answer.problem == (422, code, "amount")
    assert word in answer.json["detail"]
    assert (await tokens.ask("GET", PATH, caller=MINE, idempotency_key="never used")).status == 404


async def test_amounts_follow_their_asset(tokens: Asker) -> None:
    for symbol, amount, told in (("JPY", "5", "5"), ("ETH", "0.000000000000000001", "0.000000000000000001")):
        asset_id = {"JPY": 2, "ETH": 4}[symbol]
        await tokens.fund(1, amount=10, asset_id=asset_id)
        data = (await tokens.ask("POST", PATH, body(amount, asset=symbol), caller=MINE)).data
        assert (data["status"], data["amount"]) == ("success", told)
    assert (await tokens.ask("POST", PATH, body("5.0", asset="JPY"), caller=MINE)).problem[1] == "invalid_amount"
    balances = (await tokens.ask("GET", "/api/v1/user/balances", caller=MINE)).data
    assert balances["user_id"] == 1
    assert {"account_type": "trading", "asset": "JPY", "available": "5", "frozen": "0"} in balances["balances"]


def changed(*path: str, value: Any = None, drop: bool = False) -> dict[str, Any]:
    whole = body("1")
    within = whole
    for step in path[:-1]:
        within = within[step]
    if drop:
        del within[path[-1]]
    else:
        within[path[-1]] = value
    return whole


@pytest.mark.parametrize(
    ("asked", "code", "field", "word"),
    [
        (changed("amount", drop=True), "missing_field", "amount", "decimal number in a string"),
        (changed("from_account", drop=True), "missing_field", "from_account", "account_type and asset"),
        (changed("to_account", "asset", drop=True), "missing_field", "to_account.asset", "symbol"),
        (changed("from_account", "account_type", drop=True), "missing_field", "from_account.account_type", "service"),
        (changed("to_account", value="spot"), "invalid_field", "to_account", "not a string"),
        (changed("to_account", value=[]), "invalid_field", "to_account", "not an array"),
        (changed("to_account", "asset", value=1), "invalid_field", "to_account.asset", "not an integer"),
        (changed("to_account", "user_id", value="1"), "invalid_field", "to_account.user_id", "not a string"),
        (changed("to_account", "user_id", value=1.0), "invalid_field", "to_account.user_id", "integer"),
        (changed("to_account", "user_id", value=True), "invalid_field", "to_account.user_id", "not true or false"),
        (changed("to_account", "fee", value=1), "unknown_field", "to_account.fee", "account_type, asset, user_id"),
        (changed("note", value=1), "unknown_field", "note", "from_account, to_account, amount"),
        (changed("from_account", "asset", value="usdt"), "unknown_asset", "from_account.asset", "write USDT"),
        (changed("from_account", "asset", value="XXX"), "unknown_asset", "from_account.asset", "USDT, JPY"),
        (changed("from_account", "asset", value=""), "unknown_asset", "from_account.asset", "USDT, JPY"),
        (changed("from_account", "asset", value="OLD"), "asset_disabled", "from_account.asset", "OLD"),
        (changed("to_account", "asset", value="JPY"), "asset_mismatch", "to_account.asset", "must be USDT"),
        (changed("to_account", "asset", value="OLD"), "asset_mismatch", "to_account.asset", "must be USDT"),
        (changed("to_account", "asset", value="usdt"), "unknown_asset", "to_account.asset", "write USDT"),
        (changed("to_account", "account_type", value="Spot"), "unknown_service", "to_account.account_type", "spot"),
        (changed("from_account", "account_type", value="external"), "unknown_service", "from_account.account_type", ""),
        (changed("to_account", "account_type", value="funding"), "same_account", "to_account.account_type", "same"),
    ],
)
async def test_bodies_that_are_wrong_name_the_field(
    tokens: Asker, asked: Any, code: str, field: str, word: str
) -> None:
    answer = await tokens.ask("POST", PATH, asked, caller=MINE)
    assert answer.problem == (422, code, field)
    assert word in answer.json["detail"]


@pytest.mark.parametrize("number", [0, -1, 2**63, 10**30])
async def test_users_that_are_none(nobody: Asker, number: int) -> None:
    answer = await nobody.ask("POST", PATH, body("1", of=number))
    assert answer.problem == (422, "invalid_user_id", "from_account.user_id")
    answer = await nobody.ask("POST", PATH, body("1", of=1, to=number))
    assert answer.problem == (422, "invalid_user_id", "to_account.user_id")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"amount": "1"', '"amount": "2", "amount": "1"'),
        ('"amount": "1"', '"amount": "2", "am\\u006funt": "1"'),
        ('"asset": "USDT"', '"asset": "JPY", "asset": "USDT"'),
        ('"account_type": "spot"', '"account_type": "funding", "account_type": "spot"'),
        ('"amount": "1"', '"to_account": {"account_type": "funding", "asset": "USDT"}, "amount": "1"'),
        ('"asset": "USDT"}', '"asset": "USDT", "user_id": null, "user_id": 1}'),
    ],
)
async def test_names_given_twice_are_refused_at_every_depth(tokens: Asker, old: str, new: str) -> None:
    content = json.dumps(body("1"))
    assert old in content
    for count in (1, -1):
        answer = await tokens.ask("POST", PATH, content.replace(old, new, count).encode(), caller=MINE)
        assert answer.problem[:2] == (422, "duplicate_field")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"from_account":' * 50_000,
        b'{"from_account":{"account_type":"\xed\xa0\x80","asset":"USDT"},"to_account":{},"amount":"1"}',
    ],
)
async def test_bodies_that_are_no_json(tokens: Asker, content: bytes) -> None:
    answer = await tokens.ask("POST", PATH, content, caller=MINE)
    assert answer.problem == (400, "malformed_body", None)


async def test_balances_and_assets_are_ones_own_unless_the_token_is_for_any(tokens: Asker, nobody: Asker) -> None:
    path = "/api/v1/user/balances"
    assert (await tokens.ask("GET", path, caller=MINE, user_id=1)).data["user_id"] == 1
    assert (await tokens.ask("GET", path, caller=MINE, user_id=2)).problem == (404, "not_found", "user_id")
    assert (await tokens.ask("GET", path, caller=ANY, user_id=2)).data["user_id"] == 2
    assert (await tokens.ask("GET", path, caller=SERVICE)).problem == (400, "missing_parameter", "user_id")
    assert (await nobody.ask("GET", path)).problem == (400, "missing_parameter", "user_id")
    assert (await nobody.ask("GET", path, user_id="x")).problem == (400, "invalid_user_id", "user_id")
    assert (await nobody.ask("GET", path, user_id=77)).data == {"user_id": 77, "balances": []}
    assets = (await tokens.ask("GET", "/api/v1/user/assets", caller=MINE)).data["assets"]
    assert [asset["asset"] for asset in assets] == ["USDT", "JPY", "OLD", "ETH"]
    assert [asset["enabled"] for asset in assets] == [True, True, False, True]
    assert (await tokens.ask("GET", "/api/v1/user/assets", caller=MINE, x=1)).problem[1] == "unknown_parameter"


async def test_limits_are_told_and_kept(tmp_path: Path) -> None:
    limited = AssetSettings(
        asset_id=1, symbol="USDT", decimals=8, amount_least=10**6, amount_most=10**10, daily_most=15 * 10**9
    )
    free = AssetSettings(asset_id=2, symbol="JPY", decimals=0)
    async with open_engine(Settings(data_dir=tmp_path, assets=(limited, free))) as engine:
        asker = Asker(engine, MINE, ANY)
        await asker.fund(1)
        for amount, code in (("0.001", "amount_below_minimum"), ("100.1", "amount_above_maximum")):
            assert (await asker.ask("POST", PATH, body(amount), caller=MINE)).problem == (422, code, "amount")
        assert (await asker.ask("POST", PATH, body("100"), caller=MINE)).data["status"] == "success"
        refused = await asker.ask("POST", PATH, body("50.00000001"), caller=MINE)
        assert refused.problem == (422, "daily_limit_reached", "amount")
        told = (await asker.ask("GET", "/api/v1/user/limits", caller=MINE)).data
        assert (await asker.ask("GET", f"{PATH}/limits", caller=MINE)).data == told
        assert (await asker.ask("GET", f"{PATH}/limits", caller=ANY, user_id=1)).data == told
        assert told["user_id"] == 1
        assert told["limits"][0] == {
            "asset": "USDT",
            "enabled": True,
            "minimum": "0.01000000",
            "maximum": "100.00000000",
            "daily_maximum": "150.00000000",
            "daily_used": "100.00000000",
            "daily_left": "50.00000000",
            "resets_at": told["limits"][0]["resets_at"],
        }
        assert told["limits"][1]["daily_maximum"] is told["limits"][1]["resets_at"] is None
        assets = (await asker.ask("GET", "/api/v1/user/assets", caller=MINE)).data["assets"]
        assert (assets[0]["minimum"], assets[0]["daily_maximum"]) == ("0.01000000", "150.00000000")
        assert (await asker.ask("GET", "/api/v1/user/limits", caller=MINE, user_id=2)).status == 404


async def test_nothing_at_a_path_is_told_in_the_second_apis_way(tokens: Asker) -> None:
    assert (await tokens.ask("GET", "/api/v1/user/nothing", caller=MINE)).problem == (404, "no_such_path", None)
    refused = await tokens.ask("PUT", PATH, caller=MINE)
    assert refused.problem == (405, "method_not_allowed", None)
    assert refused.headers[b"allow"] == b"GET, HEAD, POST"


async def test_a_stopping_engine_says_when_to_come_back(tokens: Asker) -> None:
    tokens.engine.begin_shutdown()
    answer = await tokens.ask("POST", PATH, body("1"), caller=MINE)
    assert answer.problem == (503, "shutting_down", None)
    assert answer.json["retryable"] is True
    assert answer.headers[b"retry-after"] == b"1"


def post(server: Server, asked: Any, key: str) -> Any:
    return server.client.post(PATH, json=asked, headers={"Idempotency-Key": key})


def test_a_slow_core_is_pending_and_then_a_success(server: Server) -> None:
    server.credit(7001, 1_000_000_000)
    told = {"ops": ["deposit"], "pending_calls": 1_000_000}
    server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json=told)
    asked = body("10", of=7001, target="core")
    answer = post(server, asked, "slow")
    assert answer.status_code == 202
    data = answer.json()["data"]
    assert (data["status"], data["state"]) == ("pending", "target_pending")
    assert data["created_at"]
    found = server.client.get(f"{PATH}/{data['request_id']}").json()["data"]
    assert (found["status"], found["state"], found["created_at"]) == ("pending", "target_pending", data["created_at"])
    listed = server.client.get(f"{PATH}/history?user_id=7001&status=pending").json()["data"]["transfers"]
    assert [one["req_id"] for one in listed] == [data["req_id"]]
    again = post(server, asked, "slow")
    assert again.status_code == 202
    assert again.headers["Idempotent-Replayed"] == "true"
    server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={})
    path = f"{PATH}?idempotency_key=slow"
    done = eventually(lambda: server.client.get(path).json()["data"], lambda data: data["status"] == "success")
    assert (done["state"], done["error"], done["created_at"]) == ("committed", None, data["created_at"])
    ended = post(server, asked, "slow")
    assert (ended.status_code, ended.json()["data"]) == (200, done)


def test_both_doors_answer_the_same(server: Server) -> None:
    server.credit(7004, 1_000_000_000)
    headers = {"Idempotency-Key": "either door"}
    asked = body("1", of=7004)
    first = server.client.post(f"{server.url}{PATH}", json=asked, headers=headers)
    again = server.client.post(f"{server.express_url}{PATH}", json=asked, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert again.headers["Idempotent-Replayed"] == "true"
    for path in (
        f"{PATH}?idempotency_key=either%20door",
        f"{PATH}?idempotency_key=either+door",
        f"{PATH}/{first.json()['data']['request_id']}",
        f"{PATH}/history?user_id=7004&limit=1&start_time={first.json()['data']['created_at'] - 1_000_000}",
        f"{PATH}/history?user_id=7004&limit=1&cursor=AAAA",
        f"{PATH}/history?user_id=7004&limit=%zz",
        f"{PATH}/limits?user_id=7004",
        f"{PATH}/nonsense",
        "/api/v1/user/balances?user_id=7004",
        "/api/v1/user/balances?user_id=7004&user_id=7004",
        "/api/v1/user/assets",
        "/api/v1/user/nothing",
    ):
        main, express = (server.client.get(f"{url}{path}") for url in (server.url, server.express_url))
        assert (main.status_code, main.content) == (express.status_code, express.content)
        assert main.headers["Content-Type"] == express.headers["Content-Type"]


def test_a_slow_source_is_requesting(server: Server) -> None:
    server.credit(7002, 1_000_000_000)
    assert post(server, body("10", of=7002, target="core"), "there").json()["data"]["status"] == "success"
    server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={"pending_calls": 1_000_000})
    answer = post(server, body("10", of=7002, source="core", target="funding"), "back")
    server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={})
    assert answer.status_code == 202
    assert (answer.json()["data"]["status"], answer.json()["data"]["state"]) == ("requesting", "source_pending")
    path = f"{PATH}?idempotency_key=back"
    eventually(lambda: server.client.get(path).json()["data"]["status"], lambda status: status == "success")


def test_a_refused_deposit_has_failed(server: Server) -> None:
    server.credit(7003, 1_000_000_000)
    server.client.put("/api/v1/admin/simulated-cores/vault/behaviour", json={"ops": ["deposit"], "refuse": "closed"})
    answer = post(server, body("10", of=7003, target="vault"), "refused")
    server.client.put("/api/v1/admin/simulated-cores/vault/behaviour", json={})
    data = answer.json()["data"]
    assert (answer.status_code, data["status"], data["state"]) == (200, "failed", "rolled_back")
    assert "closed" in data["error"]
    assert server.client.get(f"{PATH}/{data['req_id']}").json()["data"] == data
