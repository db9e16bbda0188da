"""Rows of releases, the names that ask for them, and rules that files cannot show."""

import re
from pathlib import Path

import numpy as np
import pytest
from jaxmig import RELEASES, Builder, folios_on, migrate_pages
from jaxmig.calls import syscalls
from jaxmig.calls.syscalls import Area, Session, Space
from jaxmig.linux import releases
from jaxmig.linux.releases import BOTH, LATEST, expand, release
from jaxmig.report import tracefs
from jaxmig.report.timed import Traced
from jaxmig.sources.scenario import ScenarioError, load, loads
from jaxmig.state import frame
from jaxmig.tools.player import play

SCENARIOS = Path(__file__).parent / "scenarios"
NUMBERED = [name for name in RELEASES if name not in ("v4", "batch-copy")]


def test_numbered_releases_stand_in_the_order_of_time() -> None:
    # 6.18 is a stable release, later than 6.18.0.
    versions = [tuple(map(int, name.split("."))) for name in NUMBERED]
    swapped = versions.index((6, 18, 0))
    versions[swapped : swapped + 2] = versions[swapped : swapped + 2][::-1]
    assert versions == sorted(versions)
    assert len(versions) == 22
    assert NUMBERED[-1] == LATEST


def test_every_row_says_where_it_is_from() -> None:
    inferred = [n for n, r in RELEASES.items() if r.source.startswith("inferred")]
    assert inferred == ["6.15", "6.16", "6.18.0", "7.2", "7.3"]
    assert all(
        re.match("read|inferred|the posting", r.source) for r in RELEASES.values()
    )
    assert all(r.name == name for name, r in RELEASES.items())


def test_lists_of_releases() -> None:
    assert expand(["both"]) == BOTH == ("6.2", "6.3")
    assert expand(["latest", "7.3", "6.3", "both"]) == ("7.3", "6.3", "6.2")
    assert expand(["6.1-latest"]) == tuple(n for n in NUMBERED if n != "6.18.0")
    assert expand(["6.8-6.12", "v4"]) == ("6.8", "6.10", "6.12", "v4")
    assert expand(["6.18-6.18", "batch-copy"]) == ("6.18", "batch-copy")
    assert release("latest") is RELEASES["7.3"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "6.9",
            "of it only the callers of migrate_pages() were read; the nearest is 6.8",
        ),
        ("6.9", "compaction takes large folios and CMA flushes by 31, as in 6.10"),
        ("6.11", "only the callers of migrate_pages() were read; the nearest is 6.10"),
        ("6.11", "6.10, which has no DAMON; 6.12 has"),
        ("6.99", "not modelled; one of 6.1"),
        ("7.0-6.3", "write 6.3-7.0"),
        ("6.3-v4", "'v4'"),
        ("6.9-7.0", "'6.9'"),
        ("", "not modelled"),
    ],
)
def test_what_names_no_release_is_refused(word: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        expand([word])
    with pytest.raises(ScenarioError, match=":1: kernel"):
        loads(f'kernel = ["6.3", "{word}"]')


def test_scenario_files_take_the_same_words() -> None:
    given = loads('kernel = ["6.16-6.18", "latest"]').kernels
    assert given == ("6.16", "6.17", "6.18", "7.3")
    named = loads('kernel = ["6.17-6.18.0"]').kernels
    assert named == ("6.17", "6.18.0")


def test_a_release_differs_from_the_one_before_in_what_its_row_says() -> None:
    def on(name: str) -> set[str]:
        row = vars(RELEASES[name])
        return {key for key, value in row.items() if value is True}

    assert on("6.4") - on("6.3") == {"checks_pte_accessible"}
    assert on("6.13") == on("6.12")
    assert on("6.14") - on("6.13") == {"keeps_mask"}
    new = {"pieces_ascend", "invlpgb", "unmap_flushes_hints", "knows_sharers"}
    new |= {"gives_up_dirty"}
    assert on("6.15") - on("6.14") == new
    assert on("6.16") - on("6.15") == {
        "counts_unisolated_ptes",
        "splits_one_shared_pmd",
    }
    assert on("6.18.0") - on("6.17") == {"moves_freed_driver_pages"}
    assert on("6.18") - on("6.18.0") == {"requeues_deferred"}
    assert on("6.19") - on("7.0") == {"splits_one_shared_pmd"}
    assert on("7.0") - on("6.19") == {"unmaps_file_runs"}
    assert on("7.1") == on("7.2") == on("7.3")
    assert set(releases.UNREAD).isdisjoint(RELEASES)


def test_traces_name_a_cpu_that_a_flush_takes_off_the_mask() -> None:
    traced: list[Traced] = []
    scenario = load(SCENARIOS / "mask_trimmed.toml")
    play(scenario, kernels=["7.3"], trace=traced.append, logs=True)
    lines = [line for line in tracefs.text(traced) if "[000]" in line]
    told = [
        line.split("tlb_flush: ")[1].strip() for line in lines if "tlb_flush" in line
    ]
    # In the first call CPU 0 has nobody to tell.
    wrong = "pages:0 reason:remote wrong CPU (5)"
    assert told == ["pages:0 reason:remote shootdown (1)", wrong]


def test_releases_that_poison_ends_are_refused() -> None:
    scenario = load(SCENARIOS / "poisoned.toml")
    with pytest.raises(ScenarioError, match=r"no release before 6\.12 survives"):
        play(scenario, kernels=["6.10"])
    b = Builder(nodes=2, cpus=2)
    b.condition(b.mmap(b.process("p"), 8), "poisoned", [3])
    m = b.build(content=False)
    with pytest.raises(ValueError, match="a page is poisoned"):
        migrate_pages(m, folios_on(m, node=0), 1, kernel="6.3")
    # What an engine makes of such a page nobody has read.
    with pytest.raises(ScenarioError, match="let the CPU copy"):
        play(scenario, kernels=["batch-copy"], copy="dma:2")


def test_what_does_not_pass_takes_no_time() -> None:
    text = (SCENARIOS / "poisoned.toml").read_text()
    with pytest.raises(ScenarioError, match="poisoned does not pass; drop this line"):
        loads(text.replace('"poisoned"', '"poisoned"\nuntil = "waited"'))


def twice(kernel: str, folios: int) -> int:
    """What migrate_pages(2) returns where a process maps folios of 16 KiB twice."""
    b = Builder(nodes=2, cpus=4, tlb=(1, 1), huge_tlb=(1, 1))
    p = b.process("p", running=[1])
    r = b.mmap(p, 4 * folios, order=2, kind="file", mapped_twice=True)
    m = b.build(content=False)
    areas = [
        Area(4 * folios * i, 4 * folios, at[p.number], anonymous=False, again=i > 0)
        for i, at in enumerate((r.first_pte, r.again_pte))
    ]
    s = Session(m, kernel)
    ret = syscalls.migrate_pages(s, Space(areas), frozenset({0}), frozenset({1}))
    assert s.counts["pgmigrate_success"] == 4 * folios
    return ret


@pytest.mark.parametrize(
    ("kernel", "returned"),
    [("6.6", 0), ("6.8", 3), ("6.15", 3), ("6.16", 12), ("7.3", 12)],
)
def test_a_second_area_finds_isolated_folios(kernel: str, returned: int) -> None:
    # From 6.16 on each of their PTEs counts.  Only the folio that was met last is passed
    # over, and none is met twice in a row.
    assert twice(kernel, 3) == returned


@pytest.mark.parametrize(("kernel", "returned"), [("6.6", 0), ("6.7", 10), ("7.3", 10)])
def test_migration_entries_count_as_failures(kernel: str, returned: int) -> None:
    # kernel-spec-7x 15.3 no. 11: another call is under way, on another node at that.
    b = Builder(nodes=2, cpus=4, tlb=(1, 1), huge_tlb=(1, 1))
    p = b.process("p", running=[1])
    regions = [b.mmap(p, 10, node) for node in (0, 1)]
    m = b.build(content=False)
    inside, _ = migrate_pages(
        m, folios_on(m, node=1), 0, kernel=kernel, stop=(0, "unmap")
    )
    areas = [Area(r.start >> 12, 10, r.first_pte[p.number]) for r in regions]
    s = Session(inside, kernel)
    ret = syscalls.migrate_pages(s, Space(areas), frozenset({0}), frozenset({1}))
    assert ret == returned
    assert s.counts["pgmigrate_success"] == 10


@pytest.mark.parametrize("log", [0, 1])
def test_a_poisoned_page_fails_in_windows_and_in_order(log: int) -> None:
    b = Builder(nodes=2, cpus=4, tlb=(1, 1), huge_tlb=(1, 1))
    b.condition(b.mmap(b.process("p", running=[1, 2, 3]), 10), "poisoned", [3])
    m = b.build(content=False)
    _, result = migrate_pages(m, folios_on(m, node=0), 1, kernel="7.3", log=log)
    assert int(result.in_order) == (10 if log else 0)
    counts = result.events.counts()
    # A batch, and the page alone: an allocation and a flush each, of three CPUs.
    assert (result.ret, counts["pgmigrate_success"], counts["allocs"]) == (1, 9, 11)
    assert result.vmstat["nr_tlb_remote_flush_received"] == 6


@pytest.mark.parametrize("untouched", ["untouched", "zero_page"])
def test_what_was_never_touched_is_neither_zeros_nor_poison(untouched: str) -> None:
    """A call that gives up frees pieces of zeros that nobody maps; these are none."""
    b = Builder(nodes=2, cpus=4, tlb=(1, 1), huge_tlb=(1, 1))
    r = b.mmap(b.process("p", running=[1]), 12, order=2)
    for state, pages in ((untouched, [0]), ("zero", None), ("poisoned", [1])):
        b.condition(r, state, pages)
    m = b.build(content=False)
    flags = np.asarray(m.frame)[:, frame.FLAGS]
    found = [int((flags & bit != 0).sum()) for bit in (frame.ZERO, frame.HURT)]
    assert found == [8, 0]
    assert not m.geometry.poisoned  # else no release before 6.12 plays it


def test_a_trace_shows_no_return_of_pieces_of_zeros() -> None:
    traced: list[Traced] = []
    scenario = load(SCENARIOS / "zero_pieces.toml")
    play(scenario, kernels=["7.3"], trace=traced.append, logs=True)
    text = list(tracefs.text(traced[:1]))
    back = [line for line in text if "remove_migration_pte" in line]
    # 256 pieces at once and again after their move; the THP that is moved whole.
    assert len(back) == 2 * 256 + 1
