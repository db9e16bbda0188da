"""The page of --report: whole, safe whatever names are in it, and equal to the records."""

import argparse
import base64
import dataclasses
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jaxmig import report
from jaxmig.cli import app, htmlreport, named, shape, show, traces
from jaxmig.report.stretches import TimeStretch
from jaxmig.show import html
from jaxmig.show.html import timeline
from jaxmig.sources import snapshot
from jaxmig.state.events import COUNTERS
from jaxmig.time import cost, machines
from jaxmig.time.cost import PHASES
from jaxmig.tools import job

DATA = Path(__file__).parent / "data"
HOSTILE = (
    "</script><img onerror=alert(1)>",
    "</title></pre><svg onload=alert(1)>",
    "\"' onmouseover=alert(1) x='",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31m\u202e\x00&amp;&#60;",
)
VOID = ("meta", "img", "br", "link", "input")


class Read(HTMLParser):
    """A page as a browser's parser sees it: tags, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


def call(kernel: str, policy: Any, **more: int) -> tuple[dict[str, Any], cost.Cost]:
    counts = dict.fromkeys(COUNTERS, 0) | {
        "pgmigrate_success": 1024, "folios_moved": 1024, "allocs": 1024,
        "alloc_pages": 1024, "tries": 1024, "ptes_cleared": 1024, "moves": 1024,
        "pages_copied": 1024, "ptes_set": 1024, "calls": 1, **more,
    }  # fmt: skip
    priced = cost.price(counts, machines.load("xeon-2s"), policy=policy)
    ipis = [0, *[more.get("nr_tlb_remote_flush", 0)] * 3, 0, 7]
    made = report.record(
        kernel=kernel, policy=policy, syscall="migrate_pages", ret=0, counts=counts,
        ipis_per_cpu=ipis, nodes_after={"0": 0, "1": 1024}, cost=priced, wall_s=0.1,
    )  # fmt: skip
    return made, priced


SERIAL = call(
    "6.2",
    "serial",
    nr_tlb_remote_flush=1024,
    flushes_immediate=1024,
    ipis_immediate=3072,
)
BATCHED = call(
    "6.3", "batched", nr_tlb_remote_flush=2, flushes_batch=2, batches=2, ipis_batch=6
)
LATER = (BATCHED[0] | {"kernel": "6.18"}, BATCHED[1])
CALLS = (SERIAL, BATCHED, LATER)


def stretch(i: int, stall: int = 500) -> TimeStretch:
    ns = (10, 20, 5 * i, 40, 50, 0)
    return TimeStretch(i, i, 200 * (i - 1), ns, ipis=3 * i, stall=stall * i)


LOGGED = ([stretch(i) for i in range(1, 5)], *[[stretch(1), stretch(2, 4000)]] * 2)


def page(*names: str) -> html.Page:
    records, costs = zip(*CALLS, strict=True)
    named = "".join(names)
    figures = tuple(
        html.calls(
            [r | {"kernel": r["kernel"] + named} for r in records], costs, LOGGED
        )
    )
    table = html.heading((named or "a",), ((named or "1",),), named)
    section = html.Section(named, (named,), (*figures, table))
    return html.Page(named, named, named, (named,), (section,), (named,))


def check(text: str) -> Read:
    """What must hold for any page."""
    read = Read(text)
    (style,), (script,) = read.text["style"], read.text["script"]
    (policy,) = (
        m["content"] for m in read.of("meta") if m.get("http-equiv", "").startswith("C")
    )
    for part in (style, script):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    # Nothing is loaded, nothing else is run.
    known = {"html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p"}
    known |= {"section", "div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    known |= {
        "button",
        "figure",
        "figcaption",
        "ul",
        "li",
        "svg",
        "rect",
        "text",
        "span",
    }
    known |= {"polyline", "circle", "line", "g", "pre", "script"}
    for tag, attrs in read.found:
        assert tag in known, tag
        assert not [a for a in attrs if a.startswith("on") or a in ("src", "style")]
        assert not set(attrs) & {"href", "xlink:href", "action", "formaction"}
    assert len(read.of("script")) == 1
    return read


def test_a_page_is_whole_and_loads_nothing() -> None:
    read = check(html.render(page()))
    assert "url(" not in "".join(read.text["style"])
    assert "viewport" in [m.get("name") for m in read.of("meta")]
    assert read.of("html")[0]["lang"] == "en"


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_whatever_they_are(name: str) -> None:
    read = check(html.render(page(name)))
    plain = check(html.render(page("x")))
    assert [tag for tag, _ in read.found] == [tag for tag, _ in plain.found]
    said = [a["aria-label"] for _, a in read.found if a.get("aria-label")]
    clean = name.replace("\x00", "�")
    assert any(clean in (text or "").replace("\x00", "�") for text in said)


def test_a_process_s_name_comes_through_escaped(tmp_path: Path) -> None:
    """The whole way: from a snapshot's process to the page."""
    s = snapshot.load(DATA / "procfs/snapshot-v1.npz")
    who = dataclasses.replace(s.processes, comm=("</script><img onerror=x>",))
    file, out = tmp_path / "a.npz", tmp_path / "r.html"
    dataclasses.replace(s, processes=who).save(file)
    typed = ["migratepages", str(file), "0", "1", "--no-content", "--report", str(out)]
    args = app.parser().parse_args(typed)
    args.typed = typed
    profile = machines.load("xeon-2s")
    target = named.target(str(file), None)
    made = shape.of(args, profile, target).setting
    asked = show.Resolved(
        target, made, profile, job.Call(frozenset({0}), frozenset({1}))
    )
    outcomes = [
        job.Outcome(r, c, requested=1, stayed=0, wrong=None, full=()) for r, c in CALLS
    ]
    show.page(args, asked, outcomes)
    read = check(out.read_text())
    text = "".join(part for parts in read.text.values() for part in parts)
    assert "</script><img onerror=x>" in text
    assert f"jaxmig migratepages {file} 0 1 --no-content --report {out}" in text
    assert all(line in text for line in show.assumed(asked).split("\n"))
    assert all(line in text for line in report.answer([r for r, _ in CALLS]))


def rects(read: Read, label: str) -> list[float]:
    """The values of what says `label`."""
    found = [a for a in read.of("rect") if a.get("aria-label") == label]
    return [float(a["data-value"] or 0) for a in found]


def test_values_are_those_of_the_records() -> None:
    read = check(html.render(page()))
    for r, kernels in ((SERIAL[0], "6.2"), (BATCHED[0], "6.3, 6.18")):
        for phase in PHASES:
            ns = r["time_ns"][phase]
            label = f"{kernels}, {phase}: {report.units.duration(ns)}"
            assert rects(read, label) == [ns] * bool(ns), label
        for cpus, n, each in (("s 1-3", r["ipis_per_cpu"][1], " each"), (" 5", 7, "")):
            label = f"{kernels}, CPU{cpus}: {n:,} IPIs{each}"
            assert rects(read, label) == [n], label
    cells = [a["data-key"] for a in read.of("td")]
    assert cells.count(str(SERIAL[0]["time_ns"]["total"])) == 1
    # One tree for the releases that have the same, each box as wide as its time.
    trees = [a for a in read.of("svg") if a.get("class") == "tree"]
    assert len(trees) == 2
    boxes = [a for a in read.of("svg") if a.get("data-w")]
    total = SERIAL[0]["time_ns"]["total"]
    assert boxes[0]["data-value"] == str(total)
    for a in boxes[:10]:
        assert float(a["data-w"] or 0) == pytest.approx(
            100 * float(a["data-value"] or 0) / total, abs=1e-3
        )


def test_a_call_in_time_shows_phases_ipis_and_stalls_of_each_batch() -> None:
    read = check(html.render(page()))
    for kernels, what, some in (
        ("6.2", "folio", LOGGED[0]),
        ("6.3, 6.18", "batch", LOGGED[1]),
    ):
        for s in some:
            name = f"{kernels}, {what} {s.first} of {some[-1].last}"
            begin = f"{name}, at {report.units.duration(s.begin)}"
            for phase, ns in zip(PHASES, s.ns, strict=True):
                label = f"{begin}: {phase} {report.units.duration(ns)}"
                assert rects(read, label) == [ns] * bool(ns), label
            assert rects(read, f"{name}: {s.ipis} IPIs") == [s.ipis]
            away = report.units.duration(s.stall)
            label = f"{name}: a page is away for up to {away}"
            assert rects(read, label) == [s.stall]
            (bar,) = [a for a in read.of("rect") if a.get("aria-label") == label]
            # As high as its share of the longest, standing on the ground.
            assert float(bar["height"] or 0) == pytest.approx(20 * s.stall / 8000)
            assert float(bar["y"] or 0) + float(bar["height"] or 0) == pytest.approx(20)
            total = SERIAL[0]["time_ns"]["total"]
            assert float((bar["x"] or "")[:-1]) == pytest.approx(
                100 * s.begin / total, abs=1e-3
            )


def test_without_a_log_batches_are_by_the_means() -> None:
    records, costs = zip(*CALLS, strict=True)
    times = timeline.timeline(records, costs, ([], [], []))
    assert "By the means" in times.note
    for bar, (r, priced) in zip(times.bars, CALLS[:2], strict=True):
        spent = sum(priced.places.get(p, 0) for p in priced.places if p != "call")
        assert sum(p.value for p in bar.parts) == pytest.approx(spent)
        assert bar.parts[-1].x + bar.parts[-1].width <= 100.001
        n = r["batches"] or 1024
        assert f"of {n:,}: " in bar.parts[0].said
    assert times.bars[1].name.startswith("6.3, 6.18, ")


def test_whatever_can_be_pointed_at_can_be_reached_by_keys() -> None:
    """Each group is one stop of Tab; the script goes on from there by arrow keys."""
    read = check(html.render(page()))
    values = [a for _, a in read.found if "data-value" in a]
    assert len(values) > 60
    stops = 0
    for a in values:
        assert a["role"] in ("img", "button")
        assert a["tabindex"] in ("0", "-1")
        assert a["aria-label"]
        stops += a["tabindex"] == "0"
    groups = [a for _, a in read.found if a.get("role") == "group"]
    assert all(a["aria-label"] for a in groups)
    assert stops == len(groups)
    assert all(a["aria-sort"] == "none" for a in read.of("th"))


def rows(n: int) -> list[dict[str, Any]]:
    names = dict.fromkeys(html.figures.ROW_COLUMNS, 0)
    words = {"kernel": "6.3", "mode": "sync", "machine": "xeon-2s", "copy": "cpu"}
    return [
        names | words | {"batch": 1 + i % 50, "cpus": 2 + i // 50, "pages_per_s": i,
                         "time_ns.total": 10**12 + i}
        for i in range(n)
    ]  # fmt: skip


def test_a_large_sweep_stays_below_three_megabytes() -> None:
    made = rows(20_000)
    table = html.rows_table(made, "t")
    drawn = html.lines_over(made, "batch", "pages_per_s", "rate", report.units.rate)
    assert drawn is not None
    section = html.Section("s", (), (drawn, table))
    text = html.render(html.Page("t", "c", "v", (), (section,)))
    assert len(text.encode()) < 3_000_000
    read = check(text)
    assert len(read.of("tr")) == html.figures.MOST_ROWS + 1
    assert "The first 2,000 of 20,000 rows" in table.note
    assert re.search(r"\d+ lines more are in the table", drawn.note)
    assert len(drawn.yticks) in (4, 5, 6)
    assert drawn.yticks[0][1] == "0"
    points = [p for _, line in drawn.series for p in line]
    assert all(0 <= p.x <= 100 and 0 <= p.y <= 100 for p in points)
    # The same numbers as in the rows, in the order of the axis.
    assert [p.value for p in drawn.series[0][1]] == [
        r["pages_per_s"] for r in made[:50]
    ]
    assert html.lines_over(made[:1], "batch", "pages_per_s", "rate", str) is None


def test_lines_that_are_the_same_are_one_that_names_all() -> None:
    made = [
        r | {"kernel": k, "cpus": c, "batch": batch, "pages_per_s": rate}
        for r in rows(1)
        for k, c, rate in (("6.2", 2, 7), ("6.2", 4, 9), *(
            (f"6.{i}", c, 30) for i in range(3, 9) for c in (2, 4)))
        for batch in (8, 0, 512)
    ]  # fmt: skip
    drawn = html.lines_over(made, "batch", "pages_per_s", "rate", report.units.rate)
    assert drawn is not None
    assert [name for name, _ in drawn.series] == [
        "kernel 6.2; cpus 2", "kernel 6.2; cpus 4", "kernel 6.3 ... 6.8; cpus 2, 4"
    ]  # fmt: skip
    assert [text for _, text in drawn.xticks] == ["8", "512", "without limit"]
    odd = [r for r in made if (r["kernel"], r["cpus"]) != ("6.3", 2)]
    drawn = html.lines_over(odd, "batch", "pages_per_s", "rate", report.units.rate)
    assert drawn is not None
    assert drawn.series[-1][0] == "kernel 6.3 cpus 4 ... kernel 6.8 cpus 4"


@pytest.mark.parametrize("most", [0, 1, 3, 7, 1e9, 1.33e6, 0.2, 99, 250])
def test_scales_have_round_ticks(most: float) -> None:
    top, ticks = html.lines._scale(most)
    assert (ticks[0], top >= most, 2 <= len(ticks) <= 6) == (0, True, True)
    for tick in ticks:
        assert float(f"{tick:.2g}") == pytest.approx(tick)
    assert max(most, 1e-9) > 0.5 * top or most == 0


def test_another_kind_of_file_is_refused() -> None:
    with pytest.raises(htmlreport.Usage, match=r"ends in \.html"):
        htmlreport.files(argparse.Namespace(report="r.pdf"))
    assert htmlreport.files(argparse.Namespace(report=None)) == []


def test_the_script_is_one_that_parses(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    (script,) = check(html.render(page())).text["script"]
    (tmp_path / "page.js").write_text(script)
    done = subprocess.run([node, "--check", tmp_path / "page.js"], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_report_keeps_the_log_of_a_call_that_is_not_too_large() -> None:
    asked = argparse.Namespace(report="r.html", trace=None, tracefs=None)
    none = argparse.Namespace(report=None, trace=None, tracefs=None)
    assert traces.step_by_step(asked, 1 << 16, 128)
    assert not traces.step_by_step(asked, (1 << 16) + 1, 4)
    assert not traces.step_by_step(asked, 1 << 15, 1024)
    assert not traces.step_by_step(none, 1, 1)
    none.trace = "t.json"
    assert traces.step_by_step(none, 1 << 20, 4)
