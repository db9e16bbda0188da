"""The `asked` of result documents: a setting that differs never goes unsaid."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxmig.cli import app, migratepages, named, run, shape, show, whatif
from jaxmig.cli.override import overridden
from jaxmig.report import diff, to_json
from jaxmig.sources import scenario
from jaxmig.time import machines

# A value of each option that results depend on, beside BASE.  The kernel is in records.
BASE = "--cpus 8 --running 1-3"
OPTIONS = {
    **{"from_": "1 0", "to": "0 0,1", "unprivileged": "--unprivileged", "lazy": "--lazy 5"},
    **{"machine": "--machine zen3-2s", "nodes": "--nodes 4", "cpus": "--cpus 6"},
    **{"running": "--running 2", "thp": "--thp 50", "folio": "--folio 16k"},
    **{"pinned": "--pinned 1", "place": "--place 1", "node_size": "--node-size 9m"},
    **{"free": "--free 1=1m", "cpu": "--cpu 4", "batch": "--batch 64"},
    **{"content": "--no-content", "copy": "--copy dma:4", "mode": "--mode async"},
    **{"caller": "--caller cma", "seed": "--seed 5"},
}  # fmt: skip
# How a target is read, who runs it (`running`), and what is written and where.
OTHERS = {
    *("command", "kernel", "target", "scenario", "pid", "threads", "print_man"),
    *("print_completion", "explain_time", "json", "csv", "plot", "plot_map", "report"),
    *("tree", "table", "trace", "tracefs", "folded", "speedscope"),
}
PARSERS = {name: app.parser(name) for name in ("migratepages", "run")}
OF_RUN = vars(PARSERS["run"].parse_args(["run", "x"]))
FILE = """
kernel = "6.3"
[machine]
nodes = 3
cpus = 8
[[process]]
name = "p"
running = [1, 2, 3]
[[region]]
name = "heap"
size = "1m"
[[condition]]
region = "heap"
pages = [100]
state = "locked"
until = "waited"
[[call]]
syscall = "kernel"
from = "0"
to = "1"
[[call]]
syscall = "move_pages"
pages = [["heap", 7]]
nodes = [1]
"""
# Words of FILE in place of which others lead to another result.
WORDS = {
    "cpus = 8": "cpus = 9",
    "nodes = 3": 'nodes = 3\ncopy = "dma:4"',
    "[[process]]": 'free = { 1 = "40k" }\n[[process]]',
    "[1, 2, 3]": "[1, 2]",
    'name = "heap"\n': 'name = "heap"\nnode = 2\n',
    '"1m"': '"2m"',
    "[100]": "[101]",
    '"locked"': '"writeback"',
    '"waited"': '"forever"',
    'from = "0"': 'from = "0"\ncpu = 5',
    '"kernel"': '"migrate_pages"',
    "7]": "8]",
    "nodes = [1]": "nodes = [1]\nprivileged = false",
}


def of_options(more: str = "") -> dict[str, Any]:
    nodes = more if more[:1].isdigit() else "0 1"
    words = f"migratepages memhog:4m {nodes} {BASE} {'' if nodes == more else more}"
    args = PARSERS["migratepages"].parse_args(words.split())
    profile = machines.load(args.machine or "xeon-2s")
    target = whatif.target(args, named.target(args.target, None), args.cpus)
    made = shape.of(args, profile, target)
    call = migratepages._call(args, made, profile, target.pages)
    asked = show.Resolved(target, made.setting, profile, call)
    return read(show._document(asked, []))


def of_file(home: Path, text: str = FILE, more: str = "") -> dict[str, Any]:
    path = home / "a.toml"
    path.write_text(text)
    args = PARSERS["run"].parse_args(["run", str(path), *more.split()])
    made = overridden(scenario.load(str(path)), args)
    profile = machines.load(made.machine.profile)
    return read(run._document(args, run.Played("a.toml", made, profile)))


def read(document: dict[str, Any]) -> dict[str, Any]:
    """As it is in a file, and as `diff` takes it."""
    found: dict[str, Any] = json.loads(to_json(document))
    diff.check(found)
    return found


def said(*documents: dict[str, Any]) -> Iterator[str]:
    return diff._reasons(*documents)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_differs_is_said(name: str) -> None:
    assert list(said(of_options(), of_options())) == []
    assert list(said(of_options(), of_options(OPTIONS[name])))


def test_no_option_is_forgotten() -> None:
    for command, rest in (("migratepages", "memhog:4m 0 1"), ("run", "x")):
        args = PARSERS[command].parse_args([command, *rest.split()])
        assert set(vars(args)) <= OPTIONS.keys() | OTHERS


def test_what_is_the_default_anyway_is_the_same() -> None:
    same = "--nodes 2 --lazy none --cpu 0 --batch 512 --content --copy cpu --seed 0"
    for more in (f"{same} --mode sync", f"{same} --machine xeon-2s --thp 0 --place 0"):
        assert list(said(of_options(), of_options(more))) == []
    (batch,) = said(of_options(), of_options("--batch 64"))
    assert batch == "batch limit: 512 -> 64"


@pytest.mark.parametrize("words", WORDS)
def test_every_word_of_a_file_that_differs_is_said(tmp_path: Path, words: str) -> None:
    assert FILE.count(words) == 1
    before = of_file(tmp_path)
    assert list(said(before, of_file(tmp_path, f"# other\n{FILE}"))) == []
    assert list(said(before, of_file(tmp_path, FILE.replace(words, WORDS[words]))))


@pytest.mark.parametrize("name", [n for n in OPTIONS if n in OF_RUN])
def test_an_option_of_run_that_differs_is_said(tmp_path: Path, name: str) -> None:
    assert list(said(of_file(tmp_path), of_file(tmp_path, FILE, OPTIONS[name])))


def test_a_profile_that_changed_under_its_name_is_said(tmp_path: Path) -> None:
    text, file = machines.dumps(machines.load("xeon-2s")), tmp_path / "mine.toml"
    found = []
    for n in (200, 200, 201):
        file.write_text(re.sub(r"(\nalloc = \{ value = )[0-9]+", rf"\g<1>{n}", text))
        found.append(of_options(f"--machine {file}"))
    assert list(said(*found[:2])) == []
    (line,) = said(*found[1:])
    assert line.startswith("costs: ")
