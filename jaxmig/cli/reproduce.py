"""`jaxmig reproduce`: every published figure beside the prediction."""

import argparse
import sys
import textwrap
from collections.abc import Sequence

from jaxmig import report
from jaxmig.cli import htmlreport, output, runtime
from jaxmig.cli.progress import progress
from jaxmig.tools import reproduce

HEADERS = ("id", "what", "unit", "published", "predicted", "error", "open", "kernel")


def run(args: argparse.Namespace) -> int:
    """Predict, then print the table and what explains its errors."""
    output.check(args.json, *htmlreport.files(args))
    runtime.prepare()
    with progress(len(reproduce.RUNNING) + 1, "reproduce") as tick:
        rows = list(reproduce.rows(tick))
    rows = reproduce.distinct(rows)
    figures = reproduce.figures(rows)
    if args.json:
        made = {"rows": [row.record() for row in rows]}
        made |= {"figures": [f.record() for f in figures]}
        made |= {"summary": reproduce.summary(figures)}
        output.write(args.json, report.to_json(made, indent=1) + "\n")
    cells = [_cells(f) for f in figures]
    brief = reproduce.headline(rows)
    _report(args, rows, brief, cells, reproduce.summary(figures))
    if output.alone(args.json):
        return 0
    width = report.terminal_width(sys.stdout)
    print(report.table(reproduce.HEADERS, brief, args.table, width))
    print()
    print(report.table(HEADERS, cells, args.table, width))
    print()
    print(reproduce.summary(figures))
    print("\n".join(_notes(rows, args.inputs)))
    return 0


def _report(
    args: argparse.Namespace,
    rows: list[reproduce.Row],
    brief: Sequence[Sequence[str]],
    cells: Sequence[Sequence[str]],
    summary: str,
) -> None:
    if args.report is None:
        return
    from jaxmig.show import html

    tables = (
        html.heading(reproduce.HEADERS, brief, "In short"),
        html.heading(HEADERS, cells, "Every published figure once"),
    )
    section = html.Section("Published and predicted", (summary,), tables)
    notes = [line for line in _notes(rows, True) if line]
    title = "Published figures beside their predictions"
    htmlreport.write(args, title, [section], (), notes)


def _cells(figure: reproduce.Figure) -> list[str]:
    ends = dict.fromkeys(_figure(x) for x in (figure.low, figure.high))
    errors = dict.fromkeys(_percent(x) for x in figure.errors)
    return [
        figure.id + (" (fitted)" if figure.fitted else ""),
        figure.what,
        figure.unit,
        _figure(figure.published),
        " .. ".join(ends) + (", inside" if figure.inside and len(ends) > 1 else ""),
        " .. ".join(errors),
        figure.unknown,
        ", ".join(figure.kernels),
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f} %"


def _notes(rows: list[reproduce.Row], inputs: bool) -> list[str]:
    """Formula, remaining interrupts, causes of errors and sources, each once."""
    lines = ["fitted: used a number of the same table; open: what was not published"]
    for r in rows:
        e = r.extra
        if "formula_change_percent" in e:
            line = (
                f"{e['cpus']} CPUs, {e['setsize_mib']} MiB: simulated "
                f"{_percent(r.predicted_change)}, formula "
                f"{_percent(e['formula_change_percent'])}"
            )
            why = e["formula_explanation"]
            lines.append(line + (f": {why}" if why else ""))
        if "predicted_remaining_percent" in e:
            lines.append(
                f"{e['cpus']} CPUs, {e['setsize_mib']} MiB: of the interrupts remain "
                f"{e['predicted_remaining_percent']:.2f} % (published 0.9, ideal 0.2)"
            )
    for title, texts in (
        ("likely causes", [f"{r.id}: {r.cause}" for r in rows if r.cause]),
        ("sources", [f"{r.id}: {r.source}" for r in rows]),
        ("inputs", [i for r in rows for i in r.inputs] if inputs else []),
    ):
        if texts:
            lines += ["", f"{title}:"]
        for text in dict.fromkeys(texts):
            lines += textwrap.wrap(
                text, 86, initial_indent="  ", subsequent_indent="    "
            )
    return lines
