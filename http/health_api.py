"""What load balancers and people ask: does it answer, can it work."""

from collections.abc import Sequence
from typing import Final

import msgspec

from transfer_engine.engine.outcomes import PartReadiness, Readiness
from transfer_engine.http import first_operations as operations
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.identity import Caller
from transfer_engine.http.messages import Headers, Request, Response
from transfer_engine.http.problems import RETRY_AFTER_S
from transfer_engine.http.routes import Route
from transfer_engine.schema.wire import HealthResponse, PartResponse, ReadyResponse

_encode: Final = msgspec.json.Encoder().encode
_RETRY_AFTER: Final[Headers] = ((b"retry-after", b"%d" % RETRY_AFTER_S),)


class HealthApi:
    """Its endpoints; nobody has to say who he is."""

    def __init__(self, slot: EngineSlot, version: str) -> None:
        self._slot = slot
        self._health = Response(200, _encode(HealthResponse(status="healthy", version=version)))

    def routes(self) -> list[Route]:
        """Return the endpoints."""
        return [
            Route("GET", "/health", self.health, None, is_counted=False, operation=operations.HEALTH_CHECK),
            Route("GET", "/ready", self.ready, None, is_counted=False, operation=operations.READY),
        ]

    async def health(self, _request: Request, _caller: Caller, _parameters: Sequence[str]) -> Response:
        """Say that the process answers."""
        return self._health

    async def ready(self, _request: Request, _caller: Caller, _parameters: Sequence[str]) -> Response:
        """Say whether transfers can be taken now, part by part."""
        engine = self._slot.running
        if engine is None:
            starting = PartReadiness(ready=False, detail=self._slot.starting)
            readiness = Readiness(ledger=starting, records=starting, scanner=starting)
        else:
            readiness = await engine.readiness()
        answer = ReadyResponse(
            ready=readiness.ready,
            ledger=_part(readiness.ledger),
            records=_part(readiness.records),
            scanner=_part(readiness.scanner),
        )
        status, headers = (200, ()) if readiness.ready else (503, _RETRY_AFTER)
        return Response(status, _encode(answer), headers=headers)


def _part(part: PartReadiness) -> PartResponse:
    return PartResponse(ready=part.ready, detail=part.detail)
