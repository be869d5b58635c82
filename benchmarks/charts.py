"""The plots of the page, as SVG for it to hold: no scripts, no styles of their own, nothing fetched.

pygal lays them out; its colours, scripts, ids and comments are taken away, and the page's style sheet draws them, in
light and in dark, by the *kind* of each line: ``p50``, ``p99``, ``fault``, ``run-0``.
"""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
import pygal
from hdrh.histogram import HdrHistogram
from pygal.etree import etree
from pygal.style import Style

from transfer_engine.benchmarks.descriptions import fault_name, stages, sweep_value
from transfer_engine.benchmarks.figures import milliseconds, whole
from transfer_engine.benchmarks.result import Growth, Recovery, Result, Sweep
from transfer_engine.benchmarks.scales import Scale, scale

# pygal hooks every import of the process, for maps that we don't draw, by a protocol that Python warns of.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]

WIDTH: Final = 540
"""Of a chart that has another one beside it, in the page's own pixels, so that text is of one size."""
WIDTH_ALONE: Final = 1_120
HEIGHT: Final = 260
LABEL_SIZE: Final = 12
DOTS_MOST: Final = 150
"""A line of more points has no dots."""
RUNS_MOST: Final = 8
"""Lines in one chart of percentiles: as many as there are colours that can be told apart."""

_COLOUR: Final = re.compile(r"color-(\d+)")
_NAMESPACE: Final = re.compile(r"""\sxmlns(?::\w+)?=("[^"]*"|'[^']*')""")


class Chart(msgspec.Struct, frozen=True):
    """A plot, and what its lines are."""

    title: str
    svg: str
    """Well-formed, everything in it escaped."""
    legend: tuple[tuple[str, str], ...] = ()
    """Kind and name of each line."""


class _Line(msgspec.Struct, frozen=True):
    kind: str
    name: str
    points: Sequence[tuple[float, float]]
    has_dots: bool = False


def percentiles_chart(results: Sequence[Result]) -> Chart | None:
    """Draw latencies by percentile, further out on the axis with every nine; None where no run has a histogram."""
    lines = []
    for index, result in enumerate(results[:RUNS_MOST]):
        points = _percentiles(result.histogram)
        if points:
            lines.append(_Line(f"run-{index}", result.name, points))
    if not lines:
        return None
    nines = math.ceil(max(x for line in lines for x, _ in line.points))
    ticks = [(float(nine), _percentile_name(nine)) for nine in range(nines + 1)]
    return _drawn("Latency by percentile", "percentile", "ms", lines, ticks, width=WIDTH_ALONE)


def _percentile_name(nines: int) -> str:
    """Return what a percentile of so many nines is called: 0%, 90%, 99%, 99.9%."""
    return f"{100 - 10 ** (2 - nines):.{max(0, nines - 2)}f}%"


def _percentiles(encoded: str) -> list[tuple[float, float]]:
    """Return (number of nines, ms) along a histogram, as far as its count reaches."""
    if not encoded:
        return []
    histogram = HdrHistogram.decode(encoded)
    count = histogram.get_total_count()
    if not count:
        return []
    last = max(1.0, math.log10(count))
    steps = [nines / 25 for nines in range(math.ceil(last * 25))] + [last]
    quantiles = [100 * (1 - 10**-nines) for nines in steps]
    found = histogram.get_percentile_to_value_dict(quantiles)
    return [(nines, found[quantile] / 1_000) for nines, quantile in zip(steps, quantiles, strict=True)]


def throughput_chart(result: Result) -> Chart | None:
    """Draw how many transfers were answered and committed in each second; None of a run without seconds."""
    if len(result.series) < 2:
        return None
    answered = _Line("answered", "answered", [(second.at_s, second.answered) for second in result.series])
    committed = _Line("committed", "committed", [(second.at_s, second.committed) for second in result.series], True)
    # Where all that was answered was committed, a second line would only hide the first.
    lines = [committed] if list(answered.points) == list(committed.points) else [answered, committed]
    return _over_time("Throughput", "transfers/s", result, lines, may_be_log=False)


def latency_chart(result: Result) -> Chart | None:
    """Draw the latencies of each second; None of a run without seconds."""
    if len(result.series) < 2:
        return None
    lines = [
        _Line("most", "max", [(second.at_s, second.max_ms) for second in result.series]),
        _Line("p99", "P99", [(second.at_s, second.p99_ms) for second in result.series], True),
        _Line("p50", "P50", [(second.at_s, second.p50_ms) for second in result.series], True),
    ]
    return _over_time("Latency", "ms", result, lines)


def _over_time(title: str, unit: str, result: Result, lines: list[_Line], *, may_be_log: bool = True) -> Chart:
    step = scale((point[0] for line in lines for point in line.points), may_be_log=False)
    axis = scale((value for line in lines for _, value in line.points), may_be_log=may_be_log)
    # A fault is a line from the bottom to the top.
    bottom, top = (10**axis.low, 10**axis.high) if axis.is_log else (axis.low, axis.high)
    marks = [
        _Line("fault", fault_name(marked.fault), [(marked.fault.at_s, bottom), (marked.fault.at_s, top)])
        for marked in result.faults
    ]
    backs = [
        _Line("back", "back", [(at_s, bottom), (at_s, top)])
        for marked in result.faults
        if marked.back_s is not None
        for at_s in (marked.fault.at_s + marked.back_s,)
    ]
    ticks = [(tick, f"{tick:g} s") for tick in step.ticks]
    return _drawn(title, "", unit, [*marks, *backs, *lines], ticks, axis)


def sweep_charts(sweep: Sweep) -> list[Chart]:
    """Draw what was achieved, and the latencies, over a sweep's values."""
    if len(sweep.values) < 2:
        return []
    pairs = sorted(zip(sweep.values, sweep.results, strict=True), key=lambda pair: pair[0])
    by_rate = sweep.over == "rate"
    across = scale((value for value, _ in pairs), may_be_log=not by_rate)
    ticks = [(across.drawn(tick), sweep_value(sweep, tick)) for tick in across.ticks]
    rates = [_Line("committed", "achieved", [(across.drawn(value), run.achieved) for value, run in pairs], True)]
    if by_rate or sweep.over == "overload":
        offered = [(across.drawn(value), run.offered) for value, run in pairs]
        rates.insert(0, _Line("ideal", "offered", offered))
    latencies = [
        _Line("p99", "P99", [(across.drawn(value), run.latencies.p99_ms) for value, run in pairs], True),
        _Line("p50", "P50", [(across.drawn(value), run.latencies.p50_ms) for value, run in pairs], True),
    ]
    charts = []
    for title, unit, lines, may_be_log in (
        (f"Throughput by {sweep.over}", "transfers/s", rates, False),
        (f"Latency by {sweep.over}", "ms", latencies, True),
    ):
        axis = scale((value for line in lines for _, value in line.points), may_be_log=may_be_log)
        if sweep.knee is not None:
            knee = across.drawn(sweep.knee)
            bottom, top = (10**axis.low, 10**axis.high) if axis.is_log else (axis.low, axis.high)
            lines.insert(0, _Line("knee", f"knee, {sweep_value(sweep, sweep.knee)}", [(knee, bottom), (knee, top)]))
        charts.append(_drawn(title, sweep.over, unit, lines, ticks, axis))
    return charts


def recovery_chart(recovery: Recovery) -> Chart | None:
    """Draw how many transfers were unfinished over time; None where that was not looked at twice."""
    if len(recovery.open_over_time) < 2:
        return None
    line = _Line("open", "unfinished", [(at_s, float(count)) for at_s, count in recovery.open_over_time], True)
    across = scale((at_s for at_s, _ in line.points), may_be_log=False)
    axis = scale((count for _, count in line.points), may_be_log=False)
    ready = _Line("back", "ready", [(recovery.ready_s, axis.low), (recovery.ready_s, axis.high)])
    ticks = [(tick, f"{tick:g} s") for tick in across.ticks]
    return _drawn("Unfinished", "", "transfers", [ready, line], ticks, axis, width=WIDTH_ALONE)


def growth_chart(growth: Growth) -> Chart | None:
    """Draw what a transfer costs by the size of the books; None of fewer than two sizes."""
    if len(growth.steps) < 2:
        return None
    across = scale(step.transfers for step in growth.steps)
    lines = [
        _Line("ideal", "small books", [(across.drawn(step.transfers), step.small_us) for step in growth.steps]),
        _Line("committed", "these books", [(across.drawn(step.transfers), step.cpu_us) for step in growth.steps], True),
    ]
    axis = scale((value for line in lines for _, value in line.points), may_be_log=False)
    ticks = [(across.drawn(tick), whole(tick)) for tick in across.ticks]
    return _drawn("CPU of a transfer", "transfers in the books", "µs", lines, ticks, axis, width=WIDTH_ALONE)


def stages_chart(result: Result) -> Chart | None:
    """Draw where the CPU of one transfer goes, by stage; by thread where no stages were told apart."""
    parts = stages(result) or list(result.cpu.threads_us.items())
    # A horizontal chart begins at the bottom.
    shown = sorted(((name, used) for name, used in parts if used >= 0.05), key=lambda item: item[1])
    if not shown:
        return None
    chart = pygal.HorizontalBar(
        **_common(height=60 + 26 * len(shown)),
        print_values=True,
        print_values_position="top",
        show_y_guides=False,
        show_x_guides=False,
        show_x_labels=False,
        truncate_label=-1,
        range=(0, 1.12 * shown[-1][1]),
        value_formatter=lambda used: f"{used:.1f}",
    )
    chart.x_labels = [name for name, _ in shown]
    chart.add("µs", [used for _, used in shown])
    by = "stage" if result.cpu.stages_us else "thread"
    title = f"µs of CPU a transfer, by {by}"
    return Chart(title, _svg(chart.render_tree(), title, ["stage"]))


def _common(*, width: int = WIDTH, height: int = HEIGHT) -> dict[str, Any]:
    """Return the settings of every chart. Colours and sizes in them are for the layout; the page has its own."""
    style = Style(label_font_size=LABEL_SIZE, major_label_font_size=LABEL_SIZE, title_font_size=LABEL_SIZE)
    return {
        "style": style,
        "width": width,
        "height": height,
        "js": [],
        "show_legend": False,
        "margin": 6,
        "margin_right": 18,
        "spacing": 6,
        "no_prefix": True,
    }


def _drawn(
    title: str,
    x_title: str,
    unit: str,
    lines: Sequence[_Line],
    x_ticks: Sequence[tuple[float, str]],
    axis: Scale | None = None,
    *,
    width: int = WIDTH,
) -> Chart:
    """Draw lines over a horizontal axis that is drawn as it is, and a vertical one on a scale that fits them."""
    if axis is None:
        axis = scale(value for line in lines for _, value in line.points)
    write = milliseconds if unit == "ms" else whole
    chart = pygal.XY(
        **_common(width=width),
        show_x_guides=True,
        x_title=x_title or None,
        range=(axis.low, axis.high),
        xrange=(x_ticks[0][0], max(x_ticks[-1][0], *(x for line in lines for x, _ in line.points))),
        truncate_label=-1,
    )
    chart.x_labels = [{"value": value, "label": label} for value, label in x_ticks]
    chart.y_labels = [{"value": axis.drawn(tick), "label": f"{tick:,g}"} for tick in axis.ticks]
    for line in lines:
        has_dots = line.has_dots and len(line.points) <= DOTS_MOST
        values = [
            {"value": (x, axis.drawn(value)), "tooltip": f"{line.name}: {write(value)} {unit}"}
            for x, value in line.points
        ]
        chart.add(line.name, values, show_dots=has_dots, dots_size=2.5)
    full_title = f"{title}, {unit}" + (" (logarithmic)" if axis.is_log else "")
    legend = tuple(dict.fromkeys((line.kind, line.name) for line in lines))
    return Chart(full_title, _svg(chart.render_tree(), full_title, [line.kind for line in lines]), legend)


def _svg(root: Any, title: str, kinds: Sequence[str]) -> str:
    """Return a chart for a page to hold: without ids, styles, scripts and comments; coloured by kinds."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag in {"defs", "desc"}:
                parent.remove(child)
    for node in _unused(root):
        node.clear()
    for node in root.iter():
        node.attrib.pop("id", None)
        classes = node.attrib.get("class")
        if classes:
            node.attrib["class"] = _COLOUR.sub(lambda match: kinds[int(match[1])], classes)
    root.find("title").text = title
    root.attrib.update({"role": "img", "aria-label": title})
    return _NAMESPACE.sub("", etree.tostring(root, encoding="unicode"))


def _unused(root: Any) -> Iterator[Any]:
    """Yield the nodes of tooltips that pygal's script would have filled."""
    tooltips: Iterable[Any] = [
        node for node in root.iter("g") if "tooltip-overlay" in node.attrib.get("class", "").split()
    ]
    yield from tooltips
