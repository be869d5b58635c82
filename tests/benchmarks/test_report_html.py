"""The page: one well-formed file that asks nobody for anything, whatever names it has to show."""

import re
from html.parser import HTMLParser
from typing import Final
from xml.etree import ElementTree as ET

import msgspec

from support.benchmark_reports import FLOORS, broken, faulty, report, result, sweep, whole_report
from transfer_engine.benchmarks.report_html import render_html
from transfer_engine.benchmarks.result import Report

VOID: Final = {"meta", "br", "hr", "img", "link", "input"}
LOADING: Final = {"src", "srcset", "href", "xlink:href", "data", "action", "poster", "background", "style"}
HOSTILE: Final = "<script>alert('&\"1\"')</script><img src=http://evil.example/x onerror=alert(1)> {{ 7 * 7 }}"


class _Page(HTMLParser):
    """Keeps what a page has, and refuses one whose elements don't nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _hostile() -> Report:
    run = msgspec.structs.replace(
        faulty(),
        name=HOSTILE,
        outcomes={f"refused: {HOSTILE}": 3, "committed": 5},
        cpu=msgspec.structs.replace(faulty().cpu, stages_us={HOSTILE: 3.0, "engine core": 9.0}),
    )
    return msgspec.structs.replace(
        whole_report(),
        command=f"bench {HOSTILE}",
        results=(run, broken(msgspec.structs.replace(result(), name=f"2 {HOSTILE}"))),
        floors=(msgspec.structs.replace(FLOORS[0], name=HOSTILE),),
        notes=(HOSTILE,),
    )


def test_nothing_is_fetched_and_no_script_runs() -> None:
    html = render_html(whole_report())
    page = _Page(html)
    assert "://" not in html
    assert not {"script", "link", "img", "iframe", "object", "embed", "image", "use"} & set(page.tags)
    assert all(value.startswith("#") for _, name, value in page.attributes if name in LOADING)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "url(" not in html
    assert "@import" not in html
    (policy,) = (value for tag, name, value in page.attributes if name == "content" and value.startswith("default-src"))
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_every_plot_is_well_formed_and_has_a_title() -> None:
    html = render_html(whole_report())
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    # Percentiles; two of each sweep; a recovery; a growth; three of each run.
    assert len(plots) == 1 + 2 * 2 + 1 + 1 + 3 * 3
    for plot in plots:
        root = ET.fromstring(plot)  # noqa: S314 - of our own making
        title = root.findtext("title")
        assert title
        assert title == root.get("aria-label")
        assert not [node for node in root.iter() if "id" in node.attrib]
        assert "nan" not in plot


def test_names_are_shown_as_they_are_and_nothing_else() -> None:
    html = render_html(_hostile())
    page = _Page(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "<script" not in html
    assert page.text.count("{{ 7 * 7 }}") >= 6
    assert HOSTILE in page.text
    assert "49" not in re.findall(r"onerror=alert\(1\)> (\S+)", page.text)


def test_faults_are_marked_in_both_plots_over_time() -> None:
    html = render_html(report(faulty()))
    assert html.count('<span class="swatch fault"></span>ledger killed at 2 s for 1 s') == 2
    assert html.count('<span class="swatch back"></span>back') == 2
    # Two faults and one return in each of the two.
    assert len(re.findall(r'class="series serie-\d fault"', html.replace("plot overlay", ""))) >= 4


def test_a_knee_is_marked_in_table_and_plots() -> None:
    html = render_html(msgspec.structs.replace(report(), results=(), sweeps=(sweep(),)))
    assert html.count("<strong>knee</strong>") == 1
    assert html.count('<span class="swatch knee"></span>knee, 4,000/s') == 2
    assert "The knee, the highest rate that was kept, is at 4,000/s." in html


def test_the_verdict_comes_first() -> None:
    assert '<p class="verdict good">The books hold after the run</p>' in render_html(report())
    html = render_html(report(result("a good one"), broken(result("a bad one"))))
    assert '<p class="verdict bad">The books are broken after a bad one</p>' in html
    assert '<dd class="bad">BROKEN: every account: asset 1 sums to 7, not to 0</dd>' in html


def test_a_report_without_runs_or_latencies_has_a_page() -> None:
    nothing = msgspec.structs.replace(report(), results=(), floors=())
    assert "No transfers were run" in _Page(render_html(nothing)).text
    bare = msgspec.structs.replace(result(), histogram="", series=(), flushes=(), outcomes={}, achieved=0.0)
    bare = msgspec.structs.replace(bare, cpu=msgspec.structs.replace(bare.cpu, stages_us={}, threads_us={}))
    assert "<svg" not in render_html(report(bare, floors=()))


def test_one_report_makes_one_page() -> None:
    assert render_html(whole_report()) == render_html(whole_report())
