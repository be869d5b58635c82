"""The engine in process: what an embedder, a door or a benchmark holds in its hand."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from uuid import UUID

import msgspec
import trio

from transfer_engine.engine.audit import AuditReport, audit
from transfer_engine.engine.balances import balances_of
from transfer_engine.engine.callers import OnAnswer, TransferOrder, gather_answers
from transfer_engine.engine.contests import Undecided, admit_in_turn, decide
from transfer_engine.engine.deadlines import check_deadline
from transfer_engine.engine.history import merged, placed
from transfer_engine.engine.limits import AssetLimits
from transfer_engine.engine.lines import InLine, Place
from transfer_engine.engine.open_transfers import Custody, OpenTransfer
from transfer_engine.engine.outbox import Outbox
from transfer_engine.engine.outcomes import (
    Balance,
    InvalidTransfer,
    Overloaded,
    Readiness,
    RefusalCode,
    Refused,
    Resolution,
    ResolutionReport,
    TransferNotFound,
    TransferOutcome,
)
from transfer_engine.engine.parts import EngineStatistics, Parts, statistics_of
from transfer_engine.engine.readiness import readiness_of
from transfer_engine.engine.records.protocol import HistoryPage
from transfer_engine.engine.services.simulated import SimulatedCore
from transfer_engine.engine.settings import Settings
from transfer_engine.engine.stream_rings import OnMessage
from transfer_engine.engine.user_streams import Subscription
from transfer_engine.schema.ids import is_keyed
from transfer_engine.schema.transfers import TransferRecord


class Engine:
    """Moves users' money between their accounts: exactly once, in order per user, whatever crashes.

    Made by :func:`transfer_engine.engine.open_engine`; used from tasks of the same trio loop.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._replayed = 0

    def __repr__(self) -> str:
        return f"<Engine node={self.settings.node} {len(self._parts.open_transfers)} transfers under way>"

    @property
    def settings(self) -> Settings:
        """What the engine runs with."""
        return self._parts.settings

    @property
    def outbox(self) -> Outbox | None:
        """Who is to be told of which finished transfer, to be delivered; None where nobody is."""
        return self._parts.outbox

    @property
    def simulated_cores(self) -> Mapping[str, SimulatedCore]:
        """The cores that can be told how to misbehave."""
        return {name: core for name, core in self._parts.registry.cores.items() if isinstance(core, SimulatedCore)}

    async def transfer(
        self,
        *,
        source: str,
        target: str,
        user_id: int,
        asset_id: int,
        amount: int,
        target_user_id: int | None = None,
        idempotency_key: str | None = None,
        subject: str = "",
        deadline_ms: int | None = None,
    ) -> TransferOutcome:
        """Move ``amount`` (minor units) from a user's account to another account, and wait for the outcome.

        Once it is accepted nothing stops it: at the deadline (``settings.deadline_ms`` by default) the outcome is
        ``pending`` and the work goes on. Cancellation gives up waiting, not the transfer: with an
        ``idempotency_key`` the same call finds its outcome again.

        Args:
            source: the service that holds the money, such as ``funding``.
            target: the service that gets it, such as ``trading``.
            user_id: the source's user, and the target's unless ``target_user_id`` names another one.
            asset_id: one of ``settings.assets``.
            amount: 1 to 2^63 - 1.
            target_user_id: whose account gets the money; permission is the caller's matter.
            idempotency_key: the caller's own name of the transfer, at most 255 characters.
            subject: whose key it is (a token's subject); keys of different subjects never meet.
            deadline_ms: how long to wait for the outcome.

        Raises:
            InvalidTransfer: a parameter is wrong; nothing was taken.
            KeyReused: the key was used before with another body; nothing moved.
            Overloaded: no room, or no backend, now; nothing was taken.
        """
        order = TransferOrder(
            source=source,
            target=target,
            user_id=user_id,
            asset_id=asset_id,
            amount=amount,
            target_user_id=target_user_id,
            idempotency_key=idempotency_key,
            subject=subject,
        )
        return await self._outcome(partial(self._admit, order), deadline_ms)

    def submit(self, order: TransferOrder, on_answer: OnAnswer) -> None:
        """Begin a transfer, and have ``on_answer`` called with what became of it, once, at the latest at the deadline.

        The same as :meth:`transfer` without a task that waits: for many transfers in flight. Transfers of one user
        that are submitted one after the other are accepted in this order. ``on_answer`` gets the outcome, the refusal
        that :meth:`transfer` would raise, or a fault; it may be called before this method returns.
        """
        callers = self._parts.callers
        try:
            transfer, is_joined = self._admit(order)
        except Refused as refused:
            callers.tell(on_answer, refused)
        except InLine as in_line:
            self._submit_in_line(in_line.place, on_answer)
        except Undecided as undecided:
            callers.start(partial(self._submit_in_turn, undecided, order, on_answer), on_answer)
        except Exception as fault:  # noqa: BLE001  told like any other: those that come with it have their own answers
            callers.tell(on_answer, fault)
        else:
            self._listen(transfer, on_answer, is_joined=is_joined)

    async def transfer_many(self, orders: Sequence[TransferOrder]) -> list[TransferOutcome | Refused]:
        """Move many amounts in one trip; return what became of each, in the order in which they were given.

        One that is refused does not spoil the others. Those of one user are accepted in the order in which they were
        given. Cancellation gives up waiting, and stops none of them.

        Raises:
            LedgerUnavailable, RecordsUnavailable: of one of them nothing is known; repeat all by the same keys.
        """
        answers = await gather_answers([partial(self.submit, order) for order in orders])
        outcomes: list[TransferOutcome | Refused] = []
        for answer in answers:
            if isinstance(answer, TransferOutcome | Refused):
                outcomes.append(answer)
            else:
                raise answer
        return outcomes

    def _admit(self, order: TransferOrder) -> tuple[OpenTransfer, bool]:
        admission = self._parts.admission
        return admission.admit(
            scheme="transfer",
            source=admission.service(order.source, "from"),
            target=admission.service(order.target, "to"),
            user_id=order.user_id,
            target_user_id=order.user_id if order.target_user_id is None else order.target_user_id,
            asset_id=order.asset_id,
            amount=order.amount,
            key=order.idempotency_key,
            subject=order.subject,
        )

    def _listen(self, transfer: OpenTransfer, on_answer: OnAnswer, *, is_joined: bool) -> None:
        tell = self._parts.callers.tell
        self._parts.deadlines.listen(transfer, lambda: tell(on_answer, self._answer(transfer, is_joined=is_joined)))

    def _submit_in_line(self, place: Place, on_answer: OnAnswer) -> None:
        """Have a caller told what becomes of his place, and then of his transfer; no task waits for it."""

        def decided(answer: tuple[OpenTransfer, bool] | Exception) -> None:
            if isinstance(answer, Exception):
                self._parts.callers.tell(on_answer, answer)
            else:
                self._listen(answer[0], on_answer, is_joined=answer[1])

        place.listen(decided)
        self._parts.deadlines.watch(place)

    async def _submit_in_turn(self, undecided: Undecided, order: TransferOrder, on_answer: OnAnswer) -> None:
        admit = partial(self._admit, order)
        transfer, is_joined, _ = await decide(undecided, admit, self._parts.deadlines, None)
        self._listen(transfer, on_answer, is_joined=is_joined)

    async def credit(
        self,
        *,
        user_id: int,
        account: str,
        asset_id: int,
        amount: int,
        idempotency_key: str | None = None,
        subject: str = "",
        deadline_ms: int | None = None,
    ) -> TransferOutcome:
        """Bring money in from outside: a transfer from the asset's external account to the user's ``account``.

        It takes the same path as any transfer, and raises the same; see :meth:`transfer`.
        """
        admission = self._parts.admission
        admit = partial(
            admission.admit,
            scheme="credit",
            source=admission.external(),
            target=admission.service(account, "account"),
            user_id=user_id,
            target_user_id=user_id,
            asset_id=asset_id,
            amount=amount,
            key=idempotency_key,
            subject=subject,
        )
        return await self._outcome(admit, deadline_ms)

    async def _outcome(
        self, admit: Callable[[], tuple[OpenTransfer, bool]], deadline_ms: int | None
    ) -> TransferOutcome:
        check_deadline(deadline_ms)
        transfer, is_joined, left_ms = await admit_in_turn(admit, self._parts.deadlines, deadline_ms)
        await self._parts.deadlines.wait(transfer, left_ms)
        answer = self._answer(transfer, is_joined=is_joined)
        if isinstance(answer, Refused):
            raise answer
        return answer

    def _answer(self, transfer: OpenTransfer, *, is_joined: bool) -> TransferOutcome | Refused:
        """Return what a caller of a transfer is told now."""
        answer = transfer.answer
        if isinstance(answer, Refused):  # each caller gets a refusal of his own: a raised exception is changed
            return type(answer)(answer.code, answer.message, field=answer.field)
        if answer is None:
            answer = transfer.pending_outcome()
        if is_joined and not answer.replayed:
            answer = msgspec.structs.replace(answer, replayed=True)
        if answer.replayed:
            self._replayed += 1
        return answer

    async def get(self, req_id: UUID | str) -> TransferRecord | None:
        """Return a transfer as it is now, or None where nobody knows it.

        Raises:
            InvalidTransfer: ``req_id`` is no UUID.
            RecordsUnavailable: the record store did not answer.
        """
        number = _number_of(req_id)
        transfer = self._parts.open_transfers.find(number)
        if transfer is not None and (transfer.is_record_known or not is_keyed(number)):
            await trio.lowlevel.checkpoint()
            return transfer.record()
        # A key that was sent again may be another body's, or answered long ago: until the ledger has said, the row is
        # what was told.
        record = await self._parts.records.get(number)
        return transfer.record() if record is None and transfer is not None else record

    async def balances(self, user_id: int) -> list[Balance]:
        """Return what a user holds, account by account; accounts that were never used are left out.

        Raises:
            LedgerUnavailable: the ledger did not answer.
        """
        parts = self._parts
        return await balances_of(user_id, parts.ledger, parts.registry, parts.assets)

    async def history(self, user_id: int, *, limit: int = 100, position: tuple[int, int] | None = None) -> HistoryPage:
        """Return a page of a user's transfers (as source or target), newest first, those under way among them.

        ``position`` is a former page's ``next_position``, or any place below which to begin. A walk over all pages
        lists each transfer once, also while others are written; see :mod:`transfer_engine.engine.history`.

        Raises:
            RecordsUnavailable: the record store did not answer.
        """
        under_way = placed(self._parts.open_transfers.of_user(user_id), position)
        return merged(await self._parts.records.history(user_id, limit=limit, position=position), under_way, limit)

    async def limits(self, user_id: int) -> list[AssetLimits]:
        """Return what a user may move of each asset, now; cancellation leaves nothing behind.

        Raises:
            RecordsUnavailable: the record store did not answer in time.
        """
        return await self._parts.admission.limits(user_id, within_ms=self._parts.deadlines.deadline_ms)

    def subscribe(
        self, user_id: int, on_message: OnMessage, *, stream: str | None = None, after: int | None = None
    ) -> Subscription:
        """Have what happens to a user's transfers and balances told, until :meth:`unsubscribe`.

        ``on_message`` is called synchronously, from within other work: first with a snapshot, soon, then with every
        event, in order, their numbers without a gap. Its failure ends the subscription.

        Args:
            user_id: whose transfers (as source or target) and wallet accounts.
            on_message: gets the snapshot and the events.
            stream: the stream that a former subscription was told.
            after: the number of the last event of it that is known. If they are still here, the events behind it are
                the subscription's ``missed``, and no snapshot is told; else that is None, and all begins anew.

        Raises:
            InvalidTransfer: ``user_id`` is none.
            Overloaded: too many users are subscribed to, or this one too often.
        """
        return self._parts.streams.subscribe(user_id, on_message, stream=stream, after=after)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Tell nothing more; a second time does nothing."""
        self._parts.streams.unsubscribe(subscription)

    async def resolve(self, req_id: UUID | str, resolution: Resolution) -> ResolutionReport:
        """Carry out an operator's decision on a transfer that does not end by itself; say what was done.

        Cancellation gives up waiting; what was begun goes on.

        Raises:
            TransferNotFound: no transfer has this `req_id`.
            Overloaded: the transfer is being driven right now, or this engine may ask nothing now; ask again.
        """
        number = _number_of(req_id)
        transfer = self._parts.open_transfers.find(number)
        if transfer is None:
            record = await self._parts.records.get(number)
            if record is None:
                raise TransferNotFound(field="req_id")
            return ResolutionReport(
                req_id=UUID(int=number), state=record.state.value, steps=[f"it is {record.state.value} already"]
            )
        if not self._parts.lease.is_held:
            raise Overloaded(RefusalCode.UNAVAILABLE, f"{self._parts.lease.not_held_because}: try again later")
        if transfer.custody is not Custody.WAITING:
            raise Overloaded(RefusalCode.OVERLOADED, "the transfer is being driven right now: try again in a moment")
        done = trio.Event()
        reports: list[ResolutionReport] = []

        async def work(transfer: OpenTransfer) -> None:
            try:
                reports.append(await self._parts.resolver.resolve(transfer, resolution))
            finally:
                done.set()

        if self._parts.drives.start(transfer, partial(work, transfer)):
            await done.wait()
        if not reports:
            return ResolutionReport(
                req_id=transfer.uuid, state=transfer.state.value, steps=["interrupted: see the alerts, then ask again"]
            )
        if transfer.state.is_terminal:
            await self._parts.deadlines.wait(transfer, None)
        return reports[0]

    async def readiness(self) -> Readiness:
        """Tell whether each part can work now; asks the ledger and the records, briefly."""
        return await readiness_of(self._parts)

    def statistics(self) -> EngineStatistics:
        """Return what the engine is doing and has done in this run."""
        return statistics_of(self._parts, replayed=self._replayed)

    async def audit(self) -> AuditReport:
        """Check the invariants from the ledger's own books and compare them with the records.

        For an engine at rest: what moves meanwhile would be reported. Cancellation leaves nothing behind.
        """
        parts = self._parts
        return await audit(parts.ledger, parts.records, parts.registry, is_healed=not parts.open_transfers)

    def begin_shutdown(self) -> None:
        """Take no more transfers; leaving the engine's context then drains what is under way."""
        self._parts.admission.is_closed = True


def _number_of(req_id: UUID | str) -> int:
    if isinstance(req_id, UUID):
        return req_id.int
    try:
        return UUID(req_id).int
    except (ValueError, AttributeError, TypeError):
        raise InvalidTransfer(RefusalCode.INVALID_TYPE, "Invalid req_id format", field="req_id") from None
