"""Pictures show the numbers of the tables, with units, in colours everyone can see."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jaxmig
import numpy as np
import pytest
from jaxmig import cli, report
from jaxmig.calls.syscalls import Area, Space
from jaxmig.calls.syscalls.space import View
from jaxmig.show import plots
from jaxmig.show.plots import curves, figures, flame, heat, phases, strips, style
from jaxmig.show.plots.style import PlotError
from jaxmig.sources import footprint, snapshot, targets
from jaxmig.state.events import COUNTERS
from jaxmig.time import cost, machines
from jaxmig.time.machines.terms import PHASES
from jaxmig.tools.sweep import Row, rows

DATA = Path(__file__).parent / "data"
pytest.importorskip("matplotlib")
# Okabe and Ito's eight, and greys.
SAFE = {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}


def row(**cells: Any) -> Row:
    made: Row = dict.fromkeys(rows.COLUMNS, 0)
    made |= {"kernel": "6.3", "mode": "sync", "machine": "xeon-2s", "copy": "cpu"}
    made |= {"cpus": 4, "batch": 512, "policy": "batched", "errno": ""}
    made |= {"vmstat.pgmigrate_success": 10} | {f"time_ns.{p}": 100 for p in PHASES}
    return made | cells


def some() -> list[Row]:
    """A grid of two kernels, three limits and three machines sizes, each its number."""
    made = []
    for kernel, policy in (("6.2", "serial"), ("6.3", "batched")):
        for cpus in (2, 4, 8):
            for batch in (8, 512, 4096):
                n = len(made) + 1
                cells = {"kernel": kernel, "policy": policy, "cpus": cpus}
                cells |= {"batch": batch, "pages_per_s": n * 1000}
                cells |= {"stall_ns.p99": n * 2000, curves.RECEIVED: n * 7}
                cells |= {"first_folio_ns": n * 900, "time_ns.total": n * 10**6}
                made.append(row(**cells))
    return made


def call(kernel: str, policy: cost.Policy) -> tuple[dict[str, Any], cost.Cost]:
    counts = dict.fromkeys(COUNTERS, 0)
    for name in ("allocs", "alloc_pages", "tries", "ptes_cleared", "moves"):
        counts[name] = 100
    for name in ("folios_moved", "pages_copied", "ptes_set", "pgmigrate_success"):
        counts[name] = 100
    counts["flushes_immediate"] = counts["ipis_immediate"] = 100
    c = cost.price(counts, machines.load("xeon-2s"), policy=policy)
    made = report.record(
        kernel=kernel, policy=policy, syscall="migrate_pages", ret=0, counts=counts,
        ipis_per_cpu=[0, 100], nodes_after={"1": 100}, cost=c, wall_s=0.0,
    )  # fmt: skip
    return made, c


def axes_of(figure: Any) -> list[Any]:
    return [a for a in figure.axes if a.get_title(loc="left")]


def test_bars_are_time_divided_by_pages() -> None:
    record, _ = call("6.2", "serial")
    figure = style.figure(4, 3)
    heights = phases.draw(figure.subplots(), ["a"], [record["time_ns"]], [100])
    assert heights == {p: [record["time_ns"][p] / 100] for p in PHASES}
    tops = [b.get_y() + b.get_height() for b in figure.axes[0].patches]
    assert max(tops) == pytest.approx(record["time_ns"]["total"] / 100)


def test_a_migration_shows_bars_and_trees_on_one_scale() -> None:
    calls = [call("6.2", "serial"), call("6.3", "batched")]
    trees = [report.call_tree(c) for _, c in calls]
    figure = plots.migration([plots.Group("", [r for r, _ in calls], trees)], "title")
    bars, *flames = axes_of(figure)
    assert bars.get_ylabel() == "modelled time per page (ns)"
    assert [t.get_text() for t in bars.get_xticklabels()] == [
        "6.2 serial",
        "6.3 batched",
    ]
    legend = [t.get_text() for t in bars.get_legend().get_texts()]
    assert legend == list(PHASES)[::-1]
    assert len(flames) == 2
    assert flames[0].get_xlim() == flames[1].get_xlim()
    assert {a.get_xlabel() for a in flames} == {"modelled time per page (ns)"}


def test_calls_have_a_panel_each_and_releases_share_a_tree() -> None:
    records, costs = zip(
        call("6.2", "serial"),
        call("6.3", "batched"),
        call("6.18", "batched"),
        strict=True,
    )
    trees = [report.call_tree(c) for c in costs]
    groups = [plots.Group(f"Call {i}", records, trees) for i in (1, 2)]
    made = plots.migration(groups, "app.toml")
    titles = [a.get_title(loc="left").split("\n") for a in axes_of(made)]
    one = ["Time per page by phase", "Where the time of 6.2 serial goes",
           "Where the time of 6.3, 6.18 batched goes"]  # fmt: skip
    assert titles == [[f"Call {i}", title] for i in (1, 2) for title in one]
    names = [t.get_text() for t in made.axes[0].get_xticklabels()]
    assert names == ["6.2 serial", "6.3, 6.18 batched"]
    # A panel has a bar for each that differs and phase, none drawn over another call's.
    assert len(made.axes[0].patches) == 2 * len(PHASES)
    total = records[0]["time_ns"]["total"] / 100
    assert f"{style.plain(round(total))} ns" in [
        t.get_text() for t in made.axes[0].texts
    ]


def test_lines_that_lie_on_one_another_are_said_to_be_the_same() -> None:
    rows = [r | {"kernel": k} for k in ("6.3", "6.5", "6.6") for r in some() if
            r["kernel"] == "6.3" and r["cpus"] == 8]  # fmt: skip
    ax = style.figure(4, 3).subplots()
    curves.rate(ax, rows)
    assert [line.get_label() for line in ax.lines[:1]] == [
        "6.3, 6.5, 6.6 batched, xeon-2s"
    ]
    many = [r | {"kernel": f"7.{i}"} for i in range(6) for r in rows[:3]]
    ax = style.figure(4, 3).subplots()
    curves.rate(ax, many)
    assert ax.lines[0].get_label() == "7.0 ... 7.5 batched, xeon-2s"


@pytest.mark.parametrize(
    "values", [[3, 30, 3_000_000], [0, 5, 900_000], [7, 8, 9], [1, 1, 1], [0, 0, 2]]
)
def test_an_axis_of_counts_has_figures(values: list[int]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    made = style.figure(4, 3)
    ax = made.subplots()
    rows = [row(cpus=2**i, **{curves.RECEIVED: n}) for i, n in enumerate(values)]
    curves.ipis(ax, rows)
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    low, high = ax.get_ylim()
    shown = [t for t in ax.get_yticklabels() if t.get_text() and
             low <= t.get_position()[1] <= high]  # fmt: skip
    assert len(shown) >= 3
    boxes = [t.get_window_extent(canvas.get_renderer()) for t in shown]
    for below, above in itertools.pairwise(boxes):
        assert below.y1 <= above.y0, [t.get_text() for t in shown]


@pytest.mark.parametrize("policy", ["serial", "batched"])
def test_boxes_of_a_tree_are_its_times(policy: cost.Policy) -> None:
    tree = report.call_tree(call("6.2", policy)[1])
    found = list(flame.boxes(tree, 100))
    assert [(n, w, d) for n, _, w, d in found] == [
        (name, ns / 100, depth) for depth, name, ns, _ in report.tree_rows(tree)
    ]
    assert {n for n, _, _, _ in found} & set(flame.PHASE_OF)
    # Children lie side by side above their parent.
    assert max(left + width for _, left, width, _ in found) == pytest.approx(
        tree.ns / 100
    )


def test_every_leaf_of_a_tree_has_the_colour_of_its_phase() -> None:
    from jaxmig.report import tree

    leaves = {
        p.split("/")[-1] for p in (*tree._SERIAL.values(), *tree._BATCHED.values())
    }
    assert leaves == set(flame.PHASE_OF)
    assert set(flame.PHASE_OF.values()) <= set(PHASES)


def test_lines_are_the_rows() -> None:
    figure = style.figure(4, 3)
    ax = figure.subplots()
    curves.ipis(ax, [r for r in some() if r["batch"] == 512])
    assert [list(line.get_ydata()) for line in ax.lines] == [
        [14, 35, 56],
        [77, 98, 119],
    ]
    assert [list(line.get_xdata()) for line in ax.lines] == [[2, 4, 8]] * 2
    assert [line.get_label() for line in ax.lines] == [
        "6.2 serial, xeon-2s",
        "6.3 batched, xeon-2s",
    ]
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "CPUs of the machine",
        "TLB shootdown interrupts (IPIs)",
    )


def test_rate_and_stall_mark_the_limit_of_linux() -> None:
    for draw, per, unit in ((curves.rate, 1, "pages/s"), (curves.stall, 2, "us")):
        ax = style.figure(4, 3).subplots()
        draw(ax, [r for r in some() if r["cpus"] == 8])
        assert list(ax.lines[1].get_ydata()) == [16 * per, 17 * per, 18 * per]
        assert unit in ax.get_ylabel()
        assert "base pages" in ax.get_xlabel()
        assert [t.get_text() for t in ax.texts] == ["Linux: 512"]


def test_no_limit_is_not_a_limit_of_zero() -> None:
    ax = style.figure(4, 3).subplots()
    curves.rate(ax, [row(batch=0, pages_per_s=5), row(batch=8, pages_per_s=7000)])
    assert [list(line.get_xdata()) for line in ax.lines] == [[8]]


def test_a_heat_map_is_a_table_of_medians() -> None:
    made = [row(batch=b, cpus=c, pages_per_s=b * c) for b in (1, 2) for c in (4, 8)]
    made += [row(batch=1, cpus=4, pages_per_s=6)]
    xs, ys, grid = heat.table(made[:-2] + made[-1:], "batch", "cpus", "pages_per_s")
    assert (xs, ys) == ([1, 2], [4, 8])
    np.testing.assert_array_equal(grid, [[5, 8], [8, np.nan]])


def test_a_sweep_shows_what_varies() -> None:
    titles = [a.get_title(loc="left") for a in axes_of(plots.sweep(some()))]
    assert [t.partition("\n")[0] for t in titles] == [
        "Rate over the batch limit",
        "Stall over the batch limit",
        "Total time over the batch limit",
        "First folio over the batch limit",
        "Interrupts over CPUs",
        "Rate of 6.3, xeon-2s",
    ]
    assert titles[0].endswith("8 CPUs, cpu copy")
    assert "batch limit 512" in titles[4]
    only = [r for r in some() if r["cpus"] == 2 and r["batch"] == 8]
    (bars,) = axes_of(plots.sweep(only))
    assert bars.get_title(loc="left").startswith("Time per page by phase")


def test_copy_engines_are_lines_of_their_own() -> None:
    drawn = ("pages_per_s", "time_ns.total", "first_folio_ns")
    fast = {"copy": "dma:4"}
    made = [
        r | more
        for r in some()
        for more in ({"copy": "cpu"}, fast | {k: 2 * r[k] for k in drawn})
    ]
    rate, _, total, first, *_ = axes_of(plots.sweep(made))
    names = ["6.2 serial, xeon-2s", "6.3 batched, xeon-2s"]
    for axes in (rate, total, first):
        found = [line.get_label() for line in axes.lines if len(line.get_xdata()) == 3]
        assert found == [f"{n}, {c} copy" for n in names for c in ("cpu", "dma:4")]
        assert "copy" not in axes.get_title(loc="left")


def everything() -> list[Row]:
    """A sweep over every axis that a picture shows."""
    made = []
    for thp in (0, 50, 100):
        for machine in ("xeon-2s", "arm64-2n128c"):
            made += [r | {"thp": thp, "machine": machine} for r in some()]
    return made


def series(n: int) -> list[Row]:
    """A sweep of `n` kernels, each with curves of its own."""
    drawn = ("pages_per_s", "stall_ns.p99", "time_ns.total", "first_folio_ns")
    return [
        r
        | {"kernel": f"6.{i}"}
        | {c: r[c] * (i + 2) for c in (*drawn, curves.RECEIVED)}
        for i in range(n)
        for r in some()
        if r["kernel"] == "6.3"
    ]


def nothing() -> list[Row]:
    """A sweep whose calls moved no page."""
    none = {f"time_ns.{p}": 0 for p in (*PHASES, "total")}
    return [row(batch=b, **{"vmstat.pgmigrate_success": 0} | none) for b in (2, 4)]


PICTURES = {
    "some": some(),
    "everything": everything(),
    "one": series(1),
    "twelve": series(12),
    "many": series(22),
    "nothing": nothing(),
    "no limit": [row(batch=0, cpus=c) for c in (2, 4)],
    "no interrupts": [row(cpus=c, machine="arm64-2n128c") for c in (2, 4)],
}


@pytest.mark.parametrize("name", PICTURES)
def test_no_words_of_a_picture_lie_on_others(name: str) -> None:
    made = plots.sweep(PICTURES[name], "memhog:1m\non xeon-2s")
    said = texts_apart(made)
    assert not [text for text in said if "e+" in text]
    assert ("no page moved" in said) == (name == "nothing")
    if name == "many":
        assert "6 more are in the rows" in said
    # Every line has a look of its own.
    for axes in made.axes:
        looks = [(x.get_color(), x.get_marker(), x.get_linestyle())
                 for x in axes.lines if len(x.get_xdata()) > 1]  # fmt: skip
        assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("n", [1, 4, 22])
def test_no_words_of_calls_lie_on_others(n: int) -> None:
    kernels = [f"{6 + i // 20}.{i % 20}" for i in range(n)]
    one = [call(k, "batched" if i else "serial") for i, k in enumerate(kernels)]
    records = [
        r | {"time_ns": {p: ns * (i + 1) for p, ns in r["time_ns"].items()}}
        for i, (r, _) in enumerate(one)
    ]
    trees = [report.call_tree(c) for _, c in one]
    made = plots.migration([plots.Group("Call 1: a", records, trees)] * 2, "a.toml")
    said = texts_apart(made)
    sizes = [t.get_fontsize() for t in made.axes[0].get_xticklabels()]
    assert min(sizes) > 5
    if n > 4:
        assert (
            f"Call 1: a\nWhere the time of 6.1 ... {kernels[-1]} batched goes" in said
        )


def test_a_panel_that_is_alone_is_as_wide_as_the_picture() -> None:
    bars = axes_of(plots.sweep(everything()))[-1]
    assert bars.get_title(loc="left").startswith("Time per page by phase")
    assert bars.get_subplotspec().colspan == range(2)
    many = [r | {"copy": f"dma:{n}"} for r in everything() for n in (1, 2, 4)]
    title = axes_of(plots.sweep(many))[-1].get_title(loc="left")
    assert "the first 12 of 36" in title


def test_numbers_are_written_out() -> None:
    assert [style.plain(y) for y in (0.5, 20, 1000, 10_000, 2.5e6)] == [
        "0.5",
        "20",
        "1,000",
        "10,000",
        "2,500,000",
    ]


def test_a_thin_sample_is_shown_by_medians() -> None:
    thin = [row(cpus=2, batch=8, pages_per_s=1), row(cpus=8, batch=16, pages_per_s=2)]
    made, said = figures._held(thin, "batch")
    assert made == thin
    assert "median" in said


def test_colours_are_those_of_okabe_and_ito() -> None:
    used = set(style.SERIES) | set(style.OF_PHASE.values())
    assert used - {style.BLACK, style.GREY} <= SAFE
    assert len(set(style.OF_PHASE.values())) == len(PHASES)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_same_numbers_give_the_same_file(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        plots.save(plots.sweep(some()), str(tmp_path / f"{name}.{suffix}"))
    first = (tmp_path / f"a.{suffix}").read_bytes()
    assert first == (tmp_path / f"b.{suffix}").read_bytes()
    assert suffix == "png" or b">batch limit (base pages)<" in first


def test_what_cannot_be_drawn_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PlotError, match=r"\.png or \.svg"):
        plots.check("x.pdf")
    for command in (["migratepages", "memhog:1m", "0", "1"], ["sweep", "memhog:1m"]):
        for name in ("x.pdf", "x", ""):
            assert cli.main([*command, "--plot", name]) == 2
            out, err = capsys.readouterr()
            assert (out, err.count("\n")) == ("", 1)
            assert f"{name!r}: pictures are .png or .svg" in err
    monkeypatch.setattr(style.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["sweep", "memhog:1m", "--plot", str(tmp_path / "x.png")]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err


def test_commands_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in (
        ("a.png", ["migratepages", "memhog:1m", "0", "1", "--cpus", "4"]),
        ("b.svg", ["sweep", "memhog:1m", "--batch", "1,64", "--cpus", "2:8:2x"]),
    ):
        path = tmp_path / name
        assert cli.main([*command, "--plot", str(path)]) == 0
        assert path.stat().st_size > 5000
    capsys.readouterr()


@pytest.mark.parametrize("n", range(1, 9))
def test_no_panel_lies_on_another(n: int) -> None:
    made = figures.figure(11.0, 4.0)
    panels = figures._panels(made, n)
    assert made.axes == panels
    boxes = [axes.get_position() for axes in panels]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)


def test_a_map_counts_every_page_of_a_process() -> None:
    s = snapshot.load(DATA / "procfs/snapshot-v1.npz")
    found = {strip.title: strip for strip in strips.strips(strips.footprint(s), {})}
    assert all(sum(x.counts) == len(s) for x in found.values())
    moves = dict(zip(found["migration"].kinds, found["migration"].counts, strict=True))
    assert moves["can move"] == int(s.movable.sum())
    assert moves["may not move"] == sum(n for _, n in s.unmovable())
    nodes = dict(zip(found["node"].kinds, found["node"].counts, strict=True))
    assert nodes == {f"node {n}": c for n, c in enumerate(np.bincount(s.node)) if c}
    # What may not move is seen, however little it is.
    (row,) = [i for i, k in enumerate(found["migration"].kinds) if k == "may not move"]
    cells = found["migration"].cells
    assert 1 <= (cells == row).any(axis=0).sum() <= moves["may not move"]
    made = plots.target_map(s, 0, "PID 1 (a$b)")
    said = texts_apart(made)
    assert f"can move: {moves['can move']:,}" in said


def texts_apart(made: Any) -> list[str]:
    """The words of a picture, none of which lies on another or beyond the edge."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(made)
    canvas.draw()
    shown, ticks = {}, tick_labels(made)
    for text in made.findobj(Text):
        if text in ticks or not text.get_text() or not text.get_visible():
            continue
        box = text.get_window_extent(canvas.get_renderer())
        if box.width:
            shown[text] = box.padded(-1)
    for axes in made.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for t in (t for t in axis.get_major_ticks() if t.label1.get_visible()):
                if t.label1.get_text() and low <= t.get_loc() <= high:
                    box = t.label1.get_window_extent(canvas.get_renderer())
                    shown[t.label1] = box.padded(-1)
    whole = made.bbox.padded(1)
    for text, box in shown.items():
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1, text.get_text()
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1, text.get_text()
    for (a, one), (b, other) in itertools.combinations(shown.items(), 2):
        assert not one.overlaps(other), (a.get_text(), b.get_text())
    return [text.get_text() for text in shown]


def tick_labels(made: Any) -> set[Any]:
    """Labels of ticks; of these those outside the axes are not drawn."""
    from matplotlib.axis import Axis

    return {
        label
        for axis in made.findobj(Axis)
        for t in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (t.label1, t.label2)
    }


def test_a_column_stacks_its_pages_by_their_share() -> None:
    n = strips.COLUMNS
    of_page = np.tile([0, 0, 0, 1], n)
    of_page[:400] = 0
    of_page[7] = 1
    cells = strips.Strip("t", ("a", "b"), of_page).cells
    assert cells.shape == (strips.ROWS, n)
    share = (cells == 1).mean(axis=0)
    assert (share[100:] == 0.25).all()
    assert np.flatnonzero(share[:100]).tolist() == [1]
    few = np.zeros(strips.COLUMNS * 100, int)
    few[50] = 1
    cells = strips.Strip("t", ("a", "b"), few).cells
    assert (cells[-1] == 1).tolist() == [True] + [False] * (n - 1)


@pytest.mark.parametrize("kinds", [1, 8, 12])
def test_many_kinds_have_room_and_end_in_others(kinds: int) -> None:
    n = 1200
    page = np.arange(n)
    wide = footprint.Footprint(
        vpn=page, order=(page % min(kinds, 10)).astype(np.int8),
        node=(page * kinds // n).astype(np.int16), hugetlb=page < 0, file=page > 900,
        alone=page % 2 > 0, stays=(page % 4).astype(np.int8),
    )  # fmt: skip
    moved = dataclasses.replace(wide, node=np.where(page > 600, 1, wide.node))
    made = plots.moved_map(wide, {"6.2": wide, "6.3": moved}, [(0, "x$y$"), (500, "")])
    said = texts_apart(made)
    assert {"node before and after 6.2", "node after 6.3", "x$y$"} <= set(said)
    assert "page size before and after 6.2, 6.3" in said
    found = strips.strips(wide, {})[1]
    assert len(found.kinds) == min(kinds, 8)
    assert (kinds > 8) == (found.kinds[-1] == "others")
    assert sum(found.counts) == n


def test_a_map_before_and_after_keeps_colours_and_places() -> None:
    """A process that loses a page in the middle, and of which half moves."""
    page = np.arange(8)
    none = np.zeros(8, bool)
    before = footprint.Footprint(
        vpn=page + 100, order=page.astype(np.int8) * 0, node=np.zeros(8, np.int16),
        hugetlb=none, file=none, alone=~none, stays=np.zeros(8, np.int8),
    )  # fmt: skip
    left = {f.name: getattr(before, f.name)[page != 3]
            for f in dataclasses.fields(before)}  # fmt: skip
    node = np.array([1, 1, 1, 1, 1, 1, 0], np.int16)
    after = footprint.Footprint(**left | {"node": node})
    drawn = {s.title: s for s in strips.strips(before, {"6.2": after, "6.3": after})}
    assert list(drawn) == [
        f"{name} {when}" for name in ("page size", "node", "sharing", "migration")
        for when in ("before", "after 6.2, 6.3")
    ]  # fmt: skip
    old, new = drawn["node before"], drawn["node after 6.2, 6.3"]
    assert old.kinds == new.kinds == ("node 0", "node 1", "not resident")
    assert old.of_page.tolist() == [0] * 8
    assert new.of_page.tolist() == [1, 1, 1, 2, 1, 1, 1, 0]
    assert (old.counts, new.counts) == ([8, 0, 0], [1, 6, 1])


def test_the_map_of_a_machine_is_that_of_its_snapshot() -> None:
    """Two ways to the same pages: from /proc's columns, and from the page tables."""
    s = snapshot.load(DATA / "procfs/snapshot-v1.npz")
    target = targets.of_snapshot("a.npz", s)
    m, space = target.build(targets.Setting(content=False))
    mine, theirs = footprint.of(View.of(m), space), strips.footprint(s)
    rows = ~s.has(snapshot.PageFlag.ZERO | snapshot.PageFlag.PFNMAP)
    assert len(mine) == rows.sum() > 300
    for name in ("node", "order", "file", "hugetlb", "stays"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name)[rows])
    anon = ~mine.file
    np.testing.assert_array_equal(mine.alone[anon], theirs.alone[rows][anon])
    assert [name for _, name in target.areas] == [name for _, name in s.named()]


def test_the_map_of_a_machine_tells_sizes_sharing_and_holds() -> None:
    b = jaxmig.Builder(nodes=2, cpus=2)
    one, two = b.process("one"), b.process("two")
    huge = b.mmap(one, 1024, 0, order=9)
    held = b.mmap(one, 16, 1, order=4)
    cow = b.mmap([one, two], 4, 0)
    b.condition(held, "pinned", [0])
    b.condition(cow, "writeback", [1], until="waited")
    m = b.build(content=False)
    g = m.geometry
    areas = [
        Area(r.start // 4096, r.pages, r.first_pte[0],
             g.ptes + r.first_pmd[0] if r.by_pmd else -1, migratable=r is not huge)
        for r in (huge, held, cow)
    ]  # fmt: skip
    found = footprint.of(View.of(m), Space(areas))
    assert np.bincount(found.order).tolist() == [4, 0, 0, 0, 16, *[0] * 4, 1024]
    assert np.bincount(found.node).tolist() == [1028, 16]
    assert found.alone.sum() == 1040
    assert np.unique(found.vpn).size == 1044
    assert [footprint.WHY[i] for i in found.stays[[0, 1024, 1040, 1041]]] == [
        "may not move", "pinned or held", "can move", "locked or in writeback"
    ]  # fmt: skip


def test_migratepages_draws_its_target_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.svg"
    typed = ["migratepages", "memhog:1m", "0", "1", "--cpus", "4", "--pinned", "50"]
    assert cli.main([*typed, "--no-content", "--plot-map", str(file)]) == 0
    text = file.read_text()
    for said in ("node before", "node after 6.2, 6.3", "node 1: 128", "node 0: 256",
                 "node 0: 128", "pinned or held: 128"):  # fmt: skip
        assert f">{said}<" in text, said
    capsys.readouterr()
    assert cli.main([*typed, "--plot-map", "x.pdf"]) == 2
    assert ".png or .svg" in capsys.readouterr().err
