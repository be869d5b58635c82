"""The endpoints behind every door: plain async functions from a request to an answer, without framework or socket.

Every door calls :meth:`Api.answer`; nothing that a client can send makes it raise. Its cancellation leaves a transfer
that the engine has taken under way: the client asks again, by the same key or by `req_id`.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from transfer_engine.engine.backends import Opening
from transfer_engine.engine.outcomes import Refused
from transfer_engine.engine.settings import Settings
from transfer_engine.http.access_log import NO_ENDPOINT, AccessLog
from transfer_engine.http.admin_api import AdminApi
from transfer_engine.http.batch_api import BatchApi
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.first_api import FirstApi
from transfer_engine.http.gate import Gate
from transfer_engine.http.health_api import HealthApi
from transfer_engine.http.identity import Caller, NoTokens, Scope
from transfer_engine.http.messages import Headers, Request, Response
from transfer_engine.http.openapi_api import OpenApiApi
from transfer_engine.http.problems import (
    Flavour,
    Problem,
    ProblemCode,
    Rejected,
    problem_of_fault,
    problem_of_refusal,
    problem_of_rejection,
)
from transfer_engine.http.refusal_pace import REFUSALS_MOST, RefusalPace
from transfer_engine.http.routes import Resource, Route, RouteTable
from transfer_engine.http.trace_context import Trace, begin_trace, enter, leave, take_over
from transfer_engine.http.user_accounts import UserAccountsApi
from transfer_engine.http.user_api import UserApi
from transfer_engine.http.user_history import UserHistoryApi
from transfer_engine.http.user_names import UserNames
from transfer_engine.http.webhook_api import WebhookApi
from transfer_engine.http.webhook_settings import WebhookSettings
from transfer_engine.http.websocket_log import PATH

if TYPE_CHECKING:
    from transfer_engine.engine import Engine

_log: Final = structlog.stdlib.get_logger("transfer_engine.http")
_NO_HEADERS: Final[Headers] = ()


class Api:
    """Every endpoint of an engine.

    Doors may open before the engine has: until :meth:`serve` hands it over, whatever needs it is refused with a 503
    that says what is waited for.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        version: str,
        opening: Opening | None = None,
        gate: Gate | None = None,
        access_log: AccessLog | None = None,
        webhooks: WebhookSettings | None = None,
        pace: RefusalPace | None = None,
    ) -> None:
        self.pace: Final = pace or RefusalPace(REFUSALS_MOST)
        self.access_log = access_log
        self.version: Final = version
        self.gate = gate or Gate(NoTokens())
        self.slot = EngineSlot(opening or Opening())
        assets = [asset.asset() for asset in settings.assets]
        names = UserNames(settings)
        self.webhooks: Final = WebhookApi(self.slot, webhooks or WebhookSettings())
        groups = (
            FirstApi(self.slot, assets),
            UserApi(self.slot, names),
            UserHistoryApi(self.slot, names),
            UserAccountsApi(self.slot, names, self.gate),
            BatchApi(self.slot, self.gate),
            self.webhooks,
            AdminApi(self.slot),
            HealthApi(self.slot, version),
            OpenApiApi(lambda: self.routes, version),
        )
        self.routes: Final[list[Route]] = [route for group in groups for route in group.routes()]
        self._table = RouteTable(self.routes)

    def serve(self, engine: "Engine") -> None:
        """Answer by this engine from now on."""
        self.slot.running = engine

    def has(self, path: str) -> bool:
        """Whether a path is one of the endpoints'."""
        return self._table.find(path) is not None

    def body_bytes_most(self, path: str, otherwise: int) -> int:
        """Return how large a body may be at a path: ``otherwise`` (the server's bound), or more where it needs more."""
        found = self._table.find(path)
        return max(otherwise, found[0].body_bytes_most) if found is not None else otherwise

    def flavour(self, path: str) -> Flavour:
        """Return how problems of a path are told."""
        found = self._table.find(path)
        if found is not None:
            return next(iter(found[0].routes.values())).flavour
        return Flavour.USER if path.startswith("/api/v1/user/") else Flavour.PLAIN

    async def answer(self, request: Request) -> Response:
        """Return the answer to a request, whatever it is; where it is worth a line, the access log has it."""
        started = time.perf_counter()
        theirs = take_over(request.traceparent) if request.traceparent else None
        trace = theirs or begin_trace()
        entered = enter(trace)
        try:
            response, template, caller = await self._answer(request)
        finally:
            leave(entered)
        if self.access_log is not None and response.about is not None:
            self.access_log.record(request.method[:16], template, response, trace, started, caller, request.peer)
        return _traced(response, trace, is_theirs=theirs is not None)

    def begin(self, request: Request, on_response: Callable[[Response], None]) -> bool:
        """Begin to answer a request without a task; the answer is told once, perhaps before this returns.

        ``on_response`` is called from within other work, and may not raise.

        Returns:
            False where it takes a task to answer: nothing was done, and :meth:`answer` does all of it.
        """
        found = self._table.find(request.path)
        if found is None:
            return False
        resource, parameters = found
        route = resource.routes.get(request.method)
        if route is None or route.begin is None:
            return False
        caller = self.gate.known(request, route.scope)
        if caller is None:
            return False
        started = time.perf_counter()
        theirs = take_over(request.traceparent) if request.traceparent else None
        trace = theirs or begin_trace()

        def tell(answer: Response | Exception) -> None:
            response = self._told(answer, request, route, caller)
            if self.access_log is not None and response.about is not None:
                log = self.access_log
                log.record(request.method, route.template, response, trace, started, caller, request.peer)
            on_response(_traced(response, trace, is_theirs=theirs is not None))

        entered = enter(trace)
        try:
            if route.is_counted:
                self.gate.arrived(request)
            self.gate.require_local(request)
            self._require(request, caller, route)
            route.begin(request, caller, parameters, tell)
        except Exception as error:  # noqa: BLE001 - as in _answer
            tell(error)
        finally:
            leave(entered)
        return True

    async def look_ahead(self, request: Request) -> None:
        """Refuse by its head a request that no body would make another of; nothing is counted where it may go on.

        Raises:
            Rejected: no endpoint (404, 405, 426), no valid token (401), or meant for another host (421).
        """
        found = self._table.find(request.path)
        route = found[0].routes.get(request.method) if found is not None else None
        if route is None:
            raise _no_endpoint(request, found[0] if found is not None else None)
        await self.gate.caller_of(request, route.scope)

    def refuse(self, rejected: Rejected, request: Request) -> Response:
        """Return a door's own refusal of a request that it did not take whole; the access log has it, too."""
        theirs = take_over(request.traceparent)
        trace = theirs or begin_trace()
        found = self._table.find(request.path)
        response = self._counted_refusal(rejected, request)
        if self.access_log is not None:
            template = found[0].template if found is not None else NO_ENDPOINT
            started = time.perf_counter()
            self.access_log.record(request.method[:16], template, response, trace, started, None, request.peer)
        return _traced(response, trace, is_theirs=theirs is not None)

    async def _answer(self, request: Request) -> tuple[Response, str, Caller | None]:
        """Return the answer, the template of the path, and who asked, where that is known."""
        found = self._table.find(request.path)
        if found is None:
            template = PATH if request.path == PATH else NO_ENDPOINT
            return self._counted_refusal(_no_endpoint(request, None), request), template, None
        resource, parameters = found
        route = resource.routes.get(request.method)
        if route is None:
            return self._counted_refusal(_no_endpoint(request, resource), request), resource.template, None
        caller: Caller | None = None
        try:
            if route.is_counted:
                self.gate.arrived(request)
            caller = await self.gate.caller_of(request, route.scope)
            self._require(request, caller, route)
            answer: Response | Exception = await route.handler(request, caller, parameters)
        except Exception as error:  # noqa: BLE001 - the last line before the client: he gets an answer, the log the rest
            answer = error
        return self._told(answer, request, route, caller), route.template, caller

    def _require(self, request: Request, caller: Caller, route: Route) -> None:
        """Go on only where the caller may, as often as he does, and with a body of the right kind."""
        self.gate.admit(caller, route.scope)
        if route.body_types and request.content_type not in route.body_types:
            _require_media_type(request.content_type, route.body_types)

    def _told(self, answer: Response | Exception, request: Request, route: Route, caller: Caller | None) -> Response:
        """Return what the client is told of an endpoint's answer."""
        if isinstance(answer, Exception):
            answer = self._problem(answer, request, route).response(route.flavour)
        headers = self.gate.headers(request, caller) if route.is_counted else _NO_HEADERS
        return msgspec.structs.replace(answer, headers=(*answer.headers, *headers)) if headers else answer

    def _counted_refusal(self, rejected: Rejected, request: Request) -> Response:
        """Return the answer to a request that reached no endpoint; it counts for its address like any other."""
        try:
            self.gate.arrived(request)
        except Rejected as too_often:
            rejected = too_often
        response = problem_of_rejection(rejected).response(self.flavour(request.path))
        headers = self.gate.headers(request, None)
        return msgspec.structs.replace(response, headers=(*response.headers, *headers)) if headers else response

    def _problem(self, error: Exception, request: Request, route: Route) -> Problem:
        if isinstance(error, Refused):
            return problem_of_refusal(error)
        if isinstance(error, Rejected):
            return problem_of_rejection(error)
        _log.error("request failed", method=request.method, path=route.template, exc_info=error)
        # A batch names its transfers within, some of them perhaps not: it is told to look before it repeats them.
        moves_money = route.is_keyed or (route.method == "POST" and route.scope is Scope.WRITE)
        return problem_of_fault(error, is_safe=not moves_money or bool(request.idempotency_keys))


def _traced(response: Response, trace: Trace, *, is_theirs: bool) -> Response:
    """Name the trace in the answer to whoever brought one, and in every fault: that has no `req_id` to ask about."""
    if not is_theirs and response.status < 500:
        return response
    headers = (*response.headers, (b"traceparent", trace.header()))
    return msgspec.structs.replace(response, headers=headers)


def _no_endpoint(request: Request, resource: Resource | None) -> Rejected:
    """Return what is told to a request that none of the endpoints is for, nor of its path's, where that has some."""
    if request.path == PATH:
        detail = "a websocket is opened here: send the handshake of RFC 6455"
        return Rejected(ProblemCode.UPGRADE_REQUIRED, detail, headers=((b"upgrade", b"websocket"),))
    if resource is None:
        return Rejected(ProblemCode.NO_SUCH_PATH, "there is nothing at this path")
    return Rejected(
        ProblemCode.METHOD_NOT_ALLOWED,
        f"{request.method[:16]} is not allowed here: use {resource.allow}",
        headers=((b"allow", resource.allow.encode()),),
    )


def _require_media_type(content_type: bytes, allowed: tuple[bytes, ...]) -> None:
    """Accept a media type with parameters (it is UTF-8 whatever they say), and nothing else.

    A missing header is refused too: browsers send other types to any address without asking, JSON they do not.
    """
    if content_type.partition(b";")[0].strip().lower() not in allowed:
        names = b", ".join(allowed)
        raise Rejected(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE,
            f"the body must be JSON: send Content-Type: {names.decode()}",
            headers=((b"accept", names),),
        )
