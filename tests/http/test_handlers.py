"""The handlers without a door: what they answer when the engine itself can't."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from support.engines import UNLIMITED_ASSETS
from transfer_engine.engine import Engine, Opening, RefusalCode, Settings, open_engine
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.outcomes import Overloaded
from transfer_engine.engine.records.protocol import RecordsUnavailable
from transfer_engine.http.gate import Gate
from transfer_engine.http.handlers import Api
from transfer_engine.http.identity import Caller, NoTokens
from transfer_engine.http.messages import Request
from transfer_engine.http.problems import (
    STATUS_OF_PROBLEM,
    STATUS_OF_REFUSAL,
    Flavour,
    ProblemCode,
    problem_of_fault,
    problem_of_refusal,
)

BODY = b'{"from":"funding","to":"trading","user_id":1,"asset_id":1,"amount":5}'
CREDIT = b'{"user_id":1,"account":"funding","asset_id":1,"amount":50}'


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with open_engine(Settings(data_dir=tmp_path, assets=UNLIMITED_ASSETS)) as running:
        yield running


def post(path: str, body: bytes, key: bytes | None = None) -> Request:
    return Request("POST", path, body, b"application/json", () if key is None else (key,))


def api_of(engine: Engine) -> Api:
    api = Api(engine.settings, version="1")
    api.serve(engine)
    return api


async def test_before_the_engine_has_opened_all_but_health_is_503(tmp_path: Path) -> None:
    opening = Opening()
    api = Api(Settings(data_dir=tmp_path, assets=UNLIMITED_ASSETS), version="1", opening=opening)
    opening.waits_for = "the record store: 127.0.0.1:9042 does not answer"
    refused = await api.answer(post("/api/v1/transfer", BODY, b"k"))
    problem = msgspec.json.decode(refused.body)
    assert (refused.status, problem["code"], problem["retryable"]) == (503, "unavailable", True)
    assert "it waits for the record store: 127.0.0.1:9042" in problem["message"]
    assert (b"retry-after", b"1") in refused.headers
    ready = await api.answer(Request("GET", "/ready"))
    assert ready.status == 503
    assert "it waits for the record store" in msgspec.json.decode(ready.body)["records"]["detail"]
    assert (await api.answer(Request("GET", "/health"))).status == 200


async def test_a_handler_needs_no_door(engine: Engine) -> None:
    api = Api(engine.settings, version="1.2.3")
    api.serve(engine)
    credited = await api.answer(post("/api/v1/admin/credits", CREDIT))
    assert credited.status == 201
    moved = await api.answer(post("/api/v1/transfer", BODY, b"k"))
    assert (moved.status, moved.headers) == (200, ())
    again = await api.answer(post("/api/v1/transfer", BODY, b"k"))
    assert again.headers == ((b"idempotent-replayed", b"true"),)
    assert again.body == moved.body
    health = await api.answer(Request("GET", "/health"))
    assert health.body == b'{"status":"healthy","version":"1.2.3"}'


async def test_a_stopping_engine_refuses_with_503_and_a_hint(engine: Engine) -> None:
    api = api_of(engine)
    engine.begin_shutdown()
    refused = await api.answer(post("/api/v1/transfer", BODY))
    problem = msgspec.json.decode(refused.body)
    assert refused.status == 503
    assert (b"retry-after", b"1") in refused.headers
    assert (problem["code"], problem["retryable"], problem["status"]) == ("shutting_down", True, "failed")


async def test_a_full_mailbox_answers_503(tmp_path: Path) -> None:
    import trio

    async with open_engine(
        Settings(data_dir=tmp_path, assets=UNLIMITED_ASSETS, mailbox_capacity=1, user_batch_most=1)
    ) as engine:
        api = api_of(engine)
        statuses = []

        async def ask() -> None:
            statuses.append((await api.answer(post("/api/v1/transfer", BODY))).status)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
    assert set(statuses) == {200, 503}


async def test_an_unexpected_exception_is_an_answer_that_claims_nothing(tmp_path: Path) -> None:
    async with open_engine(Settings(data_dir=tmp_path, assets=UNLIMITED_ASSETS)) as engine:
        api = api_of(engine)
    looked_up = await api.answer(Request("GET", "/api/v1/transfer/019a0000-0000-8000-8000-000000000000"))
    assert looked_up.status in {500, 503}
    problem = msgspec.json.decode(looked_up.body)
    assert problem["code"] in {"internal", "unavailable"}
    assert "Traceback" not in looked_up.body.decode()
    assert "sqlite" not in looked_up.body.decode()


@pytest.mark.parametrize("fault", [RuntimeError("secret"), LedgerUnavailable("secret"), RecordsUnavailable("secret")])
@pytest.mark.parametrize("is_safe", [True, False])
def test_a_fault_never_says_failed_and_never_its_inner_words(fault: Exception, is_safe: bool) -> None:
    problem = msgspec.json.decode(problem_of_fault(fault, is_safe=is_safe).response(Flavour.TRANSFER).body)
    assert problem["status"] == "pending"
    assert problem["req_id"] == ""
    assert problem["retryable"] is is_safe
    assert "secret" not in str(problem)


def test_every_code_has_a_status() -> None:
    assert STATUS_OF_REFUSAL.keys() == set(RefusalCode)
    assert STATUS_OF_PROBLEM.keys() == set(ProblemCode)


@pytest.mark.parametrize("code", [RefusalCode.OVERLOADED, RefusalCode.SHUTTING_DOWN, RefusalCode.UNAVAILABLE])
def test_overload_says_when_to_come_back(code: RefusalCode) -> None:
    response = problem_of_refusal(Overloaded(code, "later")).response(Flavour.TRANSFER)
    assert response.status == 503
    assert response.headers == ((b"retry-after", b"1"),)
    assert msgspec.json.decode(response.body)["retryable"] is True


class FaultyGate(Gate):
    """Has a fault where batches are counted."""

    def charge(self, request: Request, caller: Caller, cost: int, *, of: int = 0) -> None:
        raise RuntimeError


async def test_after_a_fault_no_batch_is_told_to_be_repeated_as_it_is(engine: Engine) -> None:
    api = Api(engine.settings, version="1", gate=FaultyGate(NoTokens()))
    api.serve(engine)
    answer = await api.answer(post("/api/v1/transfers/batch", b'{"transfers":[%b,%b]}' % (BODY, BODY)))
    problem = msgspec.json.decode(answer.body)
    assert (answer.status, problem["code"], problem["retryable"]) == (500, "internal", False)
    assert "look before you repeat it" in problem["detail"]
