"""The simulated core against an independent, plain model: random calls, misfortunes and reopenings, one invariant."""

import tempfile
import threading
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from transfer_engine.engine.services.protocol import Answer, Failed, Pending, ServiceCall, Success
from transfer_engine.engine.services.simulated import (
    Behaviour,
    CoreOperation,
    SimulatedCore,
    SimulatedCrash,
    open_simulated_core,
)
from transfer_engine.schema.ids import issued_req_id
from transfer_engine.schema.money import AMOUNT_MAX

USERS = (1, 2)
ASSETS = (1, 2)
Body = tuple[str, int, int, int]
Verdict = type[Success] | type[Failed] | type[Pending]


class Model:
    """The contract in sets and sums: nothing is kept up to date, everything is worked out anew from what was agreed."""

    def __init__(self, freezes: bool) -> None:
        self.freezes = freezes
        self.funded: list[tuple[int, int, int]] = []
        self.first: dict[int, Body | None] = {}
        """What each id stands for since its first call; None for a fence."""
        self.taken: set[int] = set()
        self.committed: set[int] = set()
        self.returned: set[int] = set()

    def sum_of(self, ids: set[int], op: str, user_id: int, asset_id: int) -> int:
        bodies = [self.first[number] for number in ids]
        return sum(body[3] for body in bodies if body is not None and body[:3] == (op, user_id, asset_id))

    def available(self, user_id: int, asset_id: int) -> int:
        funded = sum(amount for user, asset, amount in self.funded if (user, asset) == (user_id, asset_id))
        given = self.sum_of(self.taken, "deposit", user_id, asset_id)
        took = self.sum_of(self.taken - self.returned, "withdraw", user_id, asset_id)
        return funded + given - took

    def held(self, user_id: int, asset_id: int) -> int:
        return self.sum_of(self.taken - self.returned - self.committed, "withdraw", user_id, asset_id)

    def total(self, asset_id: int) -> int:
        """Funded + deposits - withdraws; what is frozen has not left."""
        total = sum(self.available(user_id, asset_id) for user_id in USERS)
        return total + sum(self.held(user_id, asset_id) for user_id in USERS) if self.freezes else total

    def has_room(self, user_id: int, asset_id: int, amount: int) -> bool:
        return self.available(user_id, asset_id) + self.held(user_id, asset_id) + amount <= AMOUNT_MAX

    def transfer(self, number: int, body: Body, refuse: bool) -> Verdict:
        if number not in self.first:
            self.first[number] = body
            op, user_id, asset_id, amount = body
            fits = (
                self.available(user_id, asset_id) >= amount
                if op == "withdraw"
                else self.has_room(user_id, asset_id, amount)
            )
            if fits and not refuse:
                self.taken.add(number)
        return Success if self.first[number] == body and number in self.taken else Failed

    def is_deposit(self, number: int) -> bool:
        body = self.first.get(number)
        return body is not None and body[0] == "deposit"

    def commit(self, number: int) -> Verdict:
        if number not in self.first:
            return Pending
        if self.is_deposit(number) or number not in self.taken:
            return Failed
        if number not in self.returned:
            self.committed.add(number)
        return Success if number in self.committed else Failed

    def rollback(self, number: int) -> Verdict:
        body = self.first.setdefault(number, None)
        if self.is_deposit(number) or (self.freezes and number in self.committed):
            return Failed
        if body is not None and number in self.taken - self.returned:
            if number in self.committed and not self.has_room(*body[1:]):
                return Pending
            self.returned.add(number)
        return Success

    def cancel(self, number: int) -> Verdict:
        body = self.first.setdefault(number, None)
        if body is None:
            return Success
        return Success if body[0] == "deposit" and number not in self.taken else Failed

    def query(self, number: int) -> Verdict:
        if number not in self.first:
            return Pending
        return Success if number in self.taken else Failed


class TrioThread:
    """A trio loop of its own for a test that is no coroutine: hypothesis calls its rules synchronously."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        self._started.wait()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._done = trio.Event()
        self._started.set()
        await self._done.wait()

    def run(self, function: object, *arguments: object) -> object:
        return trio.from_thread.run(function, *arguments, trio_token=self._token)  # type: ignore[arg-type]

    def close(self) -> None:
        trio.from_thread.run_sync(self._done.set, trio_token=self._token)
        self._thread.join()


async def look(core: SimulatedCore) -> tuple[dict[int, int], dict[tuple[int, int], tuple[int, int]]]:
    """Return the totals by asset, and what is available and frozen by user and asset."""
    totals = {asset_id: await core.total(asset_id) for asset_id in ASSETS}
    balances = {user_id: await core.balances(user_id) for user_id in USERS}
    return totals, {
        (user_id, balance.asset_id): (balance.available, balance.frozen)
        for user_id, found in balances.items()
        for balance in found
    }


# Few of everything, and most often the first: what matters happens where calls meet.
numbers = st.integers(1, 16)
users, assets = st.sampled_from([1, 1, 1, 2]), st.sampled_from([1, 1, 1, 2])
amounts = st.sampled_from([1, 1, 1, 2, 2, 2, 3, AMOUNT_MAX - 1, AMOUNT_MAX])
bodies = st.tuples(st.sampled_from(["withdraw", "deposit"]), users, assets, amounts)
misfortunes = st.sampled_from(
    [{}] * 6
    + [{"crash_before": 1}, {"crash_after": 1}, {"lose_replies": 1}, {"pending_calls": 1}]
    + [{"pending_calls": 1, "pending_applied": True}]
)
lives = st.lists(
    st.tuples(st.sampled_from(["commit", "rollback", "commit", "rollback", "cancel", "again"]), misfortunes),
    min_size=2,
    max_size=6,
)


class CoreAgainstModel(RuleBasedStateMachine):
    """A few ids for everything: duplicates, foreign bodies, fences and wrong sides come by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.trio_thread = TrioThread()
        self.folder = tempfile.TemporaryDirectory()
        self.open_core = AsyncExitStack()
        self.finals: dict[tuple[str, int, Body | None], Answer] = {}

    @initialize(freezes=st.booleans(), funds=st.sampled_from([5, 9, AMOUNT_MAX - 1]))
    def begin(self, freezes: bool, funds: int) -> None:
        self.model = Model(freezes)
        self.open()
        self.fund(1, 1, funds)

    def open(self) -> None:
        path = Path(self.folder.name) / "core.sqlite"
        opening = open_simulated_core(name="matching", path=path, freezes=self.model.freezes)
        self.core = self.trio_thread.run(self.open_core.enter_async_context, opening)
        assert isinstance(self.core, SimulatedCore)

    def teardown(self) -> None:
        self.trio_thread.run(self.open_core.aclose)
        self.trio_thread.close()
        self.folder.cleanup()

    @rule()
    def reopen(self) -> None:
        self.trio_thread.run(self.open_core.aclose)
        self.open()

    @rule(user_id=users, asset_id=assets, amount=amounts)
    def fund(self, user_id: int, asset_id: int, amount: int) -> None:
        if self.model.has_room(user_id, asset_id, amount):
            self.trio_thread.run(self.core.fund, user_id, asset_id, amount)
            self.model.funded.append((user_id, asset_id, amount))
        else:
            with pytest.raises(ValueError, match="would exceed"):
                self.trio_thread.run(self.core.fund, user_id, asset_id, amount)

    @rule(number=numbers, body=bodies, misfortune=misfortunes, refuse=st.sampled_from([None, None, None, "no"]))
    def transfer(self, number: int, body: Body, misfortune: dict[str, int], refuse: str | None) -> None:
        op, user_id, asset_id, amount = body
        call = ServiceCall(UUID(int=issued_req_id(number)), user_id, asset_id, amount)
        self.core.behave(Behaviour(refuse=refuse, **misfortune))
        expect = partial(self.model.transfer, number, body, refuse is not None)
        self.call(CoreOperation(op), call, misfortune, expect, (op, number, body))

    @rule(number=numbers, misfortune=misfortunes, op=st.sampled_from(["commit", "rollback", "cancel"]))
    def follow(self, number: int, misfortune: dict[str, int], op: str) -> None:
        misfortune = {} if "pending_calls" in misfortune else misfortune
        self.core.behave(Behaviour(**misfortune))
        expect = partial(getattr(self.model, op), number)
        self.call(CoreOperation(op), UUID(int=issued_req_id(number)), misfortune, expect, (op, number, None))

    @rule(number=numbers, body=bodies, steps=lives)
    def live(self, number: int, body: Body, steps: list[tuple[str, dict[str, int]]]) -> None:
        """Much happens to one id in a row: what follows a call that was taken is what matters most."""
        self.transfer(number, body, {}, None)
        for op, misfortune in steps:
            if op == "again":
                self.transfer(number, body, misfortune, None)
            else:
                self.follow(number, misfortune, op)
        self.query(number)

    def call(
        self,
        operation: CoreOperation,
        subject: ServiceCall | UUID,
        misfortune: dict[str, int],
        expect: "partial[Verdict]",
        question: tuple[str, int, Body | None],
    ) -> None:
        call = getattr(self.core, operation.value)
        if "crash_before" in misfortune or "crash_after" in misfortune:
            with pytest.raises(SimulatedCrash):
                self.trio_thread.run(call, subject)
        else:
            answer = self.trio_thread.run(call, subject)
            if misfortune:
                assert isinstance(answer, Pending)
        if "crash_before" in misfortune or misfortune == {"pending_calls": 1}:
            return  # never applied
        expected = expect()
        if misfortune:
            return
        assert type(answer) is expected
        if not isinstance(answer, Pending):
            assert self.finals.setdefault(question, answer) == answer

    @invariant()
    def the_books_balance(self) -> None:
        totals, held = self.trio_thread.run(look, self.core)  # type: ignore[misc]
        for asset_id in ASSETS:
            assert totals[asset_id] == self.model.total(asset_id)
            for user_id in USERS:
                available, frozen = held.get((user_id, asset_id), (0, 0))
                assert 0 <= available <= AMOUNT_MAX
                assert 0 <= frozen <= AMOUNT_MAX - available
                assert available == self.model.available(user_id, asset_id)
                assert frozen == (self.model.held(user_id, asset_id) if self.model.freezes else 0)

    @rule(number=numbers)
    def query(self, number: int) -> None:
        answer = self.trio_thread.run(self.core.query, UUID(int=issued_req_id(number)))
        assert type(answer) is self.model.query(number)
        if not isinstance(answer, Pending):
            assert self.finals.setdefault(("query", number, None), answer) == answer  # type: ignore[arg-type]


def test_the_simulated_core_does_what_the_model_says() -> None:
    run_state_machine_as_test(
        CoreAgainstModel, settings=settings(max_examples=100, stateful_step_count=30, deadline=None)
    )
