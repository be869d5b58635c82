"""The pages of the main door: what the API is, for people, made of the same as the OpenAPI document.

Nothing is loaded from anywhere: no script, no font, no image; the style is in the page, and the policy names its hash.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from quart import Blueprint, Response

from transfer_engine.http.markdown_pages import render_markdown
from transfer_engine.http.openapi import openapi_document
from transfer_engine.http.page_contents import PageContents
from transfer_engine.http.routes import Route

_TEMPLATES: Final = Path(__file__).parent / "templates"


class Pages:
    """The pages, rendered when they are asked for the first time.

    Args:
        routes: returns every endpoint.
        version: of the server.
    """

    def __init__(self, routes: Callable[[], Sequence[Route]], version: str) -> None:
        self._routes = routes
        self._version = version
        style = (_TEMPLATES / "page.css").read_text(encoding="utf-8").strip()
        self._style: Final = Markup(style)  # noqa: S704 - a file of ours
        self._templates = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        self.policy: Final = "; ".join(
            (
                "default-src 'none'",
                f"style-src 'sha256-{digest}'",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
            )
        )
        self._headers: Final = {
            "Content-Security-Policy": self.policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }

    def blueprint(self) -> Blueprint:
        """Return what the main door registers."""
        pages = Blueprint("pages", __name__)

        @pages.get("/docs")
        async def docs() -> Response:
            return self._answer(self.docs)

        @pages.get("/docs/websocket")
        async def websocket() -> Response:
            return self._answer(self.websocket)

        return pages

    @cached_property
    def docs(self) -> str:
        """The page of the HTTP API."""
        document = openapi_document(self._routes(), version=self._version)
        contents = PageContents(document, self._routes())
        return self._render("docs.html", "HTTP API", **contents.variables())

    @cached_property
    def websocket(self) -> str:
        """The page of the websocket."""
        text = (resources.files("transfer_engine.docs") / "websocket.md").read_text(encoding="utf-8")
        return self._render("websocket.html", "Websocket", text=render_markdown(text))

    def _render(self, template: str, title: str, **variables: object) -> str:
        return self._templates.get_template(template).render(
            title=f"{title} · Transfer engine", style=self._style, version=self._version, **variables
        )

    def _answer(self, page: str) -> Response:
        return Response(page, content_type="text/html; charset=utf-8", headers=self._headers)
