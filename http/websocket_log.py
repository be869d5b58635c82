"""A websocket connection's lines in the access log: one for every transfer or batch, and for every refusal."""

import time
from typing import Final

from transfer_engine.engine.callers import Answer, TransferOrder
from transfer_engine.engine.outcomes import TransferOutcome
from transfer_engine.http.access_log import NO_ENDPOINT, AccessLog
from transfer_engine.http.identity import Caller
from transfer_engine.http.messages import About, Request, Response
from transfer_engine.http.trace_context import Trace, begin_trace, span_of, take_over
from transfer_engine.http.transfer_items import problem_of
from transfer_engine.schema.transfers import TransferStatus

METHOD: Final = "WS"
PATH: Final = "/api/v1/ws"
"""Where websockets are opened, on every door."""


class MessageLog:
    """One connection's; all its lines are of one trace, the handshake's where that brought one.

    Args:
        access_log: where they go; None for nowhere.
        handshake: the request that the connection began with.
    """

    __slots__ = ("_access_log", "_peer", "_trace")

    def __init__(self, access_log: AccessLog | None, handshake: Request) -> None:
        self._access_log = access_log
        self._peer = handshake.peer
        self._trace: Trace = take_over(handshake.traceparent) or begin_trace()

    def transferred(self, order: TransferOrder, answer: Answer | Exception, started: float) -> None:
        """Tell what became of a transfer."""
        if self._access_log is None:
            return
        if isinstance(answer, TransferOutcome):
            status = 202 if answer.status is TransferStatus.PENDING else 200
            about = About(answer.req_id, order.user_id, answer.status, answer.replayed, op="transfer")
        else:
            problem = problem_of(answer, is_safe=order.idempotency_key is not None)
            status = problem.status
            about = About(user_id=order.user_id, code=problem.code, op="transfer")
        self._record(self._access_log, status, about, started, None)

    def moved(self, count: int, refused: int, caller: Caller | None, started: float) -> None:
        """Tell that a batch has been answered."""
        if self._access_log is not None:
            self._record(self._access_log, 200, About(count=count, refused=refused, op="batch"), started, caller)

    def refused(self, op: str | None, fault: Exception, caller: Caller | None) -> None:
        """Tell that a request was not carried out."""
        if self._access_log is not None:
            problem = problem_of(fault, is_safe=True)
            about = About(code=problem.code, op=op)
            self._record(self._access_log, problem.status, about, time.perf_counter(), caller)

    def _record(self, log: AccessLog, status: int, about: About, started: float, caller: Caller | None) -> None:
        log.record(METHOD, PATH, Response(status, b"", about=about), span_of(self._trace), started, caller, self._peer)


def log_handshake(access_log: AccessLog | None, request: Request, response: Response) -> None:
    """Tell that a handshake was refused."""
    if access_log is not None:
        trace = take_over(request.traceparent) or begin_trace()
        path = PATH if request.path == PATH else NO_ENDPOINT
        access_log.record(request.method[:16], path, response, trace, time.perf_counter(), None, request.peer)
