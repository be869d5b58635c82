"""The second API's history: filters, windows, pages, and walks while others write, on every record store."""

import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from support.asking import Answer, Asker, user
from support.engines import SETTINGS, World, now_ms
from support.inline_ledger import InlineLedger
from support.record_stores import STORES, Reopenable, record
from transfer_engine.engine import Engine, Overloaded
from transfer_engine.engine.assembly import engine_on
from transfer_engine.engine.services.registry import EXTERNAL, Service, ServiceKind, ServiceRegistry
from transfer_engine.engine.settings import EXTERNAL_CODE
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.user_history import SCANNED_MOST, WINDOW_MS_MOST

PATH = "/api/v1/user/internal_transfer/history"
MINE = user(1)
OTHER = user(2)
ANY = user(9, Scope.ANY)
DAY_MS = 86_400_000
REGISTRY = ServiceRegistry(
    [
        Service(EXTERNAL, EXTERNAL_CODE, ServiceKind.EXTERNAL),
        Service("funding", 2, ServiceKind.WALLET),
        Service("trading", 3, ServiceKind.WALLET),
    ],
    {"spot": "trading"},
)
MOST_FILTERS = {"asset": "USDT", "from": "funding", "to": "spot", "status": "success,failed"}


def wall_ms() -> int:
    return int(time.time() * 1_000)


@pytest.fixture
async def world() -> AsyncIterator[tuple[World, Engine]]:
    world = World()
    async with world.engine() as engine:
        yield world, engine


async def page(asker: Asker, caller: Caller = MINE, **parameters: Any) -> Any:
    return (await asker.ask("GET", PATH, caller=caller, **parameters)).data


async def walk(asker: Asker, caller: Caller = MINE, **parameters: Any) -> tuple[list[Any], int]:
    """Return all that the pages list, and how many pages there were."""
    listed: list[Any] = []
    pages = 0
    while True:
        data = await page(asker, caller, **parameters)
        listed += data["transfers"]
        pages += 1
        assert len(data["transfers"]) <= int(parameters.get("limit", 20))
        if data["next_cursor"] is None:
            return listed, pages
        parameters["cursor"] = data["next_cursor"]


def ids(listed: list[Any]) -> list[str]:
    return [one["req_id"] for one in listed]


async def fill(world: World, *rows: Any) -> None:
    await world.records.write([], rows)


def row(number: int, state: str = "committed", *, age_ms: int = 0, **changes: Any) -> Any:
    at = wall_ms() - age_ms
    return record(number, state, created_at=at, updated_at=at, **changes)


async def test_pages_newest_first(world: tuple[World, Engine], autojump_clock: object) -> None:
    books, engine = world
    rows = [row(number, age_ms=1_000 * number) for number in range(45)]
    await fill(books, *rows)
    asker = Asker(engine, MINE)
    listed, pages = await walk(asker)
    assert ids(listed) == [str(one.req_id) for one in rows]
    assert pages == 3
    assert listed[0]["amount"] == "0.00000100"
    assert ids((await walk(asker, limit=100))[0]) == ids(listed)
    assert await walk(asker, limit=45) == (listed, 1)
    assert (await walk(asker, limit=1))[0] == listed


async def test_filters(world: tuple[World, Engine], autojump_clock: object) -> None:
    books, engine = world
    rows = {
        "plain": row(1),
        "back": row(2, source="trading", target="funding"),
        "btc": row(3, asset_id=2),
        "failed": row(4, "failed", error="no money"),
        "rolled back": row(5, "rolled_back", source="funding", target="bank"),
        "pending": row(6, "target_pending", target="bank"),
        "requesting": row(7, "source_pending", source="bank"),
        "deposit": row(8, source="external", target="funding"),
        "given": row(9, user_id=2, target_user_id=1),
    }
    await fill(books, *rows.values(), row(10, user_id=2))
    asker = Asker(engine, MINE)

    async def names(**parameters: Any) -> set[str]:
        listed = ids((await walk(asker, **parameters))[0])
        return {name for name, one in rows.items() if str(one.req_id) in listed}

    assert await names() == set(rows)
    assert await names(asset="BTC") == {"btc"}
    assert await names(**{"from": "spot"}) == await names(**{"from": "trading"}) == {"back"}
    assert await names(to="funding") == {"back", "deposit"}
    assert await names(**{"from": "external"}) == {"deposit"}
    assert await names(status="failed") == {"failed", "rolled back"}
    assert await names(status="pending,requesting") == {"pending", "requesting"}
    assert await names(status="success", to="spot") == {"plain", "btc", "given"}
    assert await names(asset="ETH") == set()


async def test_windows(world: tuple[World, Engine], autojump_clock: object) -> None:
    books, engine = world
    now = wall_ms()
    ages = [0, 1, 6, 8, 13, 15]
    rows = [row(number, age_ms=age * DAY_MS) for number, age in enumerate(ages)]
    await fill(books, *rows)
    asker = Asker(engine, MINE)

    async def days(**parameters: int) -> list[int]:
        return [
            ages[[str(one.req_id) for one in rows].index(name)] for name in ids((await walk(asker, **parameters))[0])
        ]

    assert await days() == [0, 1, 6]
    assert await days(end_time=now - 5 * DAY_MS) == [6, 8]
    assert await days(start_time=now - 14 * DAY_MS) == [8, 13]
    assert await days(start_time=now - 14 * DAY_MS, end_time=now - 9 * DAY_MS) == [13]
    exactly = rows[3].created_at
    assert await days(start_time=exactly, end_time=exactly) == [8]
    assert await days(start_time=exactly + 1, end_time=exactly + 1) == []
    assert await days(start_time=exactly, end_time=exactly + WINDOW_MS_MOST) == [1, 6, 8]


@pytest.mark.parametrize(
    ("query", "name", "field"),
    [
        ("limit=0", "invalid_parameter", "limit"),
        ("limit=101", "invalid_parameter", "limit"),
        ("limit=-1", "invalid_parameter", "limit"),
        ("limit=1e1", "invalid_parameter", "limit"),
        ("limit=%D9%A1", "invalid_parameter", "limit"),
        ("limit=", "invalid_parameter", "limit"),
        ("limit=1&limit=1", "duplicate_parameter", "limit"),
        ("status=done", "invalid_parameter", "status"),
        ("status=success,,failed", "invalid_parameter", "status"),
        ("status=committed", "invalid_parameter", "status"),
        ("from=bank account", "unknown_service", "from"),
        ("to=external", "unknown_service", "to"),
        ("asset=usdt", "unknown_asset", "asset"),
        ("start_time=yesterday", "invalid_parameter", "start_time"),
        ("start_time=1767225600", "invalid_parameter", "start_time"),
        ("start_time=-1767225600000", "invalid_parameter", "start_time"),
        ("start_time=1767225600000.5", "invalid_parameter", "start_time"),
        ("end_time=" + "9" * 30, "invalid_parameter", "end_time"),
        ("start_time=1767225600000&end_time=1767225599999", "invalid_parameter", "end_time"),
        ("start_time=1767225600000&end_time=1767830400001", "invalid_parameter", "start_time"),
        ("cursor=", "invalid_cursor", "cursor"),
        ("cursor=AAAA", "invalid_cursor", "cursor"),
        ("cursor=%C3%A9", "invalid_cursor", "cursor"),
        ("offset=5", "unknown_parameter", "offset"),
        ("Limit=5", "unknown_parameter", "Limit"),
        ("%6cimit=5&limit=5", "duplicate_parameter", "limit"),
        ("user_id=2", "not_found", "user_id"),
        ("user_id=0", "invalid_user_id", "user_id"),
        ("=", "unknown_parameter", ""),
        ("&" * 1_000, "unknown_parameter", ""),
        ("a" * 100_000, "invalid_parameter", None),
    ],
)
async def test_queries_that_are_wrong_are_refused_by_name(
    world: tuple[World, Engine], autojump_clock: object, query: str, name: str, field: str | None
) -> None:
    answer = await Asker(world[1], MINE).ask("GET", PATH, caller=MINE, query=query.encode())
    assert answer.problem[1:] == (name, field)
    assert answer.status in {400, 404, 422}


async def test_a_cursor_belongs_to_its_user_and_filters(world: tuple[World, Engine], autojump_clock: object) -> None:
    books, engine = world
    await fill(books, *(row(number, user_id=1, target_user_id=2) for number in range(9)))
    asker = Asker(engine, MINE, OTHER, ANY)
    first = await page(asker, limit=2, **MOST_FILTERS)
    cursor = first["next_cursor"]

    async def follow(caller: Caller = MINE, **changes: Any) -> Answer:
        parameters = {name: value for name, value in (MOST_FILTERS | changes).items() if value is not None}
        return await asker.ask("GET", PATH, caller=caller, cursor=cursor, **parameters)

    assert len((await follow()).data["transfers"]) == 7
    assert len((await follow(limit=5)).data["transfers"]) == 5
    assert len((await follow(ANY, user_id=1)).data["transfers"]) == 7
    refused = [
        await follow(OTHER),
        await follow(ANY),
        await follow(ANY, user_id=2),
        await follow(asset=None),
        await follow(status="failed"),
        await follow(to=None),
        await follow(end_time=wall_ms()),
    ]
    assert {answer.problem for answer in refused} == {(400, "invalid_cursor", "cursor")}


async def test_a_cursor_outlives_the_engine_that_gave_it(autojump_clock: object) -> None:
    world = World()
    await fill(world, *(row(number) for number in range(9)))
    async with world.engine() as engine:
        first = await page(Asker(engine, MINE), limit=4)
    async with world.engine() as engine:
        rest = await page(Asker(engine, MINE), cursor=first["next_cursor"])
    assert len({*ids(first["transfers"]), *ids(rest["transfers"])}) == 9


async def test_one_request_looks_at_a_bounded_number_of_rows(
    world: tuple[World, Engine], autojump_clock: object
) -> None:
    books, engine = world
    many = 3 * SCANNED_MOST
    await fill(books, *(row(number, "failed" if number == many - 1 else "committed") for number in range(many)))
    asker = Asker(engine, MINE)
    first = await page(asker, status="failed", limit=1)
    listed, pages = await walk(asker, status="failed", limit=1)
    assert first["next_cursor"] is not None or first["transfers"]
    assert len(listed) == 1
    assert pages <= 4
    listed, pages = await walk(asker, status="pending", limit=100)
    assert (listed, pages) == ([], 3)


async def test_what_has_ended_is_listed_before_its_row_is_durable(
    world: tuple[World, Engine], autojump_clock: object
) -> None:
    books, engine = world
    await engine.credit(user_id=1, account="funding", asset_id=2, amount=1_000)
    asker = Asker(engine, MINE)
    day = {"end_time": now_ms() + DAY_MS}
    stop = books.wire.stop("row committed")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: books.ask(engine, "funding", "trading", asset_id=2))
        await stop.reached.wait()
        assert len(books.records.rows) == 1
        listed, _ = await walk(asker, limit=1, **day)
        assert [(one["to_account"]["account_type"], one["status"]) for one in listed] == [
            ("trading", "success"),
            ("funding", "success"),
        ]
        stop.released.set()
    assert (await walk(asker, limit=1, **day))[0] == listed
    assert len(books.records.rows) == 2


class Writer:
    """Users who move money to and fro between them, and write down what they were told, and when."""

    def __init__(self, engine: Engine, users: int) -> None:
        self.engine = engine
        self.users = users
        self.told: set[UUID] = set()
        self.is_over = False

    async def run(self, count: int, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(count):
            source, target = chance.sample(["funding", "trading"], 2)
            try:
                outcome = await self.engine.transfer(
                    source=source,
                    target=target,
                    user_id=chance.randint(1, self.users),
                    target_user_id=chance.randint(1, self.users),
                    asset_id=2,
                    amount=chance.choice([1, 5, 10**6]),  # the last one is refused
                )
            except Overloaded:
                continue
            if outcome.status.value != "pending":
                self.told.add(outcome.req_id)


@pytest.fixture(params=STORES)
def reopenable(request: pytest.FixtureRequest, tmp_path: Path) -> Reopenable:
    return STORES[request.param](tmp_path)


async def test_walks_while_others_write_miss_nothing_and_repeat_nothing(reopenable: Reopenable) -> None:
    ledger = InlineLedger(time.time_ns)
    async with (
        reopenable.open() as records,
        engine_on(SETTINGS.model_copy(update={"services": SETTINGS.services[:2]}), REGISTRY, ledger, records) as engine,
    ):
        asker = Asker(engine, *(user(number) for number in range(1, 4)))
        for number in range(1, 4):
            await engine.credit(user_id=number, account="funding", asset_id=2, amount=1_000)
        writer = Writer(engine, 3)
        walks = 0

        async def read(number: int, **parameters: Any) -> None:
            nonlocal walks
            caller = user(number)
            while not writer.is_over or not walks:
                told = set(writer.told)
                listed, _ = await walk(asker, caller, **parameters)
                names = ids(listed)
                assert len(set(names)) == len(names)
                places = [(one["created_at"], UUID(one["req_id"]).int) for one in listed]
                assert places == sorted(places, reverse=True)
                mine = {row.req_id for row in await rows_of(told) if number in {row.user_id, row.target_user_id}}
                if "status" in parameters:
                    assert {one["status"] for one in listed} <= {parameters["status"]}
                else:
                    assert {str(req_id) for req_id in mine} <= set(names)
                walks += 1

        async def rows_of(told: set[UUID]) -> list[Any]:
            rows = await records.get_many([req_id.int for req_id in told])
            return list(rows.values())

        async with trio.open_nursery() as readers:
            readers.start_soon(lambda: read(1, limit=7))
            readers.start_soon(lambda: read(2, limit=100))
            readers.start_soon(lambda: read(3, limit=3, status="failed"))
            async with trio.open_nursery() as writers:
                for seed in range(8):
                    writers.start_soon(writer.run, 60, seed)
            writer.is_over = True
        listed = [(await walk(asker, user(number), limit=100))[0] for number in range(1, 4)]
    assert {name for one in listed for name in ids(one)} >= {str(req_id) for req_id in writer.told}
    assert {one["status"] for some in listed for one in some} == {"success", "failed"}
    assert walks >= 3
