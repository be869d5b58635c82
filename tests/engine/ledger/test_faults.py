# ruff: noqa: ASYNC240  # a few blocking bytes harm no test
"""What goes wrong around the embedded ledger: its file, its disk, its callers. Nothing answered is lost."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import tigerbeetle as tb
import trio
from tigerbeetle import CreateTransferStatus as Status

from support.ledger_books import LIMITED, Books
from transfer_engine.engine.ledger import sqlite_file
from transfer_engine.engine.ledger.embedded import EmbeddedLedger, open_embedded_ledger
from transfer_engine.engine.ledger.protocol import LedgerDamaged, LedgerUnavailable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


async def filled(path: Path, *, transfers: int = 2000) -> tuple[int, int]:
    async with open_embedded_ledger(path) as ledger:
        books = Books(ledger)
        source, target = await books.pair(funds=10**6)
        await books.must_submit(*[books.transfer(source, target, 1) for _ in range(transfers)])
    return source, target


async def test_it_is_there_when_it_is_opened_again(path: Path) -> None:
    _, target = await filled(path, transfers=7)
    async with open_embedded_ledger(path) as ledger:
        assert await Books(ledger).balance(target) == (7, 0)
    # A file closed in peace needs nothing beside it.
    assert [one.name for one in path.parent.iterdir()] == [path.name]


async def test_a_file_that_is_not_a_database_is_refused_and_kept(path: Path) -> None:
    path.write_bytes(b"something else, and of value\n" * 100)
    with pytest.raises(LedgerDamaged, match=str(path)):
        async with open_embedded_ledger(path):
            pass
    assert path.read_bytes() == b"something else, and of value\n" * 100


async def test_another_programs_database_is_refused_and_kept(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LedgerDamaged, match="is not a ledger"):
        async with open_embedded_ledger(path):
            pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", [sqlite_file.SCHEMA_VERSION - 1, sqlite_file.SCHEMA_VERSION + 1])
async def test_another_versions_ledger_is_refused_and_kept(path: Path, version: int) -> None:
    await filled(path, transfers=1)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(LedgerDamaged, match=f"version {version}"):
        async with open_embedded_ledger(path):
            pass


async def test_a_file_cut_short_is_reported(path: Path) -> None:
    source, _ = await filled(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size // 2)
    with pytest.raises(LedgerDamaged, match=str(path)):
        async with open_embedded_ledger(path) as ledger:
            await Books(ledger).balance(source)


async def test_garbage_in_the_middle_is_reported_to_readers_and_writers(path: Path) -> None:
    source, target = await filled(path)
    pages = path.stat().st_size // 4096
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * (pages - 1))

    async def use() -> None:
        async with open_embedded_ledger(path) as ledger:
            books = Books(ledger)
            await books.submit(books.transfer(source, target, 1))

    with pytest.raises(LedgerDamaged, match="restore it from a backup"):
        await use()


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match="nowhere"):
        async with open_embedded_ledger(tmp_path / "nowhere" / "ledger.sqlite"):
            pass


async def test_a_directory_in_the_files_place(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match=str(tmp_path)):
        async with open_embedded_ledger(tmp_path):
            pass


async def test_a_full_disk_changes_nothing_and_is_survived(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch that meets it is unknown to its caller, in truth not applied; memory and file agree afterwards."""
    page_limit = 1 << 30
    connect = sqlite_file.connect

    def connect_to_a_small_disk(path: Path, *, read_only: bool) -> sqlite3.Connection:
        connection = connect(path, read_only=read_only)
        connection.execute(f"PRAGMA max_page_count = {page_limit}")
        return connection

    monkeypatch.setattr(sqlite_file, "connect", connect_to_a_small_disk)
    async with open_embedded_ledger(path) as ledger:
        books = Books(ledger)
        source, target = await books.pair(funds=10**6)
        batch = [books.transfer(source, target, 1) for _ in range(1000)]
        refused = books.transfer(target, source, 10**7)
        await books.must_submit(batch[0])
        before = ledger.statistics()
        page_limit = 1
        ledger._writer._disconnect()
        with pytest.raises(LedgerUnavailable, match="full"):
            await books.submit(refused, *batch)
        assert await books.balance(target) == (1, 0)
        assert ledger.statistics().last_timestamp == before.last_timestamp
        assert ledger.statistics().accounts_cached == 0
        page_limit = 1 << 30
        answers = await books.submit(refused, *batch)
        assert answers == [Status.EXCEEDS_CREDITS, Status.EXISTS, *[Status.CREATED] * 999]
        assert await books.balance(target) == (1000, 0)


async def test_a_closed_ledger_says_so(path: Path) -> None:
    async with open_embedded_ledger(path) as ledger:
        books = Books(ledger)
        source, target = await books.pair()
    with pytest.raises(LedgerUnavailable, match="closed"):
        await books.submit(books.transfer(source, target, 1))
    with pytest.raises(LedgerUnavailable, match="closed"):
        await books.balance(source)


async def test_calls_under_way_are_answered_before_it_closes(path: Path) -> None:
    async with open_embedded_ledger(path) as ledger:
        books = Books(ledger)
        source, target = await books.pair(funds=10**6)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                batch = [books.transfer(source, target, 1) for _ in range(500)]
                nursery.start_soon(books.must_submit, *batch)
            await trio.testing.wait_all_tasks_blocked()
            await ledger.aclose()
    async with open_embedded_ledger(path) as ledger:
        # Those that had their turn before the closing were applied and answered; the others would have raised.
        assert await Books(ledger).balance(target) == (2500, 0)


async def test_a_call_cancelled_in_the_queue_is_not_applied_and_one_begun_is_whole(path: Path) -> None:
    async with open_embedded_ledger(path) as ledger:
        books = Books(ledger)
        source, target = await books.pair(funds=10**6)
        cancelled = []
        for _ in range(30):
            batches = [[books.transfer(source, target, 1) for _ in range(40)] for _ in range(3)]
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    for batch in batches:
                        nursery.start_soon(books.submit, *batch)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            cancelled += batches
        await books.must_submit(books.transfer(source, target, 1))
        applied = 0
        for batch in cancelled:
            found = await ledger.lookup_transfers([one.id for one in batch])
            assert len(found) in (0, len(batch))
            applied += len(found)
        assert await books.balance(target) == (applied + 1, 0)
        assert applied < 30 * 3 * 40


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"amount": -1}, ValueError, r"transfers\[1\].amount is -1; .* at most 128 bits"),
        ({"amount": 2**128}, ValueError, r"transfers\[1\].amount"),
        ({"id": 2**128}, ValueError, r"transfers\[1\].id"),
        ({"user_data_64": 2**64}, ValueError, r"transfers\[1\].user_data_64 .* at most 64 bits"),
        ({"user_data_32": 2**32}, ValueError, r"transfers\[1\].user_data_32"),
        ({"timeout": 2**32}, ValueError, r"transfers\[1\].timeout"),
        ({"ledger": 2**32}, ValueError, r"transfers\[1\].ledger"),
        ({"code": 2**16}, ValueError, r"transfers\[1\].code .* at most 16 bits"),
        ({"code": -1}, ValueError, r"transfers\[1\].code"),
        ({"flags": 2**16}, ValueError, r"transfers\[1\].flags"),
        ({"amount": 1.5}, TypeError, r"transfers\[1\].amount is 1.5; give an integer"),
        ({"amount": "1"}, TypeError, r"transfers\[1\].amount is '1'"),
        ({"flags": "linked"}, TypeError, r"transfers\[1\].flags"),
        ({"code": None}, TypeError, r"transfers\[1\].code"),
    ],
)
async def test_what_does_not_fit_the_wire_is_refused_by_name(path: Path, change, error, text) -> None:
    async with open_embedded_ledger(path) as ledger:
        books = Books(ledger)
        source, target = await books.pair()
        good = books.transfer(source, target, 1)
        with pytest.raises(error, match=text):
            await books.submit(good, replace(books.transfer(source, target, 1), **change))
        assert await books.balance(target) == (0, 0)
        await books.must_submit(good)


async def test_other_requests_that_do_not_fit(path: Path) -> None:
    async with open_embedded_ledger(path) as ledger:
        books = Books(ledger)
        source, target = await books.pair()
        transfer = books.transfer(source, target, 1)
        with pytest.raises(ValueError, match="8190 events do not fit one request; send at most 8189"):
            await books.submit(*[transfer] * 8190)
        with pytest.raises(ValueError, match=r"accounts\[0\].user_data_32"):
            await ledger.create_accounts([tb.Account(id=1, ledger=1, code=1, user_data_32=-1)])
        with pytest.raises(ValueError, match=r"transfers\[0\].flags: .* does not import"):
            await books.submit(replace(transfer, flags=tb.TransferFlags.IMPORTED))
        with pytest.raises(ValueError, match=r"accounts\[0\].flags: .* does not import"):
            await ledger.create_accounts([tb.Account(id=1, ledger=1, code=1, flags=tb.AccountFlags.IMPORTED)])
        with pytest.raises(ValueError, match=r"ids\[1\]"):
            await ledger.lookup_accounts([1, -1])
        with pytest.raises(TypeError, match=r"ids\[0\]"):
            await ledger.lookup_transfers(["1"])  # type: ignore[list-item]
        with pytest.raises(ValueError, match=r"limit: 8190 .* at most 8189"):
            await ledger.query_accounts(tb.QueryFilter(0, 0, 0, 0, 0, 0, 0, 8190, tb.QueryFilterFlags.NONE))
        assert await books.submit(transfer, replace(transfer, id=1, flags=tb.TransferFlags.IMPORTED)) == [
            Status.CREATED,
            Status.IMPORTED_EVENT_NOT_EXPECTED,
        ]


async def test_memory_for_accounts_is_bounded(path: Path) -> None:
    async with open_embedded_ledger(path, accounts_cached_max=100) as ledger:
        books = Books(ledger)
        accounts = [
            tb.Account(id=books.new_id(), ledger=books.ledger_number, code=1, flags=LIMITED) for _ in range(1000)
        ]
        await ledger.create_accounts(accounts)
        outside = await books.account()
        await books.must_submit(*[books.transfer(outside, one.id, 1) for one in accounts])
        await books.must_submit(*[books.transfer(one.id, outside, 1) for one in accounts])
        assert ledger.statistics().accounts_cached <= 100
        assert await books.balance(outside) == (0, 0)


def test_repr_and_type(path: Path) -> None:
    async def look() -> str:
        async with open_embedded_ledger(path) as ledger:
            assert isinstance(ledger, EmbeddedLedger)
            return repr(ledger)

    assert str(path) in trio.run(look)
