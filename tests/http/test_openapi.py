"""The OpenAPI document and the pages: complete, consistent with the code, and their examples work."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.server import Server
from transfer_engine.engine import Settings
from transfer_engine.http.handlers import Api
from transfer_engine.http.openapi import openapi_document, operation_of, problems_of
from transfer_engine.http.operations import GROUPS, WEBHOOKS, Listing
from transfer_engine.http.pages import Pages
from transfer_engine.http.problem_meanings import MEANING_OF_CODE
from transfer_engine.http.problems import NUMBER_OF_CODE, STATUS_OF_PROBLEM, STATUS_OF_REFUSAL
from transfer_engine.http.routes import Route

API = Api(Settings(data_dir=Path("unused")), version="1.2.3")
DOCUMENT = openapi_document(API.routes, version="1.2.3")
NAMES = [f"{route.method} {route.template}" for route in API.routes]


@pytest.mark.parametrize("route", API.routes, ids=NAMES)
def test_every_route_is_described(route: Route) -> None:
    operation = operation_of(route)
    assert operation.group in GROUPS
    assert route.handler.__doc__
    assert (operation.request is not None) == bool(route.body_types)
    in_path = re.findall(r"{(\w+)}", route.template)
    described = [parameter for parameter in operation.parameters if parameter.place == "path"]
    assert [parameter.name for parameter in described] == in_path
    assert all(parameter.is_required and parameter.example is not None for parameter in described)
    assert route.is_keyed == any(parameter.name == "Idempotency-Key" for parameter in operation.parameters)


def test_a_route_without_description_is_a_fault() -> None:
    bare = Route("GET", "/bare", API.routes[0].handler, None)
    with pytest.raises(ValueError, match="GET /bare has no operation"):
        openapi_document([bare], version="1")


def test_the_document_has_every_route_once() -> None:
    told = [f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods]
    assert sorted(told) == sorted(NAMES)
    identifiers = [told["operationId"] for methods in DOCUMENT["paths"].values() for told in methods.values()]
    assert len(set(identifiers)) == len(identifiers)


def test_every_reference_leads_somewhere() -> None:
    text = msgspec.json.encode(DOCUMENT).decode()
    references = set(re.findall(r'"\$ref":"#/components/(\w+)/([^"]+)"', text))
    assert {kind for kind, _ in references} == {"schemas", "headers"}
    for kind, name in references:
        assert name in DOCUMENT["components"][kind]


def test_every_code_has_a_meaning_and_a_number() -> None:
    codes = {code.value for code in (*STATUS_OF_PROBLEM, *STATUS_OF_REFUSAL)}
    assert set(MEANING_OF_CODE) == set(NUMBER_OF_CODE) == codes


@pytest.mark.parametrize("route", API.routes, ids=NAMES)
def test_examples_are_what_is_decoded_and_encoded(route: Route) -> None:
    operation = operation_of(route)
    bodies = [(operation.request, operation.example)] if operation.request is not None else []
    bodies += [(answer.body, answer.example) for answer in operation.answers if answer.example is not None]
    for kind, example in bodies:
        assert example is not None
        if isinstance(kind, Listing):
            for entry in example[kind.member]:
                [_] = [1 for member in kind.kinds if _is(member, entry)]
        else:
            assert _is(kind, example)


def _is(kind: Any, example: Any) -> bool:
    try:
        decoded = msgspec.convert(example, kind)
    except msgspec.ValidationError:
        return False
    encoded = msgspec.to_builtins(decoded)
    return bool({**encoded, **example} == encoded)


def test_problems_are_grouped_by_status() -> None:
    [transfer] = [route for route in API.routes if route.template == "/api/v1/transfer"]
    problems = problems_of(transfer)
    assert list(problems) == sorted(problems)
    assert [code.value for code in problems[401]] == ["unauthenticated"]
    assert "amount_not_positive" in [code.value for code in problems[422]]


def test_a_server_without_cores_or_settings_of_its_own_serves_the_same_document(server: Server) -> None:
    answer = server.client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    served = answer.json()
    assert served["openapi"] == "3.1.0"
    assert list(served["paths"]) == list(DOCUMENT["paths"])


def test_the_page_has_every_route_and_every_code_and_nothing_from_elsewhere(server: Server) -> None:
    answer = server.client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = answer.text
    for route in API.routes:
        assert f'<span class="method {route.method}">{route.method}</span> <code>{route.template}</code>' in page
    for code in MEANING_OF_CODE:
        assert f'id="problem-{code}"' in page
    assert _addresses(page) == {"http://127.0.0.1:8080", "https://example.com"}  # in examples, as text
    links = set(re.findall(r'(?:href|src|action)="([^"]*)"', page))
    anchors = set(re.findall(r'id="([^"]*)"', page))
    assert {link for link in links if not link.startswith("#")} == {"/docs", "/docs/websocket", "/openapi.json"}
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
    assert "<script" not in page
    assert "<img" not in page
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def _addresses(page: str) -> set[str]:
    return set(re.findall(r"https?://[\w.:-]+", page))


def test_the_page_of_the_websocket_is_in_the_package(server: Server) -> None:
    answer = server.client.get("/docs/websocket")
    assert answer.status_code == 200
    assert "<h1" in answer.text
    assert "<script" not in answer.text
    links = set(re.findall(r'(?:href|src)="([^"#]*)', answer.text))
    assert links <= {"", "/docs", "/docs/websocket", "/openapi.json"}
    assert server.client.head("/docs").status_code == 200
    refused = server.client.post("/docs")
    assert (refused.status_code, refused.json()["code"]) == (404, "no_such_path")


def test_the_express_door_has_the_document_and_no_pages(server: Server) -> None:
    express = server.through("express").client
    assert express.get("/openapi.json").json() == server.client.get("/openapi.json").json()
    for path in ("/docs", "/docs/websocket"):
        refused = express.get(path)
        assert (refused.status_code, refused.json()["code"]) == (404, "no_such_path")


def test_the_style_s_hash_is_the_policy_s() -> None:
    import base64
    import hashlib

    page = Pages(lambda: API.routes, "1").docs
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert digest in Pages(lambda: API.routes, "1").policy


def test_the_examples_work(server: Server) -> None:
    """Every request as the page shows it, credits first; where an example of an answer is shown it is of that form."""
    ordered = sorted(API.routes, key=lambda route: "credits" not in route.template)
    for route in ordered:
        operation = operation_of(route)
        if operation.group == WEBHOOKS:  # they would be told of what the others move
            continue
        path, headers, query = route.template, {}, {}
        for parameter in operation.parameters:
            if parameter.place == "path":
                path = path.replace(f"{{{parameter.name}}}", str(parameter.example))
            elif parameter.place == "header":
                headers[parameter.name] = str(parameter.example)
            elif parameter.example is not None:
                query[parameter.name] = str(parameter.example)
        answer = server.client.request(route.method, path, params=query, headers=headers, json=operation.example)
        first = operation.answers[0]
        assert answer.status_code == first.status, (route.template, answer.text)
        if first.example is not None:
            assert _is_alike(answer.json(), first.example), (route.template, answer.text)


def _is_alike(answer: Any, example: Any) -> bool:
    """Whether an answer has the members of the example; what is null in one may be anything in the other."""
    if answer is None or example is None:
        return True
    if isinstance(example, dict):
        return set(answer) == set(example) and all(_is_alike(answer[name], example[name]) for name in example)
    if isinstance(example, list):
        return all(_is_alike(*pair) for pair in zip(answer, example, strict=False))
    return type(answer) is type(example)
