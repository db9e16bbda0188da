"""Published figures: every row's contract, and what arm64's flushes alone explain."""

import dataclasses
import importlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from jaxmig import cli
from jaxmig.time import machines
from jaxmig.time.timeline import Timetable, play
from jaxmig.tools.reproduce import Row, distinct, figures, headline, rows, summary
from jaxmig.tools.reproduce.arm64 import arm64
from jaxmig.tools.reproduce.calls import garg, garg_few, garg_later, ziyan

KEYS = {
    *("id", "what", "published_before", "published_after", "published_change_percent"),
    *("predicted_before", "predicted_after", "predicted_change_percent", "unit"),
    *("error_percent", "kernel", "inputs", "source"),
}


def quick() -> list[Row]:
    """All rows that run no program."""
    return [*arm64(), *garg(), *garg_few(), *garg_later(), *ziyan()]


def by_kernel(name: str) -> dict[str, Row]:
    return {r.kernel: r for r in arm64() if r.id == name}


def test_contract() -> None:
    """Keys, ids, inputs and sources of the quick rows."""
    found = [r.record() for r in quick()]
    for r in found:
        assert r.keys() >= KEYS
        assert r["inputs"]
        assert r["source"]
        assert r["error_percent"] is not None
    ids = {r["id"] for r in found}
    assert ids >= {
        "arm64-memhog",
        "arm64-bw_mem",
        "garg-move_pages",
        "ziyan-move_pages",
    }
    assert sum(r["id"] == "garg-move_pages" for r in found) == 55
    assert sum(r["id"] == "garg-move_pages-few" for r in found) == 9
    # Tables that another table's costs predict, and CPU copies that were timed alone.
    free = {"arm64-kunpeng-pmbench", "arm64-memhog", "arm64-memhog-hypothesis"}
    free |= {"garg-move_pages-v4", "garg-move_pages-v5", "garg-move_pages-few"}
    for r in found:
        after = r["id"] == "arm64-memhog-profile" and r["published_before"] is None
        alone = r["id"] == "ziyan-move_pages" and "copied" not in r["what"]
        alone &= "IOAT" not in r["what"]
        assert r["fitted"] == (r["id"] not in free and not after | alone), r["what"]
        assert r["fitted"] in (r["fitted_before"], r["fitted_after"])
    hog = next(r for r in found if r["id"] == "arm64-memhog")
    assert (hog["fitted_before"], hog["fitted_after"]) == (True, False)
    assert sum(r["id"].startswith("garg-move_pages-v") for r in found) == 36


def test_arm64_memhog() -> None:
    """v4 and 6.3 defer nothing on arm64; 6.6 does: 2.06 s and 1.52 s."""
    made = by_kernel("arm64-memhog")
    assert made["v4"].predicted_after == pytest.approx(2.06, abs=0.005)
    assert made["6.3"].predicted_after == made["v4"].predicted_after
    assert made["6.6"].predicted_after == pytest.approx(1.516, abs=0.005)
    assert made["v4"].error == pytest.approx(77.5, abs=0.5)


def test_error_compares_what_is_published() -> None:
    """The figure afterwards, or the change where nothing else is known."""
    r = next(x for x in arm64() if x.id == "arm64-kunpeng-pmbench")
    assert r.published_after is None
    assert r.error == pytest.approx(100 * (r.predicted_change + 50) / 50)


def test_profiles() -> None:
    """Before, shares are those the costs come from; after, moving is nearly all."""
    made = [r for r in arm64() if r.id == "arm64-memhog-profile"]
    before = [r for r in made if r.published_before is not None]
    assert len(before) == 6
    assert all(abs(r.error) < 3 for r in before)
    move = {r.kernel: r for r in made if "migrate_folio_move()" in r.what}
    assert move["v4"].published_after == pytest.approx(87.7, abs=0.05)
    assert move["v4"].predicted_after == pytest.approx(52.5, abs=0.1)
    assert move["6.6"].predicted_after == pytest.approx(71.4, abs=0.1)


def test_one_line_a_published_figure() -> None:
    """No figure and no prediction twice; what is open is an interval."""
    once = distinct(quick())
    same = [(r.published, r.predicted_before, r.predicted_after, r.what) for r in once]
    assert len(set(same)) == len(same) < len(quick())
    hogs = [
        r for r in once if r.id.startswith("arm64-memhog") and "profile" not in r.id
    ]
    assert [r.kernel for r in hogs] == ["v4, 6.3", "6.6"]
    found = figures(once)
    assert len(found) == 128
    hog = found[0]
    assert (hog.low, hog.high) == pytest.approx((1.516, 2.06), abs=0.005)
    assert not hog.inside
    assert hog.errors == pytest.approx((30.6, 77.5), abs=0.3)
    assert hog.kernels == ("v4", "6.3", "6.6")
    moved = [f for f in found if "move_to_new_folio" in f.what]
    assert [(f.inside, f.within(25), f.within(26)) for f in moved] == [
        (True, False, True)
    ]
    assert [f.record()["inside"] for f in moved] == [True]


def test_an_unknown_input_is_an_interval() -> None:
    """Two runs of one published change, by CPUs and by set: one figure, inside."""
    base = Row(
        "intel-pmbench-rate", "pages: pmbench -j 1", None, None, 291.7, 100.0, 177.6,
        "pages/s", "v4", ("x",), "y", extra={"cpus": 1, "setsize_mib": 128},
    )  # fmt: skip
    more = dataclasses.replace(
        base,
        id="intel-pmbench-rate-2048m",
        what="pages: pmbench -j 31",
        predicted_after=545.3,
        extra={"cpus": 31, "setsize_mib": 2048},
    )
    (f,) = figures(distinct([base, more, base]))
    assert (f.low, f.high, f.published) == pytest.approx((77.6, 445.3, 291.7))
    assert f.inside
    assert not f.within(25)
    assert (f.unit, f.unknown) == ("%", "1 to 31 running CPUs")
    assert f.what == "pages: pmbench -j"
    assert summary([f]) == (
        "1 published figures: of 1 predicted from other sources 0 within 10 %, "
        "0 within 25 %, 1 inside a wider interval; of 0 fitted to their own table "
        "0 within 10 %, 0 within 25 %"
    )


def readme_table() -> list[list[str]]:
    """The rows of the README's table of published figures."""
    text = (Path(__file__).parent.parent / "README.md").read_text()
    part = text.split("## Published figures")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_readme_shows_what_is_printed() -> None:
    """Of the rows that need no run; test_intel_rows looks at the others."""
    made = [list(cells) for cells in headline(list(arm64()))]
    assert made == readme_table()[-len(made) :]


@pytest.mark.slow
def test_intel_rows() -> None:
    """pmbench's threads, run: one row a number of CPUs, near the formula."""
    everything = list(rows())
    assert [list(cells) for cells in headline(everything)] == readme_table()
    made = [r.record() for r in everything if r.id.startswith("intel")]
    rates = [r for r in made if r["id"] == "intel-pmbench-rate"]
    assert {r["cpus"] for r in rates} >= {1, 4, 16, 19}
    for r in rates:
        gap = abs(r["formula_difference_percent"])
        assert gap <= 5 or r["formula_explanation"]
    gains = {r["cpus"]: r["predicted_change_percent"] for r in rates}
    assert gains[1] < gains[4] < gains[16] < gains[31]
    assert 200 < gains[16] < 400
    for r in made:
        if r["id"].startswith("intel-pmbench-ipis"):
            assert r["predicted_remaining_percent"] <= 0.9


class Awake:
    """pmbench's run as the formula has it: no CPU sleeps, each flush interrupts all."""

    def __init__(
        self, shape: Any, costs: Any, streams: Any, table: Timetable, **how: Any
    ) -> None:
        trips, nodes, threads = how["trips"], how["nodes"], how["threads"]
        self.block, self.cpus = streams.block, threads
        assert len(nodes) == shape.cpus >= threads
        profile = machines.load("xeon-2s")
        names = ("alloc", "bookkeeping", "walk", "remap", "switch", "copy_4k")
        each = sum(profile[f"cost.{name}"] for name in names)
        each += profile["cost.defer"] * (table.batches > 0)
        flushes = trips * (table.batches or table.folios)
        flush = profile["cost.flush_first"] + profile["cost.flush_next"] * (threads - 1)
        self.totals = play.none(shape.cpus)
        self.totals.ipis[:threads] = self.totals.flushes = flushes
        self.totals.trips_ns = round(trips * table.folios * each + flushes * flush)

    def go(self) -> play.Totals:
        return self.totals


@pytest.fixture
def _awake(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package has a function of this name.
    module = importlib.import_module("jaxmig.tools.reproduce.intel")
    monkeypatch.setattr(module, "Run", Awake)
    monkeypatch.setenv("JAXMIG_NO_CACHE", "1")


@pytest.mark.usefixtures("_awake")
def test_where_no_cpu_sleeps_the_formula_is_right() -> None:
    made = list(rows())
    found = [r.record() for r in made if r.id.startswith("intel")]
    rates, ipis = found[::2], found[1::2]
    assert [r["cpus"] for r in rates] == [1, 2, 4, 8, 16, 19, 31, 16]
    assert [r["setsize_mib"] for r in rates] == [*[128] * 7, 2048]
    for r in rates:
        assert r["formula_difference_percent"] == pytest.approx(0, abs=1e-4)
        assert r["formula_explanation"] == ""
    for r in ipis:
        assert r["predicted_before"] == r["cpus"]
        assert r["predicted_remaining_percent"] == r["ideal_remaining_percent"]
    rate, left = headline(made)[:2]
    crossed = [
        (low["cpus"], high["cpus"])
        for low, high in itertools.pairwise(rates[:7])
        if low["predicted_change_percent"] < 291.7 < high["predicted_change_percent"]
    ]
    ((low, high),) = crossed
    assert low < float(rate[2].split("; ")[1].split()[0]) < high
    assert left[2] == "0.20 % (128 MiB, 2048 MiB)"


@pytest.mark.usefixtures("_awake")
def test_the_command_writes_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON, as tables, and as a page; with every number's source."""
    file, page = tmp_path / "rows.json", tmp_path / "x.html"
    words = ["reproduce", "--json", str(file), "--report", str(page)]
    assert cli.main([*words, "--inputs"]) == 0
    out = capsys.readouterr().out
    made = json.loads(file.read_text())
    ids = {r["id"] for r in made["rows"]}
    text = page.read_text()
    for name in (
        *("intel-pmbench-ipis", "intel-pmbench-rate", "arm64-memhog"),
        *("arm64-bw_mem", "garg-move_pages", "ziyan-move_pages"),
    ):
        assert name in ids
        assert name in out
        assert name in text
    assert made["summary"] in out
    assert out.count("of the interrupts remain 0.20 %") == 8
    for title in ("likely causes", "sources", "inputs"):
        assert f"\n{title}:\n" in out
    assert "xeon-2s cost.flush_first = " in out
    rates = [r for r in made["rows"] if r["id"] == "intel-pmbench-rate"]
    assert len({r["cpus"] for r in rates}) == len(rates) > 1
    changed = 0
    for r in made["rows"]:
        before, after = r["published_before"], r["published_after"]
        if before is None or after is None:
            continue
        change = 100 * (r["predicted_after"] / r["predicted_before"] - 1)
        assert r["predicted_change_percent"] == pytest.approx(change, abs=0.1)
        changed += 1
    assert changed > 10
    assert cli.main(["reproduce", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == made["rows"]
