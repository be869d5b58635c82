"""An operator ends what does not end by itself, and races with late posts, late cores and deaths of the engine."""

from collections.abc import Awaitable, Callable
from itertools import count

import pytest
import trio
from tigerbeetle import Account, CreateTransferStatus, TransferFlags

from support.engines import DIRECT, FREEZING, PAIRS, Told, World, in_a_loop, kill_at_every_call
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.legs import account_id
from transfer_engine.engine.open_transfers import OpenTransfer
from transfer_engine.engine.outcomes import InvalidTransfer, KeyReused, Overloaded, Resolution, TransferNotFound
from transfer_engine.engine.services.protocol import Failed, Success
from transfer_engine.engine.services.simulated import Behaviour, CoreOperation
from transfer_engine.schema.ids import fingerprint
from transfer_engine.schema.transfers import Intent, TransferState, TransferStatus

CORES = {FREEZING, DIRECT}
NOT_APPLIED = {"crash_before": 999}
APPLIED = {"lose_replies": 999}
WITH_CORES = {name: pair for name, pair in PAIRS.items() if CORES & set(pair)}


async def stuck(world: World, engine: Engine, pair: tuple[str, str], service: str, op: str, trouble: dict) -> Told:  # type: ignore[type-arg]
    """Ask for a transfer that gets stuck at one call of a core, or at its hold; all is well again afterwards."""
    if not service:
        world.ledger.forge = lambda event: (
            CreateTransferStatus.OVERFLOWS_DEBITS if int(event.flags) & TransferFlags.PENDING else None
        )
        told = await world.ask(engine, *pair, key="key")
        world.ledger.forge = lambda _: None
        assert told.outcome.status is TransferStatus.PENDING
        return told
    world.cores[service].behave(Behaviour(ops=frozenset({CoreOperation(op)}), **trouble))
    told = await world.ask(engine, *pair, key="key")
    assert told.outcome.status is TransferStatus.PENDING
    world.cores[service].behave(Behaviour())
    return told


async def balances(world: World, pair: tuple[str, str]) -> list[int]:
    return [await world.spendable(1, service) for service in pair]


CALLS = [
    (pair, service, operation)
    for pair in WITH_CORES.values()
    for service, operation in (
        *(((pair[0], "withdraw"), (pair[0], "commit")) if pair[0] in CORES else ()),
        *(((pair[1], "deposit"),) if pair[1] in CORES else ()),
    )
]


@pytest.mark.parametrize("trouble", [NOT_APPLIED, APPLIED], ids=str)
@pytest.mark.parametrize(("pair", "service", "operation"), CALLS, ids=str)
async def test_post_asks_everybody_again_now(
    world: World, pair: tuple[str, str], service: str, operation: str, trouble: dict[str, int]
) -> None:
    before = await balances(world, pair)
    async with world.engine(stale_after_ms=600_000) as engine:
        told = await stuck(world, engine, pair, service, operation, trouble)
        report = await engine.resolve(told.outcome.req_id, Resolution.POST)
        assert (report.req_id, report.state) == (told.outcome.req_id, "committed")
        assert world.row(told.outcome.req_id).state is TransferState.COMMITTED, "durable when it is reported"
        assert engine.statistics().open_transfers == 0
    assert await balances(world, pair) == [before[0] - 100, before[1] + 100]
    await world.check()


@pytest.mark.parametrize("trouble", [NOT_APPLIED, APPLIED], ids=str)
@pytest.mark.parametrize(("pair", "service", "operation"), CALLS, ids=str)
async def test_void_gives_everything_back_unless_it_is_too_late(
    world: World, pair: tuple[str, str], service: str, operation: str, trouble: dict[str, int]
) -> None:
    before = await balances(world, pair)
    async with world.engine(stale_after_ms=600_000) as engine:
        told = await stuck(world, engine, pair, service, operation, trouble)
        report = await engine.resolve(told.outcome.req_id, Resolution.VOID)
        steps = " / ".join(report.steps)
        if operation == "commit" and pair[1] not in CORES:
            assert report.state == "committed"
            assert "had been posted" in steps
        elif operation == "commit" or (operation == "deposit" and trouble is APPLIED):
            assert not report.state.startswith(("failed", "rolled_back"))
            assert "void is not possible, post is" in steps
            report = await engine.resolve(told.outcome.req_id, Resolution.POST)
            assert report.state == "committed"
        else:
            assert report.state == ("failed" if operation == "withdraw" else "rolled_back")
            assert world.row(told.outcome.req_id).error == "cancelled by an operator"
        committed = report.state == "committed"
        assert await balances(world, pair) == ([before[0] - 100, before[1] + 100] if committed else before)
        await nothing_moves_any_more(world, engine, told, committed=committed)
    await world.check()


async def nothing_moves_any_more(world: World, engine: Engine, told: Told, *, committed: bool) -> None:
    """Send everything once more, late: the hold, posts, the core's calls, and the client's request."""
    record = await engine.get(told.outcome.req_id)
    assert record is not None
    before = await balances(world, (record.source, record.target))
    registry = world.registry(dict(world.cores))
    late = open_transfer(world, told)
    await world.ledger.create_transfers([late.body.hold(), late.body.post(2), late.body.post(4), late.body.void(3)])
    if late.source.core is not None:
        answer = await late.source.core.withdraw(late.call_of_source())
        assert registry[record.source].core is not None
        assert isinstance(answer, Success | Failed)
    if late.target.core is not None:
        assert isinstance(await late.target.core.deposit(late.call_of_target()), Success if committed else Failed)
    assert await balances(world, (record.source, record.target)) == before
    again = await world.ask(engine, record.source, record.target, key="key")
    assert (again.outcome.status.value, again.outcome.replayed) == (record.state.value, True)


def open_transfer(world: World, told: Told) -> OpenTransfer:
    """Return the transfer as another engine would hold it."""
    registry = world.registry(dict(world.cores))
    source, target = registry[told.asked["source"]], registry[told.asked["target"]]
    body = {"user_id": 1, "target_user_id": 1, "asset_id": 1, "amount": told.asked["amount"]}
    intent = Intent(
        req_id=told.outcome.req_id.bytes, source=source.name, target=target.name, accepted_at=0,
        fingerprint=fingerprint(source=source.name, target=target.name, **body), **body,
    )  # fmt: skip
    return OpenTransfer(req_id=told.outcome.req_id.int, intent=intent, source=source, target=target)


async def conflict(world: World, number: int) -> None:
    """Make user 1's `trading` account unusable, so that no hold on it is ever sent."""
    await world.ledger.open_accounts(Account(id=account_id(1, 1, 3), ledger=1, code=number))


@pytest.mark.parametrize("pair", [("funding", "trading"), (FREEZING, "trading")], ids=str)
async def test_a_tombstone_ends_an_intent_whose_hold_was_never_sent(world: World, pair: tuple[str, str]) -> None:
    await conflict(world, 9)
    async with world.engine() as engine:
        told = await world.ask(engine, *pair, key="key")
        assert "hold" not in world.wire.names()
        posted = await engine.resolve(told.outcome.req_id, Resolution.POST)
        assert posted.state == "init", "there is no way to force it"
        assert any("still pending" in step for step in posted.steps)
        report = await engine.resolve(told.outcome.req_id, Resolution.VOID)
        assert report.state == "failed"
        assert any("tombstone" in step for step in report.steps)
        await nothing_moves_any_more(world, engine, told, committed=False)
    await world.check()


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_a_hold_that_was_refused_unburnt_is_ended_by_a_tombstone(world: World, pair: tuple[str, str]) -> None:
    before = await balances(world, pair)
    async with world.engine(stale_after_ms=600_000) as engine:
        await world.ask(engine, *pair, amount=1)
        told = await stuck(world, engine, pair, "", "", {})
        report = await engine.resolve(told.outcome.req_id, Resolution.VOID)
        assert report.state == "failed"
        await nothing_moves_any_more(world, engine, told, committed=False)
    assert await balances(world, pair) == [before[0] - 1, before[1] + 1]
    await world.check()


async def test_a_void_of_a_key_that_another_body_owns_leaves_that_one_alone(world: World) -> None:
    await conflict(world, 9)
    async with world.engine(deadline_ms=60_000, stale_after_ms=600_000) as engine:
        told = await world.ask(engine, "funding", "trading", key="key", deadline_ms=10)
        owner = Told(**told.asked | {"target": FREEZING})
        owner.answer = told.answer
        other = open_transfer(world, owner)
        await world.ask(engine, "funding", FREEZING, amount=1)
        await world.ledger.create_transfers([other.body.hold()])
        report = await engine.resolve(told.outcome.req_id, Resolution.VOID)
        assert any("another body" in step for step in report.steps)
        assert engine.statistics().open_transfers == 0
        again = await world.ask(engine, "funding", "trading", key="key", amount=2)
        assert isinstance(again.answer, KeyReused) or again.outcome.status is TransferStatus.PENDING
    [hold] = await world.ledger.lookup_transfers([other.req_id | 1])
    assert hold.credit_account_id == account_id(0, 1, 100)
    assert (await world.ledger.create_transfers([other.body.post(2)]))[0].status.name == "CREATED"


async def test_whom_there_is_nothing_to_resolve_of(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(TransferNotFound):
            await engine.resolve("00000000-0000-0000-0000-000000000000", Resolution.VOID)
        with pytest.raises(InvalidTransfer):
            await engine.resolve("nonsense", Resolution.VOID)
        told = await world.ask(engine, "funding", "trading")
        for resolution in Resolution:
            report = await engine.resolve(told.outcome.req_id, resolution)
            assert (report.state, report.steps) == ("committed", ["it is committed already"])
    await world.check()


async def test_a_transfer_that_is_being_driven_is_not_resolved(world: World) -> None:
    async with world.engine() as engine, trio.open_nursery() as nursery:
        stop = world.wire.stop(f"{FREEZING}.deposit")
        nursery.start_soon(lambda: world.ask(engine, "funding", FREEZING, key="key"))
        await stop.reached.wait()
        [transfer] = engine._parts.open_transfers
        with pytest.raises(Overloaded):
            await engine.resolve(transfer.uuid, Resolution.VOID)
        stop.released.set()
    await world.check()


async def test_two_operators_at_once(world: World) -> None:
    async with world.engine(stale_after_ms=600_000) as engine:
        told = await stuck(world, engine, ("funding", FREEZING), FREEZING, "deposit", NOT_APPLIED)
        states: list[str] = []

        async def resolve(resolution: Resolution) -> None:
            try:
                states.append((await engine.resolve(told.outcome.req_id, resolution)).state)
            except Overloaded:
                states.append("busy")

        async with trio.open_nursery() as nursery:
            for resolution in (Resolution.POST, Resolution.VOID) * 3:
                nursery.start_soon(resolve, resolution)
        assert states.count("busy") == 5
    await world.check()


async def test_a_core_that_does_not_answer_the_fence_changes_nothing(world: World) -> None:
    async with world.engine(stale_after_ms=600_000) as engine:
        told = await stuck(world, engine, (FREEZING, DIRECT), DIRECT, "deposit", NOT_APPLIED)
        world.cores[DIRECT].behave(Behaviour(crash_before=999))
        report = await engine.resolve(told.outcome.req_id, Resolution.VOID)
        assert report.state == "target_pending"
        assert any("nothing was done" in step for step in report.steps)
        assert "void" not in world.wire.names(told.outcome.req_id)
        world.cores[DIRECT].behave(Behaviour())
        assert (await engine.resolve(told.outcome.req_id, Resolution.POST)).state == "committed"
    await world.check()


@pytest.mark.parametrize("trouble", [NOT_APPLIED, APPLIED], ids=str)
@pytest.mark.parametrize(
    ("pair", "service", "operation"), [call for call in CALLS if call[0][0] in CORES and call[2] != "commit"], ids=str
)
async def test_a_source_that_does_not_answer_the_rollback_is_asked_until_it_does(
    world: World, pair: tuple[str, str], service: str, operation: str, trouble: dict[str, int]
) -> None:
    async with world.engine() as engine:
        told = await stuck(world, engine, pair, service, operation, NOT_APPLIED)
        world.cores[pair[0]].behave(Behaviour(ops=frozenset({CoreOperation.ROLLBACK}), **trouble))
        report = await engine.resolve(told.outcome.req_id, Resolution.VOID)
        assert any("did not answer the rollback" in step for step in report.steps)
        world.cores[pair[0]].behave(Behaviour())
        await world.heal(engine)
    assert world.row(told.outcome.req_id).state in {TransferState.FAILED, TransferState.ROLLED_BACK}
    assert await world.spendable(1, pair[0]) == 1_000
    await world.check()


async def test_the_engine_is_gone(world: World) -> None:
    async with world.engine(shutdown_ms=0) as engine:
        told = await stuck(world, engine, ("funding", FREEZING), FREEZING, "deposit", NOT_APPLIED)
    with trio.fail_after(10):
        report = await engine.resolve(told.outcome.req_id, Resolution.VOID)
    assert report.state == "target_pending"


# Races: what another engine, or a packet that was on its way, does just before each call that the resolution makes.


async def late_hold_and_post(world: World, other: OpenTransfer) -> None:
    await world.ledger.create_transfers([other.body.hold(), other.body.post(2)])


async def late_hold(world: World, other: OpenTransfer) -> None:
    await world.ledger.create_transfers([other.body.hold()])


async def late_deposit(world: World, other: OpenTransfer) -> None:
    assert other.target.core is not None
    await other.target.core.deposit(other.call_of_target())


async def late_deposit_and_post(world: World, other: OpenTransfer) -> None:
    assert other.target.core is not None
    if isinstance(await other.target.core.deposit(other.call_of_target()), Success):
        await world.ledger.create_transfers([other.body.post(2)])


async def late_withdraw(world: World, other: OpenTransfer) -> None:
    assert other.source.core is not None
    await other.source.core.withdraw(other.call_of_source())


async def late_withdraw_and_post(world: World, other: OpenTransfer) -> None:
    assert other.source.core is not None
    if isinstance(await other.source.core.withdraw(other.call_of_source()), Success):
        [answer] = await world.ledger.create_transfers([other.body.post(2)])
        if answer.status.name == "CREATED":
            await other.source.core.commit(other.uuid)


async def late_refusal_and_void(world: World, other: OpenTransfer) -> None:
    """Another engine heard the target's refusal: it voids, and gives the source its amount back."""
    assert other.target.core is not None
    if isinstance(await other.target.core.cancel(other.uuid), Success):
        await world.ledger.create_transfers([other.body.void(3)])
        if other.source.core is not None:
            await other.source.core.rollback(other.uuid)


Late = Callable[[World, OpenTransfer], Awaitable[None]]
RACES: list[tuple[tuple[str, str], str, str, Late]] = [
    (("funding", "trading"), "", "", late_hold_and_post),
    (("funding", FREEZING), "", "", late_hold),
    ((FREEZING, "funding"), "", "", late_hold),
    ((FREEZING, DIRECT), "", "", late_hold),
    *((("funding", core), core, "deposit", late) for core in (FREEZING, DIRECT)
      for late in (late_deposit, late_deposit_and_post, late_refusal_and_void)),
    *(((core, "funding"), core, "withdraw", late) for core in (FREEZING, DIRECT)
      for late in (late_withdraw, late_withdraw_and_post)),
    *((pair, pair[1], "deposit", late) for pair in ((FREEZING, DIRECT), (DIRECT, FREEZING))
      for late in (late_deposit, late_deposit_and_post, late_refusal_and_void)),
    *((pair, pair[0], "withdraw", late_withdraw) for pair in ((FREEZING, DIRECT), (DIRECT, FREEZING))),
]  # fmt: skip


@pytest.mark.parametrize("resolution", Resolution)
@pytest.mark.parametrize(
    ("pair", "service", "operation", "late"),
    RACES,
    ids=[f"{pair[0]}->{pair[1]} {late.__name__}" for pair, _, _, late in RACES],
)
def test_a_resolution_races_with(
    pair: tuple[str, str], service: str, operation: str, late: Late, resolution: Resolution
) -> None:
    async def once(number: int) -> bool:
        world = World()
        await world.fund(1)
        async with world.engine() as engine:
            told = await stuck(world, engine, pair, service, operation, NOT_APPLIED)
            other = open_transfer(world, told)
            world.wire.interludes[world.wire.calls + number] = lambda: late(world, other)
            await engine.resolve(told.outcome.req_id, resolution)
            is_over = bool(world.wire.interludes)
            world.wire.interludes.clear()
            await world.heal(engine)
            assert "contradiction" not in engine.statistics().alerts
        await world.check()
        return is_over

    for number in count(1):
        if in_a_loop(lambda number=number: once(number)):
            assert number > 2
            return


@pytest.mark.parametrize(
    ("resolution", "fates"),
    [
        (Resolution.POST, ("cut_after",)),
        (Resolution.VOID, ("cut_after",)),
        (Resolution.VOID, ("lose_answer",)),
    ],
    ids=["post, killed", "void, killed", "void, answers lost"],
)
@pytest.mark.parametrize(
    ("pair", "service", "operation"),
    [
        (("funding", FREEZING), FREEZING, "deposit"),
        ((FREEZING, "funding"), FREEZING, "withdraw"),
        ((FREEZING, DIRECT), DIRECT, "deposit"),
        ((DIRECT, FREEZING), DIRECT, "withdraw"),
    ],
    ids=str,
)
def test_the_engine_dies_while_it_resolves(
    pair: tuple[str, str], service: str, operation: str, fates: tuple[str, ...], resolution: Resolution
) -> None:
    async def live(world: World, engine: Engine) -> None:
        world.cores[service].behave(Behaviour(ops=frozenset({CoreOperation(operation)}), crash_before=9))
        told = await world.ask(engine, *pair, key="key")
        if told.answer is None or told.outcome.status is not TransferStatus.PENDING:
            return
        world.cores[service].behave(Behaviour())
        report = await engine.resolve(told.outcome.req_id, resolution)
        if TransferState(report.state).is_terminal:
            assert world.row(told.outcome.req_id).state == report.state
            told.answer = None
            again = await world.ask(engine, *pair, key="key")
            assert again.outcome.status.value in {report.state, "pending"}

    kill_at_every_call(live, at_least=9, fates=fates)
