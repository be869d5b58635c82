"""How a core is asked: again and again within a time-out, and never after the lease; what is no answer is Pending."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from uuid import UUID

import trio

from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.leases import Lease
from transfer_engine.engine.services.protocol import Answer, Failed, Pending, ServiceCall, Success

REPLAY_GAP_LEAST_MS: Final = 1
"""The first pause between two calls of a core that answers Pending: it doubles, so it may not be zero."""

REASON_CHARACTERS_MOST: Final = 500
"""Of a core's reason: it goes into a row, and to clients."""

Body = TypeVar("Body", ServiceCall, UUID)


class CoreCalls:
    """Asks cores.

    Args:
        lease: whether this engine may still ask anything of anyone.
        alerts: told of cores that break their contract.
        service_timeout_ms: how long one call, repeats included, is waited for.
        replay_gap_ms: the first pause before such a repeat; it doubles.
    """

    def __init__(self, *, lease: Lease, alerts: Alerts, service_timeout_ms: int, replay_gap_ms: int) -> None:
        self._lease = lease
        self._alerts = alerts
        self._service_timeout_s = service_timeout_ms / 1000
        self._replay_gap_s = max(replay_gap_ms, REPLAY_GAP_LEAST_MS) / 1000

    async def ask(self, operation: Callable[[Body], Awaitable[Answer]], body: Body) -> Answer:
        """Ask a core until it gives a final answer, within the time-out.

        Its exceptions and its silence are Pending: unknown, never failed. Cancellation leaves the call unknown.

        Raises:
            LeaseLapsed: nothing may be asked now; what was asked before is unknown.
        """
        answer = Pending(f"the service did not answer within {self._service_timeout_s:g} s")
        pause_s = self._replay_gap_s
        with trio.move_on_after(self._service_timeout_s):
            while True:
                self._lease.require()
                try:
                    asked = self._checked(await operation(body), operation, _req_id(body))
                except Exception as error:  # noqa: BLE001  a core is foreign code
                    self._alerts.warn("core_raised", req_id=_req_id(body), operation=repr(operation), error=repr(error))
                    asked = Pending(f"the service raised {type(error).__name__}")
                if not isinstance(asked, Pending):
                    return asked
                answer = asked if asked.reason else answer
                await trio.sleep(pause_s)
                pause_s *= 2
        return answer

    def _checked(self, asked: object, operation: object, req_id: str) -> Answer:
        """Return a core's answer with a reason that a row can hold; what is no answer is Pending."""
        match asked:
            case Success():
                return asked
            case Failed(reason):
                return Failed(_legible(reason) or "the service gave no reason")
            case Pending(reason):
                return Pending(_legible(reason))
        self._alerts.critical(
            "core_answered_nonsense", req_id=req_id, operation=repr(operation), answer=_legible(repr(asked))
        )
        return Pending(f"the service answered with {_legible(type(asked).__name__)}, which is no answer")


def _req_id(body: ServiceCall | UUID) -> str:
    return str(body.req_id if isinstance(body, ServiceCall) else body)


def _legible(reason: object) -> str:
    """Return what a core gave as a reason, such that any store can hold it: valid Unicode, of bounded length."""
    return str(reason)[:REASON_CHARACTERS_MOST].encode("utf-8", "replace").decode()
