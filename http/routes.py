"""The table from path and method to handler. Segments in braces are parameters; the door has percent-decoded them."""

import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec
import trio

from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.messages import Request, Response
from transfer_engine.http.operations import Operation
from transfer_engine.http.problems import Flavour

Handler = Callable[[Request, Caller, Sequence[str]], Awaitable[Response]]
"""From a request, who asks, and the path's parameters to an answer."""

OnAnswer = Callable[[Response | Exception], None]
"""Called once, synchronously, with the answer, or with what a handler would have raised; it never raises."""

Begin = Callable[[Request, Caller, Sequence[str], OnAnswer], None]
"""A handler that needs no task: it begins, and the answer is told from within other work, or before it returns. What it
raises is told to nobody else: that is the answer then."""


class Route(msgspec.Struct, frozen=True):
    """One endpoint: what it is called, who may use it, what body it takes, and who answers."""

    method: str
    template: str
    handler: Handler
    scope: Scope | None
    """What a token must allow; None where nobody has to say who he is."""
    body_types: tuple[bytes, ...] = ()
    """The media types of the body that it takes, if it takes one."""
    flavour: Flavour = Flavour.PLAIN
    is_keyed: bool = False
    """Whether it takes an ``Idempotency-Key``."""
    body_bytes_most: int | None = None
    """How large a body it takes where that is more than the server's own bound; None: that bound."""
    is_counted: bool = True
    """Whether it counts for the rate limit of the address; load balancers ask some all the time, from few addresses."""
    begin: Begin | None = None
    """The same as ``handler``, for doors that have no task for each request; None where it takes one."""
    operation: Operation | None = None
    """What the OpenAPI document and the page at /docs tell of it: every endpoint of a server must have one."""


def awaited(begin: Begin) -> Handler:
    """Return the handler that begins, and waits for the answer. Cancellation gives up waiting, and stops nothing."""

    @functools.wraps(begin, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    async def handler(request: Request, caller: Caller, parameters: Sequence[str]) -> Response:
        answers: list[Response | Exception] = []
        told = trio.Event()

        def tell(answer: Response | Exception) -> None:
            answers.append(answer)
            told.set()

        begin(request, caller, parameters, tell)
        await told.wait()
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    return handler


class Resource:
    """All routes of one template, by method; GET answers HEAD too (the door leaves the body out)."""

    def __init__(self, template: str) -> None:
        self.template = template
        self.routes: dict[str, Route] = {}

    def add(self, route: Route) -> None:
        """Add a route; a method can be taken once."""
        methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
        for method in methods:
            if method in self.routes:
                raise ValueError(f"{method} {route.template} has two handlers")
            self.routes[method] = route

    @property
    def body_bytes_most(self) -> int:
        """The largest bound that a route here has of its own; 0 where none has one."""
        return max(route.body_bytes_most or 0 for route in self.routes.values())

    @property
    def allow(self) -> str:
        """The value of the ``Allow`` header."""
        return ", ".join(sorted(self.routes))


class _Node:
    __slots__ = ("children", "parameter", "resource")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.resource: Resource | None = None


class RouteTable:
    """Finds the resource of a path. Plain paths take one look-up; the others one for each segment."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._plain: dict[str, Resource] = {}
        self._root = _Node()
        for route in routes:
            self._resource_at(route.template).add(route)

    def find(self, path: str) -> tuple[Resource, Sequence[str]] | None:
        """Return the resource of a path and the values of its parameters, or None."""
        resource = self._plain.get(path)
        if resource is not None:
            return resource, ()
        node = self._root
        parameters = []
        for segment in path.split("/")[1:]:
            child = node.children.get(segment)
            if child is None:
                child = node.parameter
                if child is None or not segment:
                    return None
                parameters.append(segment)
            node = child
        return (node.resource, parameters) if node.resource is not None else None

    def _resource_at(self, template: str) -> Resource:
        if "{" not in template:
            return self._plain.setdefault(template, Resource(template))
        node = self._root
        for segment in template.split("/")[1:]:
            if segment.startswith("{"):
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.children.setdefault(segment, _Node())
        node.resource = node.resource or Resource(template)
        return node.resource
