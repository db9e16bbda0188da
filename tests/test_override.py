"""Options of `run` in place of what the scenario file says, or one line why not."""

from pathlib import Path

import pytest
from jaxmig.cli import app
from jaxmig.cli.errors import Usage
from jaxmig.cli.override import overridden
from jaxmig.sources import scenario
from jaxmig.sources.scenario import Scenario

FILE = """
kernel = "6.2"
[machine]
nodes = 3
cpus = 4
node_size = ["8m", "4m", "2m"]
free = { 1 = "1m" }
[[process]]
name = "app"
running = [1, 2]
lazy = [3]
[[region]]
process = "app"
name = "heap"
size = "64k"
[[call]]
syscall = "migrate_pages"
process = "app"
from = "0"
to = "1"
[[call]]
syscall = "kernel"
process = "app"
from = "0"
to = "1"
"""
LEFT = "left = [7]\n"  # of the process, on eight CPUs
ASKED = """[[call]]
syscall = "kernel"
from = "0"
to = "1"
caller = "compaction"
order = -1
"""
OTHER = '[[process]]\nname = "other"\n'


def changed(folder: Path, words: str, more: str = "", file: str = FILE) -> Scenario:
    if more == LEFT:
        file, more = (
            file.replace("cpus = 4", "cpus = 8").replace("lazy", f"{LEFT}lazy"),
            "",
        )
    path = folder / "a.toml"
    path.write_text(file + more)
    read = scenario.load(str(path))
    return overridden(read, app.parser("run").parse_args(["run", "x", *words.split()]))


def test_without_options_the_file_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    assert changed(tmp_path, "") == scenario.load(str(path))


def test_options_replace_what_the_file_says(tmp_path: Path) -> None:
    words = "--kernel 6.3,6.18 --machine zen3-2s --cpus 8 --batch 0 --copy threads:2"
    words += " --running 5-7 --lazy 1 --cpu 4 --mode async --caller compaction"
    made = changed(tmp_path, words)
    machine, (process,), calls = made.machine, made.processes, made.calls
    assert made.kernels == ("6.3", "6.18")
    assert (machine.profile, machine.cpus) == ("zen3-2s", 8)
    assert (machine.max_batch, machine.copy) == (0, "threads:2")
    assert (process.running, process.lazy) == ((5, 6, 7), (1,))
    assert [call.cpu for call in calls] == [4, 4]
    # A system call has its own mode and lists.
    assert [(c.mode, c.caller) for c in calls[1:]] == [("async", "compaction")]
    assert calls[0].caller != "compaction"


@pytest.mark.parametrize(
    ("nodes", "sizes"), [(2, (8, 4)), (3, (8, 4, 2)), (5, (8, 4, 2, 2, 2))]
)
def test_more_nodes_are_as_large_as_the_last(
    tmp_path: Path, nodes: int, sizes: tuple[int, ...]
) -> None:
    machine = changed(tmp_path, f"--nodes {nodes}").machine
    assert machine.nodes == nodes
    assert machine.node_size == tuple(n << 20 for n in sizes)


@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        ("--nodes 1", "", "uses node 1; --nodes 1 is too few"),
        ("--cpus 2", "", "CPU 2 holds a process, of 2; see --cpus"),
        ("--cpu 4", "", "CPU 4 migrates, of 4; see --cpus"),
        ("--running 4", "", "CPU 4 holds a process, of 4; see --cpus"),
        ("--lazy 2", "", "CPU 2 is both running and lazy; choose one"),
        ("--running 0,3", "", "CPU 3 is both running and lazy; choose one"),
        ("--cpus 4", LEFT, "CPU 7 has left a process, of 4; see --cpus"),
        ("--running 7", LEFT, "CPU 7 is both running and left; choose one"),
        ("--lazy 3,7", LEFT, "CPU 7 is both lazy and left; choose one"),
        ("--caller cma", ASKED, "order of call 3: only compaction is asked that; .*"),
        ("--mode async", ASKED, "order of call 3: async is an .*; give 1 to 10"),
        ("--lazy 0", OTHER, "has 2 processes, --running and --lazy are for one; .*"),
        ("--running 0", OTHER, "has 2 processes, --running and --lazy are for one; .*"),
    ],
)
def test_what_does_not_fit_the_file_is_refused(
    tmp_path: Path, words: str, more: str, said: str
) -> None:
    with pytest.raises(Usage, match=rf"^\S+a\.toml: {said}$"):
        changed(tmp_path, words, more)


@pytest.mark.parametrize(
    ("words", "more", "mode"),
    [
        ("--caller compaction", "", "sync_light"),
        ("--caller numa_balancing", 'caller = "cma"', "async"),
        ("--caller cma", 'mode = "async"', "async"),
        ("--caller cma --mode sync_light", 'mode = "async"', "sync_light"),
        ("--cpu 0", 'caller = "damon"', "async"),
    ],
)
def test_a_mode_that_nobody_gives_is_the_caller_s(
    tmp_path: Path, words: str, more: str, mode: str
) -> None:
    assert changed(tmp_path, words, more).calls[1].mode == mode


@pytest.mark.parametrize("name", ["mode", "caller"])
@pytest.mark.parametrize("call", ["migrate_pages", "move_pages", "mbind"])
def test_what_only_calls_of_kernel_take_needs_one(
    tmp_path: Path, name: str, call: str
) -> None:
    """A file with such a call may have others; one without would hide a mistake."""
    value = {"mode": "async", "caller": "cma"}[name]
    assert getattr(changed(tmp_path, f"--{name} {value}").calls[1], name) == value
    kept = FILE[: FILE.rindex("[[call]]")]
    own = {"move_pages": 'pages = "heap"', "mbind": 'pages = "heap"\nnodes = "1"'}
    if call in own:
        kept = kept[: kept.rindex("[[call]]")]
        kept += f'[[call]]\nsyscall = "{call}"\n{own[call]}\n'
    with pytest.raises(Usage, match=f"no call is `kernel`, .* leave out --{name}, or"):
        changed(tmp_path, f"--{name} {value}", file=kept)
    assert changed(tmp_path, "", file=kept).calls[0].syscall == call
