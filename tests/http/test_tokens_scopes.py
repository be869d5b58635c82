"""What each scope allows, on every endpoint there is; and whose things are whose."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.tokens import NOW, Clock, authenticator, bearer, claims_of, hs256, new_secret
from transfer_engine.engine import Engine, Settings, open_engine
from transfer_engine.http.gate import Gate
from transfer_engine.http.handlers import Api
from transfer_engine.http.identity import Scope
from transfer_engine.http.messages import JSON, Request, Response
from transfer_engine.http.routes import Route

SECRET = new_secret()
ROUTES = Api(Settings(), version="1").routes
FUNDED = 100_000_000
AMOUNT = 1_000_000
"""The least that may be moved of USDT."""


class Bearer:
    """Somebody with a token."""

    def __init__(self, api: Api, subject: str, scope: str = "transfer:read transfer:write") -> None:
        self._api = api
        self._header = bearer(hs256(claims_of(subject, scope=scope), SECRET))

    async def get(self, target: str) -> Response:
        path, _, query = target.partition("?")
        return await self._api.answer(Request("GET", path, query=query.encode(), authorization=self._header))

    async def post(self, path: str, body: dict[str, Any], key: str | None = None) -> Response:
        keys = () if key is None else (key.encode(),)
        request = Request("POST", path, msgspec.json.encode(body), JSON, keys, authorization=self._header)
        return await self._api.answer(request)

    async def transfer(self, user_id: int, *, amount: int = AMOUNT, key: str | None = None) -> Response:
        body = {"from": "funding", "to": "trading", "user_id": user_id, "asset_id": 1, "amount": amount}
        return await self.post("/api/v1/transfer", body, key)

    async def send(self, source: int | None, target: int | None, *, amount: str = "0.01") -> Response:
        """Move between users, by the second API."""
        body: dict[str, Any] = {
            "from_account": {"account_type": "funding", "asset": "USDT", "user_id": source},
            "to_account": {"account_type": "funding", "asset": "USDT", "user_id": target},
            "amount": amount,
        }
        for account in ("from_account", "to_account"):
            if body[account]["user_id"] is None:
                del body[account]["user_id"]
        return await self.post("/api/v1/user/internal_transfer", body)


def said(response: Response) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(response.body)
    return decoded


def code(response: Response) -> tuple[int, str]:
    """The status, and the code of a problem."""
    problem = said(response)
    return response.status, str(problem.get("code"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with open_engine(Settings(data_dir=tmp_path / "data")) as running:
        for user_id in (3001, 3002):
            await running.credit(user_id=user_id, account="funding", asset_id=1, amount=FUNDED, idempotency_key=None)
        yield running


@pytest.fixture
def api(engine: Engine, tmp_path: Path, clock: Clock) -> Api:
    api = Api(engine.settings, version="1", gate=Gate(authenticator(tmp_path, secret=SECRET, clock=clock)))
    api.serve(engine)
    return api


# Endpoints


def test_there_are_endpoints_of_every_scope_but_one() -> None:
    assert {route.scope for route in ROUTES} == {None, Scope.READ, Scope.WRITE, Scope.ADMIN}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.template}")
async def test_every_endpoint_with_every_scope(api: Api, route: Route) -> None:
    path = "/".join("1" if segment.startswith("{") else segment for segment in route.template.split("/"))
    body_type = route.body_types[0] if route.body_types else b""

    async def ask(authorization: tuple[bytes, ...]) -> Response:
        return await api.answer(Request(route.method, path, b"{}", body_type, authorization=authorization))

    for scope in (*Scope, None):
        for other in ("", " openid transfer:readwrite"):
            named = f"{scope.value if scope else ''}{other}"
            response = await ask(bearer(hs256(claims_of(scope=named), SECRET)))
            is_allowed = route.scope is None or scope in {route.scope, Scope.ADMIN}
            assert (response.status not in {401, 403}) == is_allowed, (scope, response)
            if not is_allowed:
                assert code(response)[0] == 403
                challenge = dict(response.headers)[b"www-authenticate"].decode()
                assert challenge == f'Bearer error="insufficient_scope", scope="{route.scope}"'
    for nothing in ((), (b"Bearer ",), (b"Basic dTpw",), bearer(hs256(claims_of(scope="admin"), new_secret()))):
        response = await ask(nothing)
        assert (response.status == 401) == (route.scope is not None), response
        if response.status == 401:
            assert dict(response.headers)[b"www-authenticate"].startswith(b"Bearer")


async def test_a_path_that_is_none_tells_nobody_more(api: Api) -> None:
    somebody = Bearer(api, "3001", "")
    assert (await somebody.get("/api/v1/nothing")).status == 404
    assert (await somebody.get("/api/v1/admin/nothing")).status == 404


async def test_a_token_expires_between_two_requests(api: Api, clock: Clock) -> None:
    somebody = Bearer(api, "3001")
    assert (await somebody.get("/api/v1/balances/3001")).status == 200
    clock.now = NOW + 629.9
    assert (await somebody.get("/api/v1/balances/3001")).status == 200
    clock.now = NOW + 630
    assert (await somebody.get("/api/v1/balances/3001")).status == 401
    assert (await somebody.transfer(3001)).status == 401


# Whose things


async def test_another_users_things_are_not_found(api: Api) -> None:
    owner, other = Bearer(api, "3001"), Bearer(api, "3002")
    moved = said(await owner.transfer(3001))
    assert moved["status"] == "committed"
    look_ups = (
        f"/api/v1/transfer/{moved['req_id']}",
        f"/api/v1/user/internal_transfer/{moved['req_id']}",
    )
    for look_up in look_ups:
        assert (await owner.get(look_up)).status == 200
        theirs, nothing = await other.get(look_up), await other.get(look_up[:-12] + "000000000000")
        assert theirs.status == 404
        assert {**said(theirs), "instance": None} == {**said(nothing), "instance": None}
    assert (await owner.get("/api/v1/balances/3001")).status == 200
    assert (await other.get("/api/v1/balances/3001")).status == 404
    assert said(await other.get("/api/v1/balances/3001")) == said(await other.get("/api/v1/balances/999999"))


async def test_another_users_money_is_not_moved(api: Api, engine: Engine) -> None:
    other = Bearer(api, "3002")
    refused = await other.transfer(3001)
    assert code(refused) == (403, "insufficient_scope")
    assert said(refused)["req_id"] == ""
    assert (await other.send(3001, 3002)).status == 403
    assert (await other.send(3001, None)).status == 403
    assert (await other.send(3002, 3001)).status == 403
    for user_id in (3001, 3002):
        [balance] = await engine.balances(user_id)
        assert (balance.account, balance.available) == ("funding", FUNDED)


async def test_transfer_any_moves_and_shows_anybodys(api: Api) -> None:
    alone = Bearer(api, "3002", "transfer:any")
    assert (await alone.transfer(3001)).status == 403
    assert (await alone.get("/api/v1/balances/3001")).status == 403
    for subject in ("3002", "backoffice"):
        trusted = Bearer(api, subject, "transfer:any transfer:read transfer:write")
        moved = await trusted.transfer(3001)
        assert (moved.status, said(moved)["status"]) == (200, "committed")
        assert (await trusted.send(3001, 3002)).status == 200
        assert (await trusted.get(f"/api/v1/transfer/{said(moved)['req_id']}")).status == 200
        assert (await trusted.get("/api/v1/balances/3001")).status == 200
        assert (await trusted.get("/api/v1/admin/statistics")).status == 403


async def test_admin_may_do_everything(api: Api) -> None:
    admin = Bearer(api, "root", "admin")
    assert (await admin.transfer(3001)).status == 200
    assert (await admin.send(3001, 3002)).status == 200
    assert (await admin.get("/api/v1/balances/3002")).status == 200
    assert (await admin.get("/api/v1/admin/statistics")).status == 200


async def test_a_service_without_a_scope_of_services_may_do_nothing(api: Api) -> None:
    service = Bearer(api, "backoffice")
    for response in (
        await service.transfer(3001),
        await service.send(3001, 3002),
        await service.get("/api/v1/balances/3001"),
        await service.get("/api/v1/user/balances"),
    ):
        assert code(response)[0] == 403


async def test_keys_of_two_subjects_never_meet(api: Api, engine: Engine) -> None:
    any_scope = "transfer:any transfer:read transfer:write"
    bearers = [Bearer(api, subject, any_scope) for subject in ("3001", "3002", "03001", "3001 ", "backoffice")]
    answers = [said(await somebody.transfer(3001, key="the same")) for somebody in bearers]
    again = [said(await somebody.transfer(3001, key="the same")) for somebody in bearers]
    assert {answer["status"] for answer in answers} == {"committed"}
    assert len({answer["req_id"] for answer in answers}) == len(bearers)
    assert again == answers
    balances = {balance.account: balance.available for balance in await engine.balances(3001)}
    assert balances == {"funding": FUNDED - AMOUNT * len(bearers), "trading": AMOUNT * len(bearers)}
    changed = await bearers[0].transfer(3001, amount=AMOUNT + 1, key="the same")
    assert code(changed) == (422, "key_reused")
    assert (await bearers[1].transfer(3001, amount=AMOUNT, key="the same")).status == 200


async def test_scopes_of_one_subject_share_its_keys(api: Api) -> None:
    first, renewed = Bearer(api, "3001"), Bearer(api, "3001", "transfer:write")
    assert said(await first.transfer(3001, key="k")) == said(await renewed.transfer(3001, key="k"))


# Without tokens: this machine only


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.template}")
async def test_without_tokens_another_host_is_refused_everywhere(route: Route) -> None:
    api = Api(Settings(), version="1")
    path = "/".join("1" if segment.startswith("{") else segment for segment in route.template.split("/"))
    body_type = route.body_types[0] if route.body_types else b""
    for host, is_served in ((b"evil.example:8080", False), (b"127.0.0.1:8080", True), (b"localhost", True)):
        response = await api.answer(Request(route.method, path, b"{}", body_type, host=host))
        assert (response.status != 421) == is_served, (host, response)
        if not is_served:
            assert said(response)["detail"].startswith("without tokens only requests to localhost are served")


async def test_with_tokens_any_host_is_served(api: Api) -> None:
    assert (await api.answer(Request("GET", "/health", host=b"exchange.example"))).status == 200
