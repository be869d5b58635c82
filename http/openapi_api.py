"""The endpoint of the OpenAPI document."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from transfer_engine.http.identity import Caller
from transfer_engine.http.messages import Request, Response
from transfer_engine.http.openapi import openapi_document
from transfer_engine.http.operations import HEALTH, Answer, Operation
from transfer_engine.http.routes import Route

DOCUMENT: Final = Operation(
    name="openapi",
    group=HEALTH,
    answers=(Answer(status=200, description="The document.", body=dict[str, Any]),),
)


class OpenApiApi:
    """Its endpoint; nobody has to say who he is."""

    def __init__(self, routes: Callable[[], Sequence[Route]], version: str) -> None:
        self._routes = routes
        self._version = version
        self._document: Response | None = None

    def routes(self) -> list[Route]:
        """Return the endpoint."""
        return [Route("GET", "/openapi.json", self.document, None, operation=DOCUMENT)]

    async def document(self, _request: Request, _caller: Caller, _parameters: Sequence[str]) -> Response:
        """Return this document: OpenAPI 3.1, made of the code that answers."""
        if self._document is None:
            document = openapi_document(self._routes(), version=self._version)
            self._document = Response(200, msgspec.json.format(msgspec.json.encode(document), indent=1))
        return self._document
