"""Markdown into HTML, for the pages: tables, no raw HTML, and no link that leads away from the server."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

_MARKDOWN: Final = MarkdownIt("commonmark", {"html": False}).enable("table")
_PAGES: Final = {"api.md": "/docs", "websocket.md": "/docs/websocket"}
"""Files of the documentation that are pages here; links to the others become plain text."""


def render_markdown(text: str) -> Markup:
    """Return the blocks of a text as HTML; headings get anchors."""
    tokens = _MARKDOWN.parse(text)
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            heading.attrSet("id", anchor_of(inline.content))
        if inline.children:
            _keep_links(inline.children)
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))  # noqa: S704 - escaped by the renderer


def render_line(text: str) -> Markup:
    """Return one line as HTML, without a paragraph around it."""
    return Markup(_MARKDOWN.renderInline(text))  # noqa: S704 - escaped by the renderer


def anchor_of(name: str) -> str:
    """Return what a heading is called in links."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _keep_links(tokens: Sequence[Token]) -> None:
    is_kept = True
    for token in tokens:
        if token.type == "link_open":
            path, _, fragment = str(token.attrGet("href")).partition("#")
            is_here = path == "" or (path[:1] == "/" and path[1:2] != "/")
            target = _PAGES.get(path, path if is_here else None)
            is_kept = target is not None
            if is_kept:
                token.attrSet("href", f"{target}#{fragment}" if fragment else f"{target}")
            else:
                token.hidden = True
                token.tag = ""
                token.type = "text"
        elif token.type == "link_close" and not is_kept:
            token.type = "text"
            is_kept = True
