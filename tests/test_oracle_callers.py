"""The oracle's callers: what each lists of every kind of page, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from oracle import Refused, SleepsForever, play

Document = dict[str, Any]
# Columns of the table of 16.10, and releases that stand for each.
ALL = ("6.1", "6.12", "7.3")
COLUMNS = {
    "compaction to 6.8": ("compaction", ("6.1", "v4", "6.8")),
    "compaction": ("compaction", ("6.10", "7.3")),
    "cma": ("cma", ALL),
    "offline": ("memory_offline", ALL),
    "hints to 6.9": ("numa_balancing", ("6.1", "6.6", "6.8")),
    "hints": ("numa_balancing", ("6.10", "6.12", "batch-copy")),
    "demotion": ("demotion", ALL),
    "damon": ("damon", ("6.12", "7.3")),
    "longterm": ("longterm_pin", ALL),
    "soft offline": ("soft_offline", ALL),
}
# M moves, F fails, W is waited for, - is skipped, R is dropped, X is split first.
# compaction (to 6.8, later), cma, offline, hints (to 6.9, later), demotion, damon,
# longterm pin, soft offline
ROWS = {
    "anon with extra_ref": "- - - F - F F F F F",
    "anon pinned": "- - - F - - F F F F",
    "shmem with extra_ref": "F F F F F F F F F F",
    "file with extra_ref": "F F F F F F F F F F",
    "swapcache": "M M M M - M M M M M",
    "ksm": "M M M M - - M M - M",
    "cow": "M M M M - - M M - M",
    "mlocked": "M M M M M M - M M M",
    "locked": "W W W W F F - - W W",
    "writeback": "- - W W F F - F W W",
    "clean file": "M M R M M M M M M M",
    "read-only file": "M M R M - - M M M M",
    "private file": "M M R M - M M M M M",
    "dirty file": "M M M M - - M M M M",
    "dirty and locked": "- - W W - - - - W W",
    "64k": "- M M M - M M M M X",
    "2m": "- - M M M M M M M X",
    "hugetlb": "- - M M - - - - M M",
    "movable_ops": "M M M M - - - - - M",
    "isolated": "- - - - - - - - - -",
}
REGIONS: dict[str, Document] = {
    "anon with extra_ref": {"state": "extra_ref"},
    "anon pinned": {"state": "pinned"},
    "shmem with extra_ref": {"kind": "shmem", "state": "extra_ref"},
    "file with extra_ref": {"kind": "file", "state": "extra_ref"},
    "swapcache": {"kind": "swapcache"},
    "ksm": {"kind": "ksm"},
    "cow": {"process": ["a", "b"]},
    "mlocked": {"mlocked": True},
    "locked": {"state": "locked"},
    "writeback": {"state": "writeback"},
    "clean file": {"kind": "file"},
    "read-only file": {"kind": "file", "writable": False},
    "private file": {"kind": "file", "shared": False},
    "dirty file": {"kind": "file", "state": "dirty"},
    "dirty and locked": {"kind": "file", "state": ["dirty", "locked"]},
    "64k": {"size": "64k", "folio": "64k"},
    "2m": {"size": "2m", "folio": "2m"},
    "hugetlb": {"size": "2m", "kind": "hugetlb"},
    "movable_ops": {"kind": "movable_ops"},
    "isolated": {"state": "isolated"},
}


def document(call: Document, *regions: Document, **machine: Any) -> Document:
    """Two processes on CPUs 1 and 2; a region's `state` holds for its `pages`."""
    doc: Document = {
        "machine": {"nodes": 3, "cpus": 4, "node_size": "64m", **machine},
        "process": [{"name": "a", "running": [1]}, {"name": "b", "running": [2]}],
        "region": [],
        "condition": [],
        "call": [{"syscall": "kernel", "process": "a", "from": "0", "to": "1", **call}],
    }
    for i, region in enumerate(regions):
        region = {"process": ["a"], "name": f"r{i}", "size": "4k", **region}
        states, until = region.pop("state", []), region.pop("until", "forever")
        pages = region.pop("pages", "all")
        for state in [states] if isinstance(states, str) else states:
            made = {"region": region["name"], "state": state, "pages": pages}
            doc["condition"].append({**made, "until": until})
        doc["region"].append(region)
    return doc


def run(kernel: str, doc: Document) -> Document:
    return play(doc, kernel).records[0]


def counts(record: Document) -> tuple[int, ...]:
    """Lists, pages moved, pages failed."""
    vmstat = record["vmstat"]
    moved, failed = vmstat["pgmigrate_success"], vmstat["pgmigrate_fail"]
    return record["lists"], moved, failed


@pytest.mark.parametrize("row", ROWS)
def test_table_of_what_is_listed(row):
    letters = zip(ROWS[row].split(), COLUMNS.values(), strict=True)
    pages = {"64k": 16, "2m": 512, "hugetlb": 512}.get(row, 1)
    for letter, (caller, kernels) in letters:
        # Each call of CMA's counts the page again.
        tries = 5 if caller == "cma" else 1
        wanted = {
            "M": (1, pages, 0),
            "W": (1, pages, 0),
            "X": (pages, pages, 0),
            "F": (tries, 0, pages * tries),
            "-": (0, 0, 0),
            "R": (1, 0, 0),
        }[letter]
        for kernel in kernels:
            record = run(kernel, asked(letter, caller, row, kernel))
            where = f"{row}, {caller} of {kernel}"
            assert counts(record) == wanted, where
            assert record["reclaimed"] == (pages if letter == "R" else 0), where


def asked(letter: str, caller: str, row: str, kernel: str) -> Document:
    """A cell's document; what is waited for is seen to be waited for."""
    region, call = REGIONS[row], {"caller": caller}
    if letter != "W":
        return document(call, region)
    with pytest.raises(SleepsForever):
        play(document(call, region), kernel)
    return document(call, {**region, "until": "waited"})


@pytest.mark.parametrize("kernel", ["6.1", "6.2", "v4", "6.3", "6.8", "6.10"])
def test_a_release_without_the_caller_refuses(kernel):
    with pytest.raises(Refused, match="no caller 'damon'"):
        play(document({"caller": "damon"}, {}), kernel)


# Compaction -------------------------------------------------------------------


def sizes(kernel: str, call: Document, *regions: Document, **machine: Any) -> list[int]:
    """Pages unmapped in each list of one run, seen from between the phases."""
    left: list[int] = []

    def between(world, call, index, phase):
        if phase == "flush":
            entries = world.processes["a"].entries.values()
            left.append(sum(e.nr for e in entries if e.state == "migration"))

    play(document(call, *regions, **machine), kernel, between=between)
    return left


@pytest.mark.parametrize(
    ("order", "lists"),
    [
        (3, [32] * 16),
        (5, [32] * 16),
        (6, [32, 480]),
        (9, [32, 480]),
        (-1, [32, 480]),
    ],
)
def test_the_wanted_order_decides_how_a_pageblock_is_cut(order, lists):
    call = {"caller": "compaction", "order": order}
    assert sizes("6.12", call, {"size": "2m"}) == lists


def test_direct_compaction_ends_lists_at_its_blocks():
    call = {"caller": "compaction", "mode": "async", "order": 3}
    assert sizes("6.12", call, {"size": "256k"}) == [8] * 8


@pytest.mark.parametrize("kernel", ["6.2", "6.3", "7.1"])
def test_one_skipped_page_saves_its_block(kernel):
    """The first list has gone; what the round had isolated is put back uncounted."""
    call = {"caller": "compaction", "mode": "async"}
    held = {"size": "4m", "state": "extra_ref", "pages": [100]}
    record = run(kernel, document(call, held))
    assert counts(record) == (3, 32 + 512, 0)
    assert record["nodes_after"]["0"] == 512 - 32


@pytest.mark.parametrize(
    ("kernel", "lists", "moved"), [("6.2", 3, 159), ("6.3", 4, 255), ("7.1", 6, 255)]
)
def test_a_failed_page_of_direct_compaction(kernel, lists, moved):
    """Blocks of 128, of which the first fails in its list of 32.

    6.2 leaves its other 96 pages where they are; later they are one list, at once.
    The second block: 32 and 96 while the round's own start is remembered (to 6.6), four
    times 32 where the pageblock's is, which lies in another block.
    """
    call = {"caller": "compaction", "mode": "async", "order": 7}
    locked = {"size": "1m", "state": "locked", "pages": [5]}
    assert counts(run(kernel, document(call, locked))) == (lists, moved, 1)


@pytest.mark.parametrize(("kernel", "lists"), [("6.3", 17), ("6.5", 32)])
def test_a_failure_at_the_end_of_a_pageblock(kernel, lists):
    """6.3 finishes the next pageblock instead, in one list; from 6.5 it begins anew."""
    call = {"caller": "compaction", "direct": True, "order": 5}
    held = {"size": "4m", "kind": "shmem", "state": "extra_ref", "pages": [511]}
    record = run(kernel, document(call, held))
    assert counts(record) == (lists, 1023, 1)


@pytest.mark.parametrize("kernel", ["6.3", "6.5"])
def test_a_block_that_ends_in_a_hole(kernel):
    """The scanner stands behind the block of 64, not behind the pageblock."""
    call = {"caller": "compaction", "mode": "async", "order": 6}
    doc = document(call, {"size": "4m", "state": "locked", "pages": [5]})
    hole = {"region": "r0", "state": "untouched", "pages": list(range(16, 512))}
    doc["condition"].append(hole)
    # One list of 16, and sixteen of 32 in the other pageblock.
    assert counts(run(kernel, doc)) == (17, 527, 1)


def test_large_folios_move_below_the_wanted_order():
    call = {"caller": "compaction", "order": 4}
    regions = ({"size": "64k", "folio": "64k"}, {"size": "32k", "folio": "32k"})
    assert counts(run("6.10", document(call, *regions))) == (1, 8, 0)


def test_unevictable_pages_may_be_off_limits():
    region = {"size": "16k", "mlocked": True}
    call = {"caller": "compaction"}
    assert counts(run("6.3", document(call, region))) == (1, 4, 0)
    doc = document(call, region, compact_unevictable=0)
    assert counts(run("6.3", doc)) == (0, 0, 0)


@pytest.mark.parametrize(("kernel", "moved"), [("6.8", 1), ("6.10", 0)])
def test_unevictable_page_cache_is_looked_at_under_its_lock(kernel, moved):
    region = {"kind": "shmem", "mlocked": True, "state": "locked", "until": "waited"}
    for caller in ("cma", "compaction"):
        mode = {"mode": "sync"} if caller == "compaction" else {}
        record = run(kernel, document({"caller": caller, **mode}, region))
        assert counts(record) == (moved, moved, 0)


@pytest.mark.parametrize(
    ("kernel", "caller", "stays"),
    [
        ("6.3", "compaction", [0, 1]),  # from the highest page down
        ("6.3", "cma", [0, 1]),
        ("6.3", "memory_offline", [6, 7]),
        ("6.12", "memory_offline", [0, 1]),
        ("6.12", "damon", [0, 1]),
        ("7.1", "demotion", [0, 1]),
        ("6.3", "longterm_pin", [6, 7]),
        ("6.3", "soft_offline", [6, 7]),
    ],
)
def test_which_pages_stay_when_memory_ends(kernel, caller, stays):
    # No other node takes the rest, where a caller would fall back to it.
    free = {"0": "0k", "1": "24k", "2": "0k"}
    doc = document({"caller": caller}, {"size": "32k"}, free=free)
    world = play(doc, kernel).world
    entries = world.processes["a"].entries.values()
    left = [e.vpn - 0x10000 for e in entries if e.folio.node == 0]
    assert sorted(left) == stays


# The others -------------------------------------------------------------------


def test_cma_leaves_the_rest_of_the_range():
    """The list with a page that stays is the last; each call counts the page again."""
    first = {"size": "160k", "kind": "shmem", "state": "extra_ref", "pages": [3]}
    record = run("6.12", document({"caller": "cma"}, first, {"size": "16k"}))
    assert counts(record) == (5, 31, 5)
    assert (record["ret"], record["caller_errno"]) == (1, "EBUSY")
    assert record["nodes_after"] == {"0": 13, "1": 31, "2": 0}


def test_cma_counts_a_held_file_page_without_flushing_it_again():
    region = {"size": "16k", "kind": "file", "state": "extra_ref", "pages": [1]}
    record = run("6.12", document({"caller": "cma"}, region))
    assert counts(record) == (5, 0, 5)
    assert (record["reclaimed"], record["caller_errno"]) == (3, "EBUSY")
    assert record["vmstat"]["nr_tlb_remote_flush"] == 1
    assert record["nodes_after"] == {"0": 0, "1": 0, "2": 0}


def test_offline_puts_pool_pages_last():
    """From 6.12: memory ends among the small pages, but serial order is by address."""
    regions = ({"size": "2m", "kind": "hugetlb"}, {"size": "16k"})
    doc = document({"caller": "memory_offline"}, *regions, free={"1": "8k"})
    assert run("6.2", doc)["nodes_after"] == {"0": 2, "1": 514, "2": 0}


def test_reclaim_never_mixes_its_lists():
    """32 of anon, 32 of file, then the rest of each."""
    regions = ({"size": "160k"}, {"size": "160k", "kind": "file"})
    call = {"caller": "demotion"}
    assert sizes("6.12", call, *regions) == [32, 32, 8, 8]
    assert sizes("6.12", call, *regions, lru_gen=True) == [40, 40]


def test_reclaim_passes_over_young_pages():
    region = {"size": "160k", "state": "young", "pages": [0, 1, 39]}
    record = run("6.12", document({"caller": "demotion"}, region))
    assert counts(record) == (2, 37, 0)


@pytest.mark.parametrize(("kernel", "nodes"), [("7.0", (1, 4, 3)), ("7.1", (4, 4, 0))])
def test_demotion_forgets_its_tiers(kernel, nodes):
    """Once a page has gone to the target, fallbacks may go anywhere; 7.1 mends it."""
    doc = document({"caller": "demotion"}, {"size": "32k"}, free={"1": "16k"})
    doc["machine"]["free"]["2"] = "12k"
    record = run(kernel, doc)
    assert tuple(record["nodes_after"].values()) == nodes


def test_demotion_stays_in_its_tiers_until_a_page_has_gone_there():
    doc = document({"caller": "demotion"}, {"size": "32k"}, free={"1": "0k"})
    record = run("6.12", doc)
    assert (record["errno"], record["nodes_after"]["0"]) == ("ENOMEM", 8)


def test_damon_makes_a_list_for_each_node():
    regions = ({"size": "16k"}, {"size": "16k", "node": 2}, {"size": "16k"})
    call = {"caller": "damon", "from": "0,2"}
    assert sizes("6.12", call, *regions) == [8, 4]


@pytest.mark.parametrize(
    ("kernel", "allocs", "after"),
    [("6.12", 16, (4, 12)), ("6.16", 16, (4, 12)), ("6.17", 1, (0, 16))],
)
def test_damon_splits_where_no_other_node_is_allowed(kernel, allocs, after):
    """Up to 6.16 until the first piece has got to the target (16.7)."""
    region = {"size": "64k", "folio": "64k"}
    record = run(kernel, document({"caller": "damon"}, region, free={"1": "16k"}))
    nodes = record["nodes_after"]
    assert (record["ret"], record["allocs"]) == (0, allocs)
    assert (nodes["1"], nodes["2"]) == after


def test_longterm_pin_tells_of_no_memory_whatever_the_reason():
    region = {"size": "16k", "state": "extra_ref", "pages": [2]}
    record = run("6.12", document({"caller": "longterm_pin"}, region))
    assert (record["ret"], record["caller_errno"]) == (1, "ENOMEM")


# Hint faults ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "kernels"),
    [
        # What is taken, by release: 6.6, 6.8, 6.12, 6.19.
        ({"kind": "shmem", "state": "pinned"}, "F F F -"),
        ({"kind": "shmem", "process": ["a", "b"]}, "M M M M"),
        ({"kind": "file", "process": ["a", "b"]}, "M M M M"),
        ({"kind": "file", "process": ["a", "b"], "exec": True}, "- - - -"),
        ({"kind": "file", "exec": True}, "M M M M"),
        ({"prot_none": True}, "- - - -"),
        ({"migratable": False}, "- - - -"),
        ({"size": "2m", "folio": "2m", "process": ["a", "b"]}, "- M M -"),
        (
            {"size": "2m", "folio": "2m", "kind": "shmem", "process": ["a", "b"]},
            "- M M M",
        ),
        ({"size": "2m", "folio": "2m", "state": "pinned"}, "F F F -"),
        ({"size": "2m", "folio": "2m", "state": "extra_ref"}, "F F F F"),
        ({"size": "64k", "folio": "64k", "kind": "shmem"}, "- - M M"),
        ({"node": 1}, "- - - -"),
    ],
)
def test_which_pages_fault(region, kernels):
    releases = ("6.6", "6.8", "6.12", "6.19")
    call = {"caller": "numa_balancing", "from": "0,1"}
    for kernel, letter in zip(releases, kernels.split(), strict=True):
        lists, moved, failed = counts(run(kernel, document(call, region)))
        wanted = {"M": (1, True, False), "F": (1, False, True), "-": (0, False, False)}
        found = (lists, moved > 0, failed > 0)
        assert found == wanted[letter], f"{region}, {kernel}"


def test_a_hint_fault_leaves_an_ordinary_entry():
    region = {"size": "8k", "state": "extra_ref", "pages": [0]}
    world = play(document({"caller": "numa_balancing"}, region), "6.12").world
    assert not any(e.hint for e in world.processes["a"].entries.values())


# Soft offline -----------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "flushes"), [("6.7", 32), ("6.8", 17)])
def test_soft_offline_of_a_large_file_drops_clean_pieces(kernel, flushes):
    """Nothing maps the pieces any more; dirty ones move without a flush."""
    for state, lists in (([], 0), ("dirty", 16)):
        region = {"size": "64k", "folio": "64k", "kind": "file", "state": state}
        record = run(kernel, document({"caller": "soft_offline"}, region))
        assert counts(record) == (lists, lists, 0)
        flush = record["vmstat"]["nr_tlb_remote_flush"]
        assert flush == (16 if flushes == 32 else 1)
        assert sum(record["nodes_after"].values()) == 0


def test_soft_offline_gives_up_where_the_split_fails():
    region = {"size": "64k", "folio": "64k", "state": "extra_ref"}
    record = run("6.12", document({"caller": "soft_offline"}, region))
    assert counts(record) == (0, 0, 0)
    assert record["caller_errno"] == "EBUSY"


def test_soft_offline_sleeps_before_it_lists():
    region = {"state": ["locked", "writeback"], "until": "waited"}
    record = run("6.2", document({"caller": "soft_offline"}, region))
    assert counts(record) == (1, 1, 0)
    assert record["allocs"] == 1
