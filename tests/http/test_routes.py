from collections.abc import Sequence

import pytest

from transfer_engine.http.identity import Caller
from transfer_engine.http.messages import Request, Response
from transfer_engine.http.routes import Route, RouteTable


async def nothing(_request: Request, _caller: Caller, _parameters: Sequence[str]) -> Response:
    return Response(200, b"")


TABLE = RouteTable(
    [
        Route("GET", "/health", nothing, None),
        Route("POST", "/transfer", nothing, None),
        Route("GET", "/transfer/{req_id}", nothing, None),
        Route("POST", "/transfer/{req_id}/resolve", nothing, None),
        Route("GET", "/transfer/limits", nothing, None),
    ]
)


@pytest.mark.parametrize(
    ("path", "methods", "parameters"),
    [
        ("/health", {"GET", "HEAD"}, []),
        ("/transfer", {"POST"}, []),
        ("/transfer/x", {"GET", "HEAD"}, ["x"]),
        ("/transfer/limits", {"GET", "HEAD"}, []),
        ("/transfer/x/resolve", {"POST"}, ["x"]),
    ],
)
def test_paths_that_are_there(path: str, methods: set[str], parameters: list[str]) -> None:
    found = TABLE.find(path)
    assert found is not None
    resource, values = found
    assert resource.routes.keys() == methods
    assert list(values) == parameters


@pytest.mark.parametrize(
    "path", ["", "/", "health", "/health/", "/transfer/", "/transfer//resolve", "/transfer/x/y", "//"]
)
def test_paths_that_are_not(path: str) -> None:
    assert TABLE.find(path) is None


def test_a_method_is_answered_once() -> None:
    with pytest.raises(ValueError, match="GET /health has two handlers"):
        RouteTable([Route("GET", "/health", nothing, None), Route("GET", "/health", nothing, None)])
