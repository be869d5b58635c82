"""What is durable before what: the intent before anything, accounts before a hold, the last row before the answer."""

import pytest
import trio
import trio.testing

from support.engines import DIRECT, FREEZING, PAIRS, World
from transfer_engine.engine.ledger.protocol import BATCH_EVENTS_MAX
from transfer_engine.engine.legs import TRANSFER_CODE
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.transfers import TransferState, TransferStatus


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_nothing_is_asked_of_anybody_before_the_intent_is_durable(world: World, pair: tuple[str, str]) -> None:
    async with world.engine() as engine, trio.open_nursery() as nursery:
        calls = len(world.wire.log)
        stop = world.wire.stop("intent")
        nursery.start_soon(lambda: world.ask(engine, *pair, user_id=3))
        await stop.reached.wait()
        await trio.sleep(1)
        assert not {"accounts", "hold", "withdraw"} & set(world.wire.names()[calls:])
        stop.released.set()
        await world.heal(engine)
    await world.check()


@pytest.mark.parametrize(
    ("pair", "amount", "state"),
    [
        (("funding", "trading"), 100, "committed"),
        (("funding", "trading"), 5_000, "failed"),
        ((FREEZING, "funding"), 5_000, "failed"),
        (("funding", DIRECT), 100, "rolled_back"),
    ],
    ids=str,
)
async def test_a_client_is_answered_when_the_last_row_is_durable(
    world: World, pair: tuple[str, str], amount: int, state: str
) -> None:
    world.cores[DIRECT].behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="no"))
    async with world.engine() as engine, trio.open_nursery() as nursery:
        stop = world.wire.stop(f"row {state}")
        nursery.start_soon(lambda: world.ask(engine, *pair, amount=amount, deadline_ms=9_000))
        await stop.reached.wait()
        await trio.sleep(1)
        assert world.told[0].answer is None
        stop.released.set()
        await world.heal(engine)
    assert world.told[0].outcome.status.value == state
    await world.check()


async def test_accounts_are_acknowledged_before_the_first_hold_on_them_and_not_again(world: World) -> None:
    async with world.engine() as engine:
        await world.ask(engine, "funding", "trading")
        await world.ask(engine, "funding", "trading")
        names = [name for name in world.wire.names() if name in {"accounts", "hold"}]
        assert names == ["accounts", "hold", "hold"]


async def test_an_account_that_was_forgotten_is_acknowledged_again(world: World) -> None:
    async with world.engine(known_accounts_most=2) as engine:
        for user_id in (1, 2, 3, 1):
            told = await world.ask(engine, "funding", "trading", user_id=user_id)
            assert told.outcome.status is TransferStatus.COMMITTED
        assert world.wire.names().count("accounts") == 4
    await world.check()


async def test_a_transfers_events_are_never_split_and_never_interleaved(world: World) -> None:
    """More wait than fit one request: the cut is between two transfers."""
    many = BATCH_EVENTS_MAX // 2 + 200
    async with world.engine(
        user_batch_most=2_000, mailbox_capacity=9_000, waiting_least=9_000, deadline_ms=60_000
    ) as engine:
        async with trio.open_nursery() as nursery:
            stop = world.wire.stop("hold")
            nursery.start_soon(lambda: world.ask(engine, "funding", "trading", amount=1))
            await stop.reached.wait()
            for number in range(many):
                nursery.start_soon(
                    lambda number=number: engine.credit(
                        user_id=100 + number % 3_000, account="funding", asset_id=1, amount=1
                    )
                )
            await trio.testing.wait_all_tasks_blocked()
            stop.released.set()
        assert engine.statistics().ended == {"committed": many + 1}
    sizes = [len(batch) for batch in world.ledger.batches]
    assert max(sizes) > BATCH_EVENTS_MAX - 100
    for batch in world.ledger.batches:
        assert len(batch) <= BATCH_EVENTS_MAX
        assert all(event.code == TRANSFER_CODE for event in batch)
        for hold, post in zip(batch[::2], batch[1::2], strict=True):
            assert post.pending_id == hold.id
    await world.check()


async def test_a_ledger_that_answers_too_few_results_is_no_verdict_for_anybody(world: World) -> None:
    async with world.engine() as engine:
        world.wire.forged["hold"] = []
        told = await world.ask(engine, "funding", "trading", key="key")
        assert told.outcome.status is TransferStatus.PENDING
        world.wire.forged.clear()
    async with world.engine() as engine:
        await world.heal(engine)
    assert world.row(told.outcome.req_id).state is TransferState.COMMITTED
    await world.check()


async def test_balances_show_what_is_held_and_never_what_is_only_promised(world: World) -> None:
    async with world.engine() as engine, trio.open_nursery() as nursery:
        for pair, step in ((("funding", FREEZING), f"{FREEZING}.deposit"), ((FREEZING, "funding"), "post")):
            stop = world.wire.stop(step)
            nursery.start_soon(world.ask, engine, *pair)
            await stop.reached.wait()
            found = {one.account: (one.available, one.frozen) for one in await engine.balances(1) if one.asset_id == 1}
            if pair[0] == "funding":
                assert found == {"funding": (900, 100), FREEZING: (1_000, 0), DIRECT: (1_000, 0)}
            else:
                assert found == {"funding": (900, 0), FREEZING: (1_000, 100), DIRECT: (1_000, 0)}
            stop.released.set()
            await world.heal(engine)
        assert await engine.balances(77) == []
    await world.check()


async def test_a_credit_has_a_key_like_any_transfer(world: World) -> None:
    async with world.engine() as engine:
        answers = [
            await engine.credit(user_id=1, account="funding", asset_id=1, amount=50, idempotency_key="key")
            for _ in range(3)
        ]
        assert [answer.replayed for answer in answers] == [False, True, True]
        assert len({answer.req_id for answer in answers}) == 1
        record = await engine.get(answers[0].req_id)
        assert record is not None
        assert (record.source, record.target, record.user_id, record.target_user_id) == ("external", "funding", 1, 1)
    assert await world.spendable(1, "funding") == 1_050
    await world.check()
