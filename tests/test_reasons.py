"""Why pages failed, and who migrates, call by call in `run`."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jaxmig import cli
from jaxmig.cli import reasons
from jaxmig.sources import scenario
from jaxmig.sources.scenario.words import STATES

PLAIN = """
kernel = "6.3"
[machine]
nodes = 2
cpus = 8
[[process]]
name = "a"
running = [1]
[[process]]
name = "b"
running = [2]
[[region]]
name = "ha"
process = "a"
size = "16k"
[[region]]
name = "hb"
process = "b"
size = "32k"
[[condition]]
region = "ha"
pages = [3]
state = "extra_ref"
[[condition]]
region = "hb"
pages = [3]
state = "untouched"
[[condition]]
region = "hb"
pages = [5]
state = "prot_none"
[[condition]]
region = "hb"
pages = [0]
state = "extra_ref"
"""
FILE = (
    PLAIN
    + """
[[region]]
name = "both"
process = ["a", "b"]
kind = "shmem"
size = "64k"
folio = "16k"
node = 1
[[condition]]
region = "both"
pages = [4]
state = "locked"
until = "waited"
"""
)
NODES = 'from = "0"\nto = "1"'


def read(home: Path, *calls: str, text: str = FILE) -> scenario.Scenario:
    path = home / "a.toml"
    path.write_text(text + "".join(f"[[call]]\n{call}\n" for call in calls))
    return scenario.load(str(path))


def why(
    s: scenario.Scenario, number: int = -1, kernel: str = "6.3", **more: Any
) -> str:
    record = {"kernel": kernel, "errno": None} | more
    traced: Any = SimpleNamespace(record=record, full=more.pop("full", ()))
    return reasons.why(s, number % len(s.calls), traced)


def call(process: str, syscall: str = "migrate_pages", more: str = NODES) -> str:
    return f'process = "{process}"\nsyscall = "{syscall}"\n{more}'


A, B = call("a"), call("b")
BACK = 'from = "1"\nto = "0"'


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ([A], "extra_ref of ha"),
        ([A, B], "extra_ref of hb"),
        ([call("a", more=BACK)], "locked of both"),
        # An earlier call may have sent them there.
        ([A, call("a", more=BACK)], "extra_ref of ha, locked of both"),
        ([call("a", "move_pages", 'pages = "ha"\nnodes = 1')], "extra_ref of ha"),
        ([call("a", "move_pages", 'pages = [["ha", 2], ["both", 3]]\nnodes = 1')], ""),
        # A page of a larger folio is in the state of its folio.
        ([call("a", "move_pages", 'pages = [["both", 7]]\nnodes = 0')], "locked of both"),
        ([call("b", "mbind", 'pages = "hb"\nnodes = "1"\nflags = 2')], "extra_ref of hb"),
        ([call("b", "mbind", 'start = ["hb", 1]\nlen = 28672\nnodes = 1\nflags = 2')], ""),
        ([call("b", "mbind", 'start = 4096\nlen = 99999999999999\nnodes = 1\nflags = 2')],
         "extra_ref of hb, locked of both"),
    ],
)  # fmt: skip
def test_only_what_the_call_asks_for_is_a_reason(
    tmp_path: Path, calls: list[str], said: str
) -> None:
    assert why(read(tmp_path, *calls)) == said


@pytest.mark.parametrize("state", STATES)
def test_states_in_which_a_page_cannot_fail_are_none(
    tmp_path: Path, state: str
) -> None:
    harmless = "untouched zero_page zero young prot_none freed released dirty isolated"
    text = FILE.replace('kind = "shmem"', 'kind = "file"').replace(
        '"locked"', f'"{state}"'
    )
    text = text.replace('until = "waited"\n', "")
    if state in ("zero", "temp_stack", "untouched", "zero_page"):
        text = text.replace('kind = "file"\n', "").replace('["a", "b"]', '"a"')
        text = text.replace('folio = "16k"\n', "")
    s = read(tmp_path, call("a", more=BACK), text=text)
    assert why(s) == ("" if state in harmless.split() else f"{state} of both")


def test_what_counts_as_failed_depends_on_release_call_and_file(tmp_path: Path) -> None:
    text = FILE.replace('"extra_ref"', '"isolated"', 1)
    walks = [("migrate_pages", "6.6", ""), ("migrate_pages", "6.7", "isolated of ha")]
    for syscall, kernel, said in [*walks, ("kernel", "6.7", "")]:
        s = read(tmp_path, call("a", syscall), text=text)
        assert why(s, kernel=kernel) == said
    text = FILE.replace('kind = "shmem"', 'kind = "file"\nmigrate_folio = false')
    text = text.replace('"locked"\nuntil = "waited"', '"dirty"')
    text = text.replace('folio = "16k"\n', "")
    assert why(read(tmp_path, call("a", more=BACK), text=text)) == "dirty of both"


def test_want_of_memory_is_one(tmp_path: Path) -> None:
    short = "want of memory on node 1"
    s = read(tmp_path, A)
    assert why(s, errno="ENOMEM") == f"{short}; extra_ref of ha"
    assert why(s, full=(0, 1)) == "extra_ref of ha"
    # mbind(2) does not say so itself.
    s = read(tmp_path, call("b", "mbind", 'pages = "hb"\nnodes = "0,1"\nflags = 2'))
    assert why(s, full=(1,)) == f"{short}; extra_ref of hb"
    assert why(s, full=()) == "extra_ref of hb"


def test_each_call_says_its_own_reasons_and_who_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Base pages alone, with room for all, need no program of their own.
    read(tmp_path, f"{A}\ncpu = 0", f"{B}\ncpu = 5\nprivileged = false", text=PLAIN)
    assert cli.main(["run", str(tmp_path / "a.toml"), "--no-content"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "; CPUs 0,5 migrate; batch limit" in out[0]
    assert [line for line in out if line.startswith("Call ")] == [
        "Call 1: migrate_pages, process a, by CPU 0, as root",
        "Call 2: migrate_pages, process b, by CPU 5, without CAP_SYS_NICE",
    ]
    assert [line for line in out if line.startswith("In 6.3")] == [
        "In 6.3, 1 page failed: extra_ref of ha.",
        "In 6.3, 1 page failed: extra_ref of hb.",
    ]


def test_what_is_the_same_for_all_calls_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path, f"{A}\ncpu = 5", f"{A}\ncpu = 5", text=PLAIN)
    assert cli.main(["run", str(tmp_path / "a.toml"), "--no-content"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "; CPU 5 migrates, as root; batch limit" in out[0]
    assert "Call 2: migrate_pages, process a" in out
