"""Reports: the exact text of tables and trees, JSON and CSV that come back whole."""

import io
import json
import re

import numpy as np
import pytest
from hypothesis import given, strategies as st
from jaxmig.report import (
    FORMATS,
    Node,
    assumed_line,
    bold,
    call_tree,
    causes_text,
    compare,
    document,
    error_document,
    from_csv,
    machine_dict,
    machine_text,
    machines_text,
    record,
    speedup,
    table,
    to_csv,
    to_json,
    together,
    tree_dict,
    tree_text,
    wants_color,
)
from jaxmig.report.units import count, cpu_list, duration, rate, reduction, seconds
from jaxmig.time.cost import PRICED, price
from jaxmig.time.machines import load, names

PAGES = 1024
XEON = load("xeon-2s")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def made(kernel: str = "6.3", cpus: int = 2, ret: int = 0, **extra) -> dict:
    """The record of 1,024 pages that run on `cpus` other CPUs."""
    each = ("allocs", "tries", "ptes_cleared", "moves", "folios_moved")
    counts = dict.fromkeys((*PRICED, "batches", "pgmigrate_fail"), 0)
    counts |= dict.fromkeys((*each, "pages_copied", "ptes_set"), PAGES)
    counts["pgmigrate_success"] = PAGES
    is_serial = kernel == "6.2"
    requests = PAGES if is_serial else PAGES // 512
    kind = "immediate" if is_serial else "batch"
    counts |= {f"flushes_{kind}": requests, f"ipis_{kind}": requests * cpus}
    counts["nr_tlb_remote_flush"] = requests
    if not is_serial:
        counts |= {"ptes_deferred": PAGES, "batches": 2}
    policy = "serial" if is_serial else "batched"
    return record(
        kernel=kernel,
        policy=policy,
        syscall="migrate_pages",
        ret=ret,
        counts=counts,
        ipis_per_cpu=[0] + [requests] * cpus,
        nodes_after={0: 0, 1: PAGES},
        cost=price(counts, XEON, policy=policy),
        wall_s=0.0125,
        **extra,
    )


# --- tables --------------------------------------------------------------------------

GOLDEN = {
    "simple": "a        b\n---  -----\nx     6.10\nyy   1,024",
    "grid": (
        "+-----+-------+\n| a   |     b |\n+=====+=======+\n| x   |  6.10 |\n"
        "+-----+-------+\n| yy  | 1,024 |\n+-----+-------+"
    ),
    "github": "| a   |     b |\n|-----|-------|\n| x   |  6.10 |\n| yy  | 1,024 |",
    "plain": "a        b\nx     6.10\nyy   1,024",
    "tsv": "a\tb\nx\t6.10\nyy\t1,024",
}


@pytest.mark.parametrize("fmt", FORMATS)
def test_table_formats(fmt):
    assert table(["a", "b"], [["x", "6.10"], ["yy", "1,024"]], fmt) == GOLDEN[fmt]


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="'html': use one of simple, grid"):
        table(["a"], [["b"]], "html")
    with pytest.raises(ValueError, match="one cell a column"):
        table(["a"], [["b", "c"]])


def test_tables_without_rows_still_have_headers():
    for fmt in FORMATS:
        assert "a" in table(["a", "b"], [], fmt)


@pytest.mark.parametrize("fmt", FORMATS)
def test_wide_tables_are_cut_between_columns(fmt):
    headers = ["name", *(f"column-{i}" for i in range(9))]
    rows = [[f"row{r}", *(f"{r}{c}" for c in range(9))] for r in range(3)]
    text = table(headers, rows, fmt, width=40)
    assert all(name in text for name in headers)
    if fmt in ("github", "tsv"):
        assert "\n\n" not in text
        return
    pieces = text.split("\n\n")
    assert len(pieces) > 1
    assert all("row2" in piece for piece in pieces)
    assert max(map(len, text.splitlines())) <= 40


def test_a_column_wider_than_the_terminal_still_appears():
    text = table(["a", "b"], [["x", "w" * 90]], width=40)
    assert "w" * 90 in text
    assert text == table(["a", "b"], [["x", "w" * 90]])


def test_tsv_cells_hold_no_tabs_newlines_or_colours():
    text = table(["a", "b"], [["x\ty\nz", bold("q", True)]], "tsv")
    assert text == "a\tb\nx y z\tq"


def test_color_follows_terminal_and_no_color():
    assert wants_color(Terminal(), {})
    assert wants_color(Terminal(), {"NO_COLOR": ""})
    assert not wants_color(Terminal(), {"NO_COLOR": "1"})
    assert not wants_color(Terminal(), {"TERM": "dumb"})
    assert not wants_color(io.StringIO(), {})
    assert bold("x", False) == "x"


# --- units ---------------------------------------------------------------------------


def test_units():
    assert [duration(ns) for ns in (0, 1, 999.6, 1500, 8.25e6, 2.16e9)] == [
        *("0 ns", "1 ns", "1 us", "1.5 us", "8.25 ms", "2.16 s")
    ]
    assert [rate(n) for n in (0, 12.5, 436_000, 3e6)] == ["0", "12.5", "436 k", "3 M"]
    assert (seconds(None), seconds(0.5), count(10**6)) == ("-", "500 ms", "1,000,000")
    assert cpu_list([3, 1, 2, 7, 7]) == "1-3,7"
    assert cpu_list([]) == "none"


def test_reductions_are_never_rounded_up():
    assert reduction(1, 10**6) == "99.99 %"
    assert reduction(0, 5) == "100.00 %"
    assert reduction(2, 1024) == "99.80 %"
    assert reduction(20, 150) == "86.67 %"
    assert reduction(3, 2) == "-50.00 %"
    assert reduction(1, 0) == "-"


# --- side by side --------------------------------------------------------------------

COMPARED = """\
Assumed: here

Linux 6.3 moves 1,024 pages in 2.34 ms (80 % range 1.73 ms .. 3.41 ms); 6.2 takes 4.43 ms \
(80 % range 3.67 ms .. 5.63 ms), 1.90 times as long.
2 flush requests and 4 IPIs (2 on each of CPUs 1-2) instead of 1,024 flush requests and \
2,048 IPIs.
A thread that touches a moving page waits up to 669 us (half of the pages: up to 587 us); \
with 6.2 up to 4.33 us.

                                      6.2 serial         6.3 batched
----------------------------  ------------------  ------------------
result                                         0                   0
pages moved                                1,024               1,024
pages failed                                   0                   0
flush requests                             1,024                   2
IPIs                                       2,048                   4
IPI reduction                                  -             99.80 %
modelled time                            4.43 ms             2.34 ms
modelled time, 80 % range     3.67 ms .. 5.63 ms  1.73 ms .. 3.41 ms
modelled time, alloc                      205 us              205 us
modelled time, unmap                      256 us              256 us
modelled time, flush                     2.13 ms             34.9 us
modelled time, copy                       922 us              922 us
modelled time, remap                      154 us              154 us
modelled time, other                      768 us              768 us
longest stall of a page                  4.33 us              669 us
modelled pages/s                           231 k               438 k
modelled pages/s, 80 % range      182 k .. 279 k      301 k .. 591 k
speed-up                                       -               1.90x
taken from other CPUs                     614 us                2 us
this computer: run                       12.5 ms             12.5 ms
this computer: compile                     1.5 s                   -"""


def test_compared_text():
    records = [made("6.2", compile_s=1.5), made("6.3")]
    assert compare(records, assumed="Assumed: here", detail=True) == COMPARED
    short = compare(records, assumed="Assumed: here").splitlines()
    rows = [
        {x.split("  ")[0].strip() for x in text if not x.startswith("--")}
        for text in (COMPARED.splitlines(), short)
    ]
    assert rows[1] < rows[0]
    hidden = rows[0] - rows[1]
    assert len(hidden) == 7
    assert "modelled time, flush" in hidden


def test_modelled_numbers_of_the_golden_text_by_hand():
    # 2,250 ns a page; 2,080 ns a shootdown of two CPUs; 30 ns to defer one.
    assert made("6.2")["time_ns"]["total"] == 1024 * (2250 + 2080)
    assert made("6.3")["time_ns"]["total"] == 1024 * (2250 + 30) + 2 * 2080
    # Within every number at its low and at its high end, and far from both.
    low, high = made("6.2")["time_ns_range"]
    assert 1.2 * 1024 * (1075 + 1300) < low < high < 1024 * (4657 + 2980) / 1.2
    assert low < made("6.2")["time_ns_median"] < high
    causes = made("6.2")["time_ns_causes"]
    assert causes[0]["cost"] == "cost.copy_4k"
    assert sorted((c["percent"] for c in causes), reverse=True) == [
        c["percent"] for c in causes
    ]


def test_callers_have_rows_of_their_own():
    told = {"caller": "cma", "caller_errno": "EBUSY", "lists": 5, "reclaimed": 1031}
    quiet = {"caller": "cma", "caller_errno": None, "lists": 0, "reclaimed": 0}
    lines = compare([made("6.2") | told, made("6.3") | quiet], assumed="x").splitlines()
    cells = {line[:23].strip(): line[23:].split() for line in lines}
    assert cells["lists"] == ["5", "0"]
    assert cells["pages dropped"] == ["1,031", "0"]
    assert cells["caller reports"] == ["EBUSY", "-"]
    plain = compare([made("6.2") | quiet], assumed="x")
    assert "pages dropped" not in plain
    assert "reports" not in plain


def test_failed_calls_and_empty_ones_compare():
    failed = made("6.3", ret=-12)
    failed["vmstat"]["pgmigrate_success"] = 0
    text = compare([made("6.2"), failed], assumed="x")
    assert "ENOMEM" in text
    assert speedup(failed, made("6.2")) is None
    with pytest.raises(ValueError, match="no records"):
        compare([], assumed="x")


def test_bold_only_if_asked():
    records = [made("6.2"), made("6.3")]
    assert "\x1b[1m" not in compare(records, assumed="x")
    assert "\x1b[1m1.90x" in compare(records, assumed="x", color=True)


def test_assumptions_in_one_line():
    line = assumed_line(XEON, running=[1, 2, 3, 9], cpus=12, batch=0, content=False)
    assert line == (
        "Assumed: xeon-2s (x86, 2 nodes, 12 CPUs); target on CPUs 1-3,9, lazy on none; "
        "CPU 0 migrates, as root; batch limit none; copy cpu; contents not carried; "
        "costs: 0 measured, 5 published, 19 assumed (jaxmig machines)"
    )
    line = assumed_line(XEON, running=[1], ran="found", privileged=False)
    assert "target on CPUs 1 (found), lazy on none; CPU 0 migrates, without CAP" in line
    assert "CPU 0 migrates; " in assumed_line(XEON, running=[1], privileged=None)


def test_calls_of_one_kind_are_summed():
    assert together(["a", "a", "b"], [made("6.2"), made("6.3"), made("6.3")]) == []
    records = [made("6.3"), made("6.3"), made("6.3"), made("6.2")]
    (text,) = together(["a", "a", "b", "a"], records)
    head, _, row = text.splitlines()
    assert head.split("  ")[0] == "calls together"
    assert re.split("  +", row) == [
        *("2 x a", "6.3", "2,048", "0", "4", "8", "4.68 ms", "669 us")
    ]


def test_interrupts_that_differ_from_cpu_to_cpu_have_a_row():
    uneven = made("6.2") | {"ipis_per_cpu": [0, 7, 1200, 7]}
    rows = compare([uneven, made("6.3")], assumed="").splitlines()
    row = next(r for r in rows if r.startswith("IPIs of one CPU"))
    assert row.split()[-4:] == ["7", "to", "1,200", "2"]
    assert not any(r.startswith("IPIs of one") for r in COMPARED.splitlines())


# --- trees ---------------------------------------------------------------------------


def test_tree_text():
    leaf = Node("c", 250)
    root = Node("a", 1000, (Node("b", 750, (leaf, Node("d", 500))), Node("e", 250)))
    assert tree_text(root).splitlines() == [
        "100.00 %      1 us  a",
        " 75.00 %    750 ns    b",
        " 25.00 %    250 ns      c",
        " 50.00 %    500 ns      d",
        " 25.00 %    250 ns    e",
    ]
    assert len(tree_text(root, least=30).splitlines()) == 3
    assert tree_dict(leaf) == {"name": "c", "ns": 250, "children": []}


def functions(policy: str) -> list[str]:
    counts = dict.fromkeys(PRICED, 0) | dict.fromkeys(("moves", "folios_moved"), 9)
    counts |= dict.fromkeys(("allocs", "tries", "ptes_cleared", "ptes_set"), 9)
    counts |= {"flushes_immediate": 4, "ipis_immediate": 4, "ptes_deferred": 5}
    counts |= {"flushes_batch": 1, "ipis_batch": 1, "pages_copied": 9}
    tree = call_tree(price(counts, XEON, policy=policy))
    return [line.split("  ")[-1].strip() for line in tree_text(tree).splitlines()]


def test_trees_name_the_release_s_own_functions():
    batched, serial = functions("batched"), functions("serial")
    assert batched == [
        "migrate_pages",
        "migrate_pages_batch",
        "migrate_folio_unmap",
        "alloc_migration_target",
        "[lock, isolation, LRU add]",
        "try_to_migrate",
        "try_to_migrate_one",
        "ptep_clear_flush",
        "set_tlb_ubc_flush_pending",
        "try_to_unmap_flush",
        "migrate_folio_move",
        "move_to_new_folio",
        "folio_copy",
        "folio_migrate_flags",
        "remove_migration_ptes",
    ]
    assert serial == [
        "migrate_pages",
        "unmap_and_move",
        "alloc_migration_target",
        "__unmap_and_move",
        "[lock, isolation, LRU add]",
        "try_to_migrate",
        "try_to_migrate_one",
        "ptep_clear_flush",
        "set_tlb_ubc_flush_pending",
        "move_to_new_folio",
        "migrate_folio",
        "folio_copy",
        "folio_migrate_flags",
        "remove_migration_ptes",
        "try_to_unmap_flush",
    ]


def test_what_makes_the_range_is_said():
    counts = dict.fromkeys(PRICED, 0) | {"pages_copied": 9, "allocs": 9}
    lines = causes_text(price(counts, XEON), XEON).splitlines()
    assert lines[0].startswith("Range of 2,048 machines drawn")
    assert "cost.copy_4k = 900 (384 .. 2,070 ns; assumed)" in lines[1]
    assert "cost.alloc = 200 (116 .. 287 ns; published)" in lines[2]
    shares = [float(line.split("%")[0]) for line in lines[1:]]
    assert shares[0] > 90 > shares[1]
    assert sum(shares) == pytest.approx(100, abs=0.02)
    none = price(dict.fromkeys(PRICED, 0), XEON)
    assert causes_text(none, XEON).startswith("No cost of xeon-2s")


def test_full_local_flushes_stand_where_the_release_does_them():
    counts = dict.fromkeys(PRICED, 0) | {"nr_tlb_local_flush_all": 1}
    for policy, name in (
        ("serial", "ptep_clear_flush"),
        ("batched", "try_to_unmap_flush"),
    ):
        text = tree_text(call_tree(price(counts, XEON, policy=policy)))
        assert text.splitlines()[-1].split()[-1] == name


def test_an_empty_call_has_a_tree():
    cost = price(dict.fromkeys(PRICED, 0), XEON)
    assert tree_text(call_tree(cost)) == "  0.00 %      0 ns  migrate_pages"


# --- records -------------------------------------------------------------------------


def test_record_fields():
    r = made("6.2", cpus=3)
    assert list(r)[:5] == ["kernel", "policy", "syscall", "ret", "errno"]
    assert (r["ret"], r["errno"]) == (0, None)
    assert r["vmstat"]["nr_tlb_remote_flush_received"] == sum(r["ipis_per_cpu"]) == 3072
    assert r["nodes_after"] == {"0": 0, "1": PAGES}
    parts = [ns for name, ns in r["time_ns"].items() if name != "total"]
    assert sum(parts) == r["time_ns"]["total"]
    assert r["time_ns_range"][0] < r["time_ns"]["total"] < r["time_ns_range"][1]
    assert "status" not in r
    assert made(status=[1, -14, None])["status"] == [1, -14, None]


def test_negative_results_are_minus_one_and_a_name():
    assert (made(ret=-12)["ret"], made(ret=-12)["errno"]) == (-1, "ENOMEM")
    assert (made(ret=-1)["ret"], made(ret=-1)["errno"]) == (-1, "EPERM")
    assert (made(ret=3)["ret"], made(ret=3)["errno"]) == (3, None)


def test_json_round_trip():
    doc = document("0.1", "a.toml", machine_dict(XEON, cpus=4), [made(), made("6.2")])
    text = to_json(doc)
    assert "\n" not in text
    assert json.loads(text) == doc
    assert list(doc) == ["jaxmig", "scenario", "machine", "calls"]
    assert doc["machine"] == {
        "profile": "xeon-2s",
        "arch": "x86",
        "nodes": 2,
        "cpus": 4,
    }
    assert error_document("a", "b") == {"scenario": "a", "error": "b"}


def test_json_takes_arrays_and_refuses_nan():
    plain = json.loads(to_json({"a": np.arange(2), "b": np.int64(3)}))
    assert plain == {"a": [0, 1], "b": 3}
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json({"a": float("nan")})
    with pytest.raises(TypeError, match="set"):
        to_json({"a": {1}})


def test_csv_round_trip_of_records():
    records = [made("6.10", ret=-12, compile_s=2.5), made(status=[0, None])]
    text = to_csv(records)
    assert from_csv(text) == records
    # Unquoted, so that a spreadsheet filters by it.
    assert text.splitlines()[1].startswith("6.10,batched,")
    header = text.splitlines()[0].split(",")
    assert {"vmstat.pgmigrate_success", "time_ns.total", "nodes_after.1"} <= set(header)


WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters=".\r\0"), min_size=1, max_size=8
)
SIMPLE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1)
)
VALUES = st.recursive(
    SIMPLE | st.lists(SIMPLE), lambda v: st.dictionaries(WORDS, v), max_leaves=8
)


@given(st.lists(st.dictionaries(WORDS, VALUES, min_size=1), max_size=4))
def test_csv_round_trip_of_anything(records):
    text_fields = {"kernel", "policy", "syscall", "errno", "error", "scenario"}
    records = [{k: v for k, v in r.items() if k not in text_fields} for r in records]
    records = [r for r in records if r]
    assert from_csv(to_csv(records)) == records


# --- machines ------------------------------------------------------------------------


def test_machines_table():
    text = machines_text([load(name) for name in names()])
    assert all(name in text for name in names())
    assert "2 x Intel Xeon E5-2650 v3 (Haswell)" in text


def test_machine_table_shows_every_number_with_its_source():
    rows = machine_text(XEON, "tsv").splitlines()[1:]
    cells = {row.split("\t")[0]: row.split("\t") for row in rows}
    for key, number in XEON.numbers.items():
        assert cells[key][1] == f"{number.value:,}"
        assert cells[key][5] == number.source
    assert cells["cost.alloc"][2] == "116 .. 287"
    assert cells["dma:16.huge"][1] == "63.69"
    assert max(map(len, machine_text(XEON, width=100).splitlines())) <= 100
