"""Restart rules, limits, escalation, order of starting and stopping, graceful shutdown."""

import signal
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from transfer_engine.actors import (
    ActorPool,
    Backoff,
    ChildSpec,
    ChildState,
    Restart,
    Scanner,
    Supervisor,
    SupervisorEscalation,
)

AT_ONCE = Backoff(first_ms=0, most_ms=0)


class Crash(Exception):
    pass


class Troupe:
    """Children that note when they start and stop; what each does is a list of lives, the last of which repeats."""

    def __init__(self):
        self.notes = []
        self.alive = set()

    def child(self, name, *lives, restart=Restart.PERMANENT, **more):
        lives = list(lives) or ["live"]

        async def run(task_status):
            life = lives.pop(0) if len(lives) > 1 else lives[0]
            assert name not in self.alive
            self.alive.add(name)
            self.notes.append(f"+{name}")
            try:
                await trio.lowlevel.checkpoint()
                if life == "crash before ready":
                    raise Crash(name)
                task_status.started()
                await trio.sleep(1)
                if life == "crash":
                    raise Crash(name)
                if life == "live":
                    await trio.sleep_forever()
            finally:
                self.alive.remove(name)
                self.notes.append(f"-{name}")

        return ChildSpec(name, run, restart, **more)


@pytest.fixture
def troupe():
    return Troupe()


def states(supervisor):
    return {child.name: child.state for child in supervisor.statistics().children}


async def test_children_start_in_order_each_when_the_one_before_is_ready(autojump_clock):
    notes = []

    def child(name):
        async def run(task_status):
            notes.append(f"{name} begins")
            await trio.sleep(1)
            notes.append(f"{name} is ready")
            task_status.started()
            await trio.sleep_forever()

        return ChildSpec(name, run)

    supervisor = Supervisor("engine", [child("a"), child("b")])
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        assert notes == ["a begins", "a is ready", "b begins", "b is ready"]
        nursery.cancel_scope.cancel()


async def test_cancelled_children_stop_in_reverse_order_one_after_the_other(autojump_clock):
    notes = []

    def child(name):
        async def run(task_status):
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                notes.append(f"{name} stops")
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                notes.append(f"{name} has stopped")

        return ChildSpec(name, run)

    supervisor = Supervisor("engine", [child("a"), child("b")])
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        nursery.cancel_scope.cancel()
    assert notes == ["b stops", "b has stopped", "a stops", "a has stopped"]
    assert set(states(supervisor).values()) == {ChildState.ENDED}
    assert not supervisor.statistics().running


@pytest.mark.parametrize(
    ("restart", "life", "restarts"),
    [
        (Restart.PERMANENT, "crash", True),
        (Restart.PERMANENT, "return", True),
        (Restart.TRANSIENT, "crash", True),
        (Restart.TRANSIENT, "return", False),
        (Restart.TEMPORARY, "crash", False),
        (Restart.TEMPORARY, "return", False),
    ],
)
async def test_who_is_restarted(autojump_clock, troupe, restart, life, restarts):
    told = []
    supervisor = Supervisor(
        "engine", [troupe.child("a", life, "live", restart=restart)], on_crash=lambda *args: told.append(args)
    )
    with trio.move_on_after(600) as scope:
        await supervisor.run()
    # One that is not restarted was the last one: the supervisor returns.
    assert scope.cancelled_caught == restarts
    assert troupe.notes == (["+a", "-a"] * (2 if restarts else 1))
    [statistics] = supervisor.statistics().children
    assert statistics.restarts == int(restarts)
    assert statistics.crashes == (life == "crash")
    assert statistics.last_error == ("Crash('a')" if life == "crash" else None)
    assert [name for name, _ in told] == ["a"] * (life == "crash")


async def test_a_crash_restarts_nobody_else(autojump_clock, troupe):
    supervisor = Supervisor("engine", [troupe.child("a"), troupe.child("b", "crash", "live"), troupe.child("c")])
    with trio.move_on_after(600):
        await supervisor.run()
    assert troupe.notes == ["+a", "+b", "+c", "-b", "+b", "-c", "-b", "-a"]


async def test_a_child_that_crashes_before_it_is_ready_is_restarted_and_the_next_one_waits(autojump_clock, troupe):
    supervisor = Supervisor(
        "engine", [troupe.child("a", "crash before ready", "crash before ready", "live"), troupe.child("b")]
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await wait_all_tasks_blocked()
        assert troupe.notes == ["+a", "-a", "+a", "-a", "+a", "+b"]
        nursery.cancel_scope.cancel()


async def test_the_backoff_grows_with_the_restarts_in_a_row_and_begins_anew_after_a_long_life(autojump_clock):
    began = []
    lives = iter([0, 0, 0, 61, 0])

    async def run(task_status):
        task_status.started()
        began.append(trio.current_time())
        await trio.sleep(next(lives))
        raise Crash

    backoff = Backoff(first_ms=1_000, most_ms=60_000, random=lambda: 1.0)
    supervisor = Supervisor("engine", [ChildSpec("a", run)], backoff=backoff, restarts_most=99, window_ms=60_000)
    with trio.move_on_after(70):
        await supervisor.run()
    assert began == pytest.approx([0, 1, 3, 7, 69])


async def test_a_child_may_have_a_backoff_of_its_own(autojump_clock, troupe):
    slow = Backoff(first_ms=10_000, most_ms=10_000, random=lambda: 1.0)
    supervisor = Supervisor("engine", [troupe.child("a", "crash", "live", backoff=slow)], backoff=AT_ONCE)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await trio.sleep(5)
        assert states(supervisor) == {"a": ChildState.BACKING_OFF}
        assert "a backing off" in repr(supervisor)
        await trio.sleep(7)
        assert states(supervisor) == {"a": ChildState.RUNNING}
        nursery.cancel_scope.cancel()


async def test_too_many_restarts_stop_all_children_and_escalate(autojump_clock, troupe):
    supervisor = Supervisor(
        "engine", [troupe.child("a"), troupe.child("b", "crash"), troupe.child("c")], backoff=AT_ONCE, restarts_most=2
    )
    with pytest.raises(SupervisorEscalation, match="'b' crashed last") as escalation:
        await supervisor.run()
    assert isinstance(escalation.value.__cause__, Crash)
    assert troupe.notes == ["+a", "+b", "+c", "-b", "+b", "-b", "+b", "-b", "-c", "-a"]
    assert not troupe.alive


async def test_restarts_of_all_children_together_count_but_only_within_the_window(autojump_clock, troupe):
    def supervisor(window_ms):
        children = [troupe.child(name, "crash", "crash", "live") for name in "ab"]
        return Supervisor("engine", children, backoff=AT_ONCE, restarts_most=3, window_ms=window_ms)

    with pytest.raises(SupervisorEscalation):
        await supervisor(window_ms=10_000).run()
    # Two crash at one time, and again one second later: never more than two in half a second.
    with trio.move_on_after(60) as scope:
        await supervisor(window_ms=500).run()
    assert scope.cancelled_caught


async def test_returning_too_often_escalates_without_a_cause(autojump_clock, troupe):
    supervisor = Supervisor("engine", [troupe.child("a", "return")], backoff=AT_ONCE, restarts_most=1)
    with pytest.raises(SupervisorEscalation, match="'a' returned last") as escalation:
        await supervisor.run()
    assert escalation.value.__cause__ is None


async def test_a_child_that_never_gets_ready_escalates_too(autojump_clock, troupe):
    supervisor = Supervisor("engine", [troupe.child("a", "crash before ready"), troupe.child("b")], restarts_most=2)
    async with trio.open_nursery() as nursery:
        with pytest.raises(SupervisorEscalation):
            await nursery.start(supervisor.run)
    assert troupe.notes == ["+a", "-a"] * 3


async def test_a_supervisor_is_a_child_like_any_other(autojump_clock, troupe):
    inner = Supervisor("inner", [troupe.child("a", "crash", "crash", "live")], backoff=AT_ONCE, restarts_most=1)
    outer = Supervisor("outer", [ChildSpec("inner", inner.run)], backoff=AT_ONCE)
    with trio.move_on_after(60):
        await outer.run()
    [statistics] = outer.statistics().children
    assert statistics.restarts == 1
    assert "SupervisorEscalation" in statistics.last_error
    assert troupe.notes == ["+a", "-a"] * 3


async def test_a_base_exception_is_nobodys_crash(autojump_clock, troupe):
    async def run(task_status):
        task_status.started()
        await trio.sleep(1)
        raise SystemExit

    supervisor = Supervisor("engine", [troupe.child("a"), ChildSpec("b", run), troupe.child("c")])
    with pytest.raises(BaseExceptionGroup) as group:
        await supervisor.run()
    assert group.group_contains(SystemExit)
    assert troupe.notes == ["+a", "+c", "-c", "-a"]


async def test_an_alert_that_fails_takes_nobody_down(autojump_clock, troupe):
    def alert(name, error):
        raise ZeroDivisionError

    supervisor = Supervisor("engine", [troupe.child("a", "crash", "live")], on_crash=alert)
    with trio.move_on_after(60):
        await supervisor.run()
    assert troupe.notes == ["+a", "-a", "+a", "-a"]


async def test_a_child_that_fails_as_it_is_cancelled_is_told_and_not_restarted(autojump_clock):
    async def run(task_status):
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise Crash("last words")

    told = []
    supervisor = Supervisor("engine", [ChildSpec("a", run)], on_crash=lambda *args: told.append(args))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.stop("a", deadline_ms=1_000)
    [(name, error)] = told
    assert (name, str(error)) == ("a", "last words")
    assert supervisor.statistics().children[0].restarts == 0


async def test_a_child_that_returns_as_it_is_stopped_has_not_ended_too_often(autojump_clock):
    finish = trio.Event()

    async def run(task_status):
        task_status.started()
        await finish.wait()

    supervisor = Supervisor("engine", [ChildSpec("a", run)], restarts_most=0)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        finish.set()
        assert await supervisor.stop("a", deadline_ms=1_000)
    assert supervisor.statistics().children[0].restarts == 0


async def test_one_child_can_be_stopped_for_good_also_while_it_backs_off(autojump_clock, troupe):
    slow = Backoff(first_ms=10_000, most_ms=10_000, random=lambda: 1.0)
    supervisor = Supervisor("engine", [troupe.child("a"), troupe.child("b", "crash", backoff=slow), troupe.child("c")])
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await trio.sleep(2)
        assert await supervisor.stop("a", deadline_ms=1_000)
        assert await supervisor.stop("b", deadline_ms=1_000)
        assert await supervisor.stop("b", deadline_ms=1_000)
        await trio.sleep(60)
        assert states(supervisor) == {"a": ChildState.ENDED, "b": ChildState.ENDED, "c": ChildState.RUNNING}
        with pytest.raises(KeyError):
            await supervisor.stop("nobody", deadline_ms=1_000)
        nursery.cancel_scope.cancel()
    assert troupe.notes == ["+a", "+b", "+c", "-b", "-a", "-c"]


async def test_shutdown_drains_then_stops_each_child_the_last_one_first(autojump_clock, troupe):
    def drain(name, seconds):
        async def wait():
            troupe.notes.append(f"{name} drains")
            await trio.sleep(seconds)

        return wait

    supervisor = Supervisor(
        "engine",
        [troupe.child("a", drain=drain("a", 1)), troupe.child("b"), troupe.child("c", drain=drain("c", 2))],
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        assert await supervisor.shutdown(deadline_ms=5_000)
        assert trio.current_time() == pytest.approx(3)
    # The nursery ended because run() returned.
    assert troupe.notes == ["+a", "+b", "+c", "c drains", "-c", "-b", "a drains", "-a"]


async def test_what_is_not_drained_at_the_deadline_is_cancelled(autojump_clock, troupe):
    def drain(name, seconds):
        async def wait():
            troupe.notes.append(f"{name} drains")
            await trio.sleep(seconds)
            troupe.notes.append(f"{name} is drained")

        return wait

    supervisor = Supervisor("engine", [troupe.child("a", drain=drain("a", 1)), troupe.child("b", drain=drain("b", 99))])
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        assert not await supervisor.shutdown(deadline_ms=5_000)
        assert trio.current_time() == pytest.approx(5)
    assert troupe.notes == ["+a", "+b", "b drains", "-b", "a drains", "-a"]


async def test_a_drain_that_crashes_does_not_keep_its_child_alive(autojump_clock, troupe):
    async def drain():
        raise Crash("drain")

    supervisor = Supervisor("engine", [troupe.child("a", drain=drain)])
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        assert not await supervisor.shutdown(deadline_ms=5_000)
    assert supervisor.statistics().children[0].last_error == "Crash('drain')"
    assert not troupe.alive


async def test_a_child_that_crashes_while_it_drains_is_restarted_to_go_on_draining(autojump_clock, troupe):
    supervisor = Supervisor(
        "engine", [troupe.child("a", "crash", "live", drain=partial(trio.sleep, 9))], backoff=AT_ONCE
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        assert await supervisor.shutdown(deadline_ms=10_000)
    assert troupe.notes == ["+a", "-a", "+a", "-a"]


async def test_a_shutdown_amid_the_start_starts_nobody_else(autojump_clock, troupe):
    async def never_ready(task_status):
        await trio.sleep_forever()

    supervisor = Supervisor("engine", [troupe.child("a"), ChildSpec("b", never_ready), troupe.child("c")])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        await trio.sleep(5)
        await supervisor.shutdown(deadline_ms=1_000)
    assert troupe.notes == ["+a", "-a"]


async def test_a_shutdown_at_any_step_of_the_start_ends_the_run(autojump_clock):
    # Which task of two goes first is up to trio's dice: so it is tried many times.
    for steps in list(range(10)) * 20:
        troupe = Troupe()
        supervisor = Supervisor("engine", [troupe.child("a"), troupe.child("b")])
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.run)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                await supervisor.shutdown(deadline_ms=1_000)
        assert not troupe.alive


async def test_a_shutdown_before_the_start_is_not_lost(autojump_clock, troupe):
    supervisor = Supervisor("engine", [troupe.child("a")])
    assert await supervisor.shutdown(deadline_ms=1_000)
    await supervisor.run()
    assert states(supervisor) == {"a": ChildState.IDLE}


async def test_it_can_be_run_again_after_a_shutdown_but_once_at_a_time(autojump_clock, troupe):
    supervisor = Supervisor("engine", [troupe.child("a")])
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        with pytest.raises(RuntimeError, match="running already"):
            await supervisor.run()
        await supervisor.shutdown(deadline_ms=1_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        assert states(supervisor) == {"a": ChildState.RUNNING}
        nursery.cancel_scope.cancel()


async def test_a_cancelled_shutdown_leaves_the_rest_running(autojump_clock, troupe):
    supervisor = Supervisor("engine", [troupe.child("a"), troupe.child("b", drain=trio.sleep_forever)])
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        with trio.move_on_after(1):
            await supervisor.shutdown(deadline_ms=60_000)
        assert troupe.alive == {"a", "b"}
        nursery.cancel_scope.cancel()
    assert not troupe.alive


def test_two_children_of_one_name_are_refused(troupe):
    with pytest.raises(ValueError, match="share a name"):
        Supervisor("engine", [troupe.child("a"), troupe.child("a")])


async def test_sigterm_drains_the_actors_within_the_deadline(autojump_clock):
    handled = []

    async def handle(key, messages):
        await trio.sleep(1)
        handled.extend(messages)

    async def poison(key, message, error):
        raise error

    async def scan():
        pool.tell_nowait("recovered", "by the scanner")

    pool = ActorPool("users", handle, mailbox_capacity=99, batch_most=1, idle_ms=1_000, poison=poison)
    scanner = Scanner("recovery", scan, interval_ms=2_500)

    async def drain():
        pool.close()
        await pool.wait_drained()

    supervisor = Supervisor("engine", [ChildSpec("users", pool.run, drain=drain), ChildSpec("recovery", scanner.run)])
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            for message in range(4):
                pool.tell_nowait("alice", message)
            signal.raise_signal(signal.SIGTERM)
            async for _ in signals:
                break
            assert await supervisor.shutdown(deadline_ms=10_000)
    assert trio.current_time() == pytest.approx(4)
    # The scanner was stopped first: it brought no new work.
    assert handled == [0, 1, 2, 3]


def test_cancelled_at_every_step_a_supervisor_leaves_no_child_behind(at_every_step, cancelled_after):
    async def program(steps):
        troupe = Troupe()
        supervisor = Supervisor(
            "engine",
            [
                troupe.child("a"),
                troupe.child("b", "crash before ready", "crash", "return", "live"),
                troupe.child("c", "crash", restart=Restart.TEMPORARY),
                troupe.child("d", drain=partial(trio.sleep, 1)),
            ],
        )
        with cancelled_after(steps) as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(supervisor.run)
                await trio.sleep(5)
                await supervisor.shutdown(deadline_ms=500)
        assert not troupe.alive
        assert not supervisor.statistics().running
        ends = [note for note in troupe.notes if note.startswith("-")]
        assert set(states(supervisor).values()) <= {ChildState.ENDED, ChildState.IDLE}
        order = [note for note in ends if note in {"-a", "-d"}]
        assert order == sorted(order, reverse=True)
        return scope.cancelled_caught

    at_every_step(program, at_least=30)
