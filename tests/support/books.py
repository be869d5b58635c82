"""A stopped server's files held against a client's notes, and a small life whose files are known to be sound."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

from support.server import ASSETS
from transfer_engine.engine import Engine, Refused, open_engine
from transfer_engine.engine.services.registry import EXTERNAL
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.http.demo_books import read_books
from transfer_engine.http.demo_invariants import Verdict, check_invariants
from transfer_engine.http.demo_load import ASSET_ID, MATCHING, SERVICES, VAULT
from transfer_engine.http.demo_notes import Answer, Asked, Notebook
from transfer_engine.http.settings import ServerSettings

USER = 7
AT_REST: dict[str, Any] = {
    "open_transfers": 0,
    "unsettled_intents": 0,
    "drives_under_way": 0,
    "users": {"messages_waiting": 0},
    "submitter": {"entries_waiting": 0, "entries_in_flight": 0},
    "account_opener": {"entries_waiting": 0, "entries_in_flight": 0},
    "recorder": {"entries_waiting": 0, "entries_in_flight": 0},
}
"""The part of an engine's statistics that tells that nothing is left."""


def settings_of(data_dir: Path, **backends: Any) -> ServerSettings:
    """Return what a server of the load's services runs with; ``backends`` are the settings of its clusters, if any."""
    return ServerSettings.model_validate(
        {"services": list(SERVICES), "assets": ASSETS, "data_dir": data_dir, **backends}
    )


async def examine(data_dir: Path, notebook: Notebook, figures: dict[str, Any] | None, **backends: Any) -> list[Verdict]:
    """Check every invariant of a stopped server."""
    books = await read_books(settings_of(data_dir, **backends), {note.asked.user_id for note in notebook})
    return check_invariants(notebook, books, figures)


def breaches(verdicts: Iterable[Verdict]) -> list[str]:
    """Return all breaches, each behind its invariant's name."""
    return [f"{verdict.invariant}: {breach}" for verdict in verdicts for breach in verdict.breaches]


def small_plan() -> list[Asked]:
    """Return two credits, and one transfer of each kind and with each kind of end, one after the other."""
    plan = [("funding-credit", EXTERNAL, "funding", 1_000), ("core-credit", EXTERNAL, MATCHING, 1_000)]
    in_turn = [
        ("moved", "funding", "trading", 10),
        ("to-core", "funding", MATCHING, 5),
        ("from-core", MATCHING, "trading", 3),
        ("between", MATCHING, VAULT, 4),
        ("too-much", "funding", "trading", 10_000),
        ("core-too-much", MATCHING, "trading", 10_000),
        ("rolled-back", MATCHING, VAULT, 2),
    ]
    return [
        Asked(key=key, source=source, target=target, user_id=USER, asset_id=ASSET_ID, amount=amount)
        for key, source, target, amount in plan
    ] + [
        Asked(key=key, source=source, target=target, user_id=USER, asset_id=ASSET_ID, amount=amount, turn=turn)
        for turn, (key, source, target, amount) in enumerate(in_turn)
    ]


async def small_life(data_dir: Path) -> Notebook:
    """Live the small plan in process; the notes agree with the files."""
    notebook = Notebook()
    async with open_engine(settings_of(data_dir)) as engine:
        for asked in small_plan():
            if asked.key == "rolled-back":
                closed = Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed")
                engine.simulated_cores[VAULT].behave(closed)
            await ask(engine, notebook, asked)
    return notebook


async def ask(engine: Engine, notebook: Notebook, asked: Asked) -> None:
    """Be a client in process, and note what is told."""
    note = notebook.note(asked)
    note.sent += 1
    try:
        if asked.is_credit:
            outcome = await engine.credit(
                user_id=asked.user_id,
                account=asked.target,
                asset_id=asked.asset_id,
                amount=asked.amount,
                idempotency_key=asked.key,
            )
        else:
            outcome = await engine.transfer(
                source=asked.source,
                target=asked.target,
                user_id=asked.user_id,
                asset_id=asked.asset_id,
                amount=asked.amount,
                idempotency_key=asked.key,
            )
    except Refused as refused:
        note.answers.append(answer(asked, code=refused.code))
    else:
        note.answers.append(answer(asked, status=outcome.status, is_replay=outcome.replayed))


def answer(asked: Asked, *, status: Any = None, code: str = "", is_replay: bool = False) -> Answer:
    """Return what a client is told of its own transfer."""
    return Answer(
        http_status=422 if code else 200,
        status=status,
        code=code,
        req_id="" if code else str(UUID(int=asked.req_id)),
        message=None,
        is_replay=is_replay,
        took_ms=0.0,
    )
