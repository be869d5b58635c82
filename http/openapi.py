"""The OpenAPI 3.1 document: made of the routes, what is told of them, and the structs that are really decoded.

msgspec makes the schemas of the structs, so they can't say anything else than what is served; the rest is a dictionary
in OpenAPI's words. Source: https://spec.openapis.org/oas/v3.1.1
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from transfer_engine.engine.outcomes import RefusalCode
from transfer_engine.http.batch_bodies import TRANSFERS_MOST
from transfer_engine.http.messages import JSON, NDJSON, PROBLEM_JSON
from transfer_engine.http.operations import GROUPS, TRACEPARENT, Code, Listing, Operation, Parameter
from transfer_engine.http.problem_meanings import meaning_of
from transfer_engine.http.problems import (
    NUMBER_OF_CODE,
    STATUS_OF_PROBLEM,
    STATUS_OF_REFUSAL,
    Flavour,
    ProblemCode,
)
from transfer_engine.http.routes import Route
from transfer_engine.schema.transfers import TransferStatus
from transfer_engine.schema.wire import ProblemDetails

_COMPONENTS: Final = "#/components/schemas/{name}"
LINES: Final = NDJSON.decode()

_ABOUT: Final = """\
Moves users' money between their accounts: exactly once, in order per user, whatever crashes.

Errors are problem details (RFC 9457) with a stable `code`. `retryable` says whether the same request may succeed later,
unchanged. Whatever moves money takes an `Idempotency-Key`: with it a request can be repeated until it is answered.

Transfers, batches and look-ups also go through a websocket, `/api/v1/ws`, which tells what happens to a user, too: see
[its page](/docs/websocket)."""

_OF_EVERY_REQUEST: Final[tuple[Code, ...]] = (
    ProblemCode.MALFORMED_REQUEST,
    ProblemCode.BODY_TOO_SLOW,
    ProblemCode.HEAD_TOO_SLOW,
    ProblemCode.BODY_TOO_LARGE,
    ProblemCode.TARGET_TOO_LONG,
    ProblemCode.WRONG_HOST,
    ProblemCode.RATE_LIMITED,
    ProblemCode.HEAD_TOO_LARGE,
    ProblemCode.INTERNAL,
    ProblemCode.UNAVAILABLE,
)
_OF_SECURED: Final[tuple[Code, ...]] = (ProblemCode.UNAUTHENTICATED, ProblemCode.INSUFFICIENT_SCOPE)
_OF_BODIES: Final[tuple[Code, ...]] = (
    ProblemCode.UNSUPPORTED_MEDIA_TYPE,
    ProblemCode.MALFORMED_BODY,
    ProblemCode.MISSING_FIELD,
    ProblemCode.UNKNOWN_FIELD,
    ProblemCode.DUPLICATE_FIELD,
    ProblemCode.INVALID_FIELD,
)
_OF_KEYED: Final[tuple[Code, ...]] = (ProblemCode.INVALID_IDEMPOTENCY_KEY, RefusalCode.KEY_REUSED)
_OF_QUERIES: Final[tuple[Code, ...]] = (
    ProblemCode.UNKNOWN_PARAMETER,
    ProblemCode.DUPLICATE_PARAMETER,
    ProblemCode.INVALID_PARAMETER,
)

_HEADERS: Final[dict[str, Any]] = {
    "Idempotent-Replayed": {
        "description": "`true` where the answer had been given before, for the same key.",
        "schema": {"const": "true"},
    },
    "RateLimit": {
        "description": "What is left now of each limit, and in how many seconds all of it will be; where limits are "
        'on, like `"user";r=59;t=1`.',
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {
        "description": 'The limits: requests in a window of seconds, like `"user";q=60;w=60`.',
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "Seconds to wait before the same again.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "What a token must be, or allow.", "schema": {"type": "string"}},
    "Accept": {"description": "The media types that are taken.", "schema": {"type": "string"}},
    "traceparent": {
        "description": "Of the same trace as the request's; it is in every fault, and else where one was sent.",
        "schema": {"type": "string"},
    },
}


def openapi_document(routes: Iterable[Route], *, version: str) -> dict[str, Any]:
    """Return the document, of builtins that JSON knows.

    Raises:
        ValueError: a route has no operation.
    """
    told = sorted(
        ((route, operation_of(route)) for route in routes), key=lambda pair: list(GROUPS).index(pair[1].group)
    )
    schemas = _Schemas([operation for _, operation in told])
    paths: dict[str, dict[str, Any]] = {}
    for route, operation in told:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Transfer engine",
            "version": version,
            "summary": "Transfers between the accounts of an exchange's users",
            "description": _ABOUT,
        },
        "servers": [{"url": "/", "description": "This server; the express door answers the same."}],
        "tags": [
            {"name": name, "description": description}
            for name, description in GROUPS.items()
            if any(operation.group == name for _, operation in told)
        ],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "headers": _HEADERS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "`sub` is the user's number; `scope` holds `transfer:read`, `transfer:write`, "
                    "`transfer:any`, `admin`. A server without tokens listens on loopback only, and asks for none.",
                }
            },
        },
    }


def operation_of(route: Route) -> Operation:
    """Return what is told of a route.

    Raises:
        ValueError: nothing is.
    """
    if route.operation is None:
        raise ValueError(f"{route.method} {route.template} has no operation: describe it for /openapi.json")
    return route.operation


def summary_of(route: Route) -> str:
    """Return one sentence: the handler's docstring, up to a colon."""
    return markdown((route.handler.__doc__ or "").partition("\n")[0])


def problems_of(route: Route) -> dict[int, list[Code]]:
    """Return the problems that a route can answer, by HTTP status."""
    operation = operation_of(route)
    codes = [*operation.problems, *_OF_EVERY_REQUEST]
    codes += _OF_SECURED if route.scope is not None else ()
    codes += _OF_BODIES if route.body_types else ()
    codes += _OF_KEYED if route.is_keyed else ()
    codes += _OF_QUERIES if route.flavour is Flavour.USER and route.method == "GET" else ()
    by_status: dict[int, list[Code]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(status_of(code), []).append(code)
    return dict(sorted(by_status.items()))


def status_of(code: Code) -> int:
    """Return the HTTP status of a code."""
    return STATUS_OF_PROBLEM[code] if isinstance(code, ProblemCode) else STATUS_OF_REFUSAL[code]


def markdown(text: str) -> str:
    """Turn a docstring into Markdown; what it tells programmers of attributes stays away."""
    return inspect.cleandoc(text).partition("\n\nAttributes:")[0].replace("``", "`")


class _Schemas:
    """The components, and references to them."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._types: list[Any] = [ProblemDetails]
        for operation in operations:
            for body in (operation.request, *(answer.body for answer in operation.answers)):
                kinds = body.kinds if isinstance(body, Listing) else [body] if body is not None else []
                self._types += [kind for kind in kinds if kind not in self._types]
        references, components = msgspec.json.schema_components(self._types, ref_template=_COMPONENTS)
        self._references = references
        self.components = {name: _readable(schema) for name, schema in sorted(components.items())}

    def of(self, kind: Any) -> dict[str, Any]:
        return self._references[self._types.index(kind)]

    def content(self, body: Any, example: Any, media_type: str) -> dict[str, Any]:
        """Return what OpenAPI calls a media type object."""
        content: dict[str, Any] = {}
        if not isinstance(body, Listing):
            content["schema"] = self.of(body) if body is not None else {"type": "string"}
        else:
            kinds = [self.of(kind) for kind in body.kinds]
            one = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
            entries = {"type": "array", "minItems": 1, "maxItems": TRANSFERS_MOST, "items": one}
            content["schema"] = {"type": "object", "properties": {body.member: entries}, "required": [body.member]}
            if media_type == LINES:
                content["schema"] = {"type": "string", "description": "One of these a line.", "contentSchema": one}
                if example is not None:
                    example = "".join(f"{msgspec.json.encode(line).decode()}\n" for line in example[body.member])
        if example is not None:
            content["example"] = example
        return content


def _readable(schema: Any) -> Any:
    """Turn descriptions that come from docstrings into Markdown. Sets may name a member twice: nobody minds."""
    if isinstance(schema, Mapping):
        return {
            key: markdown(value) if key == "description" and isinstance(value, str) else _readable(value)
            for key, value in schema.items()
            if key != "uniqueItems"
        }
    return [_readable(value) for value in schema] if isinstance(schema, list | tuple) else schema


def _operation(route: Route, operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    scope = f"Needs the scope `{route.scope.value}`." if route.scope is not None else ""
    told: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.group],
        "summary": summary_of(route).rstrip("."),
        "description": "\n\n".join(part for part in (operation.description, scope) if part),
        "security": [{"token": [route.scope.value]}] if route.scope is not None else [],
        "parameters": [_parameter(parameter) for parameter in (*operation.parameters, TRACEPARENT)],
        "responses": _responses(route, operation, schemas),
    }
    if operation.request is not None:
        told["requestBody"] = {
            "required": True,
            "content": {
                media_type.decode(): schemas.content(operation.request, operation.example, media_type.decode())
                for media_type in route.body_types
            },
        }
    return told


def _parameter(parameter: Parameter) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "required": parameter.is_required,
        "schema": dict(parameter.schema),
    }
    if parameter.example is not None:
        told["example"] = parameter.example
    return told


def _responses(route: Route, operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for answer in operation.answers:
        told = responses.setdefault(
            str(answer.status), {"description": answer.description, "headers": {}, "content": {}}
        )
        _add_headers(told, answer.status, is_keyed=route.is_keyed, is_counted=route.is_counted)
        if answer.body is not None or answer.media_type != JSON:
            both = (JSON, NDJSON) if isinstance(answer.body, Listing) else (answer.media_type,)
            for media_type in both:
                content = schemas.content(answer.body, answer.example, media_type.decode())
                told["content"][media_type.decode()] = content
    for status, codes in problems_of(route).items():
        told = responses.setdefault(str(status), {"description": "", "headers": {}, "content": {}})
        meanings = "\n".join(f"- `{code.value}`: {meaning_of(code.value)}" for code in codes)
        told["description"] = "\n\n".join(part for part in (told["description"], meanings) if part)
        _add_headers(told, status, is_keyed=False, is_counted=route.is_counted)
        told["content"][PROBLEM_JSON.decode()] = {"schema": _problem(route.flavour, status, codes, schemas)}
    for told in responses.values():
        if not told["content"]:
            del told["content"]
    return dict(sorted(responses.items()))


def _add_headers(told: dict[str, Any], status: int, *, is_keyed: bool, is_counted: bool) -> None:
    names = ["traceparent"]
    if is_counted:
        names += ["RateLimit", "RateLimit-Policy"]
    if is_keyed:
        names.append("Idempotent-Replayed")
    names += {
        401: ["WWW-Authenticate"],
        403: ["WWW-Authenticate"],
        415: ["Accept"],
        429: ["Retry-After"],
        503: ["Retry-After"],
    }.get(status, [])
    for name in names:
        told["headers"][name] = {"$ref": f"#/components/headers/{name}"}


def _problem(flavour: Flavour, status: int, codes: Sequence[Code], schemas: _Schemas) -> dict[str, Any]:
    names = [code.value for code in codes]
    members: dict[str, Any] = {"code": {"enum": names}, "status": {"const": status}}
    required = []
    if flavour is Flavour.USER:
        members = {
            **members,
            "code": {"enum": [NUMBER_OF_CODE[name] for name in names]},
            "name": {"enum": names},
        }
        required = ["name"]
    elif flavour is Flavour.TRANSFER:
        statuses = [TransferStatus.FAILED.value, TransferStatus.PENDING.value]
        members = {**members, "status": {"enum": statuses}, "req_id": {"const": ""}, "message": {"type": "string"}}
        required = ["req_id", "message"]
    elif flavour is Flavour.LOOKUP:
        members = {**members, "error": {"type": "string"}}
        required = ["error"]
    return {"allOf": [schemas.of(ProblemDetails), {"properties": members, "required": required}]}
