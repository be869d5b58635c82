"""Daily sums, held to a model: whatever is sent, in what order, and whoever dies when."""

from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from support.engines import DIRECT, FREEZING, UNLIMITED_ASSETS, World, in_a_loop
from support.memory_records import MemoryRecords
from transfer_engine.engine import Engine, Refused, TransferOrder, TransferOutcome
from transfer_engine.engine.records.protocol import HistoryPage
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.schema.transfers import TransferState, TransferStatus

MOST = 100
ASSETS = (UNLIMITED_ASSETS[0].model_copy(update={"daily_most": MOST}), *UNLIMITED_ASSETS[1:])
USERS = (1, 2)

ORDERS = st.builds(
    TransferOrder,
    source=st.just("funding"),
    target=st.just("trading"),
    user_id=st.sampled_from(USERS),
    asset_id=st.sampled_from((1, 1, 1, 2)),
    amount=st.integers(1, 40),
    idempotency_key=st.none() | st.sampled_from("abcdefgh"),
)
PAIRS = st.sampled_from(
    (("funding", "trading"), ("trading", "funding"), ("funding", FREEZING), (FREEZING, "funding"), (FREEZING, DIRECT))
)
ANY_ORDERS = st.builds(
    lambda pair, user_id, amount, key, target: TransferOrder(
        source=pair[0],
        target=pair[1],
        user_id=user_id,
        target_user_id=target,
        asset_id=1,
        amount=amount,
        idempotency_key=key,
    ),
    PAIRS,
    st.sampled_from(USERS),
    st.integers(1, 70),
    st.none() | st.sampled_from("abcdefgh"),
    st.none() | st.sampled_from(USERS),
)
FATES = st.sampled_from(("cut_before", "cut_after", "lose_request", "lose_answer"))


def named(order: TransferOrder) -> TransferOrder:
    """Return an order whose key is of its body: two bodies under one key are another test's."""
    key = order.idempotency_key
    if key is None:
        return order
    body = f"{order.source} {order.target} {order.user_id} {order.target_user_id} {order.asset_id} {order.amount}"
    return TransferOrder(
        **{name: getattr(order, name) for name in order.__struct_fields__} | {"idempotency_key": f"{key} {body}"}
    )


def moved(world: World, user_id: int) -> int:
    """Return what the rows say that a user has moved of the limited asset."""
    return sum(
        row.amount
        for row in world.records.rows.values()
        if row.user_id == user_id
        and row.asset_id == 1
        and row.source != "external"
        and row.state is TransferState.COMMITTED
    )


async def used(engine: Engine) -> dict[int, int | None]:
    """Return what the users have used of the limited asset, as they are told."""
    return {user_id: (await engine.limits(user_id))[0].used for user_id in USERS}


@given(
    lives=st.lists(st.lists(st.lists(ORDERS, min_size=1, max_size=12), min_size=1, max_size=3), min_size=1, max_size=3)
)
def test_every_answer_is_that_of_a_model_that_takes_one_after_the_other(lives: list[list[list[TransferOrder]]]) -> None:
    """Where nothing fails, everything that is sent at once is answered as if it had been sent in turn."""

    async def run() -> None:
        world = World(assets=ASSETS)
        await world.fund(*USERS)
        await world.fund(*USERS, asset_id=2)
        sums = dict.fromkeys(USERS, 0)
        done: set[str] = set()
        for life in lives:
            async with world.engine() as engine:
                for batch in life:
                    orders = [named(order) for order in batch]
                    expected = [expect(order, sums, done) for order in orders]
                    outcomes = await engine.transfer_many(orders)
                    assert [told(outcome) for outcome in outcomes] == expected
                    assert await used(engine) == sums
        await world.check()
        assert sums == {user_id: moved(world, user_id) for user_id in USERS}

    in_a_loop(run)


def expect(order: TransferOrder, sums: dict[int, int], done: set[str]) -> str:
    if order.idempotency_key in done:
        return "replayed"
    if order.asset_id == 1:
        if sums[order.user_id] + order.amount > MOST:
            return "daily_limit_reached"
        sums[order.user_id] += order.amount
    if order.idempotency_key is not None:
        done.add(order.idempotency_key)
    return "committed"


def told(outcome: TransferOutcome | Refused) -> str:
    if isinstance(outcome, Refused):
        return outcome.code
    return "replayed" if outcome.replayed and outcome.status is TransferStatus.COMMITTED else outcome.status


@given(
    lives=st.lists(
        st.tuples(st.lists(ANY_ORDERS, min_size=1, max_size=10), st.integers(1, 40), FATES), min_size=1, max_size=4
    ),
    behaviour=st.sampled_from(
        (Behaviour(), Behaviour(refuse="closed"), Behaviour(pending_calls=3), Behaviour(lose_replies=2))
    ),
)
@settings(max_examples=60)
def test_no_kill_lets_anybody_move_more_and_nothing_is_lost_for_good(
    lives: list[tuple[list[TransferOrder], int, str]], behaviour: Behaviour
) -> None:
    """Cores that refuse, funds that run out, engines that die, answers that are lost."""

    async def run() -> None:
        world = World(assets=ASSETS)
        await world.fund(*USERS, amount=150)
        world.cores[FREEZING].behave(behaviour)
        for orders, number, fate in lives:
            await world.live(lambda _, engine, orders=orders: send(engine, orders), number=number, fate=fate)
        async with world.engine() as engine:
            await send(engine, lives[0][0])
            await world.heal(engine)
            sums = {user_id: moved(world, user_id) for user_id in USERS}
            assert max(sums.values()) <= MOST, sums
            assert await used(engine) == sums, "kept up"
        async with world.engine() as engine:
            assert await used(engine) == sums, "read anew"
            for user_id in USERS:
                exactly = MOST - sums[user_id]
                for amount, expected in ((exactly + 1, "daily_limit_reached"), (exactly, "committed")):
                    if amount:
                        await engine.credit(user_id=user_id, account="funding", asset_id=1, amount=amount)
                        order = TransferOrder(
                            source="funding", target="trading", user_id=user_id, asset_id=1, amount=amount
                        )
                        [outcome] = await engine.transfer_many([order])
                        assert told(outcome) == expected
        await world.check()

    in_a_loop(run)


@given(
    orders=st.lists(ANY_ORDERS, min_size=1, max_size=8),
    number=st.integers(1, 40),
    page_records=st.integers(1, 3),
    pause_ms=st.integers(0, 3),
    latency_ms=st.integers(0, 4),
    behaviour=st.sampled_from((Behaviour(), Behaviour(refuse="closed"), Behaviour(pending_calls=3))),
)
def test_what_ends_while_a_history_is_read_counts_once(
    orders: list[TransferOrder], number: int, page_records: int, pause_ms: int, latency_ms: int, behaviour: Behaviour
) -> None:
    """A life that was killed left something; the next one ends it while it reads how much was moved."""

    async def run() -> None:
        world = World(assets=ASSETS)
        await world.fund(*USERS, amount=150)
        world.cores[FREEZING].behave(behaviour)
        await world.live(lambda _, engine: send(engine, orders), number=number, fate="cut_after")
        world.records = SlowHistory(world.records, latency_ms)
        async with world.engine() as engine:
            await trio.sleep(pause_ms / 1_000)
            await used(engine)
            await world.heal(engine)
            assert await used(engine) == {user_id: moved(world, user_id) for user_id in USERS}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transfer_engine.engine.daily_sums.PAGE_RECORDS", page_records)
        in_a_loop(run)


class SlowHistory(MemoryRecords):
    """The same rows; its history takes some time, before it is read and after it."""

    def __init__(self, records: MemoryRecords, latency_ms: int) -> None:
        self.__dict__ = records.__dict__
        self.latency_s = latency_ms / 1_000

    async def history(self, user_id: int, *, limit: int, position: tuple[int, int] | None = None) -> HistoryPage:
        await trio.sleep(self.latency_s)
        page = await super().history(user_id, limit=limit, position=position)
        await trio.sleep(self.latency_s)
        return page


async def send(engine: Engine, orders: list[TransferOrder]) -> None:
    """Send all at once, and wait for what becomes of them."""
    left = len(orders)
    is_done = trio.Event()

    def answered(_answer: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            is_done.set()

    for order in orders:
        engine.submit(named(order), answered)
    await is_done.wait()
