"""What the page of the HTTP API shows, from the OpenAPI document: endpoints, objects, problems."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup, escape

from transfer_engine.http.markdown_pages import anchor_of, render_line, render_markdown
from transfer_engine.http.openapi import operation_of, status_of, summary_of
from transfer_engine.http.operations import ID_MAX, TRACEPARENT, Code
from transfer_engine.http.problem_meanings import meaning_of
from transfer_engine.http.problems import NUMBER_OF_CODE, STATUS_OF_PROBLEM, STATUS_OF_REFUSAL
from transfer_engine.http.routes import Route

_LINE_MOST: Final = 90
_COMPONENTS: Final = "#/components/schemas/"


class PageContents:
    """The template's variables.

    Args:
        document: see :func:`~transfer_engine.http.openapi.openapi_document`.
        routes: that it was made of.
    """

    def __init__(self, document: Mapping[str, Any], routes: Sequence[Route]) -> None:
        self._document = document
        self._schemas: Mapping[str, Any] = document["components"]["schemas"]
        self._routes = {(route.template, route.method.lower()): route for route in routes}

    def variables(self) -> dict[str, Any]:
        """Return what the template asks for."""
        return {
            "about": render_markdown(self._document["info"]["description"]),
            "groups": [self._group(tag) for tag in self._document["tags"]],
            "objects": [self._object(name, schema) for name, schema in self._schemas.items()],
            "problems": self._problems(),
        }

    def _group(self, tag: Mapping[str, str]) -> dict[str, Any]:
        return {
            "name": tag["name"],
            "anchor": "group-" + anchor_of(tag["name"]),
            "description": render_markdown(tag["description"]),
            "endpoints": [
                self._endpoint(path, method, told)
                for path, methods in self._document["paths"].items()
                for method, told in methods.items()
                if told["tags"] == [tag["name"]]
            ],
        }

    def _endpoint(self, path: str, method: str, told: Mapping[str, Any]) -> dict[str, Any]:
        route = self._routes[path, method]
        bodies: Mapping[str, Any] = told.get("requestBody", {}).get("content", {})
        first = next(iter(bodies.values()), None)
        return {
            "anchor": told["operationId"],
            "method": route.method,
            "path": path,
            "short_path": path.removeprefix("/api/v1"),
            "summary": render_line(summary_of(route)),
            "description": render_markdown(told["description"]),
            "parameters": [
                {
                    "name": parameter["name"],
                    "is_required": parameter["required"],
                    "place": parameter["in"],
                    "type": self._type(parameter["schema"]),
                    "description": render_line(parameter["description"]),
                }
                for parameter in told["parameters"]
                if parameter["name"] != TRACEPARENT.name
            ],
            "body": self._fields(self._resolved(first["schema"])) if first is not None else [],
            "media_types": Markup(" or ").join(Markup("<code>{}</code>").format(name) for name in bodies),
            "curl": _curl(route),
            "answers": [self._answer(answer.status, told) for answer in operation_of(route).answers],
            "problems": [code.value for code in operation_of(route).problems],
        }

    def _answer(self, status: int, told: Mapping[str, Any]) -> dict[str, Any]:
        response = told["responses"][str(status)]
        content: Mapping[str, Any] = next(iter(response.get("content", {}).values()), {})
        example = content.get("example")
        return {
            "status": status,
            "type": self._type(content["schema"]) if content else "",
            "description": render_markdown(response["description"].partition("\n\n- ")[0]),
            "example": None if example is None else _pretty(example),
        }

    def _object(self, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "anchor": f"object-{name}",
            "description": render_markdown(schema.get("description", "")),
            "choices": schema.get("enum", []),
            "fields": self._fields(schema),
        }

    def _fields(self, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
        required = schema.get("required", [])
        return [
            {
                "name": name,
                "is_required": name in required,
                "type": self._type(field),
                "description": render_line(field.get("description", "")),
            }
            for name, field in schema.get("properties", {}).items()
        ]

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        name = schema.get("$ref", "").removeprefix(_COMPONENTS)
        return self._schemas[name] if name else schema

    def _type(self, schema: Mapping[str, Any]) -> Markup:
        """Return in words what JSON Schema says of a type."""
        if "$ref" in schema:
            name = schema["$ref"].removeprefix(_COMPONENTS)
            return Markup('<a href="#object-{0}">{0}</a>').format(name)
        for union in ("anyOf", "oneOf", "allOf"):
            if union in schema:
                return Markup(" or ").join(dict.fromkeys(self._type(member) for member in schema[union]))
        if "enum" in schema or "const" in schema:
            values = schema.get("enum", [schema.get("const")])
            return Markup(" or ").join(Markup("<code>{}</code>").format(json.dumps(value)) for value in values)
        kind = schema.get("type", "anything")
        if kind == "array":
            return Markup("list of {}").format(self._type(schema.get("items", {})))
        if kind == "object" and "properties" in schema:
            members = (f"{name}: {self._type(field)}" for name, field in schema["properties"].items())
            return Markup("object with {}").format(Markup(", ".join(members)))  # noqa: S704 - names are ours
        notes = [schema["format"]] if "format" in schema else []
        if schema.get("minimum") == 1 and schema.get("maximum") == ID_MAX:
            notes.append("positive")
        elif "minimum" in schema and "maximum" in schema:
            notes.append(f"{schema['minimum']} to {schema['maximum']}")
        return escape(f"{kind} ({', '.join(notes)})" if notes else kind)

    def _problems(self) -> list[dict[str, Any]]:
        codes: Iterable[Code] = (*STATUS_OF_PROBLEM, *STATUS_OF_REFUSAL)
        rows = {(status_of(code), code.value) for code in codes}
        return [
            {
                "status": status,
                "code": code,
                "number": NUMBER_OF_CODE.get(code, ""),
                "meaning": render_line(meaning_of(code)),
            }
            for status, code in sorted(rows)
        ]


def _curl(route: Route) -> str:
    """Return a command that works, once there is what it asks for."""
    operation = operation_of(route)
    path = route.template
    query = []
    words = []
    for parameter in operation.parameters:
        if parameter.place == "path":
            path = path.replace(f"{{{parameter.name}}}", str(parameter.example))
        elif parameter.place == "query" and parameter.is_required:
            query.append(f"{parameter.name}={parameter.example}")
        elif parameter.place == "header":
            words.append(f"-H {shlex.quote(f'{parameter.name}: {parameter.example}')}")
    if route.scope is not None:
        words.insert(0, '-H "Authorization: Bearer $TOKEN"')
    if route.body_types:
        words.append(f"-H 'Content-Type: {route.body_types[0].decode()}'")
        words.append(f"-d {shlex.quote(_pretty(operation.example))}")
    method = "" if route.method == "GET" else f"-X {route.method} "
    target = "?".join(part for part in (path, "&".join(query)) if part)
    return " \\\n  ".join([f'curl {method}"$ENGINE{target}"', *words])


def _pretty(value: Any) -> str:
    if isinstance(value, str):
        return value
    line = json.dumps(value, ensure_ascii=False)
    return line if len(line) <= _LINE_MOST else json.dumps(value, ensure_ascii=False, indent=2)
