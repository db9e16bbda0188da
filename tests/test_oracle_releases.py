"""The oracle's releases: what no scenario file can show, and which releases there are."""

from __future__ import annotations

import pytest
from oracle import RELEASES, Refused, expand, play
from test_oracle_callers import counts, document, run

MIGRATE = {"syscall": "migrate_pages"}
TOKEN = 7


def test_ranges_name_numbered_rows():
    assert expand("6.1-6.4") == ["6.1", "6.2", "6.3", "6.4"]
    assert expand("6.17-7.0,latest") == ["6.17", "6.18", "6.19", "7.0", "7.3"]
    assert expand(["batch-copy", "6.18.0", "both"]) == [
        *("batch-copy", "6.18.0", "6.2", "6.3")
    ]


@pytest.mark.parametrize("kernel", ["6.9", "6.11", "7.4", "5.10"])
def test_a_release_that_nobody_has_read_is_refused(kernel):
    with pytest.raises(ValueError, match="no row for kernel"):
        play(document(MIGRATE, {}), kernel)


@pytest.mark.parametrize(("kernel", "interrupts"), [("6.13", 0), ("6.14", 1)])
def test_a_cpu_that_ran_another_process(kernel, interrupts):
    """It stays in the mask from 6.14, until the first flush of a PMD asks it to go."""

    def switch(world):
        world.store(2, "a", 0x10000, TOKEN)
        assert world.processes["a"].cpumask == {1, 2}
        world.store(2, "b", 0x10000 + 1024, TOKEN)

    doc = document(MIGRATE, {"size": "4m", "folio": "2m"}, {"process": ["b"]})
    record = play(doc, kernel, prepare=switch).records[0]
    assert record["ipis_per_cpu"] == [0, 2, interrupts, 0]


@pytest.mark.parametrize(("kernel", "refs"), [("6.8", 1), ("6.10", 512)])
def test_what_the_page_cache_holds_of_a_hugetlb_page(kernel, refs):
    """A file's page counts as one, later as its 512; an anonymous one is in no cache."""
    pool = {"size": "2m", "kind": "hugetlb"}
    doc = document(MIGRATE, {**pool, "process": ["a", "b"]}, pool)
    world = play(doc, kernel).world
    folios = {id(e.folio): e.folio for e in world.processes["a"].entries.values()}
    assert [f.refcount for f in folios.values()] == [2 + refs, 1]
    # Pictures have one reference of the cache, whatever the release.
    assert [f["refcount"] for f in world.snapshot()["folios"]] == [3, 2]


@pytest.mark.parametrize(("kernel", "ret"), [("6.6", 0), ("6.7", 3)])
def test_migration_entries_that_a_scan_meets(kernel, ret):
    """Left by somebody else: from 6.7 each adds one to migrate_pages(2)'s result."""

    def leave(world):
        for entry in list(world.processes["a"].entries.values())[:3]:
            entry.state = "migration"

    record = play(document(MIGRATE, {"size": "32k"}), kernel, prepare=leave).records[0]
    assert record["ret"] == ret
    assert record["vmstat"]["pgmigrate_success"] == 5


def test_gigantic_pages_are_folios_of_their_own():
    region = {"size": "1g", "folio": "1g", "kind": "hugetlb"}
    record = run("6.12", document(MIGRATE, region, node_size="2g"))
    assert record["vmstat"]["pgmigrate_success"] == 1 << 18
    assert (record["allocs"], record["vmstat"]["nr_tlb_remote_flush"]) == (1, 1)
    # CMA cannot make room for one, and puts back what it had isolated.
    cma = document({"caller": "cma"}, {"size": "16k"}, region, node_size="2g")
    record = run("6.12", cma)
    assert (*counts(record), record["errno"]) == (0, 0, 0, "ENOMEM")
    assert counts(run("6.12", document({"caller": "compaction"}, region)))[0] == 0


# Shared PMDs -----------------------------------------------------------------

THP = {"process": ["a", "b"], "size": "2m", "folio": "2m"}


@pytest.mark.parametrize(("kernel", "lists"), [("6.15", 512), ("6.17", 511)])
def test_soft_offline_splits_one_pmd_a_try(kernel, lists):
    """The first page's try reaches one PMD and is given up; the second page's works."""
    record = run(kernel, document({"caller": "soft_offline"}, THP))
    assert counts(record) == (lists, lists, 0)
    assert record["caller_errno"] == (None if lists == 512 else "EBUSY")


@pytest.mark.parametrize(
    ("kernel", "thps", "flushes"), [("6.15", 0, 3), ("6.17", 1, 3)]
)
def test_a_partially_mapped_folio_that_two_processes_map(kernel, thps, flushes):
    """Split before all else, or, as only one PMD is reached, migrated whole.

    6.15: two PMDs and the pieces.  6.17: the PMD of the failed split, then the other
    one, then what was put off of the first process.
    """
    record = run(
        kernel, document({"mode": "async"}, {**THP, "state": "partially_mapped"})
    )
    vmstat = record["vmstat"]
    assert vmstat["pgmigrate_success"] == 512
    assert vmstat["thp_migration_success"] == thps
    assert vmstat["nr_tlb_remote_flush"] == flushes


@pytest.mark.parametrize(("kernel", "ret"), [("6.16", 512), ("6.18", 1)])
def test_a_thp_whose_pmd_was_split_counts_by_ptes(kernel, ret):
    """The first call fails for want of memory and leaves PTEs to the first process."""
    doc = document(MIGRATE, {**THP, "state": "huge_dst_unavailable"})

    def isolate(world, call):
        for folio in {id(e.folio): e.folio for e in entries(world)}.values():
            folio.isolated = True

    def entries(world):
        return list(world.processes["a"].entries.values())

    doc["call"].append(dict(doc["call"][0]))
    if kernel == "6.18":
        doc["condition"] = []
        doc["call"][0] = {**doc["call"][0], "from": "2"}
    records = play(doc, kernel, after=isolate).records
    assert records[1]["ret"] == ret


# Poison, zeros -------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [k for k in RELEASES if k != "batch-copy"])
def test_poison_is_refused_where_the_copy_cannot_fail(kernel):
    doc = document(MIGRATE, {"state": "poisoned"})
    if RELEASES.index(kernel) < RELEASES.index("6.12"):
        with pytest.raises(Refused, match="poisoned"):
            play(doc, kernel)
    else:
        assert run(kernel, doc)["ret"] == 1


def test_pieces_keep_their_poison():
    region = {"size": "16k", "folio": "16k", "state": "poisoned", "pages": [2]}
    doc = document(MIGRATE, region)
    doc["condition"].append(
        {"region": "r0", "state": "huge_dst_unavailable", "pages": [0]}
    )
    record = run("6.12", doc)
    assert counts({**record, "lists": 1}) == (1, 3, 1)


def test_offline_unmaps_poisoned_pages():
    region = {"size": "16k", "state": "poisoned", "pages": [2]}
    record = run("6.12", document({"caller": "memory_offline"}, region))
    assert counts(record) == (1, 3, 0)
    assert record["nodes_after"] == {"0": 0, "1": 3, "2": 0}


def test_soft_offline_of_pieces_without_contents():
    """The split frees the others; the page in hand is freed under its own migration."""
    region = {"size": "64k", "folio": "64k", "state": "zero"}
    record = run("6.12", document({"caller": "soft_offline"}, region))
    assert (*counts(record), record["allocs"]) == (1, 1, 0, 0)


def test_memory_of_zero_pieces_comes_back():
    region = {"size": "64k", "folio": "64k", "state": ["zero", "huge_dst_unavailable"]}
    world = play(document(MIGRATE, region), "6.12").world
    assert world.free[0] == world.free[1] == (64 << 20) // 4096


# batch-copy ----------------------------------------------------------------------


def test_eligible_folios_move_first():
    """An extra reference keeps a folio out of the sweep; so is a driver's page."""
    moved = []

    def between(world, call, index, phase):
        if phase == "remap":
            entries = world.processes["a"].entries.values()
            left = {e.vpn - 0x10000 for e in entries if e.folio.node == 0}
            moved.extend(sorted(set(range(8)) - left - set(moved)))

    held = {"size": "24k", "state": "extra_ref", "until": "attempt:2", "pages": [1]}
    doc = document({"mode": "async"}, held, {"size": "8k", "kind": "movable_ops"})
    doc["machine"]["copy"] = "dma:2"
    record = play(doc, "batch-copy", between=between).records[0]
    assert moved == [0, 2, 3, 4, 5, 6, 7, 1]
    assert record["copies_wasted"] == 0
    # Without an engine nothing differs from 6.18.
    doc["machine"]["copy"] = "cpu"
    bare = play(doc, "batch-copy").records[0]
    assert bare == {**play(doc, "6.18").records[0], "kernel": "batch-copy"}


def test_locked_buffers_waste_a_copy():
    region = {"size": "32k", "kind": "file", "private": True, "pages": [3]}
    region |= {"state": "buffers_locked", "until": "attempt:3"}
    doc = document({"mode": "async"}, region, copy="dma:4")
    record = run("batch-copy", doc)
    assert (record["copies_wasted"], record["ret"]) == (1, 0)


def test_the_batch_limit_of_a_file():
    doc = document(MIGRATE, {"size": "4m", "folio": "2m"}, max_batch=262144)
    assert run("batch-copy", doc)["batches"] == 1
    assert (
        run("batch-copy", document(MIGRATE, {"size": "4m", "folio": "2m"}))["batches"]
        == 2
    )
