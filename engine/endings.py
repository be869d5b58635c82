"""How a hold and a transfer end: the legs that post or void, the last row, and answers that were given before."""

from collections.abc import Callable

import trio
from tigerbeetle import AccountFlags, CreateTransferResult, CreateTransferStatus, Transfer, TransferFlags

from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.leases import Lease
from transfer_engine.engine.legs import TOMBSTONE_CODE
from transfer_engine.engine.open_transfers import Custody, OpenTransfer
from transfer_engine.engine.outcomes import KeyReused, Overloaded, RefusalCode, Refused, TransferOutcome
from transfer_engine.engine.recorder import Recorder
from transfer_engine.engine.state_machine import TransferEvent, transition
from transfer_engine.engine.submitter import Submitter
from transfer_engine.engine.verdicts import EndVerdict, end_verdict, status_name
from transfer_engine.schema.ids import HOLD, POSTS, VOIDS
from transfer_engine.schema.transfers import STATUS_OF_STATE, TransferState

CANCELLED_BY_OPERATOR = "cancelled by an operator"
_BURNT = frozenset({EndVerdict.BURNT_BEFORE, EndVerdict.BURNT_NOW})


class Endings:
    """Ends holds in the ledger and transfers in the records.

    Args:
        close: lets a transfer go whose end needs no row of ours, and answers its callers.
    """

    def __init__(
        self,
        *,
        submitter: Submitter,
        recorder: Recorder,
        lease: Lease,
        alerts: Alerts,
        close: Callable[[OpenTransfer, TransferOutcome | Refused], None],
    ) -> None:
        self._submitter = submitter
        self._recorder = recorder
        self._lease = lease
        self._alerts = alerts
        self._close = close

    def end(self, transfer: OpenTransfer, *, error: str) -> None:
        """Write the last row of a transfer that reached a terminal state; once durable, its callers are answered."""
        if not transfer.state.is_terminal:
            raise ValueError(f"{transfer!r} has not ended")
        transfer.error = error
        transfer.custody = Custody.ENDING
        transfer.touched_at = trio.current_time()
        self._recorder.end(transfer)

    async def conclude(self, transfer: OpenTransfer, *events: TransferEvent, error: str) -> None:
        """End a transfer by these events, unless its row says that it has ended otherwise.

        Where the ledger answered `created` to our own post or void just now, the row is not asked: a hold ends once,
        so whoever else ends this transfer meets our end, and reads. Otherwise the hold was ended before, and whoever
        did it may have written the last row. That nothing moved has two names, `failed` and `rolled_back`: the one
        that was told first stays. A row that contradicts the ledger is alerted, and nothing is written.

        Cancellation leaves the transfer as it was.
        """
        stored = None if transfer.is_end_ours else await self._recorder.find(transfer.req_id)
        state = transfer.state
        for event in events:
            state = transition(state, event)
        if stored is not None and stored.state.is_terminal and stored.fingerprint == transfer.intent.fingerprint:
            if TransferState.COMMITTED in {state, stored.state} and state is not stored.state:
                self._alerts.critical(
                    "terminal_conflict", transfer=transfer, stored=stored.state.value, found=state.value
                )
                transfer.is_quarantined = True
                transfer.trouble(f"its row says {stored.state.value}, and the ledger {state.value}")
                return
            transfer.adopt(stored)
            error = stored.error
        else:
            transfer.state = state
        self.end(transfer, error=error)

    async def is_compensating(self, transfer: OpenTransfer) -> bool:
        """Tell whether the row says that the transfer is being undone; it is then taken over as it is."""
        stored = await self._recorder.find(transfer.req_id)
        if (
            stored is None
            or stored.fingerprint != transfer.intent.fingerprint
            or stored.state is not TransferState.COMPENSATING
        ):
            return False
        transfer.adopt(stored)
        return True

    def turn_away(self, transfer: OpenTransfer, message: str) -> None:
        """Refuse a transfer of which there is no trace: nothing was written or asked for it."""
        self._close(transfer, Overloaded(RefusalCode.UNAVAILABLE, message))

    async def post(self, transfer: OpenTransfer, answered: CreateTransferResult | None = None) -> EndVerdict:
        """Post a hold that stands, under the first leg that is not burnt; ``answered`` is the first leg's answer."""
        return await self._run_legs(transfer, POSTS, transfer.body.post, answered)

    async def void(self, transfer: OpenTransfer) -> EndVerdict:
        """Void a hold that stands, under the first leg that is not burnt."""
        return await self._run_legs(transfer, VOIDS, transfer.body.void, None)

    async def _run_legs(
        self,
        transfer: OpenTransfer,
        legs: range,
        build: Callable[[int], Transfer],
        answered: CreateTransferResult | None,
    ) -> EndVerdict:
        for leg in legs:
            if answered is not None and leg == legs[0]:
                result = answered
            else:
                self._lease.require()
                [result] = await self._submitter.submit([build(leg)])
            verdict = end_verdict(result.status)
            transfer.is_end_ours = result.status is CreateTransferStatus.CREATED
            if verdict is EndVerdict.TAKEN:
                verdict = await self._read_leg(transfer, leg)
            # What burnt this leg would burn the next one, too, and one more at every replay; and there are few.
            if verdict in _BURNT and await self._are_accounts_open(transfer):
                continue
            if verdict is EndVerdict.DONE:
                transfer.updated_at = result.timestamp // 1_000_000
            elif verdict in {EndVerdict.POSTED, EndVerdict.VOIDED}:
                await self._take_end_time(transfer)
            else:
                self._alerts.critical("end_undecided", transfer=transfer, leg=leg, status=status_name(result.status))
                transfer.trouble(f"the ledger answered {status_name(result.status)}")
            return verdict
        self._alerts.critical("legs_used_up", transfer=transfer, legs=list(legs))
        transfer.trouble("every leg of this transfer is burnt")
        return EndVerdict.UNDECIDED

    async def _read_leg(self, transfer: OpenTransfer, leg: int) -> EndVerdict:
        """Tell what another body's event under this leg did to the hold.

        A wallet pair sends its post blindly behind its hold. One whose key is another wallet pair's, between the
        same accounts, so posts that one's hold, if it finds it open: all of it, as its owner would have done.
        """
        for found in await self._submitter.lookup_transfers([transfer.req_id | leg]):
            if found.pending_id == transfer.req_id | HOLD and found.flags & TransferFlags.POST_PENDING_TRANSFER:
                return EndVerdict.POSTED
            if found.pending_id == transfer.req_id | HOLD and found.flags & TransferFlags.VOID_PENDING_TRANSFER:
                return EndVerdict.VOIDED
        return EndVerdict.UNDECIDED

    async def _are_accounts_open(self, transfer: OpenTransfer) -> bool:
        body = transfer.body
        accounts = await self._submitter.lookup_accounts([body.debit_account_id, body.credit_account_id])
        return len(accounts) == 2 and not any(account.flags & AccountFlags.CLOSED for account in accounts)

    async def _take_end_time(self, transfer: OpenTransfer) -> None:
        """Take the time at which another leg ended the hold: whoever writes the last row writes the same one."""
        legs = [transfer.req_id | leg for leg in (*POSTS, *VOIDS)]
        for found in await self._submitter.lookup_transfers(legs):
            transfer.updated_at = found.timestamp // 1_000_000

    async def answer_from_record(self, transfer: OpenTransfer) -> bool:
        """Give the answer that was given before, if there is one; True if the transfer is closed by it.

        For a hold that was not new. A row of another body means that the key was used before. A row in between is
        adopted: an earlier drive stopped there, and this one goes on.
        """
        if transfer.is_record_known:
            return False
        record = await self._recorder.find(transfer.req_id)
        transfer.is_record_known = True
        if record is None:
            return False  # not a replay for sure: the hold's first answer may just have been lost
        transfer.is_replay = True
        if record.fingerprint != transfer.intent.fingerprint:
            self._close(transfer, key_reused())
            return True
        if not record.state.is_terminal:
            transfer.adopt(record)
            return False
        if transfer.is_recovered and self._recorder.tells(record):
            # Whoever ended it may have been taken for stopped, and what it wrote into its outbox settled already.
            transfer.adopt(record)
            self.end(transfer, error=record.error)
            return True
        self._close(
            transfer,
            TransferOutcome(
                req_id=transfer.uuid,
                status=STATUS_OF_STATE[record.state],
                state=record.state,
                message=record.error or None,
                replayed=True,
                created_at=record.created_at,
                updated_at=record.updated_at,
            ),
        )
        return True

    async def end_for_other_owner(self, transfer: OpenTransfer) -> None:
        """The hold's id is taken: by a tombstone, then the transfer has failed; else by another body."""
        found = await self._submitter.lookup_transfers([transfer.req_id | HOLD])
        if found and found[0].code == TOMBSTONE_CODE:
            if not await self.answer_from_record(transfer):
                await self.conclude(transfer, TransferEvent.SOURCE_FAIL, error=CANCELLED_BY_OPERATOR)
        elif found:
            self._close(transfer, key_reused())
        else:
            self._alerts.critical("hold_vanished", transfer=transfer)
            transfer.trouble("the ledger says that the hold exists, and can't find it")

    def contradiction(self, transfer: OpenTransfer, what: str) -> None:
        """A core and the ledger disagree about a final answer: no terminal state, a person must look."""
        self._alerts.critical("contradiction", transfer=transfer, what=what)
        transfer.trouble(what)


def key_reused() -> KeyReused:
    """Return the refusal of a key that another body has used."""
    return KeyReused(
        RefusalCode.KEY_REUSED,
        "Idempotency-Key was used before with another body: send the same body again, or use a key of its own",
        field="idempotency_key",
    )
