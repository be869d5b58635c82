"""All websocket connections of a server: lets them in, looks after them, and ends them when the server stops."""

import time
from collections.abc import Callable
from typing import Final, NoReturn

import msgspec
import trio

from transfer_engine.http.access_log import AccessLog
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.gate import Gate
from transfer_engine.http.identity import Caller
from transfer_engine.http.messages import Request, Response
from transfer_engine.http.problems import Flavour, ProblemCode, Rejected, problem_of_rejection
from transfer_engine.http.refusal_pace import REFUSALS_MOST, RefusalPace
from transfer_engine.http.websocket_connection import CloseCode, Connection
from transfer_engine.http.websocket_log import PATH, log_handshake
from transfer_engine.http.websocket_session import Proof, Session, SessionParts
from transfer_engine.http.websocket_settings import WebSocketSettings

_SWEEP_S_MOST: Final = 1.0
_SWEEPS_IN_INTERVAL: Final = 8
"""The connections are looked at so often within the shortest of their times: each is late by this part at most."""


class WebSocketStatistics(msgspec.Struct, frozen=True):
    """What the connections are doing, and how many there have been."""

    open: int
    in_flight: int
    waiting_bytes: int
    opened: int


class Admitted(msgspec.Struct, frozen=True):
    """A handshake that may be answered: with what it asked, and who asks, if he has said so."""

    handshake: Request
    caller: Caller | None
    proof: Proof


class WebSockets:
    """The connections of all doors.

    A door asks :meth:`admit` before it upgrades, then hands the connection to :meth:`serve`. One task, :meth:`run`,
    looks after all of them: pings, tokens that expire, clients that do not read.

    Args:
        slot: where the engine is.
        gate: who may ask.
        settings: bounds of one connection.
        deadline_ms: the engine's, within which everything in flight is answered.
        send_timeout_ms: how long a client may take to read what it is sent.
        now_s: Unix time, for tokens.
        access_log: where requests and refusals are told.
        pace: of refusals, all doors' together.
    """

    def __init__(
        self,
        slot: EngineSlot,
        gate: Gate,
        settings: WebSocketSettings,
        *,
        deadline_ms: int,
        send_timeout_ms: int,
        now_s: Callable[[], float] = time.time,
        access_log: AccessLog | None = None,
        pace: RefusalPace | None = None,
    ) -> None:
        self._parts = SessionParts(
            slot=slot,
            gate=gate,
            settings=settings,
            drain_s=deadline_ms / 1_000,
            send_timeout_s=send_timeout_ms / 1_000,
            now_s=now_s,
            access_log=access_log,
            pace=pace or RefusalPace(REFUSALS_MOST),
        )
        shortest_ms = min(settings.ping_interval_ms, settings.token_timeout_ms, send_timeout_ms)
        self._sweep_s = min(_SWEEP_S_MOST, shortest_ms / 1_000 / _SWEEPS_IN_INTERVAL)
        self._sessions: set[Session] = set()
        self._opened = 0
        self._is_stopping = False

    def __repr__(self) -> str:
        return f"<WebSockets {len(self._sessions)} open{', stopping' if self._is_stopping else ''}>"

    @property
    def settings(self) -> WebSocketSettings:
        """Bounds of one connection."""
        return self._parts.settings

    async def admit(self, request: Request) -> Admitted:
        """Return who asks for a websocket; without a token in its head he has to say it in his first message.

        Raises:
            Rejected: a token that is not valid, a page of another site, or too many from one address: answer by HTTP,
                and do not upgrade.
        """
        gate = self._parts.gate
        gate.arrived(request)
        if request.path != PATH:
            raise Rejected(ProblemCode.NO_SUCH_PATH, f"there is no websocket at this path: use {PATH}")
        gate.require_local_page(request.host, request.origin)
        handshake = msgspec.structs.replace(request, authorization=())
        proof = Proof(request.authorization, gate.generation)
        try:
            return Admitted(handshake, await gate.identify(request.authorization), proof)
        except Rejected:
            if request.authorization:
                raise
            return Admitted(handshake, None, proof)

    def refusal(self, request: Request, rejected: Rejected) -> Response:
        """Return the answer to a handshake that is refused; the access log has it, too."""
        response = problem_of_rejection(rejected).response(Flavour.PLAIN)
        headers = (*response.headers, *self._parts.gate.headers(request, None))
        response = msgspec.structs.replace(response, headers=headers)
        log_handshake(self._parts.access_log, request, response)
        return response

    async def serve(self, connection: Connection, admitted: Admitted) -> None:
        """Serve a connection to its end. Cancellation cuts it; what the engine has taken goes on."""
        session = Session(self._parts, connection, admitted.handshake, admitted.caller, admitted.proof)
        self._sessions.add(session)
        self._opened += 1
        try:
            if self._is_stopping:
                session.end(CloseCode.GOING_AWAY, "the server is shutting down")
            await session.run()
        finally:
            self._sessions.discard(session)

    def stop(self) -> None:
        """Read no more requests, let the answers under way out, and close every connection."""
        self._is_stopping = True
        for session in list(self._sessions):
            session.end(CloseCode.GOING_AWAY, "the server is shutting down")

    async def run(
        self, stopping: trio.Event | None = None, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Look after the connections until cancelled; :meth:`stop` once ``stopping`` is set."""
        task_status.started()
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            nursery.start_soon(self._follow_keys)
            await self._sweep(stopping)

    async def _follow_keys(self) -> None:
        """Have everybody prove himself again whenever keys have changed; one by one, for each has to be verified."""
        while True:
            await trio.sleep(self._sweep_s)
            for session in list(self._sessions):
                if session.is_proof_old:
                    await session.prove_again()
                    await trio.lowlevel.checkpoint()

    async def _sweep(self, stopping: trio.Event | None) -> NoReturn:
        while True:
            if stopping is None or self._is_stopping:
                await trio.sleep(self._sweep_s)
            else:
                with trio.move_on_after(self._sweep_s):
                    await stopping.wait()
                    self.stop()
            now = trio.current_time()
            for session in list(self._sessions):
                session.sweep(now)

    def statistics(self) -> WebSocketStatistics:
        """Return what the connections are doing."""
        return WebSocketStatistics(
            open=len(self._sessions),
            in_flight=sum(session.in_flight for session in self._sessions),
            waiting_bytes=sum(session.outbox.waiting_bytes for session in self._sessions),
            opened=self._opened,
        )
