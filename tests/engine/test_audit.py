"""The audit finds every breach: an audit that can't fail is worth nothing."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import msgspec
import pytest
import trio
from tigerbeetle import Account, AccountFlags, TransferFlags

from support.engines import DIRECT, FREEZING, PAIRS, World
from support.forgeries import (
    FUNDING,
    LIES,
    TRADING,
    a_committed_row_turns_into_failed,
    a_committed_row_turns_into_rolled_back,
    a_hold_is_under_another_leg,
    a_leg_is_not_of_the_transfer_that_it_names,
    a_refused_row_turns_into_committed,
    a_refused_row_turns_into_rolled_back,
    a_rolled_back_row_turns_into_committed,
    a_row,
    a_row_has_another_bodys_fingerprint,
    a_row_is_lost,
    a_row_of_a_rollback_is_lost,
    a_row_of_nobody_is_committed,
    a_row_says_an_unknown_service,
    a_row_says_another_amount,
    a_row_says_another_target,
    a_row_says_another_user,
    a_row_stays_in_between,
    a_tombstone_moves_money,
    leg,
    replace,
    send,
)
from transfer_engine.engine.audit import FINDINGS_MOST, AuditReport, audit
from transfer_engine.engine.legs import account_id
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.transfers import TransferState

OUTSIDE = account_id(0, 1, 1)


async def look(world: World, *, is_healed: bool = True) -> AuditReport:
    return await audit(world.ledger, world.records, world.registry(dict(world.cores)), is_healed=is_healed)


@pytest.fixture
async def busy(world: World) -> World:
    """A world in which everything has happened once: transfers of all pairs, refused, rolled back and voided ones."""
    async with world.engine() as engine:
        for number, pair in enumerate(PAIRS.values()):
            await world.ask(engine, *pair, key=f"taken {number}")
            await world.ask(engine, *pair, amount=5_000, key=f"refused {number}")
        world.cores[DIRECT].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="no"))
        for pair in (("funding", DIRECT), (FREEZING, DIRECT)):
            await world.ask(engine, *pair, key=f"rolled back {pair}")
    await world.check()
    return world


# One function for each way in which the books can be wrong, and the invariant that it breaks.


async def a_row_of_nothing_stays_in_between(world: World) -> None:
    row = a_row(world, TransferState.FAILED, "funding")
    replace(world, row, state=TransferState.SOURCE_PENDING)


async def a_row_between_cores_says_another_user(world: World) -> None:
    """Their accounts in the ledger are everybody's: only the fingerprint tells."""
    row = next(row for row in world.records.rows.values() if {row.source, row.target} == {FREEZING, DIRECT})
    replace(world, row, user_id=77)


async def a_hold_stays_open(world: World) -> None:
    await send(world, leg(1, flags=TransferFlags.PENDING))


async def a_hold_of_a_failed_row_stays_open(world: World) -> None:
    row = a_row(world, TransferState.FAILED, "funding")
    world.records.rows[LIES] = msgspec.structs.replace(row, req_id=UUID(int=LIES))
    await send(world, leg(1, flags=TransferFlags.PENDING))


async def a_hold_of_a_committed_row_stays_open(world: World) -> None:
    row = a_row(world, TransferState.COMMITTED, "funding")
    world.records.rows[LIES] = msgspec.structs.replace(row, req_id=UUID(int=LIES))
    await send(world, leg(1, flags=TransferFlags.PENDING))


async def somebody_moves_money_past_the_engine(world: World) -> None:
    await send(world, leg(0, user_data_128=LIES))


async def a_post_takes_a_part(world: World) -> None:
    await send(
        world,
        leg(1, flags=TransferFlags.PENDING),
        leg(2, amount=4, pending_id=LIES | 1, flags=TransferFlags.POST_PENDING_TRANSFER),
    )


async def a_post_is_of_another_transfers_hold(world: World) -> None:
    await send(
        world,
        leg(1, flags=TransferFlags.PENDING),
        leg(
            18, id=LIES + 16 | 2, user_data_128=LIES + 16, pending_id=LIES | 1,
            flags=TransferFlags.POST_PENDING_TRANSFER,
        ),
    )  # fmt: skip


async def a_users_account_goes_below_zero(world: World) -> None:
    """An account that was made with an omnibus one's flags: nothing stops it."""
    poor = account_id(9, 1, 2)
    await world.ledger.open_accounts(Account(id=poor, ledger=1, code=2, user_data_64=9, flags=AccountFlags.NONE))
    await send(
        world,
        leg(1, debit_account_id=poor, flags=TransferFlags.PENDING),
        leg(2, debit_account_id=poor, amount=(1 << 128) - 1, pending_id=LIES | 1,
            flags=TransferFlags.POST_PENDING_TRANSFER),
    )  # fmt: skip


Breach = Callable[[World], Awaitable[None]]
BREACHES: list[tuple[Breach, set[str]]] = [
    (a_row_is_lost, {"I7"}),
    (a_row_of_a_rollback_is_lost, {"I7"}),
    (a_committed_row_turns_into_failed, {"I3"}),
    (a_committed_row_turns_into_rolled_back, {"I3"}),
    (a_rolled_back_row_turns_into_committed, {"I3"}),
    (a_refused_row_turns_into_committed, {"I3"}),
    (a_refused_row_turns_into_rolled_back, {"I3"}),
    (a_row_stays_in_between, {"I7"}),
    (a_row_of_nothing_stays_in_between, {"I7"}),
    (a_row_says_another_amount, {"I2"}),
    (a_row_says_another_user, {"I2"}),
    (a_row_between_cores_says_another_user, {"I2"}),
    (a_row_says_another_target, {"I2"}),
    (a_row_says_an_unknown_service, {"I2"}),
    (a_row_has_another_bodys_fingerprint, {"I2"}),
    (a_row_of_nobody_is_committed, {"I3"}),
    (a_hold_stays_open, {"I7"}),
    (a_hold_of_a_failed_row_stays_open, {"I3"}),
    (a_hold_of_a_committed_row_stays_open, {"I3"}),
    (somebody_moves_money_past_the_engine, {"I2"}),
    (a_leg_is_not_of_the_transfer_that_it_names, {"I2"}),
    (a_post_takes_a_part, {"I2"}),
    (a_post_is_of_another_transfers_hold, {"I2"}),
    (a_hold_is_under_another_leg, {"I2"}),
    (a_tombstone_moves_money, {"I2"}),
    (a_users_account_goes_below_zero, {"I1"}),
]


@pytest.mark.parametrize(("breach", "invariants"), BREACHES, ids=[breach.__name__ for breach, _ in BREACHES])
async def test_a_breach_is_found(world: World, busy: World, breach: Breach, invariants: set[str]) -> None:
    assert (await look(world)).holds
    await breach(busy)
    report = await look(world)
    assert not report.holds
    assert invariants <= {finding.invariant for finding in report.findings}, report.findings
    assert report.breaches >= len(report.findings) > 0
    assert all(finding.what for finding in report.findings)


async def test_a_balance_that_does_not_sum_to_zero(world: World, busy: World) -> None:
    """Only a broken ledger has one: here it forgets an account, and tells a wrong balance of another one."""
    original = world.ledger.query_accounts

    async def lying(query_filter):  # type: ignore[no-untyped-def]
        accounts = await original(query_filter)
        for account in accounts:
            if account.id == FUNDING:
                account.credits_posted += 5
        return [account for account in accounts if account.id != TRADING]

    busy.ledger.query_accounts = lying  # type: ignore[method-assign]
    report = await look(world)
    assert {finding.invariant for finding in report.findings} == {"I1"}
    assert any("sum to" in finding.what for finding in report.findings)
    assert any("not what its transfers add up to" in finding.what for finding in report.findings)


async def test_the_counts_of_a_busy_world(world: World, busy: World) -> None:
    report = await look(world)
    assert report.holds
    assert report.posted == sum(row.state is TransferState.COMMITTED for row in busy.records.rows.values())
    # Refused by a core: the hold stood, and was voided.
    assert report.voided == 2 + 4
    assert report.open_holds == report.unfinished_records == report.breaches == 0
    assert report.records == len(busy.records.rows)
    assert report.accounts == len({account for batch in busy.ledger.batches for event in batch for account in
                                   (event.debit_account_id, event.credit_account_id)})  # fmt: skip


async def test_before_everything_is_healed_what_is_under_way_is_no_breach(world: World) -> None:
    world.cores[FREEZING].behave(Behaviour(crash_before=999))
    async with world.engine() as engine:
        await world.ask(engine, "funding", FREEZING)
        report = await look(world, is_healed=False)
        assert report.holds, report.findings
        assert (report.open_holds, report.unfinished_records) == (1, 1)
        assert not (await look(world)).holds
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine)
    assert (await look(world)).holds


async def test_findings_are_bounded_and_all_are_counted(world: World) -> None:
    async with world.engine() as engine, trio.open_nursery() as nursery:
        for _ in range(FINDINGS_MOST + 20):
            nursery.start_soon(lambda: world.ask(engine, "funding", "trading", amount=1))
    world.records.rows.clear()
    report = await look(world)
    assert len(report.findings) == FINDINGS_MOST
    assert report.breaches >= FINDINGS_MOST + 20


async def test_pages(world: World, busy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of a page, all is seen, once."""
    whole = await look(world)
    for size in (1, 2, 7):
        monkeypatch.setattr("transfer_engine.engine.records.paging.PAGE_RECORDS_MOST", size)
        assert await look(world) == whole
    del busy.records.rows[a_row(busy, TransferState.COMMITTED).req_id.int]
    assert not (await look(world)).holds


async def test_an_empty_world_holds(world: World) -> None:
    empty = World()
    report = await look(empty)
    assert report.holds
    assert (report.accounts, report.records, report.ledger_transfers) == (0, 0, 0)
