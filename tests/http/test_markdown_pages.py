"""Markdown of the pages: nothing raw, no link that leads away."""

import pytest

from transfer_engine.http.markdown_pages import anchor_of, render_line, render_markdown


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("[a](api.md)", '<p><a href="/docs">a</a></p>\n'),
        ("[a](api.md#problems)", '<p><a href="/docs#problems">a</a></p>\n'),
        ("[a](websocket.md#ping)", '<p><a href="/docs/websocket#ping">a</a></p>\n'),
        ("[a](#ping)", '<p><a href="#ping">a</a></p>\n'),
        ("[a](/docs)", '<p><a href="/docs">a</a></p>\n'),
        ("[a](configuration.md) and [b](#c)", '<p>a and <a href="#c">b</a></p>\n'),
        ("[a](https://example.com/x)", "<p>a</p>\n"),
        ("[a](//example.com/x)", "<p>a</p>\n"),
        ("<b>a</b> & c", "<p>&lt;b&gt;a&lt;/b&gt; &amp; c</p>\n"),
        ("<script>a</script>", "<p>&lt;script&gt;a&lt;/script&gt;</p>\n"),
        ("## Say *who* `asks`", '<h2 id="say-who-asks">Say <em>who</em> <code>asks</code></h2>\n'),
    ],
)
def test_blocks(text: str, html: str) -> None:
    assert render_markdown(text) == html


def test_tables() -> None:
    assert "<td>1</td>" in render_markdown("| a |\n|---|\n| 1 |")


def test_a_line_has_no_paragraph() -> None:
    assert render_line("a `b` <c>") == "a <code>b</code> &lt;c&gt;"


def test_anchors() -> None:
    assert anchor_of("The `op` — what it is") == "the-op-what-it-is"
