"""An operator ends a transfer that does not end by itself: fences first, then the ledger, then the other side.

`void` fences the target's deposit before anything else, so that a late answer of it can't meet a voided hold; a
transfer whose hold was perhaps never sent is ended by a tombstone under the hold's id. `post` asks everybody again,
now, and posts only if all have agreed: there is no way to force it.
"""

from tigerbeetle import CreateTransferStatus

from transfer_engine.engine.coordinator import Coordinator
from transfer_engine.engine.core_calls import CoreCalls
from transfer_engine.engine.endings import CANCELLED_BY_OPERATOR, Endings
from transfer_engine.engine.leases import Lease
from transfer_engine.engine.legs import TOMBSTONE_CODE
from transfer_engine.engine.open_transfers import OpenTransfer
from transfer_engine.engine.outcomes import Resolution, ResolutionReport
from transfer_engine.engine.services.protocol import Failed, Pending, Success
from transfer_engine.engine.state_machine import TransferEvent
from transfer_engine.engine.submitter import Submitter
from transfer_engine.engine.verdicts import EndVerdict, HoldVerdict, hold_verdict, status_name
from transfer_engine.schema.ids import HOLD
from transfer_engine.schema.transfers import TransferState

_IS_THERE = frozenset({CreateTransferStatus.CREATED, CreateTransferStatus.EXISTS})


class Resolver:
    """Carries an operator's decisions out; whoever calls has the transfer's custody."""

    def __init__(
        self, *, coordinator: Coordinator, calls: CoreCalls, endings: Endings, submitter: Submitter, lease: Lease
    ) -> None:
        self._calls = calls
        self._lease = lease
        self._coordinator = coordinator
        self._endings = endings
        self._submitter = submitter

    async def resolve(self, transfer: OpenTransfer, resolution: Resolution) -> ResolutionReport:
        """Post or void a transfer as far as that is safe, and say step by step what was done.

        Cancellation leaves the transfer as any drive does: the scanner, or the next life, goes on from the fences.
        """
        steps: list[str] = []
        transfer.is_quarantined = False
        transfer.crashes = 0
        if transfer.state.is_terminal:
            steps.append(f"it is {transfer.state.value}: writing its last row again")
            self._endings.end(transfer, error=transfer.error)
        elif resolution is Resolution.POST:
            steps.append("asked the ledger and the services again, from the top")
            await self._coordinator.drive(transfer)
        else:
            await self._coordinator.journal_first(transfer)
            if await self._fence_target(transfer, steps):
                await self._void(transfer, steps)
        if not transfer.state.is_terminal and transfer.error:
            steps.append(f"still pending: {transfer.error}")
        return ResolutionReport(req_id=transfer.uuid, state=transfer.state.value, steps=steps)

    async def _fence_target(self, transfer: OpenTransfer, steps: list[str]) -> bool:
        """Make sure that the target can't take the deposit later; False where nothing may be voided."""
        if transfer.target.core is None:
            return True
        match await self._calls.ask(transfer.target.core.cancel, transfer.uuid):
            case Success():
                steps.append(f"fenced the deposit at {transfer.target.name}: it can't be taken any more")
                return True
            case Failed(reason):
                steps.append(f"{transfer.target.name} refused the fence ({reason}): void is not possible, post is")
            case Pending(reason):
                steps.append(f"{transfer.target.name} did not answer ({reason}): nothing was done, try again")
        return False

    async def _void(self, transfer: OpenTransfer, steps: list[str]) -> None:
        self._lease.require()
        [tombstone] = await self._submitter.submit([transfer.body.tombstone()])
        verdict = hold_verdict(tombstone.status)
        if verdict is HoldVerdict.OTHER_OWNER:
            found = await self._submitter.lookup_transfers([transfer.req_id | HOLD])
            if found and found[0].code != TOMBSTONE_CODE:
                if found[0].user_data_64 != transfer.intent.fingerprint:
                    steps.append("another body owns this key")
                    await self._endings.end_for_other_owner(transfer)
                    return
                steps.append("the hold stands in the ledger")
                transfer.held(found[0].timestamp)
                await self._void_hold(transfer, steps)
                return
        if verdict is HoldVerdict.UNDECIDED:
            steps.append(f"the ledger answered {status_name(tombstone.status)} to the tombstone: nothing was done")
            return
        steps.append(
            "put a tombstone in the place of the hold"
            if tombstone.status in _IS_THERE
            else "the hold's id is burnt or taken by a tombstone"
        )
        if await self._fence_source(transfer, steps):
            await self._endings.conclude(transfer, TransferEvent.SOURCE_FAIL, error=CANCELLED_BY_OPERATOR)
            if transfer.state.is_terminal:
                steps.append(f"{transfer.state.value}: nothing moved, and nothing will")

    async def _void_hold(self, transfer: OpenTransfer, steps: list[str]) -> None:
        """The hold stands and no target can take anything: void it, and give the source its amount back."""
        verdict = await self._endings.void(transfer)
        if verdict is EndVerdict.POSTED:
            steps.append("the hold had been posted: driving the transfer to its end")
            await self._coordinator.drive(transfer)
            return
        if verdict not in {EndVerdict.DONE, EndVerdict.VOIDED}:
            return
        steps.append("voided the hold")
        if not await self._fence_source(transfer, steps):
            return
        if transfer.source.core is None:
            transfer.apply(TransferEvent.SOURCE_OK)
        events = [TransferEvent.TARGET_CALL, TransferEvent.TARGET_FAIL, TransferEvent.ROLLBACK_OK]
        if transfer.state in {TransferState.INIT, TransferState.SOURCE_PENDING}:
            events = [TransferEvent.SOURCE_FAIL]
        await self._endings.conclude(transfer, *events, error=CANCELLED_BY_OPERATOR)
        if transfer.state.is_terminal:
            steps.append(f"{transfer.state.value}: the source has its amount")

    async def _fence_source(self, transfer: OpenTransfer, steps: list[str]) -> bool:
        """Undo the source's withdraw, or fence one that has not come; True once that is certain."""
        if transfer.source.core is None:
            return True
        match await self._calls.ask(transfer.source.core.rollback, transfer.uuid):
            case Success():
                steps.append(f"{transfer.source.name} rolled its withdraw back, or will refuse it")
                return True
            case Failed(reason):
                self._endings.contradiction(transfer, f"the source refused the rollback: {reason}")
            case Pending(reason):
                transfer.trouble(f"{transfer.source.name} did not answer the rollback ({reason})")
        return False
