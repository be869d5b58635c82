"""Accepted, refused, replayed and foreign-body transfers of several users, mixed: every caller gets its own answer."""

from collections import Counter
from typing import Any

import msgspec
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from tigerbeetle import Transfer, TransferFlags

from support.engines import DIRECT, FREEZING, Told, World, in_a_loop
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.legs import owner_of
from transfer_engine.engine.outcomes import KeyReused, Overloaded, TransferOutcome
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.schema.transfers import TransferStatus

USERS = (1, 2, 3)
SERVICES = ("funding", "trading", FREEZING, DIRECT)


class Ask(msgspec.Struct, frozen=True):
    key: str | None
    source: str
    target: str
    user_id: int
    target_user_id: int
    amount: int

    @property
    def body(self) -> tuple[Any, ...]:
        return msgspec.structs.astuple(self)[1:]


def is_possible(ask: Ask) -> bool:
    if ask.source == ask.target:
        return ask.source not in {FREEZING, DIRECT} and ask.user_id != ask.target_user_id
    return True


ASKS = st.builds(
    Ask,
    key=st.sampled_from([None, None, "a", "b", "c", "d"]),
    source=st.sampled_from(SERVICES),
    target=st.sampled_from(SERVICES),
    user_id=st.sampled_from(USERS),
    target_user_id=st.sampled_from(USERS),
    amount=st.sampled_from([1, 100, 300, 600, 1_001]),
).filter(is_possible)


async def ask_all(world: World, engine: Engine, asks: list[Ask]) -> list[Told]:
    """Ask for all of them at once, accepted in this order."""
    told: list[Told] = []
    async with trio.open_nursery() as nursery:
        stop = world.wire.stop("intent")
        for ask in asks:
            before = len(world.told)
            nursery.start_soon(
                lambda ask=ask: world.ask(
                    engine, ask.source, ask.target, user_id=ask.user_id, target_user_id=ask.target_user_id,
                    amount=ask.amount, key=ask.key,
                )
            )  # fmt: skip
            await trio.testing.wait_all_tasks_blocked()
            told.append(world.told[before])
        stop.released.set()
    return told


class LedgerModel:
    """What a plain ledger would have done with the events that were sent, in their order."""

    def __init__(self) -> None:
        self.balances: Counter[int] = Counter()
        self.holds: dict[int, Transfer] = {}
        self.refused: set[int] = set()
        self.posted: set[int] = set()
        self.voided: set[int] = set()

    def send(self, event: Transfer) -> None:
        hold_id = (event.id & ~15) | 1
        if int(event.flags) & TransferFlags.PENDING:
            if hold_id in self.holds or hold_id in self.refused:
                return
            user_id = owner_of(event.debit_account_id)[0]
            if user_id and self.balances[event.debit_account_id] < event.amount:
                self.refused.add(hold_id)
                return
            self.holds[hold_id] = event
            self.balances[event.debit_account_id] -= event.amount
            return
        hold = self.holds.get(hold_id)
        if hold is None or hold_id in self.posted | self.voided:
            return
        if (hold.debit_account_id, hold.credit_account_id) != (event.debit_account_id, event.credit_account_id):
            return
        if int(event.flags) & TransferFlags.POST_PENDING_TRANSFER:
            self.posted.add(hold_id)
            self.balances[hold.credit_account_id] += hold.amount
        elif event.amount == hold.amount:
            self.voided.add(hold_id)
            self.balances[hold.debit_account_id] += hold.amount


async def run(chunks: list[list[Ask]], fates: dict[int, str], latency_ms: int) -> None:
    world = World()
    await world.fund(*USERS)
    for core in world.cores.values():
        core.behave(Behaviour(latency_ms=latency_ms))
    owners: dict[str, Ask] = {}
    outcomes: dict[str, set[str]] = {}
    pairs: list[tuple[Ask, Told]] = []
    async with world.engine() as engine:
        world.wire.fates = {world.wire.calls + number: fate for number, fate in fates.items()}
        for chunk in chunks:
            pairs += zip(chunk, await ask_all(world, engine, chunk), strict=True)
        await world.heal(engine)

    moved: Counter[tuple[int, str]] = Counter()
    counted = set()
    model = LedgerModel()
    for event in [event for batch in world.ledger.batches for event in batch]:
        assert not int(event.flags) & TransferFlags.LINKED
        model.send(event)
    for ask, told in pairs:
        if isinstance(told.answer, Overloaded):
            assert fates, "only in an outage"
            continue
        if ask.key is not None and owners.setdefault(ask.key, ask).body != ask.body:
            # Where answers were lost it may be unknown, which is never taken for anything else.
            is_unknown = isinstance(told.answer, TransferOutcome) and told.outcome.status == "pending"
            assert isinstance(told.answer, KeyReused) or (fates and is_unknown), (ask, told)
            continue
        row = world.row(told.outcome.req_id)
        assert told.outcome.status in {row.state.value, TransferStatus.PENDING}, (ask, told)
        assert (row.source, row.target, row.user_id, row.target_user_id, row.amount) == ask.body, "another's answer"
        assert row.asset_id == 1
        if ask.key is not None:
            outcomes.setdefault(ask.key, set()).add(row.state.value)
        hold_id = row.req_id.int | 1
        expected = "committed" if hold_id in model.posted else "failed"
        assert row.state == expected, (ask, row, hold_id in model.refused)
        if ask.source in {"funding", "trading"}:
            assert (hold_id in model.refused) is (expected == "failed")
        if expected == "committed" and row.req_id not in counted:
            counted.add(row.req_id)
            moved[ask.user_id, ask.source] -= ask.amount
            moved[ask.target_user_id, ask.target] += ask.amount
    assert all(len(states) == 1 for states in outcomes.values())
    for user_id in USERS:
        for service in SERVICES:
            initially = 0 if service == "trading" else 1_000
            assert await world.spendable(user_id, service) == initially + moved[user_id, service]
    await world.check()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    chunks=st.lists(st.lists(ASKS, min_size=1, max_size=12), min_size=1, max_size=3),
    fates=st.dictionaries(st.integers(1, 40), st.sampled_from(["lose_request", "lose_answer"]), max_size=4),
    latency_ms=st.sampled_from([0, 0, 50]),
)
def test_every_caller_gets_its_own_answer_and_the_balances_are_those_of_a_model(
    chunks: list[list[Ask]], fates: dict[int, str], latency_ms: int
) -> None:
    in_a_loop(lambda: run(chunks, fates, latency_ms))


BODIES = [
    Ask("key", source, target, 1, target_user_id, amount)
    for source in SERVICES
    for target in SERVICES
    for target_user_id in (1, 2)
    for amount in (100, 101)
]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    asks=st.lists(st.sampled_from([body for body in BODIES if is_possible(body)]), min_size=2, max_size=10),
    is_concurrent=st.booleans(),
)
def test_one_key_with_bodies_of_different_pairs_never_moves_a_second_amount(
    asks: list[Ask], is_concurrent: bool
) -> None:
    in_a_loop(lambda: run([asks] if is_concurrent else [[ask] for ask in asks], {}, 0))
