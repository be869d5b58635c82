"""One websocket connection: reads requests, has them carried out, and sends answers and events, in one order.

What lives here: who asks, what may be unanswered, when the connection ends and what is said before. What a request
does is in ``websocket_requests.py``; bytes and frames are the door's. A bad request has an answer; what closes a
connection is in :class:`~transfer_engine.http.websocket_connection.CloseCode`.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog
import trio

from transfer_engine.engine.outcomes import Overloaded, RefusalCode
from transfer_engine.http.access_log import AccessLog
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.gate import Gate
from transfer_engine.http.identity import NOBODY, Caller, Scope
from transfer_engine.http.messages import Request
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.refusal_pace import RefusalPace
from transfer_engine.http.transfer_items import error_details, problem_of, transfer_error
from transfer_engine.http.websocket_connection import (
    CloseCode,
    ClosedByClient,
    Connection,
    ConnectionEnded,
    MessageRefused,
)
from transfer_engine.http.websocket_log import MessageLog
from transfer_engine.http.websocket_messages import (
    Answer,
    AuthCall,
    Authenticated,
    Call,
    Encode,
    Notice,
    Outgoing,
    Unreadable,
    decode,
    encode_binary,
    encode_text,
)
from transfer_engine.http.websocket_outbox import Outbox
from transfer_engine.http.websocket_requests import Requests
from transfer_engine.http.websocket_settings import WebSocketSettings

_log: Final = structlog.stdlib.get_logger("transfer_engine.http")

_REFUSED_AT_ONCE: Final = 4
"""Requests that are refused for want of room, and told in one write, before the connection waits for as many turns."""

_REFUSED_SHARE: Final = 8
"""Requests in a row that may be refused as overload before it counts as a flood, in multiples of what is allowed."""


class SessionParts(msgspec.Struct, frozen=True):
    """What the sessions of a server share."""

    slot: EngineSlot
    gate: Gate
    settings: WebSocketSettings
    pace: RefusalPace
    """All doors'."""
    drain_s: float
    """How long a closing connection waits for its last answers."""
    send_timeout_s: float
    now_s: Callable[[], float] = time.time
    """Unix time, for tokens."""
    access_log: AccessLog | None = None


class Proof(msgspec.Struct, frozen=True):
    """By what somebody has proved who he is: the ``Authorization`` headers, and the keys' generation at that time."""

    authorization: Sequence[bytes]
    generation: int


class Session:
    """One client's connection, from its first message to its last.

    Args:
        parts: what all sessions share.
        connection: the door's.
        handshake: the request that it began with.
        caller: who asks, or None where he has yet to say it.
        proof: what says so.
    """

    def __init__(
        self, parts: SessionParts, connection: Connection, handshake: Request, caller: Caller | None, proof: Proof
    ) -> None:
        self.caller = caller
        self._proof = proof
        self._handshake = handshake
        self.outbox = Outbox(connection, waiting_bytes_most=parts.settings.waiting_bytes_most)
        self._parts = parts
        self._connection = connection
        self._log = MessageLog(parts.access_log, handshake)
        self._requests = Requests(self, parts.slot, self._log, subscriptions_most=parts.settings.subscriptions_most)
        self._encode: Encode = encode_text
        self._began_at = trio.current_time()
        self._in_flight = 0
        self._faults_in_a_row = 0
        self._tokens_refused_in_a_row = 0
        self._refused_in_a_row = 0
        self._overloaded = 0
        self._held_until = 0.0
        self._is_lagging = False
        self._is_asked = False
        self._is_left = False
        self._ending: tuple[CloseCode, str] | None = None
        self._answered = trio.Event()
        self._reading = trio.CancelScope()
        self._life = trio.CancelScope()
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        who = "nobody yet" if self.caller is None else repr(self.caller.subject)
        return f"<Session of {who}: {self._in_flight} requests in flight, {self.outbox!r}>"

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return self._in_flight

    async def run(self) -> None:
        """Serve the connection to its end. Cancellation cuts it; what the engine has taken goes on."""
        with self._life:
            try:
                async with trio.open_nursery(strict_exception_groups=True) as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._write)
                    await self._read()
                    if self._in_flight and not self._is_left:
                        with trio.move_on_after(self._parts.drain_s):
                            await self._answered.wait()
                    self.outbox.close()
            except BaseExceptionGroup as group:
                cancelled, faults = group.split(trio.Cancelled)
                if faults is not None:
                    _log.error("websocket failed", exc_info=faults)
                if cancelled is not None:
                    raise cancelled from None
            finally:
                self._nursery = None
                self._requests.unsubscribe_all()

    def cut(self) -> None:
        """End it at once: nothing more is sent."""
        self._life.cancel()

    def end(self, code: CloseCode, reason: str) -> None:
        """Read no more requests; say so, answer what is in flight as far as that is possible soon, and close."""
        if self._ending is None:
            self._ending = (code, reason)
            self.outbox.put(self._encode(Notice(code, reason)))
            if not self._in_flight:
                self._answered.set()
            self._reading.cancel()

    def sweep(self, now: float) -> None:
        """Look whether the connection is still to be had; called now and then (``now`` by trio's clock)."""
        settings = self._parts.settings
        sending_since = self.outbox.sending_since
        if sending_since is not None and now - sending_since > self._parts.send_timeout_s:
            self.cut()
            return
        if self._ending is not None:
            return
        caller = self.caller
        if caller is None:
            if now - self._began_at > settings.token_timeout_ms / 1_000:
                self.end(CloseCode.UNAUTHENTICATED, "no token came in time")
        elif caller.expires_at is not None and self._parts.now_s() >= caller.expires_at:
            self.end(CloseCode.UNAUTHENTICATED, "the token has expired")
        # While it is not read from, its silence proves nothing.
        silent_s = now - max(self._connection.last_heard_at, self._held_until)
        if silent_s > 2 * settings.ping_interval_ms / 1_000:
            self.cut()
        elif silent_s > settings.ping_interval_ms / 1_000 and not self._is_asked:
            self._is_asked = True
            self._connection.ping()
        elif silent_s <= settings.ping_interval_ms / 1_000:
            self._is_asked = False

    @property
    def is_proof_old(self) -> bool:
        """Whether keys have changed since its client proved who he is."""
        return self._proof.generation != self._parts.gate.generation

    async def prove_again(self) -> None:
        """End it where the client's token is not valid by the keys of now; while that can't be told it goes on.

        Cancellation leaves it to be proved.
        """
        proof, generation = self._proof, self._parts.gate.generation
        try:
            if self.caller is not None:
                await self._parts.gate.identify(proof.authorization)
        except Rejected as rejected:
            if rejected.code is not ProblemCode.UNAVAILABLE and proof is self._proof:
                self.end(CloseCode.UNAUTHENTICATED, f"the token is not valid any more: {rejected.detail}")
        else:
            if proof is self._proof:
                self._proof = Proof(proof.authorization, generation)

    # What requests need of their session.

    def require(self, scope: Scope, cost: int = 1) -> Caller:
        """Return who asks, if he may, and not too often; ``cost`` is what the request counts.

        Raises:
            Rejected: he has not said who he is, his token has expired or lacks the scope, or it is too often.
        """
        caller = self.caller
        if caller is None:
            self.count()
            raise _unauthenticated('say who asks first: send {"op": "auth", "id": 1, "token": …}')
        if caller.expires_at is not None and self._parts.now_s() >= caller.expires_at:
            self.end(CloseCode.UNAUTHENTICATED, "the token has expired")
            raise _unauthenticated("the token has expired: send a new one by op auth, on a new connection")
        if not caller.may(scope):
            self.count()
        caller.require(scope)
        self._parts.gate.charge(self._handshake, caller, cost)
        return caller

    def count(self) -> None:
        """Count a request that needs no scope, or that is none.

        Raises:
            Rejected: it is too often.
        """
        self._parts.gate.charge(self._handshake, self.caller or NOBODY, 1)

    def began(self, count: int = 1) -> None:
        """Count requests that are answered later."""
        self._in_flight += count

    def overloaded(self, count: int = 1) -> None:
        """Count what was refused because there is no room: nothing further is read before it has had its turn."""
        self._overloaded += count

    def answer(self, answer: Answer, encode: Encode, count: int = 1) -> None:
        """Answer a request that had begun, counted as so many."""
        self._in_flight -= count
        self.tell(answer, encode)
        if not self._in_flight and self._ending is not None:
            self._answered.set()

    def tell(self, message: Outgoing, encode: Encode) -> bool:
        """Send a message, in its turn. Where too much waits already, the client lags and is cut off: False."""
        if self._is_lagging:
            return False
        outbox = self.outbox
        if outbox.has_room:
            outbox.put(encode(message))
            return True
        self._lag()
        return False

    def refuse(self, call_id: str | int | None, op: str | None, fault: Exception, encode: Encode) -> None:
        """Answer a request at once that is not carried out."""
        self._log.refused(op, fault, self.caller)
        if op == "transfer":
            error = transfer_error(fault, is_keyed=True)
        else:
            error = error_details(problem_of(fault, is_safe=True))
        self.tell(Answer(call_id, op, False, error=error), encode)

    def start(self, work: Callable[[], object]) -> None:
        """Run ``work`` in a task of its own, which ends with the connection at the latest."""
        if self._nursery is not None:
            self._nursery.start_soon(work)  # type: ignore[arg-type]

    # Its two tasks.

    async def _read(self) -> None:
        try:
            with self._reading:
                while True:
                    for message in await self._connection.receive():
                        self._encode = encode_text if isinstance(message, str) else encode_binary
                        call = self._decode(message)
                        if isinstance(call, AuthCall):
                            await self._authenticate(call, self._encode)
                        elif call is not None:
                            self._carry_out(call, self._encode)
                            if self._overloaded >= _REFUSED_AT_ONCE:
                                await self._hold()
                        if self._ending is not None:
                            return
                    if self._overloaded:
                        await self._hold()
        except MessageRefused as refused:
            self.end(refused.code, refused.reason)
        except ClosedByClient:
            self._ending = self._ending or (CloseCode.NORMAL, "")
            self._is_left = True
        except ConnectionEnded:
            self.cut()

    async def _hold(self) -> None:
        """Let the client wait for its turn to be refused again: what it sends meanwhile waits in its socket."""
        count, self._overloaded = self._overloaded, 0
        self._held_until = self._parts.pace.reserve(count)
        await trio.sleep_until(self._held_until)

    async def _write(self) -> None:
        try:
            await self.outbox.run()
        except ConnectionEnded:
            self.cut()
        else:
            code, reason = self._ending or (CloseCode.NORMAL, "")
            await self._connection.close(code, reason)
            self.cut()

    def _decode(self, message: str | bytes) -> Call | None:
        """Return the request that a message holds; what is none is answered, and counted."""
        try:
            call = decode(message)
        except Unreadable as unreadable:
            rejected = unreadable.rejected
            try:
                self.count()
            except Rejected as too_often:
                rejected = too_often
            self.refuse(unreadable.call_id, unreadable.op, rejected, self._encode)
            self._faults_in_a_row += 1
            if self._faults_in_a_row >= self._parts.settings.faults_most:
                self.end(CloseCode.FLOOD, f"{self._faults_in_a_row} messages in a row were no requests")
            return None
        self._faults_in_a_row = 0
        return call

    def _carry_out(self, call: Call, encode: Encode) -> None:
        most = self._parts.settings.in_flight_most
        if self._in_flight < most:
            self._refused_in_a_row = 0
            self._requests.carry_out(call, encode)
            return
        overloaded = Overloaded(
            RefusalCode.OVERLOADED, f"{most} requests of this connection are unanswered: wait for some of them"
        )
        self.refuse(call.id, call.__struct_config__.tag, overloaded, encode)  # type: ignore[arg-type]
        self.overloaded()
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= _REFUSED_SHARE * most:
            self.end(CloseCode.FLOOD, f"{self._refused_in_a_row} requests in a row were above what may be unanswered")

    async def _authenticate(self, call: AuthCall, encode: Encode) -> None:
        """Take a token: the first one says who asks, a later one of the same subject lasts longer.

        Each counts for the address: a token costs more to check than most requests do.
        """
        try:
            self._parts.gate.arrived(self._handshake)
            proof = Proof((b"Bearer " + call.token.encode(),), self._parts.gate.generation)
            caller = await self._parts.gate.identify(proof.authorization)
            if self.caller is not None and caller.subject != self.caller.subject:
                raise _unauthenticated("the token is another subject's: open a connection of its own")
            self._requests.require_subscribed(caller)
        except (Rejected, UnicodeEncodeError) as error:
            rejected = error if isinstance(error, Rejected) else _unauthenticated("the token is no token")
            self.refuse(call.id, "auth", rejected, encode)
            self._tokens_refused_in_a_row += 1
            if self._tokens_refused_in_a_row >= self._parts.settings.faults_most:
                self.end(CloseCode.FLOOD, f"{self._tokens_refused_in_a_row} tokens in a row were refused")
            return
        self._tokens_refused_in_a_row = 0
        self.caller = caller
        self._proof = proof
        self.tell(Answer(call.id, "auth", True, Authenticated(caller.user_id, caller.expires_at)), encode)

    def _lag(self) -> None:
        """Tell where to resume, behind all that waits already, and nothing more."""
        self._is_lagging = True
        reason = "the client does not read what it is sent"
        self._ending = (CloseCode.LAGGED, reason)
        for lagged, encode in self._requests.positions():
            self.outbox.put(encode(lagged))
        self.outbox.put(self._encode(Notice(CloseCode.LAGGED, reason)))
        self._answered.set()
        self._reading.cancel()


def _unauthenticated(detail: str) -> Rejected:
    return Rejected(ProblemCode.UNAUTHENTICATED, detail)
