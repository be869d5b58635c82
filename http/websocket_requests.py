"""What the requests of a websocket do: each has one answer, at once or later, in any order."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from transfer_engine.engine.callers import Answer as EngineAnswer
from transfer_engine.engine.callers import TransferOrder
from transfer_engine.engine.outcomes import Overloaded, RefusalCode, Refused, TransferNotFound, TransferOutcome
from transfer_engine.http.batch_bodies import TRANSFERS_MOST
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.parameters import parse_req_id
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.transfer_items import (
    entry_of,
    error_details,
    is_overload,
    order_of,
    own_user,
    problem_of,
    result_of,
    transfer_error,
)
from transfer_engine.http.websocket_log import MessageLog
from transfer_engine.http.websocket_messages import (
    Answer,
    BalancesCall,
    BatchCall,
    Call,
    Encode,
    GetCall,
    Lagged,
    PingCall,
    SubscribeCall,
    Subscribed,
    TransferCall,
    TransferView,
    UnsubscribeCall,
    decode_item,
    encode_text,
)
from transfer_engine.http.websocket_told import Asker, Told
from transfer_engine.http.websocket_told import entry_of as balance_entry
from transfer_engine.schema.ids import is_req_id
from transfer_engine.schema.wire import BalancesResponse, BatchResult

if TYPE_CHECKING:
    from transfer_engine.engine.user_streams import Subscription

_log: Final = structlog.stdlib.get_logger("transfer_engine.http")


class Requests:
    """Carries out the requests of one connection."""

    def __init__(self, asker: Asker, slot: EngineSlot, log: MessageLog, *, subscriptions_most: int) -> None:
        self._asker = asker
        self._log = log
        self._slot = slot
        self._subscriptions_most = subscriptions_most
        self._told: dict[int, tuple[Subscription, Told]] = {}

    def carry_out(self, call: Call, encode: Encode) -> None:
        """Begin a request; whatever it is, it is answered once."""
        try:
            _HANDLERS[type(call)](self, call, encode)
        except (Rejected, Refused) as refusal:
            is_transfer = isinstance(call, TransferCall)
            problem = problem_of(refusal, is_safe=True)
            error = transfer_error(refusal, is_keyed=True) if is_transfer else error_details(problem)
            self._log.refused(_op(call), refusal, self._asker.caller)
            self._asker.tell(Answer(call.id, _op(call), False, error=error), encode)

    def transfer(self, call: TransferCall, encode: Encode) -> None:
        """Move an amount."""
        order = order_of(call, self._asker.require(Scope.WRITE))
        engine = self._slot.engine
        self._asker.began()
        engine.submit(order, partial(self._transferred, call, order, encode, time.perf_counter()))

    def _transferred(
        self,
        call: TransferCall,
        order: TransferOrder,
        encode: Encode,
        started: float,
        answer: EngineAnswer | Exception,
    ) -> None:
        self._log.transferred(order, answer, started)
        if isinstance(answer, TransferOutcome):
            self._asker.answer(Answer(call.id, "transfer", True, result_of(answer)), encode)
        else:
            if is_overload(answer):
                self._asker.overloaded()
            error = transfer_error(answer, is_keyed=call.idempotency_key is not None)
            self._asker.answer(Answer(call.id, "transfer", False, error=error), encode)

    def batch(self, call: BatchCall, encode: Encode) -> None:
        """Move many amounts in one trip; one that is refused does not spoil the others."""
        items = call.transfers
        if not 0 < len(items) <= TRANSFERS_MOST:
            self._asker.count()
        if not items:
            raise Rejected(ProblemCode.BATCH_EMPTY, "transfers is empty: name at least one", field="transfers")
        if len(items) > TRANSFERS_MOST:
            raise Rejected(
                ProblemCode.BATCH_TOO_LARGE,
                f"{len(items)} transfers are more than a batch may have: at most {TRANSFERS_MOST}",
                field="transfers",
            )
        caller = self._asker.require(Scope.WRITE, len(items))
        submit = self._slot.engine.submit
        self._asker.began(len(items))
        batch = _Batch(self._asker, call, encode, self._log)
        is_text = encode is encode_text
        for index, raw in enumerate(items):
            try:
                item = decode_item(raw, is_text=is_text)
                order = order_of(item, caller)
            except Rejected as rejected:
                batch.answered(index, True, rejected)
            else:
                submit(order, partial(batch.answered, index, order.idempotency_key is not None))

    def ping(self, call: PingCall, encode: Encode) -> None:
        """Say that somebody is there."""
        self._asker.count()
        self._asker.tell(Answer(call.id, "ping", True), encode)

    def get(self, call: GetCall, encode: Encode) -> None:
        """Look at a transfer; another user's is not found."""
        caller = self._asker.require(Scope.READ)
        req_id = parse_req_id(call.req_id)
        engine = self._slot.engine

        async def look_up() -> TransferView:
            record = await engine.get(req_id) if is_req_id(req_id.int) else None
            if record is None or not (caller.owns(record.user_id) or caller.owns(record.target_user_id)):
                raise TransferNotFound
            return TransferView.of(record)

        self._look(call, encode, look_up)

    def balances(self, call: BalancesCall, encode: Encode) -> None:
        """Look at a user's accounts; another user's are not found."""
        caller = self._asker.require(Scope.READ)
        user_id = own_user(call.user_id, caller)
        if not caller.owns(user_id):
            raise TransferNotFound(message="User not found")
        engine = self._slot.engine

        async def look_up() -> BalancesResponse:
            balances = await engine.balances(user_id)
            return BalancesResponse([balance_entry(balance) for balance in balances])

        self._look(call, encode, look_up)

    def _look(self, call: GetCall | BalancesCall, encode: Encode, look_up: Callable[[], Any]) -> None:
        self._asker.began()
        self._asker.start(partial(self._look_and_answer, call, encode, look_up))

    async def _look_and_answer(self, call: GetCall | BalancesCall, encode: Encode, look_up: Callable[[], Any]) -> None:
        try:
            answer = Answer(call.id, _op(call), True, await look_up())
        except Exception as fault:  # noqa: BLE001  whatever it is, the client gets an answer
            if not isinstance(fault, Rejected | Refused):
                _log.error("request failed", op=_op(call), exc_info=fault)
            self._log.refused(_op(call), fault, self._asker.caller)
            answer = Answer(call.id, _op(call), False, error=error_details(problem_of(fault, is_safe=True)))
        self._asker.answer(answer, encode)

    def subscribe(self, call: SubscribeCall, encode: Encode) -> None:
        """Tell what happens to a user from now on; a second time it begins anew."""
        if (call.stream is None) is not (call.after is None):
            self._asker.count()
            missing = "stream" if call.stream is None else "after"
            raise Rejected(
                ProblemCode.MISSING_FIELD, f"{missing} is missing: stream and after go together", field=missing
            )
        caller = self._asker.require(Scope.READ)
        user_id = own_user(call.user_id, caller)
        if not caller.owns(user_id):
            raise TransferNotFound(message="User not found")
        engine = self._slot.engine
        if user_id not in self._told and len(self._told) >= self._subscriptions_most:
            raise Overloaded(
                RefusalCode.OVERLOADED, f"{len(self._told)} users are subscribed to here: unsubscribe from some first"
            )
        told = Told(self._asker, encode)
        subscription = engine.subscribe(user_id, told.take, stream=call.stream, after=call.after)
        self._unsubscribe(user_id)
        self._told[user_id] = (subscription, told)
        missed = subscription.missed
        if missed is not None:
            told.seq = call.after
        subscribed = Subscribed(subscription.stream_id, user_id, missed is not None)
        self._asker.tell(Answer(call.id, "subscribe", True, subscribed), encode)
        for event in missed or ():
            told.take(event)

    def unsubscribe(self, call: UnsubscribeCall, encode: Encode) -> None:
        """Tell nothing more of a user, or of all of them."""
        self._asker.count()
        user_id = call.user_id
        if user_id is None:
            self.unsubscribe_all()
        else:
            self._unsubscribe(user_id)
        self._asker.tell(Answer(call.id, "unsubscribe", True), encode)

    def require_subscribed(self, caller: Caller) -> None:
        """Go on only where somebody may be told all that is told here.

        Raises:
            Rejected: he may not (``insufficient_scope``): a token can't be exchanged for one that sees less.
        """
        if self._told:
            caller.require(Scope.READ)
        for user_id in self._told:
            if not caller.owns(user_id):
                raise Rejected(
                    ProblemCode.INSUFFICIENT_SCOPE,
                    f"the token lacks the scope {Scope.ANY.value}, and user {user_id} is subscribed to: "
                    "unsubscribe first",
                    field="token",
                )

    def unsubscribe_all(self) -> None:
        """Tell nothing more, of anybody."""
        for user_id in list(self._told):
            self._unsubscribe(user_id)

    def _unsubscribe(self, user_id: int) -> None:
        subscription, _ = self._told.pop(user_id, (None, None))
        if subscription is not None and self._slot.running is not None:
            self._slot.running.unsubscribe(subscription)

    def positions(self) -> Iterator[tuple[Lagged, Encode]]:
        """Yield where each subscription may be resumed."""
        for subscription, told in self._told.values():
            if told.seq is not None:
                yield Lagged(subscription.stream_id, told.seq), told.encode


class _Batch:
    """A batch under way: answered when the last of its transfers is."""

    __slots__ = ("_asker", "_call", "_encode", "_entries", "_left", "_log", "_started")

    def __init__(self, asker: Asker, call: BatchCall, encode: Encode, log: MessageLog) -> None:
        self._log = log
        self._started = time.perf_counter()
        self._asker = asker
        self._call = call
        self._encode = encode
        self._entries: list[Any] = [None] * len(call.transfers)
        self._left = len(call.transfers)

    def answered(self, index: int, is_keyed: bool, answer: EngineAnswer | Exception) -> None:
        """Take one transfer's answer."""
        self._entries[index] = entry_of(answer, is_keyed=is_keyed)
        self._left -= 1
        if is_overload(answer):
            self._asker.overloaded()
        if not self._left:
            refused = sum(not entry.ok for entry in self._entries)
            self._log.moved(len(self._entries), refused, self._asker.caller, self._started)
            result = BatchResult(self._entries)
            self._asker.answer(Answer(self._call.id, "batch", True, result), self._encode, len(self._entries))


def _op(call: Call) -> str:
    return str(call.__struct_config__.tag)


_HANDLERS: Final[dict[type, Callable[[Requests, Any, Encode], None]]] = {
    TransferCall: Requests.transfer,
    BatchCall: Requests.batch,
    GetCall: Requests.get,
    BalancesCall: Requests.balances,
    SubscribeCall: Requests.subscribe,
    UnsubscribeCall: Requests.unsubscribe,
    PingCall: Requests.ping,
}
