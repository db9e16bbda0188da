"""What would be if: page sizes, pins, node and threads of any target."""

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from jaxmig.cli import app, options, pins, shape, sweepopts, whatif
from jaxmig.sources import resident, snapshot
from jaxmig.sources.procfs.columns import PageFlag as F
from jaxmig.sources.targets import (
    Setting,
    Target,
    TargetError,
    WhatIf,
    of_snapshot,
    resolve,
)
from jaxmig.state import conditions, frame
from jaxmig.time import machines

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "procfs/snapshot-v1.npz"
BLOCK = 512
SETTING = Setting(cpus=2, running=(1,), content=False)


def process(blocks: int = 4, rest: int = 100, huge: int = 0) -> snapshot.Snapshot:
    """One anonymous area of aligned blocks, of which the first are THPs, and a rest."""
    s = snapshot.load(GOLDEN)
    heap = int(np.flatnonzero([p == "[heap]" for p in s.areas.path])[0])
    n = blocks * BLOCK + rest
    vpn = np.arange(n, dtype=np.int64) + (1 << 20)
    start, end = s.areas.start.copy(), s.areas.end.copy()
    start[heap], end[heap] = int(vpn[0]) << 12, int(vpn[-1]) + 1 << 12
    areas = dataclasses.replace(s.areas, start=start, end=end)
    flags = np.full(n, (F.EXCLUSIVE | F.WRITABLE | F.DIRTY).value, np.uint32)
    flags[: huge * BLOCK] |= np.uint32(F.HUGE_PMD.value)
    order = np.zeros(n, np.int8)
    order[: huge * BLOCK] = 9
    return dataclasses.replace(
        s, areas=areas, process=np.zeros(n, np.int32), vpn=vpn,
        area=np.full(n, heap, np.int32),
        pfn=vpn + 512, flags=flags, node=np.zeros(n, np.int16), order=order,
        mapcount=np.ones(n, np.int32), kpageflags=np.zeros(n, np.uint64),
    )  # fmt: skip


def folios(t: Target) -> dict[int, int]:
    """How many folios of each order a machine of the target has."""
    m = t.build(SETTING)[0]
    flags = np.asarray(m.frame)[:, frame.FLAGS]
    head = (frame.kind(flags) != frame.FREE) & (flags & frame.TAIL == 0)
    orders, counts = np.unique(frame.order(flags[head]), return_counts=True)
    return dict(zip(orders.tolist(), counts.tolist(), strict=True))


def held(t: Target) -> int:
    """Folios that are pinned."""
    m = t.build(SETTING)[0]
    if m.conditions is None:
        return 0
    fields, marks = conditions.unpack(np.asarray(m.conditions))
    assert ((fields[conditions.PINNED] > 0) == (marks & conditions.PIN_HELD > 0)).all()
    return int((fields[conditions.PINNED] > 0).sum())


@pytest.mark.parametrize("percent", [0, 25, 50, 75, 100])
@pytest.mark.parametrize("huge", [0, 2, 4])
def test_blocks_are_promoted_and_split_to_the_share(percent: int, huge: int) -> None:
    t = of_snapshot("app.npz", process(rest=0, huge=huge))
    assert t.thp == 25 * huge
    made = t.what_if(WhatIf(thp=percent))
    assert made.thp == percent
    want = percent // 25
    found = folios(made)
    assert (found.get(9, 0), found.get(0, 0)) == (want, (4 - want) * BLOCK)
    assert f"{percent} % of the pages are in THPs" in made.assumed[0]
    word = "split" if want < huge else "made"
    if want != huge:
        assert f"{abs(want - huge)} THPs {word} in [heap]: " in made.assumed[0]


def test_a_share_that_cannot_be_is_said_and_as_near_as_can_be() -> None:
    t = of_snapshot("app.npz", process(blocks=1, rest=512 - 1))
    made = t.what_if(WhatIf(thp=100))
    assert made.thp == 50
    assert made.assumed[0].endswith("in THPs, as near to 100 % as can be")
    # The share that was reached is one that is asked for and left alone.
    assert made.what_if(WhatIf(thp=50)).thp == 50


@pytest.mark.parametrize(
    ("rows", "flag"),
    [(slice(3, 4), F.FILE), (slice(0, 1), F.KSM), (slice(511, 512), F.ZERO)],
)
def test_one_page_of_another_kind_keeps_a_block(rows: slice, flag: F) -> None:
    s = process(blocks=2, rest=0)
    flags = s.flags.copy()
    flags[rows] |= np.uint32(flag.value)
    shared = s.flags.copy()
    shared[rows] &= ~np.uint32(F.EXCLUSIVE.value)
    hole = s.vpn.copy()
    hole[512:] += 1
    for changed in ({"flags": flags}, {"flags": shared}, {"vpn": hole}):
        s2 = dataclasses.replace(s, **changed)
        made, _ = resident.whatif.thps(s2, 0, 100)
        assert resident.whatif.share(made, 0) == 50, changed


def test_frames_of_promoted_blocks_are_their_own() -> None:
    s = process(blocks=3, rest=7)
    made, _ = resident.whatif.thps(s, 0, 66)
    assert len(np.unique(made.pfn)) == len(made)
    first = made.pfn[made.order == 9].reshape(-1, BLOCK)
    assert (first[:, 0] % BLOCK == 0).all()
    assert (np.diff(first, axis=1) == 1).all()
    back, _ = resident.whatif.thps(made, 0, 0)
    assert resident.whatif.share(back, 0) == 0
    assert (back.flags & np.uint32(F.HUGE_PMD.value) == 0).all()


@pytest.mark.parametrize("order", [2, 4, 8])
def test_folios_of_other_sizes(order: int) -> None:
    t = of_snapshot("app.npz", process(blocks=2, rest=6, huge=1))
    found = folios(t.what_if(WhatIf(folio=order)))
    left = 6 % (1 << order)
    assert found == {9: 1, order: (BLOCK + 6 - left) >> order} | (
        {0: left} if left else {}
    )
    w = resolve("memhog:4120k").what_if(WhatIf(thp=50, folio=order))
    assert folios(w)[9] == 1
    assert folios(w)[order] == (BLOCK + 6) >> order


@pytest.mark.parametrize("percent", [0.25, 1, 10, 50, 100])
def test_pins_are_spread_over_the_folios(percent: int) -> None:
    for t in (
        of_snapshot("a.npz", process(blocks=1, rest=488)),
        resolve("memhog:4000k"),
    ):
        n = folios(t)[0]
        made = t.what_if(WhatIf(pinned=percent))
        assert held(made) == math.floor(n * percent / 100)
        assert made.assumed[-1] == f"{percent} % of the folios are pinned"
        # Kept when sizes change afterwards, as along an axis of a sweep.
        both = made.what_if(WhatIf(thp=51))
        if percent >= 1:  # of fewer folios it may be less than one
            assert held(both) == sum(folios(both).values()) * percent // 100
        assert held(t) == 0
        with pytest.raises(
            TargetError, match=r"less than one of 1,000 folios; give 0\.1"
        ):
            held(t.what_if(WhatIf(pinned=0.0999)))


@pytest.mark.parametrize("text", ["-1", "100.1", "1e1", "0.00001", "", "5%", "nan"])
def test_a_percentage_that_is_none_is_told_the_right_ones(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="0 to 100, like 5"):
        options.percent(text)
    assert [options.percent(x) for x in ("0", "0.012", "100")] == [0, 0.012, 100]


def test_a_held_page_is_said_to_cost_what_the_two_calls_differ_in() -> None:
    counts = {"pgmigrate_fail": 4, "nr_tlb_remote_flush": 30}
    record = {
        "vmstat": counts, "time_ns": {"total": 9000}, "ipis_per_cpu": [0, 60]
    }  # fmt: skip
    free = {
        "vmstat": {"pgmigrate_fail": 0, "nr_tlb_remote_flush": 2},
        "time_ns": {"total": 1000}, "ipis_per_cpu": [0, 64],
    }  # fmt: skip
    assert pins._said(record, free) == (
        "; each takes 2 us longer than a page that moves, with 7 more flush requests and "
        "1 fewer IPIs"
    )


def test_pages_elsewhere_need_that_node() -> None:
    for t in (of_snapshot("app.npz", process()), resolve("memhog:1m")):
        made = t.what_if(WhatIf(place=2))
        assert made.nodes == 3
        assert set(n for n, pages in made.by_node.items() if pages) == {2}


def test_a_trace_does_not_know_what_is_resident() -> None:
    t = resolve(f"trace:{DATA / 'traces/lackey.txt'}")
    with pytest.raises(TargetError, match="not known of it; take a snapshot"):
        t.what_if(WhatIf(thp=50))
    assert t.what_if(WhatIf()) is t


def parsed(*args: str) -> argparse.Namespace:
    return app.parser().parse_args(args)


@pytest.mark.parametrize(
    "command",
    [
        ("migratepages", "memhog:1m", "0", "1"),
        ("sweep", "memhog:1m"),
        ("advise", "memhog:1m", "--p99", "1ms"),
    ],
)
def test_commands_take_them_for_any_target(command: tuple[str, ...]) -> None:
    options = ("--thp", "50", "--folio", "64k", "--pinned", "7", "--place", "1")
    args = parsed(*command, *options, "--threads", "3")
    assert (args.folio, args.pinned, args.place, args.threads) == (4, 7, 1, 3)
    args = parsed(*command, "--threads", "2", "--running", "1")
    with pytest.raises(whatif.Usage, match="choose one"):
        whatif.target(args, resolve("memhog:1m"), 8)
    with pytest.raises(SystemExit):
        parsed(*command, "--folio", "2m")


def test_threads_are_where_it_ran_and_then_the_lowest_others() -> None:
    args = parsed("migratepages", "memhog:1m", "0", "1", "--threads", "3")
    assert whatif.target(args, resolve("memhog:1m"), 8).running == (1, 2, 5)
    with pytest.raises(
        whatif.Usage, match="0 of 3 migrates, 2 are left; use --threads 2 or"
    ):
        whatif.target(args, resolve("memhog:1m"), 3)


def test_rows_of_an_axis_have_the_shares_that_can_be(tmp_path: Path) -> None:
    file = tmp_path / "app.npz"
    process(blocks=2, rest=1024 - 2).save(file)
    args = parsed("sweep", str(file), "--thp", "0,25,50,75,100", "--pinned", "1")
    s = sweepopts.sweep_of(args)
    assert s.grid.thp == (0, 25, 50, 75)
    plain = sweepopts.sweep_of(parsed("sweep", str(file), "--thp", "0,25,50,75,100"))
    assert s.stamp != plain.stamp
    args = parsed("migratepages", str(file), "0", "1", "--thp", "50", "--no-content")
    profile = machines.load("xeon-2s")
    made = whatif.target(args, resolve(str(file)), profile.cpus)
    assert shape.of(args, profile, made).setting.running
