"""Transfers under way, in memory: from their acceptance until their last row is durable.

An open transfer is served from here; everything about it that must survive a crash is in its intent and rows.
"""

import enum
from collections.abc import Callable, Iterator
from uuid import UUID

import trio

from transfer_engine.engine.legs import LedgerBody
from transfer_engine.engine.outcomes import Refused, TransferOutcome
from transfer_engine.engine.services.protocol import ServiceCall
from transfer_engine.engine.services.registry import Service
from transfer_engine.engine.state_machine import TransferEvent, transition
from transfer_engine.schema.ids import is_keyed
from transfer_engine.schema.transfers import STATUS_OF_STATE, Intent, TransferRecord, TransferState, TransferStatus

PENDING_MESSAGE = "Processing in background"


class Custody(enum.Enum):
    """Who works on an open transfer. Exactly one task does, or none."""

    QUEUED = enum.auto()
    """Its user's actor has it, or will."""
    DRIVEN = enum.auto()
    """A task of its own drives it."""
    WAITING = enum.auto()
    """Nobody: the scanner will."""
    ENDING = enum.auto()
    """Its last row is on the way to the store."""


class OpenTransfer:
    """One transfer under way: its intent, its progress, and the callers that wait for it.

    Mutable, and owned by whoever has its custody; nothing here is awaited under a half-made change.
    """

    __slots__ = (
        "_waiters",
        "answer",
        "body",
        "bucket",
        "crashes",
        "created_at",
        "custody",
        "error",
        "intent",
        "is_end_ours",
        "is_held",
        "is_journaled",
        "is_promised",
        "is_quarantined",
        "is_record_known",
        "is_recovered",
        "is_replay",
        "last_entry",
        "req_id",
        "retry_count",
        "source",
        "state",
        "target",
        "touched_at",
        "updated_at",
        "uuid",
    )

    def __init__(self, *, req_id: int, intent: Intent, source: Service, target: Service) -> None:
        self.req_id = req_id
        self.uuid = UUID(int=req_id)
        self.intent = intent
        self.source = source
        self.target = target
        self.body = LedgerBody(
            req_id=req_id,
            debit_account_id=source.account_id(intent.user_id, intent.asset_id),
            credit_account_id=target.account_id(intent.target_user_id, intent.asset_id),
            asset_id=intent.asset_id,
            amount=intent.amount,
            fingerprint=intent.fingerprint,
        )
        self.state = TransferState.INIT
        self.error = ""
        self.retry_count = 0
        self.created_at = intent.accepted_at
        self.updated_at = intent.accepted_at
        self.custody = Custody.QUEUED
        self.touched_at = 0.0
        self.bucket: int | None = None
        self.is_end_ours = False
        self.is_held = False
        self.is_journaled = False
        self.is_promised = False
        self.is_record_known = False
        self.is_replay = False
        self.last_entry = 0
        self.is_recovered = False
        self.is_quarantined = False
        self.crashes = 0
        self.answer: TransferOutcome | Refused | None = None
        self._waiters: list[Waiter | Listener] = []

    def __repr__(self) -> str:
        return (
            f"<OpenTransfer {self.uuid} {self.source.name}->{self.target.name} user={self.intent.user_id} "
            f"{self.state.value} {self.custody.name.lower()} retries={self.retry_count}>"
        )

    @property
    def is_wallet_pair(self) -> bool:
        """Whether both sides lie in our ledger: hold and post go in one trip, and no core is called."""
        return self.source.core is None and self.target.core is None

    @property
    def owns_key(self) -> bool:
        """Whether it is certain that no other body does: the ledger has answered its hold, and not against it."""
        return self.is_held or self.state.is_terminal

    @property
    def has_trace(self) -> bool:
        """Whether its intent is perhaps durable, or a caller was told `pending`: it can't be turned away any more."""
        return self.is_journaled or self.bucket is not None or self.is_promised

    @property
    def is_perhaps_repeated(self) -> bool:
        """Whether it may yet turn out to have been answered before: its name is the client's, and no row was read."""
        return not self.is_record_known and is_keyed(self.req_id)

    def apply(self, event: TransferEvent) -> None:
        """Follow the state machine; an event that does not fit changes nothing."""
        self.state = transition(self.state, event)

    def held(self, timestamp_ns: int) -> None:
        """The hold stands, and is ours: take its ledger time, which is the same on every submission.

        From here on no other row than this transfer's own can stand under its name.
        """
        self.is_held = self.is_record_known = True
        self.created_at = self.updated_at = timestamp_ns // 1_000_000

    def adopt(self, record: TransferRecord) -> None:
        """Go on from where a row says that an earlier drive stopped."""
        self.is_held = True
        self.state = record.state
        self.error = record.error
        self.retry_count = max(self.retry_count, record.retry_count)
        self.created_at = record.created_at
        self.updated_at = record.updated_at
        self.is_record_known = True

    def trouble(self, what: str) -> None:
        """Say why it does not end now. Once it is being undone, the reason of that stays: its last row gives it."""
        if self.state is not TransferState.COMPENSATING:
            self.error = what

    def leave(self, what: str | None = None) -> None:
        """Nobody works on it now: the scanner will. Those that wait are let go: no answer will come soon.

        ``what`` is the trouble, if there is any.
        """
        if what is not None:
            self.trouble(what)
        self.custody = Custody.WAITING
        self.touched_at = trio.current_time()
        self.release()

    def record(self) -> TransferRecord:
        """Return the transfer's row as of now."""
        intent = self.intent
        return TransferRecord(
            req_id=self.uuid,
            source=intent.source,
            target=intent.target,
            user_id=intent.user_id,
            target_user_id=intent.target_user_id,
            asset_id=intent.asset_id,
            amount=intent.amount,
            state=self.state,
            created_at=self.created_at,
            updated_at=self.updated_at,
            error=self.error,
            retry_count=self.retry_count,
            fingerprint=intent.fingerprint,
        )

    def call_of_source(self) -> ServiceCall:
        """Return the withdraw's body."""
        intent = self.intent
        return ServiceCall(req_id=self.uuid, user_id=intent.user_id, asset_id=intent.asset_id, amount=intent.amount)

    def call_of_target(self) -> ServiceCall:
        """Return the deposit's body."""
        intent = self.intent
        return ServiceCall(
            req_id=self.uuid, user_id=intent.target_user_id, asset_id=intent.asset_id, amount=intent.amount
        )

    def pending_outcome(self) -> TransferOutcome:
        """Return what a caller is told whose transfer has no durable end yet; from now on it may not be refused."""
        self.is_promised = True
        message = f"{PENDING_MESSAGE}: {self.error}" if self.error else PENDING_MESSAGE
        return TransferOutcome(
            req_id=self.uuid,
            status=TransferStatus.PENDING,
            state=self.state,
            message=message,
            replayed=self.is_replay,
            created_at=self.created_at if self.is_held else 0,
            updated_at=self.updated_at if self.is_held else 0,
        )

    def final_outcome(self) -> TransferOutcome:
        """Return what a caller is told once the transfer's last row is durable."""
        return TransferOutcome(
            req_id=self.uuid,
            status=STATUS_OF_STATE[self.state],
            state=self.state,
            message=self.error or None,
            replayed=self.is_replay,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )

    def reply(self, answer: TransferOutcome | Refused) -> None:
        """Answer every caller that waits, and those that will come; the first answer stands."""
        if self.answer is not None:
            return
        self.answer = answer
        self.release()

    def release(self) -> None:
        """Let those that wait go on: answered, or with no answer to come soon."""
        waiters = self._waiters
        if len(waiters) == 1:
            waiters[0].wake()
        elif waiters:
            for waiter in tuple(waiters):
                waiter.wake()

    def new_listener(self, on_wake: Callable[[], None]) -> "Listener":
        """Have ``on_wake`` called, once and synchronously, when the transfer is answered or released."""
        listener = Listener(on_wake, self._waiters)
        self._waiters.append(listener)
        return listener

    def new_waiter(self) -> "Waiter":
        """Return a place for the running task to wait in, until the transfer is answered or released."""
        waiter = Waiter(trio.lowlevel.current_task(), self._waiters)
        self._waiters.append(waiter)
        return waiter


class Waiter:
    """One caller that waits for a transfer's answer."""

    __slots__ = ("_among", "_task")

    def __init__(self, task: trio.lowlevel.Task, among: "list[Waiter | Listener]") -> None:
        self._task: trio.lowlevel.Task | None = task
        self._among = among

    @property
    def is_waiting(self) -> bool:
        """Whether the caller is still there, and was not woken."""
        return self._task is not None

    async def wait(self) -> None:
        """Wait to be woken. Cancellation gives up the place, and nothing else."""
        await trio.lowlevel.wait_task_rescheduled(self._give_up)

    def wake(self) -> None:
        """Let the caller go on; a second time does nothing."""
        if self._task is not None:
            task, self._task = self._task, None
            self._leave()
            trio.lowlevel.reschedule(task)

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        self._leave()
        return trio.lowlevel.Abort.SUCCEEDED

    def _leave(self) -> None:
        self._among.remove(self)


class Listener:
    """A caller that is called when his transfer is answered, or released without an answer; no task waits."""

    __slots__ = ("_among", "_on_wake")

    def __init__(self, on_wake: Callable[[], None], among: "list[Waiter | Listener]") -> None:
        self._on_wake: Callable[[], None] | None = on_wake
        self._among = among

    @property
    def is_waiting(self) -> bool:
        """Whether he was not called yet."""
        return self._on_wake is not None

    def wake(self) -> None:
        """Call him; a second time does nothing."""
        if self._on_wake is not None:
            on_wake, self._on_wake = self._on_wake, None
            self._among.remove(self)
            on_wake()


class OpenTransfers:
    """All transfers under way, by `req_id` and by user. Bounded by the engine's admission."""

    def __init__(self) -> None:
        self._by_req_id: dict[int, OpenTransfer] = {}
        self._by_user: dict[int, dict[int, OpenTransfer]] = {}
        self._added: Callable[[OpenTransfer], None] | None = None
        self._removed: Callable[[OpenTransfer], None] | None = None

    def watch(self, added: Callable[[OpenTransfer], None], removed: Callable[[OpenTransfer], None]) -> None:
        """Have somebody called, synchronously, after each transfer has come, and after each has gone."""
        self._added = added
        self._removed = removed

    def __len__(self) -> int:
        return len(self._by_req_id)

    def __iter__(self) -> Iterator[OpenTransfer]:
        return iter(list(self._by_req_id.values()))

    def find(self, req_id: int) -> OpenTransfer | None:
        """Return the transfer if it is under way."""
        return self._by_req_id.get(req_id)

    def add(self, transfer: OpenTransfer) -> None:
        """Take a transfer in; one with the same `req_id` may not be under way."""
        if transfer.req_id in self._by_req_id:
            raise ValueError(f"{transfer.uuid} is under way")
        self._by_req_id[transfer.req_id] = transfer
        intent = transfer.intent
        self._of_user(intent.user_id)[transfer.req_id] = transfer
        if intent.target_user_id != intent.user_id:
            self._of_user(intent.target_user_id)[transfer.req_id] = transfer
        if self._added is not None:
            self._added(transfer)

    def of_user(self, user_id: int) -> list[OpenTransfer]:
        """Return the transfers under way from or to a user, in the order in which they came."""
        return list(self._by_user.get(user_id, {}).values())

    def remove(self, transfer: OpenTransfer) -> None:
        """Let a transfer go: all of it is durable."""
        del self._by_req_id[transfer.req_id]
        intent = transfer.intent
        self._remove_of(intent.user_id, transfer.req_id)
        if intent.target_user_id != intent.user_id:
            self._remove_of(intent.target_user_id, transfer.req_id)
        if self._removed is not None:
            self._removed(transfer)

    def _remove_of(self, user_id: int, req_id: int) -> None:
        mine = self._by_user[user_id]
        del mine[req_id]
        if not mine:
            del self._by_user[user_id]

    def _of_user(self, user_id: int) -> "dict[int, OpenTransfer]":
        mine = self._by_user.get(user_id)
        if mine is None:
            mine = self._by_user[user_id] = {}
        return mine
