import contextlib
import sqlite3
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
import trio
import trio.testing

from transfer_engine.engine.services.protocol import SUCCESS, Answer, CoreBalance, Failed, Pending, ServiceCall
from transfer_engine.engine.services.simulated import (
    Behaviour,
    CoreOperation,
    SimulatedCore,
    SimulatedCrash,
    open_simulated_core,
)
from transfer_engine.engine.services.simulated_books import OperationState
from transfer_engine.schema.ids import issued_req_id
from transfer_engine.schema.money import AMOUNT_MAX

REQ_ID = UUID(int=issued_req_id(1))
CALL = ServiceCall(req_id=REQ_ID, user_id=1, asset_id=1, amount=40)


def numbered(number: int, amount: int = 1) -> ServiceCall:
    return ServiceCall(req_id=UUID(int=issued_req_id(number)), user_id=1, asset_id=1, amount=amount)


async def available(core: SimulatedCore) -> int:
    return (await core.balances(1))[0].available


async def call_all(core: SimulatedCore) -> dict[CoreOperation, Answer | str]:
    """Call every operation once, each for a req_id of its own for which it would be answered Success."""
    answers: dict[CoreOperation, Answer | str] = {}
    for operation, subject in {
        CoreOperation.WITHDRAW: numbered(21),
        CoreOperation.DEPOSIT: numbered(22),
        CoreOperation.COMMIT: numbered(11).req_id,
        CoreOperation.ROLLBACK: numbered(12).req_id,
        CoreOperation.CANCEL: numbered(23).req_id,
    }.items():
        try:
            answers[operation] = await getattr(core, operation.value)(subject)
        except SimulatedCrash:
            answers[operation] = "crash"
    return answers


async def prepare_all(core: SimulatedCore) -> None:
    for number in (11, 12):
        assert await core.withdraw(numbered(number)) == SUCCESS


STATES_WHEN_APPLIED = {
    11: OperationState.COMMITTED,
    12: OperationState.ROLLED_BACK,
    21: OperationState.WITHDRAWN,
    22: OperationState.DEPOSITED,
    23: OperationState.FENCED,
}
STATES_BEFORE = {11: OperationState.WITHDRAWN, 12: OperationState.WITHDRAWN}


async def states(core: SimulatedCore) -> dict[int, OperationState]:
    by_req_id = {numbered(number).req_id: number for number in STATES_WHEN_APPLIED}
    return {by_req_id[operation.req_id]: operation.state for operation in await core.operations()}


@pytest.mark.parametrize(
    ("behaviour", "applied", "answer"),
    [
        (Behaviour(crash_before=5), False, "crash"),
        (Behaviour(crash_after=5), True, "crash"),
        (Behaviour(lose_replies=5), True, Pending("the reply was lost")),
    ],
    ids=["crash_before", "crash_after", "lose_replies"],
)
async def test_a_misfortune_meets_every_operation_so_many_times(
    simulated: SimulatedCore, behaviour: Behaviour, applied: bool, answer: Answer | str
) -> None:
    await prepare_all(simulated)
    simulated.behave(behaviour)
    assert await call_all(simulated) == dict.fromkeys(CoreOperation, answer)
    assert await states(simulated) == (STATES_WHEN_APPLIED if applied else STATES_BEFORE)
    # Its five calls are over: asked again, the core answers, and applies nothing twice.
    assert await call_all(simulated) == dict.fromkeys(CoreOperation, SUCCESS)
    assert await states(simulated) == STATES_WHEN_APPLIED
    assert await available(simulated) == 99


@pytest.mark.parametrize("applied", [False, True])
async def test_pending_calls_are_withdraws_and_deposits(simulated: SimulatedCore, applied: bool) -> None:
    await prepare_all(simulated)
    simulated.behave(Behaviour(pending_calls=2, pending_applied=applied))
    answers = await call_all(simulated)
    pending = {operation for operation, answer in answers.items() if isinstance(answer, Pending)}
    assert pending == {CoreOperation.WITHDRAW, CoreOperation.DEPOSIT}
    found = await states(simulated)
    assert (21 in found, 22 in found) == (applied, applied)
    assert await call_all(simulated) == dict.fromkeys(CoreOperation, SUCCESS)
    assert await states(simulated) == STATES_WHEN_APPLIED


@pytest.mark.parametrize("operation", list(CoreOperation))
async def test_only_the_named_operations_are_concerned(simulated: SimulatedCore, operation: CoreOperation) -> None:
    await prepare_all(simulated)
    simulated.behave(Behaviour(ops=frozenset({operation}), crash_before=1_000))
    expected: dict[CoreOperation, Answer | str] = dict.fromkeys(CoreOperation, SUCCESS)
    assert await call_all(simulated) == expected | {operation: "crash"}


async def test_misfortunes_come_one_a_call_in_the_order_of_the_fields(simulated: SimulatedCore) -> None:
    simulated.behave(Behaviour(crash_before=1, crash_after=1, lose_replies=1, pending_calls=1))
    with pytest.raises(SimulatedCrash, match="matching: crashed in withdraw"):
        await simulated.withdraw(CALL)
    assert await simulated.operation(REQ_ID) is None
    with pytest.raises(SimulatedCrash):
        await simulated.withdraw(CALL)
    assert await simulated.query(REQ_ID) == SUCCESS
    assert await simulated.withdraw(CALL) == Pending("the reply was lost")
    assert await simulated.withdraw(CALL) == Pending("the core is busy")
    assert await simulated.withdraw(CALL) == SUCCESS
    assert await available(simulated) == 60


async def test_behaving_anew_forgets_what_was_left(simulated: SimulatedCore) -> None:
    assert simulated.behaviour == Behaviour()
    simulated.behave(Behaviour(crash_before=2))
    with pytest.raises(SimulatedCrash):
        await simulated.withdraw(CALL)
    assert "'crash_before': 1" in repr(simulated)
    simulated.behave(Behaviour(pending_calls=1))
    assert simulated.behaviour == Behaviour(pending_calls=1)
    assert await simulated.withdraw(CALL) == Pending("the core is busy")
    simulated.behave(Behaviour())
    assert await simulated.withdraw(CALL) == SUCCESS


@pytest.mark.parametrize("operation", ["withdraw", "deposit"])
async def test_a_refusal_on_request_is_final(simulated: SimulatedCore, operation: str) -> None:
    call = getattr(simulated, operation)
    assert await call(numbered(1)) == SUCCESS
    before = await simulated.balances(1)
    simulated.behave(Behaviour(refuse="the account is closed"))
    assert await call(numbered(1)) == SUCCESS
    assert await call(numbered(2)) == Failed("the account is closed")
    simulated.behave(Behaviour())
    assert await call(numbered(2)) == Failed("the account is closed")
    assert await simulated.query(numbered(2).req_id) == Failed("the account is closed")
    assert await simulated.balances(1) == before
    assert await call(numbered(3)) == SUCCESS


async def test_a_refusal_on_request_may_concern_one_operation(simulated: SimulatedCore) -> None:
    simulated.behave(Behaviour(ops=frozenset({CoreOperation.DEPOSIT}), refuse="no"))
    assert await simulated.withdraw(numbered(1)) == SUCCESS
    assert await simulated.deposit(numbered(2)) == Failed("no")


async def test_a_slow_core_answers_late(simulated: SimulatedCore, autojump_clock: trio.testing.MockClock) -> None:
    simulated.behave(Behaviour(ops=frozenset({CoreOperation.WITHDRAW}), latency_ms=1_500))
    started = trio.current_time()
    assert await simulated.withdraw(CALL) == SUCCESS
    assert trio.current_time() - started == pytest.approx(1.5)
    assert await simulated.commit(REQ_ID) == SUCCESS
    assert trio.current_time() - started == pytest.approx(1.5)


async def test_a_caller_who_gives_up_leaves_a_slow_call_applied(
    simulated: SimulatedCore, autojump_clock: trio.testing.MockClock
) -> None:
    simulated.behave(Behaviour(latency_ms=1_500))
    with trio.move_on_after(1) as patience:
        await simulated.withdraw(CALL)
    assert patience.cancelled_caught
    assert await simulated.query(REQ_ID) == SUCCESS
    assert await available(simulated) == 60


async def test_a_call_that_was_cancelled_before_it_began_leaves_nothing(simulated: SimulatedCore) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await simulated.withdraw(CALL)
    assert scope.cancelled_caught
    assert await simulated.operation(REQ_ID) is None
    assert simulated.statistics().calls[CoreOperation.WITHDRAW] == 1


async def test_cancelling_touches_the_waiting_and_never_the_one_that_has_begun(
    simulated: SimulatedCore, tmp_path: Path
) -> None:
    answers: dict[int, Answer] = {}
    scopes = {1: trio.CancelScope(), 2: trio.CancelScope()}

    async def withdraw(number: int) -> None:
        with scopes[number]:
            answers[number] = await simulated.withdraw(numbered(number))

    # Another process is writing the file: the first call stands in the middle of its transaction.
    other = sqlite3.connect(tmp_path / "core.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(withdraw, 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(withdraw, 2)
        await trio.testing.wait_all_tasks_blocked()
        for scope in scopes.values():
            scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        other.execute("ROLLBACK")
    other.close()
    # The answer that was at hand is not lost either.
    assert answers == {1: SUCCESS}
    assert scopes[2].cancelled_caught
    assert [operation.req_id for operation in await simulated.operations()] == [numbered(1).req_id]
    assert await available(simulated) == 99


async def test_many_callers_at_once_move_one_amount(simulated: SimulatedCore) -> None:
    answers: list[Answer] = []

    async def withdraw(call: ServiceCall) -> None:
        answers.append(await simulated.withdraw(call))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(withdraw, CALL)
    assert answers == [SUCCESS] * 20
    assert await available(simulated) == 60
    assert simulated.statistics().calls[CoreOperation.WITHDRAW] == 20
    assert simulated.statistics().moves == 1


async def test_the_books_tell_everything_for_an_audit(simulated: SimulatedCore, freezes: bool) -> None:
    assert await simulated.withdraw(numbered(1, amount=10)) == SUCCESS
    assert await simulated.withdraw(numbered(2, amount=20)) == SUCCESS
    assert await simulated.commit(numbered(2).req_id) == SUCCESS
    assert await simulated.withdraw(numbered(3, amount=1_000)) == Failed("insufficient funds")
    assert await simulated.cancel(numbered(4).req_id) == SUCCESS
    assert await simulated.deposit(numbered(5, amount=7)) == SUCCESS
    assert await simulated.withdraw(numbered(6, amount=0)) == Failed(
        "amount is 0: it must be between 1 and 2^63 - 1 minor units"
    )
    assert [
        (operation.req_id.int, operation.op, operation.amount, operation.state.value)
        for operation in await simulated.operations()
    ] == [
        (numbered(1).req_id.int, "withdraw", 10, "withdrawn"),
        (numbered(2).req_id.int, "withdraw", 20, "committed"),
        (numbered(3).req_id.int, "withdraw", 1_000, "refused"),
        (numbered(4).req_id.int, None, None, "fenced"),
        (numbered(5).req_id.int, "deposit", 7, "deposited"),
        (numbered(6).req_id.int, "withdraw", None, "refused"),
    ]
    assert await simulated.balances(1) == [CoreBalance(asset_id=1, available=77, frozen=10 if freezes else 0)]
    assert await simulated.total(1) == (87 if freezes else 77)
    assert (await simulated.funded(1), await simulated.funded(2)) == (100, 0)
    assert simulated.statistics().moves == 3
    assert simulated.statistics().calls == {
        CoreOperation.WITHDRAW: 4,
        CoreOperation.DEPOSIT: 1,
        CoreOperation.COMMIT: 1,
        CoreOperation.ROLLBACK: 0,
        CoreOperation.CANCEL: 1,
    }


async def test_a_total_may_exceed_what_one_balance_holds(simulated: SimulatedCore) -> None:
    for user_id in (2, 3, 4):
        await simulated.fund(user_id, 1, AMOUNT_MAX)
    assert await simulated.total(1) == await simulated.funded(1) == 3 * AMOUNT_MAX + 100


@pytest.mark.parametrize(
    ("user_id", "asset_id", "amount", "named"),
    [(1, 1, 0, "amount"), (1, 1, AMOUNT_MAX, "amount"), (-1, 1, 1, "user_id"), (1, 1 << 63, 1, "asset_id")],
)
async def test_funding_refuses_what_it_cannot_hold(
    simulated: SimulatedCore, user_id: int, asset_id: int, amount: int, named: str
) -> None:
    with pytest.raises(ValueError, match=f"^{named} is"):
        await simulated.fund(user_id, asset_id, amount)
    assert await simulated.total(1) == await simulated.funded(1) == 100


async def test_funding_leaves_room_for_a_rollback(simulated: SimulatedCore) -> None:
    assert await simulated.withdraw(CALL) == SUCCESS
    with pytest.raises(ValueError, match=r"amount is .* would exceed"):
        await simulated.fund(1, 1, AMOUNT_MAX - 60)
    await simulated.fund(1, 1, AMOUNT_MAX - 100)
    assert await simulated.rollback(REQ_ID) == SUCCESS
    assert await available(simulated) == AMOUNT_MAX


@pytest.mark.parametrize("behaviour", [Behaviour(), Behaviour(crash_before=1), Behaviour(pending_calls=1)])
async def test_every_call_is_a_checkpoint(simulated: SimulatedCore, behaviour: Behaviour) -> None:
    simulated.behave(behaviour)
    with contextlib.suppress(SimulatedCrash), trio.testing.assert_checkpoints():
        await simulated.withdraw(CALL)


async def test_a_rollback_after_a_commit_waits_for_room(tmp_path: Path) -> None:
    async with open_simulated_core(name="matching", path=tmp_path / "core.sqlite", freezes=False) as core:
        await core.fund(1, 1, 40)
        assert await core.withdraw(CALL) == SUCCESS
        assert await core.commit(REQ_ID) == SUCCESS
        await core.fund(1, 1, AMOUNT_MAX)
        assert isinstance(await core.rollback(REQ_ID), Pending)
        assert await available(core) == AMOUNT_MAX
        assert await core.withdraw(numbered(2, amount=40)) == SUCCESS
        assert await core.commit(numbered(2).req_id) == SUCCESS
        assert await core.rollback(REQ_ID) == SUCCESS
        assert await available(core) == AMOUNT_MAX
        found = await core.operation(REQ_ID)
        assert found is not None
        assert found.state is OperationState.REVERSED


@pytest.mark.parametrize(
    ("field", "value"),
    [("latency_ms", -1), ("crash_before", -1), ("crash_after", -1), ("lose_replies", -1), ("pending_calls", -1)],
)
def test_a_behaviour_refuses_negative_numbers(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field} is -1"):
        Behaviour(**{field: value})  # type: ignore[arg-type]
    with pytest.raises(msgspec.ValidationError, match=f"{field} is -1"):
        msgspec.json.decode(msgspec.json.encode({field: value}), type=Behaviour)


def test_a_behaviour_is_read_from_json_and_names_what_it_does_not_know() -> None:
    assert msgspec.json.decode(b'{"ops":["deposit"],"latency_ms":5}', type=Behaviour) == Behaviour(
        ops=frozenset({CoreOperation.DEPOSIT}), latency_ms=5
    )
    with pytest.raises(msgspec.ValidationError, match="latency"):
        msgspec.json.decode(b'{"latency":5}', type=Behaviour)
    with pytest.raises(ValueError, match="refuse is empty"):
        Behaviour(refuse="")
