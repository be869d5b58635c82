"""A report as one page that opens offline: nothing in it is fetched from anywhere, and no script runs.

The page forbids both to the browser by a policy of its own, so that this doesn't rest on what a report's names contain.
"""

from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from transfer_engine.benchmarks import descriptions
from transfer_engine.benchmarks.charts import (
    Chart,
    growth_chart,
    latency_chart,
    percentiles_chart,
    recovery_chart,
    stages_chart,
    sweep_charts,
    throughput_chart,
)
from transfer_engine.benchmarks.figures import floor_ratio, microseconds, milliseconds, ratio, whole
from transfer_engine.benchmarks.result import Report, Result
from transfer_engine.benchmarks.thresholds import all_measured

_TEMPLATES: Final = Path(__file__).parent / "templates"


def write_html(report: Report, path: Path) -> None:
    """Write a report as a page.

    Raises:
        OSError: the file can't be written.
    """
    path.write_text(render_html(report), encoding="utf-8")


def render_html(report: Report) -> str:
    """Return a report as a page."""
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        whole=whole, milliseconds=milliseconds, microseconds=microseconds, ratio=ratio, svg=_markup
    )
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8").strip()
    return templates.get_template("report.html").render(
        report=report,
        style=Markup(style),  # noqa: S704 - a file of ours
        verdict=_verdict(report),
        runs=[_run(number, result) for number, result in enumerate(report.results, 1)],
        percentiles=percentiles_chart(report.results),
        sweeps=[
            {
                "over": sweep.over,
                "rows": [
                    {
                        "value": descriptions.sweep_value(sweep, value),
                        "is_knee": value == sweep.knee,
                        "result": result,
                    }
                    for value, result in zip(sweep.values, sweep.results, strict=True)
                ],
                "note": descriptions.sweep_note(sweep),
                "charts": sweep_charts(sweep),
            }
            for sweep in report.sweeps
        ],
        recoveries=[{"recovery": recovery, "chart": recovery_chart(recovery)} for recovery in report.recoveries],
        growths=[{"growth": growth, "chart": growth_chart(growth)} for growth in report.growths],
        idle_websockets=report.idle_websockets,
        floor_ratio=floor_ratio,
        say=descriptions,
    )


def _run(number: int, result: Result) -> dict[str, Any]:
    charts = [throughput_chart(result), latency_chart(result), stages_chart(result)]
    facts = [
        ("load", descriptions.load_line(result.plan)),
        ("outcomes", descriptions.outcomes_line(result.outcomes)),
        ("schedule", descriptions.schedule_line(result)),
        *(("fault", descriptions.fault_line(marked)) for marked in result.faults),
        ("µs of CPU a transfer", descriptions.cpu_line(result)),
        ("flushes", "; ".join(descriptions.flushes_line(flushes) for flushes in result.flushes) or None),
        ("writes a transfer", None if result.writes_a_transfer is None else f"{result.writes_a_transfer:.2f}"),
        ("memory", descriptions.memory_line(result)),
        ("books", descriptions.books_line(result.books)),
    ]
    return {
        "number": number,
        "result": result,
        "facts": [(name, text) for name, text in facts if text is not None],
        "charts": [chart for chart in charts if chart is not None],
    }


def _verdict(report: Report) -> dict[str, Any]:
    measured = (*all_measured(report), *report.baselines)
    broken = [each.name for each in measured if not each.books.hold]
    if broken:
        return {"is_good": False, "text": f"The books are broken after {', '.join(broken)}"}
    how_many = "the run" if len(measured) == 1 else f"each of the {len(measured)} runs"
    return {"is_good": True, "text": f"The books hold after {how_many}" if measured else "No transfers were run"}


def _markup(chart: Chart) -> Markup:
    return Markup(chart.svg)  # noqa: S704 - serialized by ElementTree, which escapes
