"""What TigerBeetle 0.17.9 answers, row by row of the design's table, as seen through the coordinator."""

from typing import Any

import pytest
import trio
from tigerbeetle import CreateTransferStatus, Transfer, TransferFlags

from support.engines import DIRECT, FREEZING, PAIRS, Told, World
from support.inline_ledger import CLOSE_CREDIT, CLOSE_DEBIT
from transfer_engine.engine.legs import LedgerBody, account_id
from transfer_engine.engine.outcomes import KeyReused, RefusalCode
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.ids import HOLD, LEG_MAX, fingerprint, keyed_req_id
from transfer_engine.schema.transfers import TransferState, TransferStatus

EXTERNAL, FUNDING, TRADING = 1, 2, 3
REQ_ID = keyed_req_id("", "transfer", "key")


def body(*, amount: int = 100) -> LedgerBody:
    """The body that `funding` to `trading` of user 1 has in the ledger."""
    return LedgerBody(
        req_id=REQ_ID,
        debit_account_id=account_id(1, 1, FUNDING),
        credit_account_id=account_id(1, 1, TRADING),
        asset_id=1,
        amount=amount,
        fingerprint=fingerprint(
            source="funding", target="trading", user_id=1, target_user_id=1, asset_id=1, amount=amount
        ),
    )


async def balances(world: World) -> tuple[int, int]:
    return await world.spendable(1, "funding"), await world.spendable(1, "trading")


async def foreign_account(world: World) -> int:
    """An account that is nobody's, to close others against."""
    await world.ledger.open_accounts(_account(77))
    return 77


def _account(number: int):  # type: ignore[no-untyped-def]
    from tigerbeetle import Account

    return Account(id=number, ledger=1, code=9)


def lose_row(world: World, told: Told) -> None:
    """The record store forgets a row: as if its write had been lost, and the engine killed."""
    del world.records.rows[told.outcome.req_id.int]


# hold, post in one batch: created, created / exists, exists


async def test_a_replay_is_answered_from_the_record(world: World) -> None:
    async with world.engine() as engine:
        first = await world.ask(engine, "funding", "trading", key="key")
        again = await world.ask(engine, "funding", "trading", key="key")
    assert (first.outcome.status, first.outcome.replayed) == (TransferStatus.COMMITTED, False)
    assert (again.outcome.status, again.outcome.replayed) == (TransferStatus.COMMITTED, True)
    assert again.outcome.req_id == first.outcome.req_id
    assert await balances(world) == (900, 100)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("lost", ["hold", "intent", "row committed", "post"])
async def test_an_answer_that_was_lost_makes_no_replay_of_the_first_request(
    world: World, lost: str, pair: tuple[str, str]
) -> None:
    async with world.engine() as engine:
        world.wire.next_fates[lost] = ["lose_answer", "lose_request", "lose_answer"]
        told = await world.ask(engine, *pair, key="key")
    assert (told.outcome.status, told.outcome.replayed) == (TransferStatus.COMMITTED, False)
    await world.check()


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_a_replay_without_a_record_moves_nothing_and_writes_the_same_row(
    world: World, pair: tuple[str, str]
) -> None:
    async with world.engine() as engine:
        first = await world.ask(engine, *pair, key="key")
        row = world.row(first.outcome.req_id)
        before = [await world.spendable(1, service) for service in pair]
        lose_row(world, first)
        await trio.sleep(7)
        again = await world.ask(engine, *pair, key="key")
    assert again.outcome.status is TransferStatus.COMMITTED
    assert world.row(first.outcome.req_id) == row, "the times are the ledger's"
    assert [await world.spendable(1, service) for service in pair] == before
    await world.check()


# … with too little money: exceeds_credits, pending_transfer_not_found / id_already_failed twice, also after funding


@pytest.mark.parametrize("is_row_lost", [False, True])
@pytest.mark.parametrize("target", ["trading", FREEZING])
async def test_insufficient_funds_are_final_also_after_funding(world: World, target: str, is_row_lost: bool) -> None:
    async with world.engine() as engine:
        first = await world.ask(engine, "funding", target, amount=1_001, key="key")
        assert (first.outcome.status, first.outcome.message) == (TransferStatus.FAILED, "insufficient funds")
        await engine.credit(user_id=1, account="funding", asset_id=1, amount=5_000)
        if is_row_lost:
            lose_row(world, first)
        again = await world.ask(engine, "funding", target, amount=1_001, key="key")
        assert (again.outcome.status, again.outcome.message) == (TransferStatus.FAILED, "insufficient funds")
        assert again.outcome.replayed is not is_row_lost
        other = await world.ask(engine, "funding", target, amount=1_000, key="key")
        assert isinstance(other.answer, KeyReused)
    assert await world.spendable(1, "funding") == 6_000
    await world.check()


# … another body under the same id: exists_with_different_*


OTHER_BODIES: list[dict[str, Any]] = [
    {"amount": 99},
    {"amount": 101},
    {"asset_id": 2},
    {"user_id": 2},
    {"target_user_id": 2},
    {"target": FREEZING},
    {"target": DIRECT},
    {"source": FREEZING},
    {"source": FREEZING, "target": DIRECT},
    {"source": "trading", "target": "funding"},
]


def is_another_body(pair: tuple[str, str], other: dict[str, Any]) -> bool:
    asked = {"source": pair[0], "target": pair[1]}
    return asked | other != asked and (asked | other)["source"] != (asked | other)["target"]


@pytest.mark.parametrize("is_row_lost", [False, True])
@pytest.mark.parametrize(
    ("pair", "other"),
    [
        pytest.param(pair, other, id=f"{pair} {other}")
        for pair in ("wallet->wallet", "wallet->core", "core->core")
        for other in OTHER_BODIES
        if is_another_body(PAIRS[pair], other)
    ],
)
async def test_another_body_under_the_same_key_is_refused_and_nothing_is_written(
    world: World, pair: str, other: dict[str, Any], is_row_lost: bool
) -> None:
    source, target = PAIRS[pair]
    async with world.engine() as engine:
        first = await world.ask(engine, source, target, key="key")
        assert first.outcome.status is TransferStatus.COMMITTED
        if is_row_lost:
            lose_row(world, first)
        rows = dict(world.records.rows)
        holdings = await everything(world)
        asked = {"source": source, "target": target} | other
        told = await world.ask(engine, asked.pop("source"), asked.pop("target"), key="key", **asked)
        assert isinstance(told.answer, KeyReused)
        assert (told.answer.code, told.answer.field) == (RefusalCode.KEY_REUSED, "idempotency_key")
        assert world.records.rows == rows
        assert await everything(world) == holdings
        assert engine.statistics().open_transfers == engine.statistics().unsettled_intents == 0
        again = await world.ask(engine, source, target, key="key")
        assert again.outcome.status is TransferStatus.COMMITTED
    await world.check()


async def everything(world: World) -> list[int]:
    return [
        await world.spendable(user_id, service, asset_id)
        for user_id in (1, 2)
        for service in ("funding", "trading", FREEZING, DIRECT)
        for asset_id in (1, 2)
    ]


@pytest.mark.parametrize("state", [TransferState.TARGET_PENDING, TransferState.COMPENSATING])
async def test_another_body_does_not_touch_a_hold_that_stands(world: World, state: TransferState) -> None:
    """The first body waits for its core in a former life; the other body comes with posts of its own."""
    refuse = state is TransferState.COMPENSATING
    world.cores[DIRECT].behave(
        Behaviour(
            ops=frozenset({CoreOperation.DEPOSIT}), refuse="no" if refuse else None, crash_before=0 if refuse else 999
        )
    )
    world.cores[FREEZING].behave(Behaviour(ops=frozenset({CoreOperation.ROLLBACK}), crash_before=999))
    async with world.engine() as engine:
        first = await world.ask(engine, FREEZING, DIRECT, key="key")
        assert world.row(first.outcome.req_id).state is state
    world.records.blobs.clear()  # the first body's intent is another engine's
    async with world.engine() as engine:
        for other in (
            {"source": FREEZING, "target": DIRECT, "amount": 50},
            {"source": FREEZING, "target": DIRECT, "target_user_id": 2},
            {"source": "funding", "target": "trading"},
        ):
            told = await world.ask(engine, other.pop("source"), other.pop("target"), key="key", **other)
            assert isinstance(told.answer, KeyReused)
        assert world.row(first.outcome.req_id).state is state
        assert [transfer.id & LEG_MAX for transfer in await world.ledger.lookup_transfers(legs())][:1] == [HOLD]
        for core in world.cores.values():
            core.behave(Behaviour())
        again = await world.ask(engine, FREEZING, DIRECT, key="key")
        assert again.outcome.status == ("rolled_back" if refuse else "committed")
        assert again.outcome.replayed, "it goes on from the row that the other engine wrote"
        assert (f"{DIRECT}.deposit" in world.wire.names()) is not refuse
    await world.check()


def legs() -> list[int]:
    return [REQ_ID | leg for leg in range(1, LEG_MAX + 1)]


# … the hold refused unburnt (overflow), post burnt; after the repair: created, id_already_failed: next leg


async def test_an_overflow_is_not_final_and_the_burnt_post_is_posted_under_the_next_leg(world: World) -> None:
    other = await foreign_account(world)
    huge = await world.ledger.foreign(
        account_id(0, 1, EXTERNAL), other, amount=(1 << 128) - 5_000, flags=TransferFlags.PENDING
    )
    async with world.engine() as engine:
        outcome = await engine.credit(user_id=1, account="funding", asset_id=1, amount=5_000)
        assert outcome.status is TransferStatus.PENDING
        assert engine.statistics().alerts["hold_undecided"] == 1
        await trio.sleep(10)
        assert engine.statistics().open_transfers == 1
        await world.ledger.undo(huge)
        await world.heal(engine)
        assert world.row(outcome.req_id).state is TransferState.COMMITTED
        assert world.wire.names(outcome.req_id)[-4:] == ["hold", "post", "post 4", "row committed"]
    assert await balances(world) == (6_000, 0)


async def test_a_burnt_post_is_not_sent_twice(world: World) -> None:
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading")
        [answer] = await world.ledger.create_transfers([body().post(2)])
        assert answer.status is CreateTransferStatus.PENDING_TRANSFER_NOT_FOUND
        told = await world.ask(engine, "funding", "trading", key="key")
        assert told.outcome.status is TransferStatus.COMMITTED
        assert world.wire.names(told.outcome.req_id) == ["intent", "hold", "post", "post 4", "row committed"]
    await world.check()


# void before its hold ever came: pending_transfer_not_found, and that void's id is burnt: the next odd leg


async def test_a_void_whose_leg_is_burnt_goes_under_the_next_one(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="closed for today"))
    body_to_core = LedgerBody(
        req_id=REQ_ID,
        debit_account_id=account_id(1, 1, FUNDING),
        credit_account_id=account_id(0, 1, 100),
        asset_id=1,
        amount=100,
        fingerprint=0,
    )
    async with world.engine() as engine:
        for leg in (3, 5):
            [answer] = await world.ledger.create_transfers([body_to_core.void(leg)])
            assert answer.status is CreateTransferStatus.PENDING_TRANSFER_NOT_FOUND
        told = await world.ask(engine, "funding", FREEZING, key="key")
        assert told.outcome.status is TransferStatus.ROLLED_BACK
        assert world.wire.names(told.outcome.req_id)[-4:] == ["void", "void 5", "void 7", "row rolled_back"]
    assert await world.spendable(1, "funding") == 1_000
    await world.check()


# post while an account is closed: debit_account_already_closed; after reopening id_already_failed (next leg: created)


@pytest.mark.parametrize("closed", ["debit", "credit"])
async def test_a_post_on_a_closed_account_waits_for_its_reopening_and_burns_few_legs(world: World, closed: str) -> None:
    other = await foreign_account(world)
    omnibus, funding = account_id(0, 1, 100), account_id(1, 1, FUNDING)
    async with world.engine() as engine, trio.open_nursery() as nursery:
        await world.ask(engine, "funding", FREEZING)
        stop = world.wire.stop(f"{FREEZING}.deposit")
        nursery.start_soon(lambda: world.ask(engine, "funding", FREEZING, key="key"))
        await stop.reached.wait()
        if closed == "debit":
            closing = await world.ledger.foreign(funding, other, flags=CLOSE_DEBIT)
        else:
            closing = await world.ledger.foreign(other, omnibus, flags=CLOSE_CREDIT)
        stop.released.set()
        await trio.sleep(200)  # some sixty replays
        assert engine.statistics().open_transfers == 1
        assert engine.statistics().alerts["end_undecided"] > 0
        tried = {name for name in world.wire.names() if name.startswith("post")}
        assert tried <= {"post", "post 4"}, "a leg burnt at every replay would leave none for the end"
        await world.ledger.undo(closing)
        await world.heal(engine)
    assert await world.spendable(1, FREEZING) == 1_200
    assert await world.spendable(1, "funding") == 800


@pytest.mark.parametrize("closed", ["debit", "credit"])
@pytest.mark.parametrize("is_row_lost", [False, True])
async def test_a_hold_on_a_closed_account_is_a_final_refusal(world: World, closed: str, is_row_lost: bool) -> None:
    other = await foreign_account(world)
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading")
        if closed == "debit":
            closing = await world.ledger.foreign(account_id(1, 1, FUNDING), other, flags=CLOSE_DEBIT)
        else:
            closing = await world.ledger.foreign(other, account_id(1, 1, TRADING), flags=CLOSE_CREDIT)
        told = await world.ask(engine, "funding", "trading", key="key")
        side = "source" if closed == "debit" else "target"
        assert (told.outcome.status, told.outcome.message) == ("failed", f"the {side} account is closed")
        await world.ledger.undo(closing)
        if is_row_lost:
            lose_row(world, told)
        again = await world.ask(engine, "funding", "trading", key="key")
        assert again.outcome.status is TransferStatus.FAILED
    assert await balances(world) == (900, 100)


# tombstone under the hold's id, hold late; its post: created; exists_with_different_flags; pending_transfer_not_pending


@pytest.mark.parametrize("target", ["trading", FREEZING])
async def test_a_tombstone_under_the_holds_id_means_failed(world: World, target: str) -> None:
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading")
        [answer] = await world.ledger.create_transfers([body().tombstone()])
        assert answer.status is CreateTransferStatus.CREATED
        told = await world.ask(engine, "funding", target, key="key")
        assert (told.outcome.status, told.outcome.message) == ("failed", "cancelled by an operator")
        again = await world.ask(engine, "funding", target, key="key")
        assert (again.outcome.status, again.outcome.replayed) == ("failed", True)
    assert await balances(world) == (900, 100)
    await world.check()


async def test_a_transfer_of_any_other_kind_under_the_holds_id_owns_the_key(world: World) -> None:
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading")
        stranger = Transfer(
            id=REQ_ID | HOLD,
            debit_account_id=account_id(1, 1, FUNDING),
            credit_account_id=account_id(1, 1, TRADING),
            amount=100,
            ledger=1,
            code=1,
        )
        [answer] = await world.ledger.create_transfers([stranger])
        assert answer.status is CreateTransferStatus.CREATED
        told = await world.ask(engine, "funding", "trading", key="key")
        assert isinstance(told.answer, KeyReused)
        assert REQ_ID not in world.records.rows
