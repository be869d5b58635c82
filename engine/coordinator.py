"""The coordinator: drives a transfer from its intent to its end.

Every transfer is one hold in the ledger, then a post or a void; the services on its two sides decide what is called
in between:

* wallet -> wallet: hold and post as two events of one submission.
* wallet -> core: hold; `target_pending` persisted; deposit; post if taken; if refused: `compensating` persisted, void.
* core -> wallet: hold; `source_pending` persisted; withdraw; post, commit; if refused: void, failed.
* core -> core: hold; withdraw; deposit; post, commit; if the deposit is refused: `compensating` persisted, void
  first, then rollback.

What it never does: conclude from silence. Every drive starts at the top (the hold again, the calls again, all by the
same identifiers) and reads the verdicts. It never voids after the target's Success, and never without a final refusal
by the target, or an operator's fence.

What a death leaves behind, at each await: before the intent is durable, nothing. After it, the intent: recovery
drives the transfer from the top. Whatever the ledger and the cores did by then they answer again.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from tigerbeetle import CreateTransferResult, CreateTransferStatus

from transfer_engine.engine import crash_points
from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.core_calls import CoreCalls
from transfer_engine.engine.endings import Endings
from transfer_engine.engine.leases import Lease, LeaseLapsed
from transfer_engine.engine.ledger.protocol import LedgerUnavailable
from transfer_engine.engine.open_transfers import Custody, OpenTransfer
from transfer_engine.engine.recorder import Recorder
from transfer_engine.engine.records.protocol import RecordsUnavailable
from transfer_engine.engine.services.protocol import Failed, Pending, Success
from transfer_engine.engine.state_machine import TransferEvent
from transfer_engine.engine.submitter import Submitter
from transfer_engine.engine.trips import Trips
from transfer_engine.engine.verdicts import (
    REFUSAL_REASONS,
    EndVerdict,
    HoldVerdict,
    hold_verdict,
    status_name,
)
from transfer_engine.schema.ids import POSTS
from transfer_engine.schema.transfers import TransferState

_CREATED = CreateTransferStatus.CREATED
_FIRST_POST = POSTS[0]


class DriveSoon(Protocol):
    """How a transfer leaves its user's queue."""

    def __call__(self, transfer: OpenTransfer, work: Callable[[], Awaitable[None]]) -> object:
        """Start ``work`` in a task of its own; the transfer is DRIVEN from now on."""
        ...


class Coordinator:
    """Drives transfers; what it knows of them is in them.

    Args:
        submitter: the way to the ledger.
        recorder: the way to the record store.
        endings: ends holds and transfers.
        lease: whether this engine may still ask anything of anyone.
        alerts: told of what a person must know.
        calls: the way to the cores.
        drive_soon: starts work on a transfer that leaves its user's queue.
    """

    def __init__(
        self,
        *,
        submitter: Submitter,
        recorder: Recorder,
        endings: Endings,
        lease: Lease,
        alerts: Alerts,
        calls: CoreCalls,
        drive_soon: DriveSoon,
    ) -> None:
        self._submitter = submitter
        self._recorder = recorder
        self._endings = endings
        self._lease = lease
        self._alerts = alerts
        self._calls = calls
        self._drive_soon = drive_soon
        self.trips = Trips(submitter, recorder, lease, self._read_wallet_pair)
        """Carries what is plain, without a task; all else is :meth:`handle`'s."""
        self.held_up: set[int] = set()
        """Users whose queue waits for a core: what stands in it holds up nobody else."""

    async def handle(self, user_id: int, transfers: list[OpenTransfer]) -> None:
        """Take some of a user's transfers, in order, to their sources; what takes longer goes on by itself.

        When it returns, each of them has its end on the way to the store, or a task of its own, or waits for the
        scanner. Run again after a crash or cancellation it goes on with those that had not got so far.
        """
        queued = [transfer for transfer in transfers if transfer.custody is Custody.QUEUED]
        if not self._lease.is_held:
            queued = await self._sit_out(self._turn_away(queued))
        to_journal = [transfer for transfer in queued if not transfer.is_journaled]
        if to_journal:
            crash_points.reach("before_intent")
            await self._recorder.journal(to_journal)
            crash_points.reach("after_intent")
        if not self._lease.is_held:
            queued = await self._sit_out(queued)
        queued = await self._with_accounts(queued)
        if not queued:
            return
        events = []
        for transfer in queued:
            events.append(transfer.body.hold())
            if transfer.is_wallet_pair:
                events.append(transfer.body.post(_FIRST_POST))
        results = iter(await self._submitter.submit(events))
        crash_points.reach("after_ledger")
        to_cores = []
        for transfer in queued:
            hold = next(results)
            if transfer.is_wallet_pair:
                self._read_wallet_pair(transfer, hold, next(results))
            elif transfer.source.core is None:
                self._drive_soon(transfer, partial(self._after_hold, transfer, hold, None))
            else:
                to_cores.append((transfer, hold))
        # Last: those whose source the ledger is have reached it, and wait for no core that is none of theirs.
        if to_cores:
            await self._reach_cores_in_order(user_id, to_cores)

    def _turn_away(self, queued: list[OpenTransfer]) -> list[OpenTransfer]:
        """Refuse transfers that have left no trace while nothing may be asked; return the others.

        A trace is an append that was attempted, or a caller who was told `pending`.
        """
        left = []
        for transfer in queued:
            if transfer.is_journaled or transfer.bucket is not None or transfer.is_promised:
                left.append(transfer)
            else:
                self._endings.turn_away(transfer, f"{self._lease.not_held_because}: try again elsewhere")
        return left

    async def _sit_out(self, queued: list[OpenTransfer]) -> list[OpenTransfer]:
        """Wait for the end of a lapse, in the queue: what comes later may not overtake. Return those to go on with.

        Their callers are answered. A claim that is lost leaves none to go on with: whoever adopts this shard may have
        read it before the last of their appends, so they ask nobody anything.
        """
        for transfer in queued:
            transfer.trouble(self._lease.not_held_because)
            transfer.release()
        if queued and await self._lease.until_held():
            return queued
        for transfer in queued:
            transfer.leave(self._lease.not_held_because)
        return []

    async def drive(self, transfer: OpenTransfer) -> None:
        """Drive one transfer from the top as far as it goes now.

        Cancellation leaves it to the scanner, or to the next life.

        Raises:
            LeaseLapsed: nothing may be asked now; also in the midst of it.
        """
        await self.journal_first(transfer)
        if await self._with_accounts([transfer]):
            self._lease.require()
            [hold] = await self._submitter.submit([transfer.body.hold()])
            await self._after_hold(transfer, hold, None)

    async def journal_first(self, transfer: OpenTransfer) -> None:
        """Make the intent durable of a transfer that was set aside before it was; cancellation leaves it to be.

        Raises:
            LeaseLapsed: nothing may be asked for it now.
        """
        self._lease.require()
        if not transfer.is_journaled:
            await self._recorder.journal([transfer])
            self._lease.require()

    async def _with_accounts(self, transfers: list[OpenTransfer]) -> list[OpenTransfer]:
        """Return the transfers whose accounts are acknowledged; the others are left pending."""
        are_known = self._submitter.are_known
        account_ids = [
            account_id
            for transfer in transfers
            if not are_known(transfer.body.debit_account_id, transfer.body.credit_account_id)
            for account_id in (transfer.body.debit_account_id, transfer.body.credit_account_id)
        ]
        if not account_ids:
            return transfers
        refused = await self._submitter.open_accounts(account_ids)
        ready = []
        for transfer in transfers:
            if transfer.body.debit_account_id not in refused and transfer.body.credit_account_id not in refused:
                ready.append(transfer)
            elif not await self._endings.answer_from_record(transfer):
                transfer.leave("an account of this transfer exists with other properties")
        return ready

    def _read_wallet_pair(self, transfer: OpenTransfer, hold: CreateTransferResult, post: CreateTransferResult) -> None:
        """Read the two answers of a wallet pair; all but the plain cases leave the queue."""
        if hold.status is _CREATED and post.status is _CREATED:
            transfer.held(hold.timestamp)
            transfer.updated_at = post.timestamp // 1_000_000
            transfer.apply(TransferEvent.SOURCE_OK)
            transfer.apply(TransferEvent.TARGET_OK)
            self._endings.end(transfer, error="")
        elif hold_verdict(hold.status) is HoldVerdict.REFUSED:
            self._refuse(transfer, hold)
        else:
            self._drive_soon(transfer, partial(self._after_hold, transfer, hold, post))

    async def _reach_cores_in_order(
        self, user_id: int, to_cores: list[tuple[OpenTransfer, CreateTransferResult]]
    ) -> None:
        self.held_up.add(user_id)
        try:
            for transfer, hold in to_cores:
                await self._reach_core_in_order(transfer, hold)
        finally:
            self.held_up.discard(user_id)

    async def _reach_core_in_order(self, transfer: OpenTransfer, hold: CreateTransferResult) -> None:
        """Reach the source's core while its user's queue waits, no longer than the time-out; then leave the queue."""
        try:
            is_reached = await self._reach_source(transfer, hold)
        except (LedgerUnavailable, RecordsUnavailable, LeaseLapsed) as fault:
            self._alerts.warn("drive_interrupted", transfer=transfer, error=str(fault))
            transfer.trouble(str(fault))
            is_reached = False
        except Exception as error:  # noqa: BLE001  one transfer's trouble is the scanner's, not the user's
            self._alerts.critical("drive_crashed", transfer=transfer, error=repr(error), exc_info=error)
            is_reached = False
        if is_reached:
            self._drive_soon(transfer, partial(self._after_source, transfer, None))
        elif transfer.custody is Custody.QUEUED:
            transfer.leave()

    async def _after_hold(
        self, transfer: OpenTransfer, hold: CreateTransferResult, post: CreateTransferResult | None
    ) -> None:
        if await self._reach_source(transfer, hold):
            await self._after_source(transfer, post)

    async def _reach_source(self, transfer: OpenTransfer, hold: CreateTransferResult) -> bool:
        """Read the hold's verdict; True where it stands and the source has given the amount away."""
        verdict = hold_verdict(hold.status)
        if verdict is HoldVerdict.REFUSED:
            self._refuse(transfer, hold)
            return False
        if verdict is HoldVerdict.REFUSED_BEFORE:
            if not await self._endings.answer_from_record(transfer):
                await self._endings.conclude(transfer, TransferEvent.SOURCE_FAIL, error=REFUSAL_REASONS[hold.status])
            return False
        if verdict is HoldVerdict.OTHER_OWNER:
            await self._endings.end_for_other_owner(transfer)
            return False
        if verdict is HoldVerdict.UNDECIDED:
            self._alerts.critical("hold_undecided", transfer=transfer, status=status_name(hold.status))
            transfer.trouble(f"the ledger answered {status_name(hold.status)}")
            return False
        if verdict is HoldVerdict.NEW:
            transfer.is_record_known = True  # there is none: nobody has used this key before
        elif await self._endings.answer_from_record(transfer):
            return False
        transfer.held(hold.timestamp)
        crash_points.reach("after_hold")
        if transfer.state is TransferState.COMPENSATING:
            return True
        if transfer.source.core is not None:
            return await self._withdraw(transfer)
        transfer.apply(TransferEvent.SOURCE_OK)
        return True

    def _refuse(self, transfer: OpenTransfer, hold: CreateTransferResult) -> None:
        """The hold's id is burnt: nothing moved, and nothing ever will under this name."""
        transfer.apply(TransferEvent.SOURCE_FAIL)
        self._endings.end(transfer, error=REFUSAL_REASONS[hold.status])

    async def _withdraw(self, transfer: OpenTransfer) -> bool:
        """Ask the source's core; True once it has taken the amount."""
        core = transfer.source.core_to_call
        transfer.apply(TransferEvent.SOURCE_CALL)
        await self._recorder.persist(transfer)
        match await self._calls.ask(core.withdraw, transfer.call_of_source()):
            case Success():
                transfer.error = ""
                transfer.apply(TransferEvent.SOURCE_OK)
                return True
            case Failed(reason) if transfer.state is not TransferState.SOURCE_PENDING:
                # It was taken before: the target may have been asked since, so that nothing may be voided any more.
                self._endings.contradiction(transfer, f"the source took the amount, and now refuses it: {reason}")
            case Failed(reason):
                verdict = await self._endings.void(transfer)
                if verdict in {EndVerdict.DONE, EndVerdict.VOIDED}:
                    await self._end_refused(transfer, reason)
                elif verdict is EndVerdict.POSTED:
                    self._endings.contradiction(transfer, "the source refused, and the hold is posted")
            case Pending(reason):
                transfer.error = reason
        return False

    async def _after_source(self, transfer: OpenTransfer, post: CreateTransferResult | None) -> None:
        """The hold stands and the source is reached: ask the target, then end the hold."""
        if transfer.state is TransferState.COMPENSATING:
            await self._compensate(transfer)
            return
        if transfer.target.core is not None and not await self._deposit(transfer):
            return
        verdict = await self._endings.post(transfer, post)
        if verdict is EndVerdict.VOIDED:
            await self._meet_void(transfer)
        elif verdict in {EndVerdict.DONE, EndVerdict.POSTED}:
            if transfer.source.core is not None and not await self._commit_source(transfer):
                return
            await self._endings.conclude(transfer, TransferEvent.TARGET_CALL, TransferEvent.TARGET_OK, error="")

    async def _end_refused(self, transfer: OpenTransfer, reason: str) -> None:
        """The source refuses, and the hold is voided; where that was somebody else, another engine may be at work.

        The source may refuse only because it was fenced behind that void, by one who is undoing the transfer after
        the target's refusal; its row, written before the void, tells. Then it is undone here as well.
        """
        if not transfer.is_end_ours and await self._endings.is_compensating(transfer):
            await self._compensate(transfer)
        else:
            await self._endings.conclude(transfer, TransferEvent.SOURCE_FAIL, error=reason)

    async def _deposit(self, transfer: OpenTransfer) -> bool:
        """Ask the target's core; True once it has given the amount to the user."""
        core = transfer.target.core_to_call
        transfer.apply(TransferEvent.TARGET_CALL)
        await self._recorder.persist(transfer)
        match await self._calls.ask(core.deposit, transfer.call_of_target()):
            case Success():
                transfer.error = ""
                return True
            case Failed(reason):
                transfer.error = reason
                transfer.apply(TransferEvent.TARGET_FAIL)
                await self._compensate(transfer)
            case Pending(reason):
                transfer.error = reason
        return False

    async def _meet_void(self, transfer: OpenTransfer) -> None:
        """The hold that was to be posted is voided: an operator was faster."""
        if transfer.target.core is not None:
            self._endings.contradiction(transfer, "the target took the deposit, and the hold is voided")
            return
        transfer.error = "voided by an operator"
        transfer.apply(TransferEvent.TARGET_CALL)
        transfer.apply(TransferEvent.TARGET_FAIL)
        await self._compensate(transfer)

    async def _commit_source(self, transfer: OpenTransfer) -> bool:
        """Let the source's core make its withdraw final; True once nothing is left to ask of it."""
        match await self._calls.ask(transfer.source.core_to_call.commit, transfer.uuid):
            case Failed(reason):
                # The ledger has posted, so committed is the truth; what the core keeps frozen is a person's to mend.
                self._alerts.critical("commit_refused", transfer=transfer, reason=reason)
            case Pending(reason):
                transfer.error = reason
                return False
        return True

    async def _compensate(self, transfer: OpenTransfer) -> None:
        """The target refused for good: void the hold first, then let the source's core give the amount back."""
        await self._recorder.persist(transfer)
        verdict = await self._endings.void(transfer)
        if verdict is EndVerdict.POSTED:
            self._endings.contradiction(transfer, "the transfer is compensating, and the hold is posted")
        if verdict not in {EndVerdict.DONE, EndVerdict.VOIDED}:
            return
        if transfer.source.core is not None:
            crash_points.reach("before_core_rollback")
            answer = await self._calls.ask(transfer.source.core.rollback, transfer.uuid)
            crash_points.reach("after_core_rollback")
            if not isinstance(answer, Success):
                transfer.apply(TransferEvent.ROLLBACK_FAIL)
                if isinstance(answer, Failed):
                    self._endings.contradiction(transfer, f"the source refused the rollback: {answer.reason}")
                return
        await self._endings.conclude(transfer, TransferEvent.ROLLBACK_OK, error=transfer.error)
