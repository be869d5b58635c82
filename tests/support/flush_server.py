"""A flush that ends when a test tells it to, its callers, and a supervisor without limits."""

from contextlib import contextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from transfer_engine.actors import GroupCommit


class Unavailable(Exception):
    pass


class Server:
    """A flush that ends when it is told to, and as it is told to."""

    def __init__(self):
        self.started = []
        self.in_flight = {}
        self.ends = {}
        self.cancelled = []
        self.poisonous = set()
        self.is_stubborn = False

    async def flush(self, entries):
        batch = "".join(entries)
        self.started.append(batch)
        assert batch not in self.in_flight
        gate = self.in_flight[batch] = trio.Event()
        try:
            with trio.CancelScope(shield=self.is_stubborn):
                await gate.wait()
        except trio.Cancelled:
            self.cancelled.append(batch)
            raise
        finally:
            del self.in_flight[batch]
        if self.poisonous.intersection(entries):
            raise ArithmeticError(f"poison in {batch}")
        end = self.ends.pop(batch, None)
        if isinstance(end, Exception):
            raise end
        return [f"result of {entry}" for entry in entries] if end is None else end

    @contextmanager
    def stubborn(self):
        """No flush that starts in here is cancelled. Those that are left at the end, end well."""
        self.is_stubborn = True
        try:
            yield
        finally:
            self.is_stubborn = False
            for gate in self.in_flight.values():
                gate.set()

    async def end(self, batch, how=None):
        """Let a flush end: well, by an exception, or with results of its own."""
        self.ends[batch] = how
        self.in_flight[batch].set()
        await wait_all_tasks_blocked()

    def group_commit(self, **changes):
        settings = {
            "batch_weight_most": 100,
            "waiting_weight_most": 1_000,
            "expected_faults": (Unavailable,),
            "crashes_most": 2,
            "flushes_most": 3,
            **changes,
        }
        return GroupCommit("recorder", self.flush, **settings)


class Callers:
    """Tasks that each submit one entry and keep what they got for it."""

    def __init__(self, group_commit, nursery):
        self.group_commit = group_commit
        self.nursery = nursery
        self.got = {}

    async def submit(self, *entries):
        """Start one caller an entry, each when the one before has nothing left to do."""
        for entry in entries:
            self.nursery.start_soon(self._call, entry)
            await wait_all_tasks_blocked()

    async def _call(self, entry):
        try:
            self.got[entry] = await self.group_commit.submit(entry)
        except Exception as error:  # noqa: BLE001
            self.got[entry] = error


async def restarting(group_commit, crashes, task_status=trio.TASK_STATUS_IGNORED):
    """A supervisor without limits."""
    task_status.started()
    while True:
        try:
            await group_commit.run()
        except Exception as crash:  # noqa: BLE001
            crashes.append(crash)


def tell_all(group_commit, entries):
    return [group_commit.submit_nowait(entry) for entry in entries]


async def cancellable(scope, run):
    """Run until the scope is cancelled."""
    with scope:
        await run()
