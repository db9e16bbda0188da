"""The same target on the same CPUs, said in the same words, whatever the command."""

import argparse
import re
from pathlib import Path

import numpy as np
import pytest
from jaxmig.cli import advise, app, named, replay, replayed, shape, show, sweepopts
from jaxmig.programs.workloads import trace
from jaxmig.sources.targets import resolve
from jaxmig.state import frame
from jaxmig.time import machines
from jaxmig.tools import job

DATA = Path(__file__).parent / "data"
TRACE = DATA / "traces/lackey.txt"
TARGETS = (
    "memhog:1m",
    "memhog:8m,thp",
    "pmbench:setsize=1m,jobs=3",
    str(DATA / "procfs/snapshot-v1.npz"),
    f"trace:{TRACE}",
)


def parsed(*args: str) -> argparse.Namespace:
    return app.parser().parse_args(args)


def lines(target: str, *options: str) -> dict[str, str]:
    """What each command says of CPUs, without playing anything."""
    args = parsed("migratepages", target, "0", "1", "--no-content", *options)
    profile = machines.load("xeon-2s")
    found = named.target(target, None)
    setting = shape.of(args, profile, found).setting
    call = job.Call(frozenset({0}), frozenset({1}))
    said = {
        "migratepages": show.assumed(
            show.Resolved(found, setting, profile, call, args.running is None)
        )
    }
    args = parsed("sweep", target, *options)
    said["sweep"] = sweepopts.assumed(sweepopts.sweep_of(args))
    args = parsed("advise", target, "--p99", "1ms", *options)
    said["advise"] = sweepopts.assumed(advise.sweep_of(args), ("batch",))
    return said


@pytest.mark.parametrize("options", [(), ("--running", "1-3,7"), ("--cpus", "4")])
@pytest.mark.parametrize("target", TARGETS)
def test_commands_assume_the_same_cpus(target: str, options: tuple[str, ...]) -> None:
    said = lines(target, *options)
    heads = {re.split("; (?:batch|copy|contents)", text)[0] for text in said.values()}
    assert len(heads) == 1, said
    assert all("costs: " in text for text in said.values())
    if "1-3,7" in options:
        assert "target on CPUs 1-3,7, lazy on none" in heads.pop()


def test_replay_assumes_what_migratepages_does_for_its_trace() -> None:
    t = trace.load(str(TRACE))
    head = lines(f"trace:{TRACE}")["migratepages"].split("; copy")[0]
    args = parsed("replay", str(TRACE))
    assert replayed.assumed(args, t, machines.load("xeon-2s")).startswith(head + ";")
    assert t.cpus == resolve(f"trace:{TRACE}").running


def test_replay_takes_a_cpu_for_each_thread(capsys: pytest.CaptureFixture[str]) -> None:
    args = parsed("replay", str(TRACE), "--running", "7")
    t = trace.load(str(TRACE))
    assert "target on CPUs 7," in replayed.assumed(args, t, machines.load("xeon-2s"))
    args = parsed("replay", str(TRACE), "--running", "1-3")
    with pytest.raises(replay.Usage, match="3 CPUs for 1 threads"):
        replay.check_running(args, t)


@pytest.mark.parametrize(
    "command", ["migratepages", "run", "sweep", "advise", "replay"]
)
def test_running_is_a_list_of_cpus_everywhere(command: str) -> None:
    rest = {
        "migratepages": ("memhog:1m", "0", "1"),
        "advise": ("memhog:1m", "--p99", "1ms"),
        "sweep": ("memhog:1m",),
    }.get(command, ("x",))
    assert parsed(command, *rest, "--running", "1-3,7").running == (1, 2, 3, 7)


@pytest.mark.parametrize(
    ("target", "percent"),
    [
        ("memhog:1m", 0),
        ("memhog:8m,thp", 100),
        ("memhog:3m,thp", 67),
        (f"trace:{TRACE}", 0),
    ],
)
def test_rows_have_the_share_of_thps_that_is_there(target: str, percent: int) -> None:
    for command in (("sweep",), ("advise", "--p99", "1ms")):
        args = parsed(command[0], target, *command[1:])
        s = (sweepopts if command == ("sweep",) else advise).sweep_of(args)
        assert s.grid.thp == (percent,)
        m = s.memory.build(percent)[0]
        flags = np.asarray(m.frame)[:, frame.FLAGS]
        mine = frame.kind(flags) != frame.FREE
        huge = mine & (frame.order(flags) == frame.PMD_ORDER)
        assert round(100 * huge.sum() / mine.sum()) == percent
