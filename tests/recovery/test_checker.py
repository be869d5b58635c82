"""The check of the invariants passes sound books, and finds every forgery: each invariant has one that breaks it."""

import copy
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio

from support.books import AT_REST, USER, answer, ask, breaches, examine, settings_of, small_life
from transfer_engine.engine import open_engine
from transfer_engine.engine.backends import open_backends
from transfer_engine.engine.legs import LedgerBody
from transfer_engine.http.demo_load import ASSET_ID, MATCHING, VAULT
from transfer_engine.http.demo_notes import Asked, Note, Notebook
from transfer_engine.schema.ids import HOLD
from transfer_engine.schema.transfers import TransferRecord, TransferState, TransferStatus

Case = tuple[Path, Notebook]
GHOST = Asked(key="ghost", source="funding", target="trading", user_id=USER, asset_id=ASSET_ID, amount=1)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Case:
    data_dir = tmp_path_factory.mktemp("sound") / "data"
    return data_dir, trio.run(small_life, data_dir)


@pytest.fixture
def case(sound: Case, tmp_path: Path) -> Case:
    """The sound books, in copy: to be forged."""
    shutil.copytree(sound[0], tmp_path / "data")
    return tmp_path / "data", copy.deepcopy(sound[1])


def noted(notebook: Notebook, key: str) -> Note:
    return next(note for note in notebook if note.asked.key == key)


def sql(path: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def record_of(asked: Asked, state: TransferState) -> TransferRecord:
    return TransferRecord(
        req_id=UUID(int=asked.req_id),
        source=asked.source,
        target=asked.target,
        user_id=asked.user_id,
        target_user_id=asked.user_id,
        asset_id=asked.asset_id,
        amount=asked.amount,
        state=state,
        created_at=1,
        updated_at=1,
        error="",
        retry_count=0,
        fingerprint=asked.fingerprint,
    )


async def write_row(data_dir: Path, record: TransferRecord) -> None:
    async with open_backends(settings_of(data_dir)) as (_, _, records):
        await records.write([], [record])


async def balance_grows(data_dir: Path, _: Notebook) -> None:
    sql(
        data_dir / "ledger.db",
        "UPDATE balances SET credits_posted = credits_posted + 1 WHERE account = (SELECT min(timestamp) FROM accounts)",
    )


async def account_is_overdrawn(data_dir: Path, _: Notebook) -> None:
    sql(data_dir / "ledger.db", "UPDATE balances SET debits_posted = 5000")


async def core_grows(data_dir: Path, _: Notebook) -> None:
    sql(data_dir / f"core-{VAULT}.db", "UPDATE balances SET available = available + 1")


async def moves_again(data_dir: Path, notebook: Notebook) -> None:
    """The amount of a transfer that has ended is moved once more, past its hold."""
    asked = noted(notebook, "moved").asked
    async with open_backends(settings_of(data_dir)) as (registry, ledger, _):
        body = LedgerBody(
            req_id=asked.req_id,
            debit_account_id=registry["funding"].account_id(USER, ASSET_ID),
            credit_account_id=registry["trading"].account_id(USER, ASSET_ID),
            asset_id=ASSET_ID,
            amount=asked.amount,
            fingerprint=asked.fingerprint,
        ).hold()
        body.id = asked.req_id | 14
        body.flags = type(body.flags)(0)
        [result] = await ledger.create_transfers([body])
        assert result.status.name == "CREATED"


async def nobody_asked(data_dir: Path, _: Notebook) -> None:
    async with open_engine(settings_of(data_dir)) as engine:
        await ask(engine, Notebook(), GHOST)


async def failed_row_says_committed(data_dir: Path, notebook: Notebook) -> None:
    await write_row(data_dir, record_of(noted(notebook, "too-much").asked, TransferState.COMMITTED))


async def rolled_back_row_says_committed(data_dir: Path, notebook: Notebook) -> None:
    await write_row(data_dir, record_of(noted(notebook, "rolled-back").asked, TransferState.COMMITTED))


async def core_forgot_its_deposit(data_dir: Path, notebook: Notebook) -> None:
    sql(
        data_dir / f"core-{VAULT}.db",
        "DELETE FROM operations WHERE req_id = ?",
        noted(notebook, "between").asked.req_id.to_bytes(16),
    )


async def committed_was_told_failed(_: Path, notebook: Notebook) -> None:
    note = noted(notebook, "moved")
    note.answers.append(answer(note.asked, status=TransferStatus.FAILED))


async def failed_was_told_committed(_: Path, notebook: Notebook) -> None:
    note = noted(notebook, "too-much")
    note.answers[:] = [answer(note.asked, status=TransferStatus.COMMITTED)]


async def answer_was_anothers(_: Path, notebook: Notebook) -> None:
    note = noted(notebook, "moved")
    note.answers.append(answer(noted(notebook, "to-core").asked, status=TransferStatus.COMMITTED))


async def verdict_and_refused_key(_: Path, notebook: Notebook) -> None:
    note = noted(notebook, "moved")
    note.answers.append(answer(note.asked, code="key_reused"))


async def core_rolled_back_what_is_posted(data_dir: Path, notebook: Notebook) -> None:
    sql(
        data_dir / f"core-{MATCHING}.db",
        "UPDATE operations SET state = 'rolled_back' WHERE req_id = ?",
        noted(notebook, "from-core").asked.req_id.to_bytes(16),
    )


async def core_kept_what_is_voided(data_dir: Path, notebook: Notebook) -> None:
    sql(
        data_dir / f"core-{MATCHING}.db",
        "UPDATE operations SET state = 'committed' WHERE req_id = ?",
        noted(notebook, "rolled-back").asked.req_id.to_bytes(16),
    )


async def overtaken(_: Path, notebook: Notebook) -> None:
    """The client says that it had sent the last one first."""
    notes = list(notebook)
    for note in notes:
        if note.asked.turn is not None:
            note.asked = msgspec.structs.replace(note.asked, turn=10 - note.asked.turn)


async def hold_is_left(data_dir: Path, _: Notebook) -> None:
    async with open_backends(settings_of(data_dir)) as (registry, ledger, _records):
        hold = LedgerBody(
            req_id=GHOST.req_id,
            debit_account_id=registry["funding"].account_id(USER, ASSET_ID),
            credit_account_id=registry["trading"].account_id(USER, ASSET_ID),
            asset_id=ASSET_ID,
            amount=1,
            fingerprint=GHOST.fingerprint,
        ).hold()
        [result] = await ledger.create_transfers([hold])
        assert result.status.name == "CREATED"
        assert hold.id == GHOST.req_id | HOLD


async def row_is_unfinished(data_dir: Path, notebook: Notebook) -> None:
    notebook.note(GHOST).sent += 1
    await write_row(data_dir, record_of(GHOST, TransferState.SOURCE_PENDING))


async def core_still_freezes(data_dir: Path, notebook: Notebook) -> None:
    sql(
        data_dir / f"core-{MATCHING}.db",
        "UPDATE operations SET state = 'withdrawn' WHERE req_id = ?",
        noted(notebook, "from-core").asked.req_id.to_bytes(16),
    )


async def nobody_was_answered(_: Path, notebook: Notebook) -> None:
    noted(notebook, "moved").answers.clear()


async def silence_was_told_as_failed(data_dir: Path, notebook: Notebook) -> None:
    """The ledger never heard of the hold, so it may still come."""
    note = notebook.note(GHOST)
    note.sent += 1
    note.answers.append(answer(GHOST, status=TransferStatus.FAILED))
    await write_row(data_dir, record_of(GHOST, TransferState.FAILED))


async def target_did_not_refuse(data_dir: Path, notebook: Notebook) -> None:
    sql(
        data_dir / f"core-{VAULT}.db",
        "DELETE FROM operations WHERE req_id = ?",
        noted(notebook, "rolled-back").asked.req_id.to_bytes(16),
    )


async def abandoned_moved_without_a_record(data_dir: Path, notebook: Notebook) -> None:
    """Its client never came back, and nobody else knows that it was begun."""
    await hold_is_left(data_dir, notebook)
    note = notebook.note(GHOST)
    note.sent += 1
    note.is_abandoned = True


FORGERIES: list[tuple[str, Callable[[Path, Notebook], Awaitable[None]]]] = [
    ("I1", balance_grows),
    ("I1", account_is_overdrawn),
    ("I1", core_grows),
    ("I2", moves_again),
    ("I2", nobody_asked),
    ("I2", core_grows),
    ("I2", failed_was_told_committed),
    ("I3", failed_row_says_committed),
    ("I3", rolled_back_row_says_committed),
    ("I3", core_forgot_its_deposit),
    ("I4", committed_was_told_failed),
    ("I4", failed_was_told_committed),
    ("I4", failed_row_says_committed),
    ("I4", answer_was_anothers),
    ("I4", verdict_and_refused_key),
    ("I5", core_rolled_back_what_is_posted),
    ("I5", core_kept_what_is_voided),
    ("I6", overtaken),
    ("I7", hold_is_left),
    ("I7", row_is_unfinished),
    ("I7", abandoned_moved_without_a_record),
    ("I7", core_still_freezes),
    ("I7", nobody_was_answered),
    ("I9", silence_was_told_as_failed),
    ("I9", target_did_not_refuse),
]


async def test_sound_books_pass(case: Case) -> None:
    data_dir, notebook = case
    verdicts = await examine(data_dir, notebook, AT_REST)
    assert [verdict.invariant for verdict in verdicts] == [f"I{number}" for number in range(1, 10)]
    assert breaches(verdicts) == []
    told = {note.asked.key: note.verdict for note in notebook}
    assert told["too-much"] == told["core-too-much"] == TransferStatus.FAILED
    assert told["rolled-back"] == TransferStatus.ROLLED_BACK


@pytest.mark.parametrize(("invariant", "forge"), FORGERIES)
async def test_a_forgery_is_found(
    case: Case, invariant: str, forge: Callable[[Path, Notebook], Awaitable[None]]
) -> None:
    data_dir, notebook = case
    await forge(data_dir, notebook)
    broken = {verdict.invariant for verdict in await examine(data_dir, notebook, AT_REST) if not verdict.holds}
    assert invariant in broken


@pytest.mark.parametrize(
    "path",
    [
        ("open_transfers",),
        ("unsettled_intents",),
        ("drives_under_way",),
        ("users", "messages_waiting"),
        ("submitter", "entries_in_flight"),
        ("account_opener", "entries_waiting"),
        ("recorder", "entries_waiting"),
    ],
)
async def test_what_is_left_in_memory_is_found(case: Case, path: tuple[str, ...]) -> None:
    figures = copy.deepcopy(AT_REST)
    place = figures
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = 3
    data_dir, notebook = case
    broken = {verdict.invariant for verdict in await examine(data_dir, notebook, figures) if not verdict.holds}
    assert broken == {"I8"}


@pytest.mark.parametrize("has_happened", [False, True])
async def test_an_abandoned_request_may_have_happened_or_not(case: Case, has_happened: bool) -> None:
    data_dir, notebook = case
    note = notebook.note(GHOST)
    note.sent += 1
    note.is_abandoned = True
    if has_happened:
        async with open_engine(settings_of(data_dir)) as engine:
            await ask(engine, Notebook(), GHOST)
    assert breaches(await examine(data_dir, notebook, AT_REST)) == []


async def test_each_invariant_has_a_forgery() -> None:
    assert {invariant for invariant, _ in FORGERIES} | {"I8"} == {f"I{number}" for number in range(1, 10)}
