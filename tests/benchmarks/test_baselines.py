"""Baselines answer the first API's requests, keep money and keys, and their books are held against what was told."""

import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from transfer_engine.benchmarks.baseline_subject import (
    BASELINES,
    Baseline,
    BaselineSubject,
    NoBaseline,
    open_baseline,
)
from transfer_engine.benchmarks.baselines_command import baselines
from transfer_engine.benchmarks.http_sender import http_sender
from transfer_engine.benchmarks.http_wire import Answer
from transfer_engine.benchmarks.plan import AMOUNT, FUNDS, REFUSED_AMOUNT, Target, Traffic
from transfer_engine.benchmarks.private_tigerbeetle import find_binary
from transfer_engine.benchmarks.sending import COMMITTED, REPLAYED, Order

TARGET = Target(kind="http", connections=2)
TRAFFIC = Traffic(users=3)
BODY = {"from": "funding", "to": "trading", "user_id": 1, "asset_id": 1, "amount": AMOUNT}


@pytest.fixture(params=BASELINES, ids=[baseline.store for baseline in BASELINES])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[BaselineSubject]:
    baseline: Baseline = request.param
    try:
        async with open_baseline(baseline, TARGET, TRAFFIC) as opened:
            yield opened
    except NoBaseline as reason:
        pytest.skip(f"NOT TESTED: {baseline.name}: {reason}")


async def ask(subject: BaselineSubject, key: str | None, **changes: Any) -> Answer:
    """Send one transfer past those who count what was told."""
    async with http_sender(subject.address) as sender, sender.caller(0) as caller:
        headers = f"Idempotency-Key: {key}\r\n" if key is not None else ""
        request = sender.request("POST", "/api/v1/transfer", msgspec.json.encode(BODY | changes), headers)
        answer = await caller.ask(request)
    assert isinstance(answer, Answer), answer
    return answer


async def test_a_baseline(subject: BaselineSubject) -> None:
    await _what_was_told_is_in_its_books(subject)
    await _what_is_refused_moves_nothing(subject)
    await _a_key_moves_once(subject)


async def _what_was_told_is_in_its_books(subject: BaselineSubject) -> None:
    there = Order(number=1, user_id=2, source="funding", target="trading", amount=AMOUNT, key="there")
    back = Order(number=2, user_id=2, source="trading", target="funding", amount=FUNDS, key="back")
    async with subject.sender.caller(0) as caller:
        outcomes = [outcome for order in (there, back, there) for outcome in await caller.send([order])]
    assert outcomes == [COMMITTED, COMMITTED, REPLAYED]
    books = await subject.books()
    assert books.hold, books.findings
    assert "3 users" in books.how


async def _what_is_refused_moves_nothing(subject: BaselineSubject) -> None:
    for changes in ({"amount": REFUSED_AMOUNT}, {"user_id": 77}):
        refused = await ask(subject, None, **changes)
        assert (refused.status, msgspec.json.decode(refused.body)["status"]) == (HTTPStatus.OK, "failed")
    for changes in ({"amount": 0}, {"from": "nowhere"}, {"amount": "much"}):
        assert (await ask(subject, None, **changes)).status == HTTPStatus.UNPROCESSABLE_ENTITY
    assert (await subject.books()).hold


async def _a_key_moves_once(subject: BaselineSubject) -> None:
    """Nobody who counts is told of it, so the books no longer hold."""
    first = await ask(subject, "a")
    assert first.status in {HTTPStatus.OK, HTTPStatus.CREATED}
    body = msgspec.json.decode(first.body)
    assert (body.keys(), body["status"]) == ({"req_id", "status", "message"}, "committed")
    again = await ask(subject, "a")
    assert (again.status, msgspec.json.decode(again.body)) == (HTTPStatus.OK, body)
    assert b"idempotent-replayed: true" in again.head
    assert b"idempotent-replayed" not in first.head
    assert (await ask(subject, "a", amount=AMOUNT + 1)).status == HTTPStatus.UNPROCESSABLE_ENTITY
    findings = (await subject.books()).findings
    assert len(findings) == 2
    assert all(str(FUNDS + change) in text for change, text in zip((-AMOUNT, AMOUNT), sorted(findings), strict=True))


def test_the_command_compares_them_with_our_door() -> None:
    options = ["--connections", "2", "--users", "3", "--seconds", "0.2", "--rounds", "1", "--only", "sqlite", "--quiet"]
    result = CliRunner().invoke(baselines, options)
    assert result.exit_code == 0, result.output
    assert "this engine, express door, embedded + sqlite" in result.output
    assert re.search(r"FastAPI \+ SQLite +\d", result.output)
    assert re.search(r"ours ÷ this:\s+\d+\.\d\d of", result.output)


def test_one_that_was_asked_for_and_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIGERBEETLE_BINARY", raising=False)
    if find_binary() is not None:
        pytest.skip("there is a TigerBeetle on the PATH")
    result = CliRunner().invoke(baselines, ["--only", "tigerbeetle", "--seconds", "0.2", "--users", "3", "--quiet"])
    assert result.exit_code == 1
    assert "TIGERBEETLE_BINARY" in result.output
