"""The operators' endpoints: deposits, decisions on transfers that do not end, figures, misbehaving cores."""

from collections.abc import Sequence
from typing import Final

import msgspec

from transfer_engine.engine.outcomes import Resolution, TransferNotFound
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.http import admin_operations as operations
from transfer_engine.http.bodies import BodyDecoder
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.first_api import outcome_response
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.messages import JSON, About, Request, Response
from transfer_engine.http.parameters import idempotency_key, parse_req_id
from transfer_engine.http.problems import Flavour, ProblemCode, Rejected
from transfer_engine.http.routes import Route
from transfer_engine.schema.ids import is_req_id
from transfer_engine.schema.transfers import TransferStatus
from transfer_engine.schema.wire import CreditRequest, ResolveRequest, ResolveResponse

_encode: Final = msgspec.json.Encoder().encode
_CREDIT: Final = BodyDecoder(CreditRequest)
_RESOLVE: Final = BodyDecoder(ResolveRequest)
_BEHAVIOUR: Final = BodyDecoder(Behaviour)

_STATUS_OF_CREDIT: Final = {TransferStatus.COMMITTED: 201, TransferStatus.PENDING: 202}
_RESOLUTIONS: Final = {resolution.value: resolution for resolution in Resolution}


class AdminApi:
    """Its endpoints; all need the scope ``admin``."""

    def __init__(self, slot: EngineSlot) -> None:
        self._slot = slot

    def routes(self) -> list[Route]:
        """Return the endpoints."""
        return [
            Route(
                "POST",
                "/api/v1/admin/credits",
                self.credit,
                Scope.ADMIN,
                body_types=(JSON,),
                flavour=Flavour.TRANSFER,
                is_keyed=True,
                operation=operations.CREDIT,
            ),
            Route(
                "POST",
                "/api/v1/admin/transfers/{req_id}/resolve",
                self.resolve,
                Scope.ADMIN,
                body_types=(JSON,),
                operation=operations.RESOLVE,
            ),
            Route(
                "PUT",
                "/api/v1/admin/simulated-cores/{name}/behaviour",
                self.behave,
                Scope.ADMIN,
                body_types=(JSON,),
                operation=operations.BEHAVE,
            ),
            Route("GET", "/api/v1/admin/statistics", self.statistics, Scope.ADMIN, operation=operations.STATISTICS),
        ]

    async def credit(self, request: Request, caller: Caller, _parameters: Sequence[str]) -> Response:
        """Take a deposit from outside: 201 once it is there, 202 while it is under way, 200 with a refusal."""
        key = idempotency_key(request.idempotency_keys)
        body = _CREDIT.decode(request.body)
        outcome = await self._slot.engine.credit(
            user_id=body.user_id,
            account=body.account,
            asset_id=body.asset_id,
            amount=body.amount,
            idempotency_key=key,
            subject=caller.subject,
        )
        return outcome_response(_STATUS_OF_CREDIT.get(outcome.status, 200), outcome, body.user_id)

    async def resolve(self, request: Request, _caller: Caller, parameters: Sequence[str]) -> Response:
        """Carry an operator's decision on a transfer out, and say step by step what was done."""
        req_id = parse_req_id(parameters[0])
        action = _RESOLVE.decode(request.body).action
        if action not in _RESOLUTIONS:
            raise Rejected(
                ProblemCode.INVALID_FIELD, f'action must be "post" or "void", not {action[:40]!r}', field="action"
            )
        if not is_req_id(req_id.int):
            raise TransferNotFound
        report = await self._slot.engine.resolve(req_id, _RESOLUTIONS[action])
        answer = ResolveResponse(req_id=report.req_id, state=report.state, steps=report.steps)
        return Response(200, _encode(answer), about=About(req_id=report.req_id, outcome=report.state))

    async def behave(self, request: Request, _caller: Caller, parameters: Sequence[str]) -> Response:
        """Tell a simulated core how to misbehave from now on."""
        core = self._slot.engine.simulated_cores.get(parameters[0])
        if core is None:
            raise Rejected(ProblemCode.NO_SUCH_CORE, f"{parameters[0][:40]!r} is no simulated core of this engine")
        behaviour = _BEHAVIOUR.decode(request.body)
        core.behave(behaviour)
        return Response(200, _encode(behaviour))

    async def statistics(self, _request: Request, _caller: Caller, _parameters: Sequence[str]) -> Response:
        """Return the engine's figures."""
        return Response(200, _encode(self._slot.engine.statistics()))
