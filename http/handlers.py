"""The handlers: plain async functions from a request to an answer. They know neither framework nor socket.

Every door calls :meth:`Api.answer`; nothing that a client can send makes it raise. Its cancellation leaves a transfer
that the engine has taken under way: the client asks again, by the same key or by `req_id`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec
import structlog

from transfer_engine.engine.admission import USER_ID_MAX
from transfer_engine.engine.backends import Opening
from transfer_engine.engine.outcomes import (
    Overloaded,
    PartReadiness,
    Readiness,
    RefusalCode,
    Refused,
    Resolution,
    TransferNotFound,
    TransferOutcome,
)
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.engine.settings import Settings
from transfer_engine.http.bodies import BodyDecoder
from transfer_engine.http.messages import Request, Response
from transfer_engine.http.problems import (
    RETRY_AFTER_S,
    Flavour,
    ProblemCode,
    Rejected,
    problem_of_fault,
    problem_of_refusal,
    problem_of_rejection,
)
from transfer_engine.http.routes import Route, RouteTable
from transfer_engine.schema.ids import KEY_LENGTH_MAX, is_req_id
from transfer_engine.schema.transfers import TransferStatus
from transfer_engine.schema.wire import (
    AssetEntry,
    AssetsResponse,
    BalanceEntry,
    BalancesResponse,
    CreditRequest,
    HealthResponse,
    PartResponse,
    ReadyResponse,
    RecordResponse,
    ResolveRequest,
    ResolveResponse,
    TransferRequest,
    TransferResponse,
)

if TYPE_CHECKING:
    from transfer_engine.engine import Engine

_log: Final = structlog.stdlib.get_logger("transfer_engine.http")
_encode: Final = msgspec.json.Encoder().encode

_TRANSFER: Final = BodyDecoder(TransferRequest)
_CREDIT: Final = BodyDecoder(CreditRequest)
_RESOLVE: Final = BodyDecoder(ResolveRequest)
_BEHAVIOUR: Final = BodyDecoder(Behaviour)

_REPLAYED: Final = ((b"idempotent-replayed", b"true"),)
_RETRY_AFTER: Final = ((b"retry-after", b"%d" % RETRY_AFTER_S),)
_KEY_CHARACTERS: Final = bytes(range(0x20, 0x7F))
_USER_ID_DIGITS_MAX: Final = len(str(USER_ID_MAX))


class Api:
    """Every endpoint of an engine.

    Doors may open before the engine has: until :meth:`serve` hands it over, whatever needs it is refused with a 503
    that says what is waited for.
    """

    def __init__(self, settings: Settings, *, version: str, opening: Opening | None = None) -> None:
        self._opening = opening or Opening()
        self._running: Engine | None = None
        self._health = Response(200, _encode(HealthResponse(status="healthy", version=version)))
        assets = [
            AssetEntry(asset_id=asset.asset_id, symbol=asset.symbol, decimals=asset.decimals, enabled=asset.enabled)
            for asset in settings.assets
        ]
        self._assets = Response(200, _encode(AssetsResponse(assets=assets)))
        self._table = RouteTable(self.routes())

    @property
    def _engine(self) -> "Engine":
        if self._running is None:
            raise Overloaded(RefusalCode.UNAVAILABLE, f"the engine is starting{self._waiting()}")
        return self._running

    def serve(self, engine: "Engine") -> None:
        """Answer by this engine from now on."""
        self._running = engine

    def _waiting(self) -> str:
        return f": it waits for {self._opening.waits_for}" if self._opening.waits_for else ""

    def routes(self) -> list[Route]:
        """Return the table of endpoints."""
        return [
            Route(
                "POST",
                "/api/v1/transfer",
                self.transfer,
                takes_body=True,
                flavour=Flavour.TRANSFER,
                is_keyed=True,
            ),
            Route("GET", "/api/v1/transfer/{req_id}", self.look_up, flavour=Flavour.LOOKUP),
            Route("GET", "/api/v1/balances/{user_id}", self.balances),
            Route("GET", "/api/v1/assets", self.assets),
            Route(
                "POST",
                "/api/v1/admin/credits",
                self.credit,
                takes_body=True,
                flavour=Flavour.TRANSFER,
                is_keyed=True,
            ),
            Route("POST", "/api/v1/admin/transfers/{req_id}/resolve", self.resolve, takes_body=True),
            Route("PUT", "/api/v1/admin/simulated-cores/{name}/behaviour", self.behave, takes_body=True),
            Route("GET", "/api/v1/admin/statistics", self.statistics),
            Route("GET", "/health", self.health),
            Route("GET", "/ready", self.ready),
        ]

    def has(self, path: str) -> bool:
        """Whether a path is one of the endpoints'."""
        return self._table.find(path) is not None

    def flavour(self, path: str) -> Flavour:
        """Return how problems of a path are told."""
        found = self._table.find(path)
        return next(iter(found[0].routes.values())).flavour if found else Flavour.PLAIN

    async def answer(self, request: Request) -> Response:
        """Return the answer to a request, whatever it is."""
        found = self._table.find(request.path)
        if found is None:
            rejected = Rejected(ProblemCode.NO_SUCH_PATH, "there is nothing at this path")
            return problem_of_rejection(rejected).response(Flavour.PLAIN)
        resource, parameters = found
        route = resource.routes.get(request.method)
        if route is None:
            rejected = Rejected(
                ProblemCode.METHOD_NOT_ALLOWED,
                f"{request.method[:16]} is not allowed here: use {resource.allow}",
                headers=((b"allow", resource.allow.encode()),),
            )
            return problem_of_rejection(rejected).response(self.flavour(request.path))
        try:
            if route.takes_body and request.content_type != b"application/json":
                _require_json(request.content_type)
            return await route.handler(request, parameters)
        except Refused as refused:
            problem = problem_of_refusal(refused)
        except Rejected as rejected:
            problem = problem_of_rejection(rejected)
        except Exception as fault:  # noqa: BLE001 - the last line before the client: he gets an answer, the log the rest
            _log.exception("request failed", method=request.method, path=request.path)
            problem = problem_of_fault(fault, is_safe=not route.is_keyed or bool(request.idempotency_keys))
        return problem.response(route.flavour)

    async def transfer(self, request: Request, _parameters: Sequence[str]) -> Response:
        """Move an amount between two accounts: 200 with the verdict, 202 while it is under way."""
        key = _idempotency_key(request.idempotency_keys)
        body = _TRANSFER.decode(request.body)
        outcome = await self._engine.transfer(
            source=body.source,
            target=body.target,
            user_id=body.user_id,
            asset_id=body.asset_id,
            amount=body.amount,
            idempotency_key=key,
        )
        return _outcome(202 if outcome.status is TransferStatus.PENDING else 200, outcome)

    async def credit(self, request: Request, _parameters: Sequence[str]) -> Response:
        """Take a deposit from outside: 201 once it is there, 202 while it is under way, 200 with a refusal."""
        key = _idempotency_key(request.idempotency_keys)
        body = _CREDIT.decode(request.body)
        outcome = await self._engine.credit(
            user_id=body.user_id,
            account=body.account,
            asset_id=body.asset_id,
            amount=body.amount,
            idempotency_key=key,
        )
        return _outcome(_STATUS_OF_CREDIT.get(outcome.status, 200), outcome)

    async def look_up(self, _request: Request, parameters: Sequence[str]) -> Response:
        """Return what is known of a transfer."""
        req_id = _req_id(parameters[0])
        record = await self._engine.get(req_id) if is_req_id(req_id.int) else None
        if record is None:
            raise TransferNotFound
        return Response(200, _encode(RecordResponse.of(record)))

    async def balances(self, _request: Request, parameters: Sequence[str]) -> Response:
        """Return a user's accounts."""
        user_id = _user_id(parameters[0])
        balances = [
            BalanceEntry(
                account=balance.account,
                asset_id=balance.asset_id,
                available=balance.available,
                frozen=balance.frozen,
            )
            for balance in await self._engine.balances(user_id)
        ]
        return Response(200, _encode(BalancesResponse(balances=balances)))

    async def assets(self, _request: Request, _parameters: Sequence[str]) -> Response:
        """Return the assets."""
        return self._assets

    async def resolve(self, request: Request, parameters: Sequence[str]) -> Response:
        """Carry an operator's decision on a transfer out, and say step by step what was done."""
        req_id = _req_id(parameters[0])
        action = _RESOLVE.decode(request.body).action
        if action not in _RESOLUTIONS:
            raise Rejected(
                ProblemCode.INVALID_FIELD, f'action must be "post" or "void", not {action[:40]!r}', field="action"
            )
        if not is_req_id(req_id.int):
            raise TransferNotFound
        report = await self._engine.resolve(req_id, _RESOLUTIONS[action])
        return Response(200, _encode(ResolveResponse(req_id=report.req_id, state=report.state, steps=report.steps)))

    async def behave(self, request: Request, parameters: Sequence[str]) -> Response:
        """Tell a simulated core how to misbehave from now on."""
        core = self._engine.simulated_cores.get(parameters[0])
        if core is None:
            raise Rejected(ProblemCode.NO_SUCH_CORE, f"{parameters[0][:40]!r} is no simulated core of this engine")
        behaviour = _BEHAVIOUR.decode(request.body)
        core.behave(behaviour)
        return Response(200, _encode(behaviour))

    async def statistics(self, _request: Request, _parameters: Sequence[str]) -> Response:
        """Return the engine's figures."""
        return Response(200, _encode(self._engine.statistics()))

    async def health(self, _request: Request, _parameters: Sequence[str]) -> Response:
        """Say that the process answers."""
        return self._health

    async def ready(self, _request: Request, _parameters: Sequence[str]) -> Response:
        """Say whether transfers can be taken now, part by part."""
        if self._running is None:
            starting = PartReadiness(ready=False, detail=f"the engine is starting{self._waiting()}")
            readiness = Readiness(ledger=starting, records=starting, scanner=starting)
        else:
            readiness = await self._running.readiness()
        answer = ReadyResponse(
            ready=readiness.ready,
            ledger=_part(readiness.ledger),
            records=_part(readiness.records),
            scanner=_part(readiness.scanner),
        )
        status, headers = (200, ()) if readiness.ready else (503, _RETRY_AFTER)
        return Response(status, _encode(answer), headers=headers)


_STATUS_OF_CREDIT: Final = {TransferStatus.COMMITTED: 201, TransferStatus.PENDING: 202}
_RESOLUTIONS: Final = {resolution.value: resolution for resolution in Resolution}


def _outcome(status: int, outcome: TransferOutcome) -> Response:
    body = _encode(TransferResponse(req_id=outcome.req_id, status=outcome.status, message=outcome.message))
    return Response(status, body, headers=_REPLAYED if outcome.replayed else ())


def _part(part: PartReadiness) -> PartResponse:
    return PartResponse(ready=part.ready, detail=part.detail)


def _req_id(text: str) -> UUID:
    try:
        return msgspec.convert(text, UUID)
    except msgspec.ValidationError:
        raise Rejected(ProblemCode.INVALID_REQ_ID, "Invalid req_id format", field="req_id") from None


def _user_id(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= _USER_ID_DIGITS_MAX and 1 <= int(text) <= USER_ID_MAX:
        return int(text)
    raise Rejected(ProblemCode.INVALID_USER_ID, f"user_id must be an integer from 1 to {USER_ID_MAX}", field="user_id")


def _idempotency_key(values: tuple[bytes, ...]) -> str | None:
    """Return the client's own key, or None; a key that can't be one is refused rather than left out."""
    if not values:
        return None
    value = values[0]
    fault = None
    if len(values) > 1:
        fault = f"stands in {len(values)} headers: send one"
    elif not value:
        fault = "is empty: leave it out, or name one"
    elif len(value) > KEY_LENGTH_MAX:
        fault = f"is {len(value)} characters long: at most {KEY_LENGTH_MAX} are allowed"
    elif value.translate(None, _KEY_CHARACTERS):
        fault = "has characters in it that are not printable ASCII: use letters, digits and punctuation"
    if fault is not None:
        raise Rejected(ProblemCode.INVALID_IDEMPOTENCY_KEY, f"Idempotency-Key {fault}", field="Idempotency-Key")
    return value.decode("ascii")


def _require_json(content_type: bytes) -> None:
    """Accept JSON with parameters (it is UTF-8 whatever they say), and nothing else.

    A missing header is refused too: browsers send other types to any address without asking, JSON they do not.
    """
    if content_type.partition(b";")[0].strip().lower() != b"application/json":
        raise Rejected(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE,
            "the body must be JSON: send Content-Type: application/json",
            headers=((b"accept", b"application/json"),),
        )
