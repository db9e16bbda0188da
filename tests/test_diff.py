"""`jaxmig diff`: counts first, and what was asked that explains them."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from jaxmig import cli
from jaxmig.report import diff

RECORD: dict[str, Any] = {
    "kernel": "6.3", "ret": 0, "errno": None,
    "vmstat": {"pgmigrate_success": 100, "nr_tlb_remote_flush": 4},
    "ipis_per_cpu": [0, 4, 4], "time_ns": {"total": 1000, "flush": 100},
    "time_ns_range": [900, 1100], "stall_ns": {"max": 50}, "wall_s": 1.0,
}  # fmt: skip
DOCUMENT: dict[str, Any] = {
    "jaxmig": "0.2.0", "scenario": None, "calls": [RECORD],
    "machine": {"name": "xeon-2s", "running": [1, 2]}, "target": {"pages": 100},
    "asked": {"batch": 512, "process app": {"lazy": []}, "free": {}},
}  # fmt: skip


def changed(**fields: Any) -> dict[str, Any]:
    d = copy.deepcopy(DOCUMENT)
    d["calls"][0] |= fields
    return d


def test_nothing_changed_whatever_this_computer_took() -> None:
    lines, rows = diff.differences(DOCUMENT, changed(wall_s=9.0))
    assert (lines, rows) == ([], [])
    same = diff.answer(DOCUMENT, changed(wall_s=9.0))
    assert same == ["No count and no modelled time differs."]


def test_counts_come_first_and_causes_before_them() -> None:
    after = changed(
        time_ns={"total": 1500, "flush": 0}, ipis_per_cpu=[0, 4, 4, 6], errno="ENOMEM"
    )
    after["machine"]["running"] = [1, 2, 3]
    after["target"]["assumed"] = ["THPs made"]
    lines, rows = diff.differences(DOCUMENT, after)
    assert lines == [
        "now assumed: THPs made",
        "running: CPUs 1-2 -> CPUs 1-3",
    ]
    assert rows == [
        ("6.3", "error", "nothing", "ENOMEM", ""),
        ("6.3", "IPIs of the CPU with most", "4", "6", "+50.0 %"),
        ("6.3", "modelled time", "1 us", "1.5 us", "+50.0 %"),
        ("6.3", "modelled time, flush", "100 ns", "0 ns", "-100.0 %"),
    ]
    assert diff.answer(DOCUMENT, after) == [
        "6.3: 1.5 us instead of 1 us (+50.0 %), pages moved: 100 as before, "
        "error: ENOMEM instead of nothing."
    ]
    assert diff.answer(DOCUMENT, changed(ret=1))[-1] == "The same was asked for."


def test_stalls_pages_and_nodes_are_named_as_in_the_table() -> None:
    before = changed(nodes_after={"0": 1, "1": 9}, time_ns_range=[900, 1100])
    after = changed(
        nodes_after={"0": 86, "1": 9}, stall_ns={"max": 40}, time_ns_range=[800, 1100],
        vmstat={"pgmigrate_success": 15, "pgmigrate_fail": 85, "nr_tlb_remote_flush": 4},
        time_ns_median=7,
    )  # fmt: skip
    assert diff.answer(before, after)[0] == (
        "6.3: 1 us as before, a page waits up to 40 ns instead of 50 ns, "
        "pages moved: 15 instead of 100, pages failed: 85 instead of nothing."
    )
    assert [row[1:] for row in diff.differences(before, after)[1]] == [
        ("pages moved", "100", "15", "-85.0 %"),
        ("pages on node 0 afterwards", "1", "86", "+85"),
        ("pages failed", "nothing", "85", ""),
        ("modelled time, 80 % range", "900 ns .. 1.1 us", "800 ns .. 1.1 us", ""),
        ("longest stall of a page", "50 ns", "40 ns", "-20.0 %"),
    ]


def test_of_assumptions_only_what_differs_is_said() -> None:
    a, b = changed(), changed(ret=1)
    a["target"]["assumed"] = ["mappings of others", "old"]
    b["target"]["assumed"] = ["new", "mappings of others"]
    b["target"]["unmovable"] = [{"why": "vDSO", "pages": 1}]
    assert diff.differences(a, b)[0] == [
        "no longer assumed: old",
        "now assumed: new",
        "now unmovable: vDSO: 1",
    ]


def test_what_was_asked_is_said_and_what_is_not_known_is_not_the_same() -> None:
    a, b = changed(), changed(ret=1)
    b["asked"] = {"batch": 64, "process app": {"lazy": [3]}, "free": {"1": 5}}
    b["asked"]["call 1"] = {"nodes": "0, " * 40}
    assert diff.differences(a, b)[0] == [
        "batch limit: 512 -> 64",
        "process app.lazy: none -> CPUs 3",
        "free.1: not given -> 5",
        f"call 1.nodes: not given -> {'0, ' * 20}...",
    ]
    del a["asked"]
    lines = ["The first does not say all that was asked for; write it again."]
    assert diff.differences(a, changed(ret=1))[0] == lines
    assert diff.answer(a, changed(ret=1))[-1].startswith("6.3: ")
    diff.check(DOCUMENT | {"asked": {"region a.vmstat": {"kind": "anon"}}})
    with pytest.raises(ValueError, match="asked is no table"):
        diff.check(DOCUMENT | {"asked": [1]})


def test_many_calls_are_said_in_a_few_sentences() -> None:
    a, b = changed(), changed()
    a["calls"] = [RECORD] * 6
    b["calls"] = [RECORD | {"ret": 1}] * 6
    said = diff.answer(a, b)
    assert said[0].startswith("6.3, call 1: ")
    assert said[-2:] == ["2 more are in the table.", "The same was asked for."]


def test_kernels_of_one_alone_are_named_and_calls_are_paired_in_order() -> None:
    two = changed()
    two["calls"].append(RECORD | {"ret": 3})
    two["calls"].append(RECORD | {"kernel": "6.18"})
    again = copy.deepcopy(two)
    again["calls"][1]["ret"] = 4
    assert diff.differences(two, again)[1] == [("6.3", "result", "3", "4", "+33.3 %")]
    assert "Only in the second: 6.3, 6.18." in diff.differences(DOCUMENT, two)[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("", "the file is empty"),
        ("{}\n{}\n", "no single document"),
        ("[1]", "no result of --json"),
        ("{}", "it has no list of calls"),
        ('{"calls": [{"kernel": "5.0"}]}', "no kernel is in both"),
    ],
)
def test_what_is_no_result_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str
) -> None:
    good, bad = tmp_path / "a.json", tmp_path / "b.json"
    good.write_text(json.dumps(DOCUMENT))
    if text is not None:
        bad.write_text(text)
    assert cli.main(["diff", str(good), str(bad)]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), words in err) == ("", 1, True)


def test_the_command_prints_what_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, d in zip(files, (DOCUMENT, changed(ret=5)), strict=True):
        file.write_text(json.dumps(d))
    assert cli.main(["diff", *map(str, files)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("6.3: 1 us as before, pages moved: 100 as before.")
    assert out[1] == "The same was asked for."
    assert out[-1].split() == ["6.3", "result", "0", "5", "new"]


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"stolen_ns": float("nan")}, r"calls\[0\].stolen_ns is nan, beyond what"),
    "infinite": ({"stall_ns": {"max": float("inf")}}, "stall_ns.max is inf, beyond"),
    "10^400": ({"ret": 10**400}, "ret is 10000000000000000000, beyond"),
    "no table": ({"time_ns": 5}, "time_ns is int 5, not a table"),
    "text": ({"vmstat": "x"}, "vmstat is str 'x', not a table"),
    "a count": (
        {"vmstat": {"pgmigrate_success": "9"}},
        "success is str '9', not a count",
    ),
    "a half": (
        {"vmstat": {"pgmigrate_success": 0.5}},
        "success is float 0.5, not a count",
    ),
    "a time": ({"time_ns": {"total": "x"}}, "time_ns.total is str 'x', not a count"),
    "early": ({"time_ns": {"total": -5}}, "time_ns.total is int -5, not a count"),
    "negative": ({"vmstat": {"pgmigrate_fail": -1}}, "fail is int -1, not a count"),
    "letters": ({"ipis_per_cpu": "abc"}, "ipis_per_cpu is str 'abc', not a list of"),
    "none": ({"ipis_per_cpu": [-1]}, r"ipis_per_cpu is list \[-1\], not a list of"),
    "nested": ({"ipis_per_cpu": [[1]]}, "not a list of counts"),
    "lists": ({"status": [[1]]}, r"status holds list \[1\]"),
    "cause": ({"time_ns_causes": [{"share": float("nan")}]}, "causes.share is nan"),
    "kernel": ({"kernel": 6}, r"calls\[0\].kernel is no name of a release"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_cell_that_nobody_wrote_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    fields, words = HOSTILE[name]
    files = [tmp_path / n for n in ("a.json", "b.json")]
    for file, d in zip(files, (DOCUMENT, changed(**fields)), strict=True):
        file.write_text(json.dumps(d))
    assert cli.main(["diff", *map(str, files)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(f"b.json: .*{words}.*; write it again with --json", said)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 6_000, '{"calls": ' + "[" * 990])
def test_a_document_beyond_reason_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "a").write_text(text)
    assert cli.main(["diff", str(tmp_path / "a"), str(tmp_path / "a")]) == 1
    assert "no single document of JSON" in capsys.readouterr().err
